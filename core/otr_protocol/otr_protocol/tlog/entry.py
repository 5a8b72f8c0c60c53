"""Log entries: what a leaf holds (spec/log.md, PROTOCOL section 3).

    dCBOR ["otr-entry-v1", kind, record, submitter, log_time_ms]

`record` is the exact bytes that somebody signed; `submitter` and `log_time_ms` are the log's words.
Anyone may append, conflicting records are all kept, and the same record is kept once: its
idempotency key is `H(kind byte || record)`, whoever submits it and whenever.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import IntEnum
from typing import Final

from otr_protocol import dcbor
from otr_protocol.digest import H
from otr_protocol.errors import MalformedError
from otr_protocol.fields import as_bytes, as_integer, as_text, check_name, check_time
from otr_protocol.tlog import tree

DOMAIN: Final = "otr-entry-v1"
MAX_RECORD_BYTES: Final = 16_384
# Well under the 65,535 of an entry bundle: the record, a submitter of 255 bytes, and heads.
MAX_ENTRY_BYTES: Final = MAX_RECORD_BYTES + 512


class EntryMalformedError(MalformedError):
    """Not an entry: an unknown kind, or a record outside 1 to 16,384 bytes."""

    reason = "ENTRY_MALFORMED"


class EntryKind(IntEnum):
    """What the record of an entry is."""

    STATEMENT = 0
    DELEGATION = 1
    MODEL = 2
    WEIGHT_COMMITMENT = 3
    AUDIT_RATE = 4
    CLOSE = 5


@dataclass(frozen=True, slots=True)
class Entry:
    """One leaf. `log_time_ms` is the log's clock, in ms since 1970 UTC, when it took the record."""

    kind: EntryKind
    record: bytes
    submitter: str
    log_time_ms: int

    def __post_init__(self) -> None:
        if not 1 <= len(self.record) <= MAX_RECORD_BYTES:
            raise EntryMalformedError(
                f"a record has 1 to {MAX_RECORD_BYTES} bytes, not {len(self.record)}",
                field="record",
            )
        check_name(self.submitter, "submitter")
        check_time(self.log_time_ms, "log_time_ms")

    def encode(self) -> bytes:
        """The bytes of the leaf."""
        return dcbor.encode((DOMAIN, int(self.kind), self.record, self.submitter, self.log_time_ms))

    @classmethod
    def decode(cls, data: bytes) -> Entry:
        """The entry that a leaf holds; raises EntryMalformedError, FieldError or dcbor's."""
        kind, record, submitter, log_time_ms = dcbor.open_record(
            data, DOMAIN, int, bytes, str, int, max_bytes=MAX_ENTRY_BYTES, max_depth=1, max_items=6
        )
        return cls(
            entry_kind(as_integer(kind, "kind")),
            as_bytes(record, "record"),
            as_text(submitter, "submitter"),
            as_integer(log_time_ms, "log_time_ms"),
        )

    def leaf_hash(self) -> bytes:
        """The RFC 9162 hash of the leaf: 32 bytes."""
        return tree.leaf_hash(self.encode())

    def idempotency_key(self) -> bytes:
        """`H(kind byte || record)`: 32 bytes."""
        return idempotency_key(self.kind, self.record)


def entry_kind(number: int) -> EntryKind:
    """The kind with this number; raises EntryMalformedError for one that does not exist."""
    try:
        return EntryKind(number)
    except ValueError as error:
        raise EntryMalformedError(f"there is no entry kind {number}", field="kind") from error


def idempotency_key(kind: EntryKind, record: bytes) -> bytes:
    """`H(kind byte || record)`: 32 bytes, under which a record is in the log once."""
    return H(bytes((kind,)), record)
