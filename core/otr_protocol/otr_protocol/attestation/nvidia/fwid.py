"""The firmware identity (FWID) that an attestation key was certified for (TCG DICE attestation).

When the boot ROM certifies a key it puts a hash of the firmware that will hold it into the leaf. A
report that states another firmware identity comes from firmware that the key was not made for.
Two encodings, by architecture, each read as a whole and never "the last 48 bytes":

    Hopper, NVSwitch   2.23.133.5.4.1, CompositeDeviceID
        SEQUENCE { INTEGER 1, SubjectPublicKeyInfo of the boot ROM's key,
                   SEQUENCE { OID sha384, OCTET STRING firmware identity (48) } }

    Blackwell          2.23.133.5.4.1.1, DiceTcbInfo, implicit context tags in ascending order
        SEQUENCE { [0] vendor, [1] model, [2] version, [3] svn, [4] layer, [5] index,
                   [6] fwids { SEQUENCE { OID sha384, OCTET STRING (48) }, ... },
                   [7] flags, [8] vendorInfo, [9] type }

Of several firmware identities the first is the one that reports state; on a GB100 the second is
all zeros.
"""

from __future__ import annotations

from typing import Final

from cryptography import x509
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

from otr_protocol.attestation.certificates import Certificate, ChainRejectedError
from otr_protocol.attestation.nvidia.opaque import FWID_BYTES
from otr_protocol.attestation.nvidia.products import Architecture

COMPOSITE_DEVICE_ID: Final = x509.ObjectIdentifier("2.23.133.5.4.1")
TCB_INFO: Final = x509.ObjectIdentifier("2.23.133.5.4.1.1")
MAX_EXTENSION_BYTES: Final = 4096

# SEQUENCE of 186 bytes, INTEGER 1; then SEQUENCE of 61 bytes, OID sha384, OCTET STRING of 48.
_DEVICE_ID_HEAD: Final = bytes.fromhex("3081ba020101")
_FWID_HEAD: Final = bytes.fromhex("303d06096086480165030402020430")
_SEQUENCE: Final = 0x30
_FWIDS: Final = 0xA6
_CONTEXT: Final = 0x80
_CLASS_BITS: Final = 0xC0
_NUMBER_BITS: Final = 0x1F


def of_leaf(leaf: Certificate, issuer: Certificate, architecture: Architecture) -> bytes | None:
    """The firmware identity (48 bytes) in a leaf that `issuer`, the boot ROM, certified.

    None if the leaf has no such extension. Raises ChainRejectedError for one that cannot be read
    or is of the other architecture.
    """
    composite = _extension(leaf, COMPOSITE_DEVICE_ID)
    tcb_info = _extension(leaf, TCB_INFO)
    if composite is None and tcb_info is None:
        return None
    blackwell = architecture is Architecture.BLACKWELL
    if blackwell and tcb_info is not None and composite is None:
        return first_of_tcb_info(tcb_info)
    if not blackwell and composite is not None and tcb_info is None:
        return _of_composite(composite, issuer)
    raise _unreadable()


def composite_device_id(device_spki: bytes, fwid: bytes) -> bytes:
    """The extension's DER for a P-384 device key (SPKI, 120 bytes) and a firmware identity."""
    return _DEVICE_ID_HEAD + device_spki + _FWID_HEAD + fwid


def first_of_tcb_info(value: bytes) -> bytes:
    """The first firmware identity (48 bytes) in a DiceTcbInfo; ChainRejectedError if unreadable."""
    if len(value) > MAX_EXTENSION_BYTES:
        raise _unreadable()
    outer = _items(value)
    if len(outer) != 1 or outer[0][0] != _SEQUENCE:
        raise _unreadable()
    previous = -1
    fwids: list[tuple[int, bytes]] = []
    for tag, content in _items(outer[0][1]):
        number = tag & _NUMBER_BITS
        # Ascending, so that no field can occur twice and be read differently by somebody else.
        if tag & _CLASS_BITS != _CONTEXT or number <= previous:
            raise _unreadable()
        previous = number
        if tag == _FWIDS:
            fwids = _items(content)
    if not fwids:
        raise _unreadable()
    tag, first = fwids[0]
    fwid = first[-FWID_BYTES:]
    if bytes((tag, len(first) & 0xFF)) + first != _FWID_HEAD + fwid:
        raise _unreadable()
    return fwid


def _extension(leaf: Certificate, oid: x509.ObjectIdentifier) -> bytes | None:
    for extension in leaf.parsed.extensions:
        if extension.oid == oid and isinstance(extension.value, x509.UnrecognizedExtension):
            return extension.value.value
    return None


def _of_composite(value: bytes, issuer: Certificate) -> bytes:
    device = issuer.key.public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)
    fwid = value[-FWID_BYTES:]
    # There is one encoding, so the value is compared with it and not searched.
    if value != composite_device_id(device, fwid):
        raise _unreadable()
    return fwid


def _items(data: bytes) -> list[tuple[int, bytes]]:
    """The DER items that `data` consists of, as (tag, content); one-byte tags, minimal lengths."""
    items: list[tuple[int, bytes]] = []
    offset = 0
    while offset < len(data):
        if offset + 2 > len(data) or data[offset] & _NUMBER_BITS == _NUMBER_BITS:
            raise _unreadable()
        tag, length = data[offset], data[offset + 1]
        offset += 2
        if length >= 0x80:
            size = length - 0x80
            if not 1 <= size <= 2 or offset + size > len(data):
                raise _unreadable()
            length = int.from_bytes(data[offset : offset + size], "big")
            offset += size
            if length < 0x80 or (size == 2 and length < 0x100):
                raise _unreadable()
        if offset + length > len(data):
            raise _unreadable()
        items.append((tag, data[offset : offset + length]))
        offset += length
    return items


def _unreadable() -> ChainRejectedError:
    return ChainRejectedError("the firmware identity of the leaf cannot be read")
