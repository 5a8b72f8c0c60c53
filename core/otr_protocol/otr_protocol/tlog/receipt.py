"""Receipts: the log's proof that it registered a record, and when (spec/log.md).

    dCBOR ["otr-receipt-v1", submitter, log_time_ms, leaf_index, [hash, ...], checkpoint note]

A receipt holds what the log added to the record, the path from that leaf to the root, and a signed
checkpoint with that root. Whoever holds the record rebuilds the leaf and needs only the log's key.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Final

from otr_protocol import dcbor
from otr_protocol.errors import MalformedError
from otr_protocol.fields import (
    as_array,
    as_byte_strings,
    as_integer,
    as_text,
    check_digest,
    check_name,
    check_range,
    check_time,
)
from otr_protocol.tlog import checkpoint as checkpoints
from otr_protocol.tlog import inclusion
from otr_protocol.tlog import note as notes
from otr_protocol.tlog.checkpoint import Checkpoint, Cosignature
from otr_protocol.tlog.entry import Entry, EntryKind
from otr_protocol.tlog.note import UnknownLines, VerifierKey
from otr_protocol.tlog.tree import MAX_TREE_SIZE

DOMAIN: Final = "otr-receipt-v1"
MAX_RECEIPT_BYTES: Final = 16_384
MAX_NOTE_BYTES: Final = 12_288
MAX_PROOF_HASHES: Final = 63


class ReceiptMalformedError(MalformedError):
    """Not a receipt: a proof that no tree has, or a note that is too long."""

    reason = "RECEIPT_MALFORMED"


@dataclass(frozen=True, slots=True)
class Receipt:
    """What the log hands out for one record; nothing of it is verified yet."""

    submitter: str
    log_time_ms: int
    leaf_index: int
    inclusion_proof: tuple[bytes, ...]
    checkpoint_note: str

    def __post_init__(self) -> None:
        check_name(self.submitter, "submitter")
        check_time(self.log_time_ms, "log_time_ms")
        check_range(self.leaf_index, 0, MAX_TREE_SIZE - 1, "leaf_index")
        if len(self.inclusion_proof) > MAX_PROOF_HASHES:
            raise ReceiptMalformedError("the proof is too long", field="inclusion_proof")
        for each in self.inclusion_proof:
            check_digest(each, "inclusion_proof")
        notes.parse_note(self.checkpoint_note)
        if len(self.checkpoint_note.encode()) > MAX_NOTE_BYTES:
            raise ReceiptMalformedError("the checkpoint is too long", field="checkpoint_note")

    def encode(self) -> bytes:
        """The receipt's one encoding."""
        return dcbor.encode(
            (
                DOMAIN,
                self.submitter,
                self.log_time_ms,
                self.leaf_index,
                self.inclusion_proof,
                self.checkpoint_note,
            )
        )

    @classmethod
    def decode(cls, data: bytes) -> Receipt:
        """Parse a receipt of at most 16 KiB, and the layout of the note inside.

        Raises ReceiptMalformedError, FieldError, NoteMalformedError, Base64Error or dcbor's.
        """
        submitter, log_time_ms, leaf_index, proof, note = dcbor.open_record(
            data,
            DOMAIN,
            str,
            int,
            int,
            tuple,
            str,
            max_bytes=MAX_RECEIPT_BYTES,
            max_depth=2,
            max_items=7 + MAX_PROOF_HASHES,
        )
        return cls(
            as_text(submitter, "submitter"),
            as_integer(log_time_ms, "log_time_ms"),
            as_integer(leaf_index, "leaf_index"),
            as_byte_strings(as_array(proof, "inclusion_proof"), "inclusion_proof"),
            as_text(note, "checkpoint_note"),
        )

    def keeping_lines_of(self, keys: Sequence[VerifierKey]) -> Receipt:
        """The same receipt, its note reduced to the signature lines of `keys`.

        Answer files refuse lines that their reader cannot check, and a log may hand out more
        cosignatures than a reader knows witnesses.
        """
        return replace(self, checkpoint_note=notes.keep_lines(self.checkpoint_note, keys))


@dataclass(frozen=True, slots=True)
class VerifiedReceipt:
    """The log has the record as leaf `leaf_index` and says it took it at `log_time_ms`."""

    log_time_ms: int
    leaf_index: int
    submitter: str
    checkpoint: Checkpoint
    log_key: VerifierKey
    cosignatures: tuple[Cosignature, ...]


def verify(
    record_kind: EntryKind,
    record: bytes,
    receipt: Receipt,
    log_vkeys: Sequence[VerifierKey],
    *,
    witness_vkeys: Sequence[VerifierKey] = (),
    unknown_lines: UnknownLines = "refuse",
) -> VerifiedReceipt:
    """Verify that a log whose key is among `log_vkeys` has `record` as the receipt says.

    Strict by default, as answer files require: a note with a line by a key that is in neither list
    is refused. How many cosignatures are enough is policy and the caller's. Raises
    InclusionRejectedError, and what `Entry` and `open_checkpoint` raise.
    """
    opened = checkpoints.open_checkpoint(
        receipt.checkpoint_note,
        log_vkeys,
        witness_keys=witness_vkeys,
        unknown_lines=unknown_lines,
    )
    entry = Entry(record_kind, record, receipt.submitter, receipt.log_time_ms)
    inclusion.verify(
        receipt.leaf_index,
        opened.checkpoint.tree_size,
        entry.leaf_hash(),
        receipt.inclusion_proof,
        opened.checkpoint.root_hash,
    )
    return VerifiedReceipt(
        log_time_ms=receipt.log_time_ms,
        leaf_index=receipt.leaf_index,
        submitter=receipt.submitter,
        checkpoint=opened.checkpoint,
        log_key=opened.log_key,
        cosignatures=opened.cosignatures,
    )
