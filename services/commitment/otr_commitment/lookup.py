"""Finding an entry by something else than its index.

An entry can be found by its idempotency key, by its leaf hash and, if it is a statement, by its
request id. The store keeps the first 8 bytes of a hash of each, so a hit is only a candidate: the
entry itself is compared, and two keys that share a prefix (which costs an attacker 2^32 hashes)
make one more candidate and nothing else.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from enum import IntEnum
from typing import Final

from otr_commitment.ports import Candidate, Reader
from otr_protocol import cose
from otr_protocol.digest import H
from otr_protocol.statement import statement_from_payload
from otr_protocol.tlog.entry import Entry, EntryKind
from otr_protocol.tlog.tree import leaf_hash

PREFIX_BYTES: Final = 8
_ONE_ENTRY_BYTES: Final = 1 << 16


class By(IntEnum):
    """What a key is; mixed into the prefix, so that kinds do not find each other's entries."""

    IDEMPOTENCY_KEY = 1
    LEAF_HASH = 2
    REQUEST_ID = 3


def prefix_of(by: By, value: bytes) -> int:
    """What the store keeps of a key: a signed 64-bit integer.

    Two of the three are hashes already; request ids are chosen by strangers and become one.
    """
    digest = H(value) if by is By.REQUEST_ID else value
    return int.from_bytes(digest[:PREFIX_BYTES], "big", signed=True) ^ by


@dataclass(frozen=True, slots=True)
class Key:
    """Something to find an entry by."""

    by: By
    value: bytes

    @property
    def prefix(self) -> int:
        """What the store keeps of it."""
        return prefix_of(self.by, self.value)

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
    return first_of(reader, key, reader.candidates([key.prefix]))


def first_of(reader: Reader, key: Key, candidates: Iterable[Candidate]) -> Located | None:
    """The entry with the lowest index that `key` finds among candidates, or None."""
    prefix = key.prefix
    for candidate in candidates:
        if candidate.prefix != prefix:
            continue
        (stored,) = reader.entries(candidate.leaf_index, 1, max_bytes=_ONE_ENTRY_BYTES)
        if key.names(stored.data):
            return Located(candidate.leaf_index, stored.data)
    return None
