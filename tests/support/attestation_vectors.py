"""Real evidence from tests/../vectors as values: reports, chains, manifests, responses."""

from __future__ import annotations

import base64
import json
from dataclasses import dataclass
from datetime import UTC, datetime
from functools import lru_cache
from pathlib import Path

from asn1crypto import pem

from otr_protocol.attestation.collateral import CollateralBundle, collect
from otr_protocol.binding import GpuEvidence


def at(text: str) -> int:
    """Seconds since 1970 of an ISO date or time in UTC."""
    moment = datetime.fromisoformat(text)
    return int(moment.replace(tzinfo=moment.tzinfo or UTC).timestamp())


def read(path: Path) -> bytes:
    """A file's bytes; `.hex` and `.b64` files are decoded."""
    data = path.read_bytes()
    if path.suffix == ".hex":
        return bytes.fromhex(data.decode("ascii").strip())
    if path.suffix == ".b64":
        return base64.b64decode(data)
    return data


def certificates(data: bytes) -> tuple[bytes, ...]:
    """The DER of every certificate in a PEM file, or the one DER certificate."""
    if pem.detect(data):
        return tuple(der for _, _, der in pem.unarmor(data, multiple=True))
    return (data,)


@dataclass(frozen=True)
class GpuSet:
    """One GPU's evidence and the manifests shipped with it, by the name they are filed under."""

    evidence: GpuEvidence
    rims: dict[str, bytes]
    ocsp_responses: tuple[bytes, ...] = ()

    @property
    def nonce(self) -> bytes:
        return self.evidence.report[4:36]

    def collateral(self) -> CollateralBundle:
        return collect(rims=self.rims, ocsp_responses=self.ocsp_responses)


def gpu_set(directory: Path, rims: dict[str, str]) -> GpuSet:
    """A directory with `report.bin` or `report.hex`, `chain.pem`, manifests and responses."""
    report = directory / "report.bin"
    if not report.exists():
        report = directory / "report.hex"
    responses = directory / "ocsp"
    return GpuSet(
        evidence=GpuEvidence(
            report=read(report),
            certificates=certificates((directory / "chain.pem").read_bytes()),
        ),
        rims={name: (directory / file).read_bytes() for name, file in rims.items()},
        ocsp_responses=tuple(read(file) for file in sorted(responses.glob("*.b64"))),
    )


@lru_cache(maxsize=1)
def h100_550(vectors: Path) -> GpuSet:
    """The one complete real set: an H100 with driver 550.90.07, all manifests and responses."""
    return gpu_set(
        vectors / "nvidia" / "h100-550.90.07",
        {
            "NV_GPU_DRIVER_GH100_550.90.07": "driver_rim.xml",
            "NV_GPU_VBIOS_1010_0200_882_96009F0001": "vbios_rim.xml",
        },
    )


def evidence_list(path: Path) -> list[GpuEvidence]:
    """Evidence in NVIDIA's JSON form: base64 of the report or of its hex, and of a PEM chain."""
    return [
        GpuEvidence(
            report=_report(base64.b64decode(item["evidence"])),
            certificates=certificates(base64.b64decode(item["certificate"])),
        )
        for item in json.loads(path.read_text())
    ]


def _report(data: bytes) -> bytes:
    try:
        return bytes.fromhex(data.decode("ascii").strip())
    except ValueError:
        return data
