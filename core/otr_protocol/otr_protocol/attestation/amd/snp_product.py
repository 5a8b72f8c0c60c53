"""AMD's product lines with SEV-SNP: what differs between Milan, Genoa and Turin.

AMD 57230 tells how a product line follows from CPUID and how a TCB version is laid out:

    Milan, Genoa   boot loader, TEE, 0, 0, 0, 0, SNP, microcode     chip id of 64 bytes
    Turin          FMC, boot loader, TEE, SNP, 0, 0, 0, microcode   chip id of 8 bytes

Which layout a report has is never said by the report: it follows from the product that its key's
certificate names, and is therefore signed by AMD.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final

from otr_protocol.attestation.amd.snp_report import SnpReportMalformedError, TcbVersion
from otr_protocol.errors import UnknownError

CHIP_ID_BYTES: Final = 64
TURIN_CHIP_ID_BYTES: Final = 8

# A name may say the silicon's stepping ("Milan-B0"). Real certificates of later steppings say B0
# as well, so that it is read and not compared.
_NAME: Final = re.compile(r"([A-Z][a-z]+)(-[A-Z][0-9])?")


class SnpProductUnsupportedError(UnknownError):
    """The chip belongs to a product line that this version cannot appraise."""

    reason = "SNP_PRODUCT_UNSUPPORTED"


@dataclass(frozen=True, slots=True)
class ProductLine:
    """One product line: its CPUID family and models, and the layouts it uses.

    `models` are inclusive ranges; `chip_id_bytes` is what its certificates hold.
    """

    name: str
    family: int
    models: tuple[tuple[int, int], ...]
    chip_id_bytes: int = CHIP_ID_BYTES
    has_fmc: bool = False

    def includes(self, family: int, model: int) -> bool:
        """Whether a processor with this CPUID family and model is of this line."""
        return family == self.family and any(low <= model <= high for low, high in self.models)

    def tcb(self, data: bytes) -> TcbVersion:
        """The 8 bytes of a TCB version in a report; SnpReportMalformedError if spare ones are used.

        FMC is the first stage of Turin's boot chain; elsewhere it is 0.
        """
        if self.has_fmc:
            fmc, boot_loader, tee, snp, *spare, microcode = data
        else:
            fmc = 0
            boot_loader, tee, *spare, snp, microcode = data
        if any(spare):
            raise SnpReportMalformedError("reserved bytes of a TCB version are not zero")
        return TcbVersion(boot_loader, tee, snp, microcode, fmc)

    def tcb_bytes(self, tcb: TcbVersion) -> bytes:
        """The counterpart of `tcb`."""
        if self.has_fmc:
            return bytes((tcb.fmc, tcb.boot_loader, tcb.tee, tcb.snp, 0, 0, 0, tcb.microcode))
        return bytes((tcb.boot_loader, tcb.tee, 0, 0, 0, 0, tcb.snp, tcb.microcode))


MILAN: Final = ProductLine("Milan", 0x19, ((0x00, 0x0F),))
GENOA: Final = ProductLine("Genoa", 0x19, ((0x10, 0x1F), (0xA0, 0xAF)))
TURIN: Final = ProductLine(
    "Turin", 0x1A, ((0x00, 0x1F),), chip_id_bytes=TURIN_CHIP_ID_BYTES, has_fmc=True
)

# Siena is sold under its own name and certified by Genoa's keys.
_LINES: Final[Mapping[str, ProductLine]] = {
    "Milan": MILAN,
    "Genoa": GENOA,
    "Siena": GENOA,
    "Turin": TURIN,
}


def product_line(name: str) -> ProductLine:
    """The line of a product name such as "Milan-B0"; SnpProductUnsupportedError for others."""
    parts = _NAME.fullmatch(name)
    line = _LINES.get(parts.group(1)) if parts else None
    if line is None:
        raise SnpProductUnsupportedError(f"{name!r} is not a product appraised here")
    return line
