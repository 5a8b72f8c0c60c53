"""The certificates that a SEV-SNP host hands over with a report (AMD 56421, GHCB, section 4.1.8.1).

    entries of 24 bytes: GUID (16), offset (4), length (4), integers little-endian; the GUID's bytes
    are in the order of its text, unlike Microsoft's. An entry of zeros ends the list. Offsets count
    from the start of the table.

The host writes it, so nothing in it is believed for being there: whoever verifies the report checks
the certificate that is taken from here. The shape is strict, so that a table has one reading.
"""

from __future__ import annotations

from collections.abc import Mapping
from itertools import pairwise
from typing import Final
from uuid import UUID

from otr_protocol.errors import MalformedError

VCEK: Final = UUID("63da758d-e664-4564-adc5-f4b93be8accd")
VLEK: Final = UUID("a8074bc2-a25a-483e-aae6-39c045a0b8a1")
ASK: Final = UUID("4ab7b379-bbac-4fe4-a02f-05aef327c782")
ARK: Final = UUID("c0b406a4-a803-4952-9743-3fb6014cd0ae")

MAX_TABLE_BYTES: Final = 64 * 1024
MAX_ENTRIES: Final = 16
_ENTRY_BYTES: Final = 24
_GUID_BYTES: Final = 16


class CertificateTableMalformedError(MalformedError):
    """The host's certificate table is not one."""

    reason = "SNP_CERTIFICATE_TABLE"


def parse(table: bytes) -> Mapping[UUID, bytes]:
    """What the host hands over, by GUID; GUIDs that nobody knows here are kept.

    No bytes, or zeros only, are a host that hands over nothing. Raises
    CertificateTableMalformedError.
    """
    if len(table) > MAX_TABLE_BYTES:
        raise CertificateTableMalformedError(f"a table of {len(table)} bytes is too large")
    if not any(table):
        return {}
    entries: list[tuple[UUID, int, int]] = []
    at = 0
    while any(entry := table[at : at + _ENTRY_BYTES]):
        if len(entry) < _ENTRY_BYTES or len(entries) == MAX_ENTRIES:
            raise CertificateTableMalformedError("the list of certificates does not end")
        offset = int.from_bytes(entry[_GUID_BYTES : _GUID_BYTES + 4], "little")
        length = int.from_bytes(entry[_GUID_BYTES + 4 :], "little")
        entries.append((UUID(bytes=entry[:_GUID_BYTES]), offset, length))
        at += _ENTRY_BYTES
    if len(entry) < _ENTRY_BYTES:
        raise CertificateTableMalformedError("the list of certificates does not end")
    _require_apart(entries, begin=at + _ENTRY_BYTES, end=len(table))
    found = {guid: table[offset : offset + length] for guid, offset, length in entries}
    if len(found) != len(entries):
        raise CertificateTableMalformedError("one certificate is listed twice")
    return found


def _require_apart(entries: list[tuple[UUID, int, int]], *, begin: int, end: int) -> None:
    """Refuse certificates that are empty, outside the table, or share bytes."""
    spans = sorted((offset, offset + length) for _, offset, length in entries)
    if any(first == last for first, last in spans):
        raise CertificateTableMalformedError("a listed certificate is empty")
    if spans[0][0] < begin or spans[-1][1] > end:
        raise CertificateTableMalformedError("a certificate lies outside the table")
    if any(left[1] > right[0] for left, right in pairwise(spans)):
        raise CertificateTableMalformedError("two certificates share bytes")
