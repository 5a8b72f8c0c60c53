"""Checkpoints: signed tree heads (c2sp.org/tlog-checkpoint v1.0.0).

    example.com/behind-the-sofa
    20852163
    CsUYapGGPo4dkMgIAUqom/Xajj7h2fB2MPA3j2jxq2I=

    — example.com/behind-the-sofa Az3grlgtzPIC...MTOAYQ8=
    — witness.example.com/w1 jWbPPwAAAABkGFDL...BkBIfZ+qnA==

Origin, tree size, root hash; then the log's signature and witnesses' cosignatures. Extension lines
are read, since the signatures cover them, but this log writes none: nobody can audit them.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Final

from otr_protocol.errors import MalformedError
from otr_protocol.tlog import canonical_base64
from otr_protocol.tlog import note as notes
from otr_protocol.tlog.note import SignatureLine, SignerKey, UnknownLines, VerifierKey
from otr_protocol.tlog.tree import EMPTY_ROOT, HASH_BYTES, MAX_TREE_SIZE

MAX_EXTENSION_LINES: Final = 16
_SIZE_DIGITS: Final = len(str(MAX_TREE_SIZE))


class CheckpointMalformedError(MalformedError):
    """A note's text that is not a checkpoint, or values that cannot be one."""

    reason = "CHECKPOINT_MALFORMED"


@dataclass(frozen=True, slots=True)
class Checkpoint:
    """A log's claim that its tree of `tree_size` leaves has this root (32 bytes)."""

    origin: str
    tree_size: int
    root_hash: bytes
    extensions: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        if not 0 <= self.tree_size <= MAX_TREE_SIZE:
            raise CheckpointMalformedError("the tree size is out of range", field="tree_size")
        if len(self.root_hash) != HASH_BYTES:
            raise CheckpointMalformedError("a root hash has 32 bytes", field="root_hash")
        if self.tree_size == 0 and self.root_hash != EMPTY_ROOT:
            raise CheckpointMalformedError("an empty tree has one root", field="root_hash")
        if len(self.extensions) > MAX_EXTENSION_LINES:
            raise CheckpointMalformedError("too many extension lines")
        for line in (self.origin, *self.extensions):
            if not line or any(character < " " for character in line):
                raise CheckpointMalformedError("a line is empty or holds control characters")

    @property
    def text(self) -> str:
        """The note text that is signed; ends in a newline."""
        root = canonical_base64.encode(self.root_hash)
        lines = (self.origin, str(self.tree_size), root, *self.extensions)
        return "".join(f"{line}\n" for line in lines)


@dataclass(frozen=True, slots=True)
class Cosignature:
    """A witness's word that, at `timestamp` (seconds since 1970), this was the largest tree."""

    witness: VerifierKey
    timestamp: int


@dataclass(frozen=True, slots=True)
class VerifiedCheckpoint:
    """A checkpoint signed by its log, with the cosignatures of known witnesses, one each."""

    checkpoint: Checkpoint
    log_key: VerifierKey
    cosignatures: tuple[Cosignature, ...]


def parse_text(text: str) -> Checkpoint:
    """Parse the text of a note; raises CheckpointMalformedError or Base64Error."""
    lines = text.split("\n", MAX_EXTENSION_LINES + 4)
    if len(lines) < 4 or lines[-1]:
        raise CheckpointMalformedError("a checkpoint has at least three whole lines")
    origin, size, root, *extensions = lines[:-1]
    canonical = size.isascii() and size.isdigit() and (size == "0" or size[0] != "0")
    if not canonical or len(size) > _SIZE_DIGITS:
        raise CheckpointMalformedError("the tree size is not a plain decimal", field="tree_size")
    return Checkpoint(origin, int(size), canonical_base64.decode(root), tuple(extensions))


def peek_checkpoint(note: str | bytes) -> Checkpoint:
    """The checkpoint that a note claims to hold, with no signature checked."""
    return parse_text(notes.parse_note(note, canonical=False).text)


def sign_checkpoint(checkpoint: Checkpoint, *keys: SignerKey) -> str:
    """The signed note of a checkpoint. By convention a log's key has the origin as its name."""
    return notes.sign_note(checkpoint.text, *keys)


def cosign(
    checkpoint: Checkpoint,
    witness: VerifierKey,
    sign: Callable[[bytes], bytes],
    *,
    timestamp: int,
) -> SignatureLine:
    """A witness's cosignature/v1 line. That the tree grew consistently is the caller's to check."""
    return notes.sign_text(checkpoint.text, witness, sign, timestamp=timestamp)


def open_checkpoint(
    note: str | bytes,
    log_keys: Sequence[VerifierKey],
    *,
    witness_keys: Sequence[VerifierKey] = (),
    unknown_lines: UnknownLines = "ignore",
    origin: str | None = None,
) -> VerifiedCheckpoint:
    """Verify a checkpoint of one of the logs whose keys are given.

    `origin` is the origin line expected; without it, the name of the key that signed. `log_keys`
    are of type Ed25519 and `witness_keys` of type cosignature/v1. How many cosignatures are enough
    is policy and the caller's. Raises what `open_note` and `parse_text` raise.
    """
    _require_type(log_keys, notes.ED25519)
    _require_type(witness_keys, notes.COSIGNATURE_V1)
    opened = notes.open_note(note, (*log_keys, *witness_keys), unknown_lines=unknown_lines)
    checkpoint = parse_text(opened.text)
    log_key: VerifierKey | None = None
    cosignatures: list[Cosignature] = []
    for signature in opened.signatures:
        if signature.timestamp is not None:
            cosignatures.append(Cosignature(signature.key, signature.timestamp))
        elif checkpoint.origin == (origin or signature.key.name):
            log_key = log_key or signature.key
        elif unknown_lines == "refuse":
            raise notes.NoteRejectedError("signed by the key of another log", field="note")
    if log_key is None:
        raise notes.NoteRejectedError("not signed by the log it names", field="note")
    return VerifiedCheckpoint(checkpoint, log_key, tuple(cosignatures))


def _require_type(keys: Sequence[VerifierKey], signature_type: int) -> None:
    for key in keys:
        if key.signature_type != signature_type:
            raise notes.KeyMalformedError(
                f"the key of {key.name} has signature type 0x{key.signature_type:02x}, "
                f"not 0x{signature_type:02x}",
                field="keys",
            )
