"""Event logs as firmware writes them (TCG crypto-agile format, CCEL), from a list of events."""

from __future__ import annotations

from collections.abc import Iterable
from hashlib import sha384

SHA256, SHA384 = 0x000B, 0x000C
EV_NO_ACTION, EV_SEPARATOR, EV_IPL = 3, 4, 0x0D

# What a small machine measures: firmware variables, the boot loader, the kernel's command line.
BOOT = (
    (1, 0x80000001, b"SecureBoot"),
    (1, EV_SEPARATOR, b"\0\0\0\0"),
    (2, 0x80000003, b"\\EFI\\BOOT\\BOOTX64.EFI"),
    (3, EV_IPL, b"kernel_cmdline: console=hvc0"),
    (4, EV_IPL, b"model"),
)


def number(value: int, length: int = 4) -> bytes:
    return value.to_bytes(length, "little")


def specification(
    sizes: Iterable[tuple[int, int]] = ((SHA384, 48),),
    *,
    index: int = 0,
    kind: int = EV_NO_ACTION,
    digest: bytes = bytes(20),
    signature: bytes = b"Spec ID Event03\0",
    vendor: bytes = b"",
    tail: bytes = b"",
) -> bytes:
    """The event that begins a log and announces its digests."""
    sizes = tuple(sizes)
    announced = b"".join(number(algorithm, 2) + number(size, 2) for algorithm, size in sizes)
    body = b"".join(
        (
            signature,
            number(0),
            bytes((0, 2, 0, 2)),
            number(len(sizes)),
            announced,
            number(len(vendor), 1),
            vendor,
            tail,
        )
    )
    return number(index) + number(kind) + digest + number(len(body)) + body


def event(
    index: int, kind: int, data: bytes, digests: Iterable[tuple[int, bytes]] | None = None
) -> bytes:
    """One event; `digests` are (algorithm, value), by default the SHA-384 of the data."""
    values = tuple(((SHA384, sha384(data).digest()),) if digests is None else digests)
    encoded = b"".join(number(algorithm, 2) + value for algorithm, value in values)
    return number(index) + number(kind) + number(len(values)) + encoded + number(len(data)) + data


def log(events: Iterable[tuple[int, int, bytes]] = BOOT, filling: bytes = b"") -> bytes:
    return specification() + b"".join(event(*item) for item in events) + filling


def registers(events: Iterable[tuple[int, int, bytes]] = BOOT) -> tuple[bytes, ...]:
    """What the four RTMRs hold, computed apart from the code under test."""
    values = {index: bytes(48) for index in range(1, 5)}
    for index, kind, data in events:
        if kind != EV_NO_ACTION:
            digest = sha384(data).digest()
            values[index] = sha384(b"".join((values[index], digest))).digest()
    return tuple(values[index] for index in range(1, 5))
