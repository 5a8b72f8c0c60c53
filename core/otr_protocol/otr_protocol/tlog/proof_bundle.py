"""Proof bundles: an inclusion proof as text for tools of others (c2sp.org/tlog-proof).

    c2sp.org/tlog-proof@v1
    extra <base64>
    index 73894
    gSKyXoYZUgZ6jduWYrkDOARinOMGJveXjgMkBTcdPlQ=
    ...

    example.com/fancylog
    ...

The `extra` line is optional and authenticated by nothing. This log leaves it out: a bundle goes
with the entry's bytes, which are all that is needed to compute the leaf.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

from otr_protocol.errors import MalformedError
from otr_protocol.tlog import canonical_base64, inclusion
from otr_protocol.tlog import checkpoint as checkpoints
from otr_protocol.tlog import note as notes
from otr_protocol.tlog.checkpoint import VerifiedCheckpoint
from otr_protocol.tlog.note import UnknownLines, VerifierKey
from otr_protocol.tlog.receipt import MAX_PROOF_HASHES, Receipt
from otr_protocol.tlog.tree import MAX_TREE_SIZE, require_hash

HEADER: Final = "c2sp.org/tlog-proof@v1"
MAX_EXTRA_BYTES: Final = 1 << 16
_HASH_CHARACTERS: Final = 44
_INDEX_DIGITS: Final = len(str(MAX_TREE_SIZE))
# The note, the extra data in base64, and 63 lines of hashes with the fixed lines around them.
MAX_BUNDLE_BYTES: Final = notes.MAX_NOTE_BYTES + 4 * (MAX_EXTRA_BYTES // 3 + 1) + 4096


class ProofBundleMalformedError(MalformedError):
    """Not a tlog-proof."""

    reason = "PROOF_BUNDLE_MALFORMED"


@dataclass(frozen=True, slots=True)
class ProofBundle:
    """A parsed tlog-proof, nothing verified. `extra` is None without such a line."""

    leaf_index: int
    inclusion_proof: tuple[bytes, ...]
    checkpoint_note: str
    extra: bytes | None = None

    def __post_init__(self) -> None:
        if not 0 <= self.leaf_index < MAX_TREE_SIZE:
            raise ProofBundleMalformedError("the index is out of range", field="index")
        if len(self.inclusion_proof) > MAX_PROOF_HASHES:
            raise ProofBundleMalformedError("the proof is too long", field="inclusion_proof")
        for each in self.inclusion_proof:
            require_hash(each, "inclusion_proof")
        if self.extra is not None and not 1 <= len(self.extra) <= MAX_EXTRA_BYTES:
            raise ProofBundleMalformedError("the extra data are empty or too long", field="extra")

    @classmethod
    def of_receipt(cls, receipt: Receipt) -> ProofBundle:
        """The same proof as a native receipt's."""
        return cls(receipt.leaf_index, receipt.inclusion_proof, receipt.checkpoint_note)

    def encode(self) -> str:
        """The text of the bundle."""
        lines = [HEADER]
        if self.extra is not None:
            lines.append(f"extra {canonical_base64.encode(self.extra)}")
        lines.append(f"index {self.leaf_index}")
        lines += map(canonical_base64.encode, self.inclusion_proof)
        return "\n".join(lines) + "\n\n" + self.checkpoint_note

    @classmethod
    def decode(cls, text: str) -> ProofBundle:
        """Parse a tlog-proof and the layout of the note inside.

        `decode(text).encode() == text`. Raises ProofBundleMalformedError, NoteMalformedError,
        CheckpointMalformedError, HashLengthError or Base64Error.
        """
        if len(text) > MAX_BUNDLE_BYTES:
            raise ProofBundleMalformedError(f"more than {MAX_BUNDLE_BYTES} characters")
        head, blank, note = text.partition("\n\n")
        lines = head.split("\n", MAX_PROOF_HASHES + 3)
        if not blank or lines.pop(0) != HEADER:
            raise ProofBundleMalformedError(f"not a {HEADER}, or no checkpoint after it")
        extra: bytes | None = None
        if lines and lines[0].startswith("extra "):
            extra = canonical_base64.decode(lines.pop(0).removeprefix("extra "))
        if not lines or not lines[0].startswith("index "):
            raise ProofBundleMalformedError("the index line is missing", field="index")
        leaf_index = _index(lines.pop(0).removeprefix("index "))
        if len(lines) > MAX_PROOF_HASHES or any(len(line) != _HASH_CHARACTERS for line in lines):
            raise ProofBundleMalformedError("a proof is lines of one hash", field="inclusion_proof")
        checkpoints.peek_checkpoint(note)
        proof = tuple(map(canonical_base64.decode, lines))
        return cls(leaf_index, proof, note, extra)


def verify(
    bundle: ProofBundle,
    leaf_hash: bytes,
    log_vkeys: Sequence[VerifierKey],
    *,
    witness_vkeys: Sequence[VerifierKey] = (),
    unknown_lines: UnknownLines = "ignore",
) -> VerifiedCheckpoint:
    """Verify that the leaf with this hash is where the bundle says; returns the checkpoint.

    Raises InclusionRejectedError and what `open_checkpoint` raises.
    """
    opened = checkpoints.open_checkpoint(
        bundle.checkpoint_note,
        log_vkeys,
        witness_keys=witness_vkeys,
        unknown_lines=unknown_lines,
    )
    inclusion.verify(
        bundle.leaf_index,
        opened.checkpoint.tree_size,
        leaf_hash,
        bundle.inclusion_proof,
        opened.checkpoint.root_hash,
    )
    return opened


def _index(text: str) -> int:
    canonical = text.isascii() and text.isdigit() and (text == "0" or text[0] != "0")
    if not canonical or len(text) > _INDEX_DIGITS:
        raise ProofBundleMalformedError("the index is not a plain decimal", field="index")
    return int(text)
