"""What a healthy simulated machine measures, and what its manifests therefore promise.

Values are hashes of their own descriptions: anybody can see that no firmware stands behind them.
The set of active indices is that of a real H100 with driver 550.90.07.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from typing import Final

from otr_protocol.attestation.amd.snp_report import TcbVersion

BLOCKS: Final = 64
DRIVER_INDICES: Final = (7, *range(21, 41))
VBIOS_INDICES: Final = (*range(7), *range(8, 13))
# Covers a video decoder that is off in confidential mode; the report then carries a value that no
# manifest lists, so that a verifier which forgets the rule fails in development already.
NVDEC0_INDEX: Final = 35


@dataclass(frozen=True, slots=True)
class ReferenceValues:
    """The reference values of the development TEE. Measurements are 48 bytes each."""

    hwmodel: str
    driver_version: str
    vbios_version: str
    project: str
    project_sku: str
    chip_sku: str
    fwid: bytes
    cpu_measurement: bytes
    tcb: TcbVersion

    @property
    def driver_rim_id(self) -> str:
        """The name its driver manifest is filed under."""
        return f"NV_GPU_DRIVER_GH100_{self.driver_version}"

    @property
    def vbios_rim_id(self) -> str:
        """The name its VBIOS manifest is filed under."""
        version = self.vbios_version.replace(".", "")
        return f"NV_GPU_VBIOS_{self.project}_{self.project_sku}_{self.chip_sku}_{version}"

    def golden(self, index: int) -> tuple[bytes, ...]:
        """The alternatives a manifest lists for an active index; the last one is measured."""
        if index in (0, 8, 10, 12):
            return (bytes(48),)
        alternatives = 2 if index in (23, 24) else 1
        return tuple(
            _describe(f"measurement {index}, alternative {n}") for n in range(alternatives)
        )

    def runtime(self, index: int) -> bytes:
        """What the simulated GPU measures at an index."""
        if index == NVDEC0_INDEX:
            return _describe("a disabled video decoder")
        if index in DRIVER_INDICES or index in VBIOS_INDICES:
            return self.golden(index)[-1]
        return bytes(48)


def _describe(what: str) -> bytes:
    return hashlib.sha384(f"otr-devtee, simulated: {what}".encode()).digest()


REFERENCE_VALUES: Final = ReferenceValues(
    hwmodel="GH100 A01 GSP BROM SIMULATED",
    driver_version="550.90.07",
    vbios_version="96.00.9F.00.01",
    project="1010",
    project_sku="0200",
    chip_sku="882",
    fwid=_describe("firmware"),
    cpu_measurement=_describe("CPU image"),
    tcb=TcbVersion(boot_loader=4, tee=0, snp=23, microcode=213),
)
