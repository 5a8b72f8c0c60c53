"""The opaque data of an NVIDIA measurement report (SPDM 1.1 OpaqueData, vendor TLV).

Little-endian type (2), length (2), value. Observed on an H100 with driver 550.90.07:

    0600 0800 009f009601000000      VBIOS_VERSION  -> 96.00.9F.00.01
    0300 0a00 3535302e39302e303700  DRIVER_VERSION -> "550.90.07"
    0b00 0100 55                    NVDEC0_STATUS  -> disabled
    1400 3000 f5c384ae...           FWID, 48 bytes

The data lie inside the signed message. A type that is not known is kept and reported, never
dropped: a field that changes the meaning of a report must not pass because nobody looked.
"""

from __future__ import annotations

import enum
import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final

from otr_protocol.errors import MalformedError

MAX_OPAQUE_BYTES: Final = 4096
MAX_FIELDS: Final = 64
MAX_DATA_VERSION: Final = 1
FWID_BYTES: Final = 48
VBIOS_BYTES: Final = 8
DRIVER_VERSION: Final = re.compile(r"[0-9]{1,6}(\.[0-9]{1,6}){0,3}")
VBIOS_VERSION: Final = re.compile(r"[0-9A-F]{2}(\.[0-9A-F]{2}){4}")


class OpaqueMalformedError(MalformedError):
    """The vendor data of a report cannot be read, or contradict themselves."""

    reason = "OPAQUE_DATA_MALFORMED"


class OpaqueType(enum.IntEnum):
    """Field types, by NVIDIA's numbers."""

    CERT_ISSUER_NAME = 1
    CERT_AUTHORITY_KEY_IDENTIFIER = 2
    DRIVER_VERSION = 3
    GPU_INFO = 4
    SKU = 5
    VBIOS_VERSION = 6
    MANUFACTURER_ID = 7
    TAMPER_DETECTION = 8
    SMC = 9
    VPR = 10
    NVDEC0_STATUS = 11
    MSRSCNT = 12
    CPRINFO = 13
    BOARD_ID = 14
    CHIP_SKU = 15
    CHIP_SKU_MOD = 16
    PROJECT = 17
    PROJECT_SKU = 18
    PROJECT_SKU_MOD = 19
    FWID = 20
    PROTECTED_PCIE_STATUS = 21
    SWITCH_PDI = 22
    """In a GPU's report the switch at the end of each link, in a switch's report its own."""
    FLOORSWEPT_PORTS = 23
    POSITION_ID = 24
    LOCK_SWITCH_STATUS = 25
    SWITCH_GPU_PDIS = 26
    GPU_LINK_CONN = 32
    SYS_ENABLE_STATUS = 33
    OPAQUE_DATA_VERSION = 34
    CHIP_INFO = 35
    FEATURE_FLAG = 36


_KNOWN: Final = frozenset(OpaqueType)


class Switch(enum.IntEnum):
    """The one-byte spelling of on and off; anything else is malformed."""

    ENABLED = 0xAA
    DISABLED = 0x55


class FeatureFlag(enum.IntEnum):
    """How GPUs are passed through: single, multiple, or multiple over protected PCIe."""

    SINGLE_PASSTHROUGH = 0
    MULTI_PASSTHROUGH = 1
    PROTECTED_PCIE = 2


@dataclass(frozen=True, slots=True)
class OpaqueData:
    """The fields of one report. Text is ASCII without its terminating NULs."""

    fields: Mapping[int, bytes]
    unknown_types: tuple[int, ...]

    @property
    def driver_version(self) -> str:
        """Such as "550.90.07"; OpaqueMalformedError where the report has none."""
        return self.text(OpaqueType.DRIVER_VERSION)

    @property
    def vbios_version(self) -> str:
        """Upper case, such as "96.00.9F.00.01", of a GPU's 8 bytes or of a switch's text."""
        raw = self.required(OpaqueType.VBIOS_VERSION)
        if len(raw) == VBIOS_BYTES:
            # 009f0096 01000000, reversed: 00 00 00 01 96 00 9f 00; the low half, then the odd byte.
            backwards = raw[::-1]
            shown = backwards[4:] + backwards[3:4]
            return ".".join(f"{byte:02X}" for byte in shown)
        text = self.text(OpaqueType.VBIOS_VERSION).upper()
        if not VBIOS_VERSION.fullmatch(text):
            raise OpaqueMalformedError("the VBIOS version has none of its two spellings")
        return text

    @property
    def nvdec0(self) -> Switch:
        """Whether the first video decoder is enabled; decides about measurement index 35."""
        return self._switch(OpaqueType.NVDEC0_STATUS)

    @property
    def protected_pcie(self) -> bool:
        """Whether the GPU says that it is in protected-PCIe mode.

        Two fields say so, each missing in older reports; OpaqueMalformedError if they disagree.
        """
        said: set[bool] = set()
        if OpaqueType.PROTECTED_PCIE_STATUS in self.fields:
            said.add(self._switch(OpaqueType.PROTECTED_PCIE_STATUS) is Switch.ENABLED)
        if self.feature is not None:
            said.add(self.feature is FeatureFlag.PROTECTED_PCIE)
        if len(said) > 1:
            raise OpaqueMalformedError("the two fields on protected PCIe contradict each other")
        return True in said

    @property
    def feature(self) -> FeatureFlag | None:
        """The passthrough mode, where the report states it."""
        raw = self.fields.get(OpaqueType.FEATURE_FLAG)
        if raw is None:
            return None
        try:
            return FeatureFlag(int.from_bytes(raw, "little"))
        except ValueError as error:
            raise OpaqueMalformedError("the feature flag has no known value") from error

    @property
    def fwid(self) -> bytes | None:
        """The firmware identity (48 bytes), where the report states it."""
        raw = self.fields.get(OpaqueType.FWID)
        if raw is not None and len(raw) != FWID_BYTES:
            raise OpaqueMalformedError(f"a firmware identity has {FWID_BYTES} bytes")
        return raw

    @property
    def chip(self) -> str | None:
        """The chip, such as "GB100", where the report states it (Blackwell, data version 1)."""
        return self.text(OpaqueType.CHIP_INFO) if OpaqueType.CHIP_INFO in self.fields else None

    def required(self, kind: OpaqueType) -> bytes:
        """The bytes of one field; OpaqueMalformedError where the report has none."""
        value = self.fields.get(kind)
        if value is None:
            raise OpaqueMalformedError(f"the report states no {kind.name}")
        return value

    def text(self, kind: OpaqueType) -> str:
        """One field as text without its final NULs; OpaqueMalformedError unless plain ASCII."""
        text = self.required(kind).rstrip(b"\0")
        # A name is used to look manifests up and is shown to people: letters, digits, . and - only.
        if not text or not all(byte in _NAME_BYTES for byte in text):
            raise OpaqueMalformedError(f"{kind.name} is not plain text")
        return text.decode("ascii")

    def _switch(self, kind: OpaqueType) -> Switch:
        raw = self.required(kind)
        if len(raw) != 1 or raw[0] not in (Switch.ENABLED, Switch.DISABLED):
            raise OpaqueMalformedError(f"{kind.name} is neither on nor off")
        return Switch(raw[0])


_NAME_BYTES: Final = frozenset(b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789.-")


def driver_order(version: str) -> tuple[int, ...]:
    """A driver version as numbers that compare, such as (550, 90, 7).

    Raises OpaqueMalformedError for anything that is not dotted decimal.
    """
    if not DRIVER_VERSION.fullmatch(version):
        raise OpaqueMalformedError(f"{version!r} is not a driver version")
    return tuple(int(part) for part in version.split("."))


def parse(data: bytes) -> OpaqueData:
    """Read the TLV fields; refuses overruns, duplicates and data versions it does not know."""
    if len(data) > MAX_OPAQUE_BYTES:
        raise OpaqueMalformedError(f"{len(data)} bytes of opaque data are too many")
    fields: dict[int, bytes] = {}
    unknown: list[int] = []
    offset = 0
    while offset < len(data):
        if offset + 4 > len(data):
            raise OpaqueMalformedError("opaque data end inside a field header")
        kind = int.from_bytes(data[offset : offset + 2], "little")
        length = int.from_bytes(data[offset + 2 : offset + 4], "little")
        offset += 4
        if offset + length > len(data):
            raise OpaqueMalformedError("an opaque field is longer than the data")
        if kind in fields:
            raise OpaqueMalformedError(f"opaque field {kind} occurs twice")
        if len(fields) == MAX_FIELDS:
            raise OpaqueMalformedError("too many opaque fields")
        fields[kind] = data[offset : offset + length]
        if kind not in _KNOWN:
            unknown.append(kind)
        offset += length
    version = int.from_bytes(fields.get(OpaqueType.OPAQUE_DATA_VERSION, b""), "little")
    if version > MAX_DATA_VERSION:
        raise OpaqueMalformedError(f"opaque data version {version} is newer than this reader")
    return OpaqueData(fields=fields, unknown_types=tuple(unknown))
