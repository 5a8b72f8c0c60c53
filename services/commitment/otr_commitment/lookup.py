"""Finding an entry by something else than its index.

An entry can be found by its idempotency key, by its leaf hash and, if it is a statement, by its
request id. The store keeps the first 8 bytes of a hash of each, so a hit is only a candidate: the
entry itself is compared, and two keys that share a prefix (which costs an attacker 2^32 hashes)
make one more candidate and nothing else.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum
from typing import Final

from otr_commitment.ports import Reader
from otr_protocol import cose
from otr_protocol.digest import H
from otr_protocol.statement import statement_from_payload
from otr_protocol.tlog.entry import Entry, EntryKind
from otr_protocol.tlog.tree import leaf_hash

PREFIX_BYTES: Final = 8
_ONE_ENTRY_BYTES: Final = 1 << 16


class By(Enum):
    """What a key is; the value keeps equal bytes of different kinds apart."""

    IDEMPOTENCY_KEY = b"k"
    LEAF_HASH = b"l"
    REQUEST_ID = b"r"


@dataclass(frozen=True, slots=True)
class Key:
    """Something to find an entry by."""

    by: By
    value: bytes

    @property
    def prefix(self) -> int:
        """What the store keeps: a signed 64-bit integer."""
        return int.from_bytes(H(self.by.value, self.value)[:PREFIX_BYTES], "big", signed=True)

    def names(self, data: bytes) -> bool:
        """Whether the entry with these bytes is one that this key finds."""
        if self.by is By.LEAF_HASH:
            return leaf_hash(data) == self.value
        entry = Entry.decode(data)
        if self.by is By.IDEMPOTENCY_KEY:
            return entry.idempotency_key() == self.value
        if entry.kind is not EntryKind.STATEMENT:
            return False
        payload = cose.peek_payload(entry.record)
        return statement_from_payload(payload).request_id == self.value


@dataclass(frozen=True, slots=True)
class Located:
    """An entry that was found."""

    leaf_index: int
    data: bytes


def find(reader: Reader, key: Key) -> Located | None:
    """The entry with the lowest index that `key` finds, or None."""
    for leaf_index in reader.candidates(key.prefix):
        (stored,) = reader.entries(leaf_index, 1, max_bytes=_ONE_ENTRY_BYTES)
        if key.names(stored.data):
            return Located(leaf_index, stored.data)
    return None
