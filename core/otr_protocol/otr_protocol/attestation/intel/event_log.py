r"""The log of what a TD measured at run time, and its replay to the four RTMRs.

TCG PC Client Platform Firmware Profile, section 10 (crypto-agile log), in the variant for
confidential computing that firmware leaves in the ACPI table CCEL (UEFI 2.10, section 38.4).
Little-endian:

    first   index (4), type (4) = EV_NO_ACTION, SHA-1 digest (20) = 0, size (4), then
            "Spec ID Event03\0" (16), platform class (4), version (3), UINTN size (1),
            count (4), per algorithm: id (2), digest size (2); vendor size (1), vendor bytes
    others  index (4), type (4), count (4), per digest: algorithm (2), digest;
            size (4), event bytes

Index 0 is MRTD, which nothing extends, and 1 to 4 are RTMR 0 to 3: RTMR = SHA-384(RTMR || digest),
from zeros. Events of type EV_NO_ACTION extend nothing. Firmware fills the rest of the table with
zeros or with ones.

A log that replays has the right digests in the right order. Event bytes are a different matter:
for most types they only describe what was hashed, so nobody has vouched for them.
"""

from __future__ import annotations

import struct
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from hashlib import sha384
from typing import Final

from otr_protocol.attestation.evidence import MAX_EVENT_LOG_BYTES
from otr_protocol.attestation.intel.tdx_quote import RTMRS
from otr_protocol.errors import MalformedError, RejectedError

EV_NO_ACTION: Final = 3
SHA384: Final = 0x000C
DIGEST_BYTES: Final = 48
MAX_ALGORITHMS: Final = 8
MAX_DIGEST_BYTES: Final = 64

_SIGNATURE: Final = b"Spec ID Event03\0"
_FIRST: Final = struct.Struct("<II20sI")
_EVENT: Final = struct.Struct("<III")


class EventLogMalformedError(MalformedError):
    """Not a crypto-agile event log with SHA-384 digests."""

    reason = "EVENT_LOG_MALFORMED"


class EventLogMismatchError(RejectedError):
    """The log does not replay to what the quote says.

    `register` counts from 0; `replayed` and `quoted` are 48 bytes each.
    """

    reason = "EVENT_LOG_MISMATCH"

    def __init__(self, register: int, replayed: bytes, quoted: bytes) -> None:
        super().__init__(f"the event log does not replay to RTMR {register}")
        self.register = register
        self.replayed = replayed
        self.quoted = quoted


@dataclass(frozen=True, slots=True)
class Event:
    """One measurement: `register` is 0 to 3, `digest` its SHA-384, `data` what describes it."""

    register: int
    kind: int
    digest: bytes
    data: bytes


def parse(log: bytes) -> tuple[Event, ...]:
    """The events of a log of at most 512 KiB that extend a register, in order.

    Raises EventLogMalformedError.
    """
    if len(log) > MAX_EVENT_LOG_BYTES:
        raise EventLogMalformedError(f"a log of {len(log)} bytes is too large")
    reader = _Reader(log)
    sizes = _algorithms(reader)
    events: list[Event] = []
    while reader.holds_more():
        index, kind, count = _EVENT.unpack(reader.take(_EVENT.size))
        digest = _digest(reader, sizes, count)
        data = reader.take(reader.number(4))
        if index > RTMRS:
            raise EventLogMalformedError(f"there is no register of index {index}")
        if kind == EV_NO_ACTION:
            continue
        if index == 0:
            raise EventLogMalformedError("nothing extends the measurement of the image")
        events.append(Event(index - 1, kind, digest, data))
    return tuple(events)


def replay(events: Iterable[Event]) -> tuple[bytes, ...]:
    """What the four RTMRs hold after these events, from zeros."""
    registers = [bytes(DIGEST_BYTES)] * RTMRS
    for event in events:
        registers[event.register] = sha384(registers[event.register] + event.digest).digest()
    return tuple(registers)


def require_replay(log: bytes, rtmrs: tuple[bytes, ...]) -> tuple[Event, ...]:
    """The events of a log that replays to these registers.

    Raises EventLogMalformedError, or EventLogMismatchError about the first that differs.
    """
    events = parse(log)
    for register, (replayed, quoted) in enumerate(zip(replay(events), rtmrs, strict=True)):
        if replayed != quoted:
            raise EventLogMismatchError(register, replayed, quoted)
    return events


def _algorithms(reader: _Reader) -> Mapping[int, int]:
    """Digest sizes by algorithm, from the event that begins the log."""
    index, kind, digest, size = _FIRST.unpack(reader.take(_FIRST.size))
    if index > RTMRS or kind != EV_NO_ACTION or any(digest):
        raise EventLogMalformedError("the log does not begin with its specification")
    specification = _Reader(reader.take(size))
    if specification.take(len(_SIGNATURE)) != _SIGNATURE:
        raise EventLogMalformedError("the log is of another specification")
    specification.take(8)
    count = specification.number(4)
    if not 1 <= count <= MAX_ALGORITHMS:
        raise EventLogMalformedError(f"a log has 1 to {MAX_ALGORITHMS} digest algorithms")
    sizes: dict[int, int] = {}
    for _ in range(count):
        algorithm, length = specification.number(2), specification.number(2)
        if algorithm in sizes or not 1 <= length <= MAX_DIGEST_BYTES:
            raise EventLogMalformedError(f"algorithm {algorithm:#x} is announced wrongly")
        sizes[algorithm] = length
    if sizes.get(SHA384) != DIGEST_BYTES:
        raise EventLogMalformedError("the log has no SHA-384 digests")
    specification.take(specification.number(1))
    if specification.offset != len(specification.data):
        raise EventLogMalformedError("bytes follow the log's specification")
    return sizes


def _digest(reader: _Reader, sizes: Mapping[int, int], count: int) -> bytes:
    """The SHA-384 digest of one event, which has each announced algorithm once."""
    if count != len(sizes):
        raise EventLogMalformedError(f"an event has {count} digests, not {len(sizes)}")
    digests: dict[int, bytes] = {}
    for _ in range(count):
        algorithm = reader.number(2)
        if algorithm in digests or algorithm not in sizes:
            raise EventLogMalformedError(f"a digest of algorithm {algorithm:#x} is out of place")
        digests[algorithm] = reader.take(sizes[algorithm])
    return digests[SHA384]


class _Reader:
    """Takes fields off a log, never past its end."""

    __slots__ = ("data", "offset")

    def __init__(self, data: bytes) -> None:
        self.data = data
        self.offset = 0

    def take(self, length: int) -> bytes:
        start, self.offset = self.offset, self.offset + length
        if self.offset > len(self.data):
            raise EventLogMalformedError(f"the log ends inside a field at byte {start}")
        return self.data[start : self.offset]

    def number(self, length: int) -> int:
        return int.from_bytes(self.take(length), "little")

    def holds_more(self) -> bool:
        """Whether anything but filling is left."""
        # No event looks like filling: it would name index 0 with no digest, or index 2^32 - 1.
        head = self.data[self.offset : self.offset + _EVENT.size]
        if not head or (head.strip(b"\0") and head.strip(b"\xff")):
            return bool(head)
        rest = self.data[self.offset :]
        if rest.strip(b"\0") and rest.strip(b"\xff"):
            raise EventLogMalformedError("bytes follow the log that are not filling")
        return False
