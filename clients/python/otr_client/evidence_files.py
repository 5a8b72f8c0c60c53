"""Evidence and collateral as the vendors' tools leave them on disk, for `otr attest appraise`.

Reports come raw, in hex or in base64; certificates as PEM or DER; OCSP responses as DER or base64;
Intel collateral as JSON. Nothing is verified here, and nothing is guessed: a file that can be read
in no known form is refused by its name.
"""

from __future__ import annotations

import base64
import binascii
import re
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

from otr_protocol.attestation.amd import amd_certificate
from otr_protocol.attestation.collateral import CollateralBundle, collect
from otr_protocol.attestation.evidence import INTEL_TDX, SEV_SNP, CpuEvidence
from otr_protocol.attestation.intel import tdx_collateral
from otr_protocol.attestation.nvidia.machine_appraisal import needed_manifests
from otr_protocol.binding import GpuEvidence
from otr_protocol.errors import MalformedError, Refusal

MAX_FILE_BYTES = 1 << 20
_HEX = re.compile(rb"[0-9a-fA-F\s]+")
_PEM = re.compile(rb"-----BEGIN CERTIFICATE-----(.*?)-----END CERTIFICATE-----", re.DOTALL)
_VERSION = re.compile(rb'colloquialVersion="([^"]{1,64})"')


class EvidenceFileError(MalformedError):
    """A file that is not what it was given for; the message names it."""

    reason = "EVIDENCE_FILE"


@dataclass(frozen=True, slots=True)
class EvidenceFiles:
    """The files of one appraisal, by what they hold."""

    device_reports: Sequence[Path] = ()
    device_chains: Sequence[Path] = ()
    rims: Sequence[Path] = ()
    ocsp: Sequence[Path] = ()
    crls: Sequence[Path] = ()
    tdx_quote: Path | None = None
    tdx_collateral: Path | None = None
    event_log: Path | None = None
    snp_report: Path | None = None
    snp_chain: Sequence[Path] = field(default=())

    def devices(self) -> tuple[GpuEvidence, ...]:
        """The GPUs and switches, in the order given; report and chain stand at the same place."""
        if len(self.device_reports) != len(self.device_chains):
            raise EvidenceFileError("every device report needs its certificate chain")
        return tuple(
            GpuEvidence(report=binary(report), certificates=certificates(chain))
            for report, chain in zip(self.device_reports, self.device_chains, strict=True)
        )

    def cpu(self) -> CpuEvidence | None:
        """The CPU's evidence, if there is any."""
        event_log = self.event_log.read_bytes() if self.event_log else b""
        if self.tdx_quote and self.snp_report:
            raise EvidenceFileError("a machine has one CPU: a TDX quote or an SNP report, not both")
        if self.tdx_quote:
            return CpuEvidence(INTEL_TDX, binary(self.tdx_quote), (), event_log)
        if self.snp_report:
            chip, _ = self._snp_certificates()
            return CpuEvidence(SEV_SNP, binary(self.snp_report), (chip,), event_log)
        return None

    def collateral(self) -> CollateralBundle:
        """Everything else, as one bundle."""
        intel = []
        if self.tdx_collateral:
            intel.append(tdx_collateral.from_json(_bounded(self.tdx_collateral)).encode())
        return collect(
            rims=self._manifests(),
            ocsp_responses=[binary(path) for path in self.ocsp],
            snp_issuers=[self._snp_certificates()[1]] if self.snp_report else [],
            crls=[binary(path) for path in self.crls],
            intel=intel,
        )

    def _manifests(self) -> dict[str, bytes]:
        """Manifests under the names by which the reports ask for them.

        A name only says where to look; whether the manifest fits is verified. One that no report
        asks for keeps its file's name, under which nobody finds it.
        """
        wanted: dict[str, list[str]] = {}
        for device in self.devices():
            try:
                needs = needed_manifests(device)
            except Refusal:  # the appraisal says what is wrong with this one
                continue
            for need in needs:
                wanted.setdefault(need.version.upper(), []).append(need.name)
        found: dict[str, bytes] = {}
        for path in self.rims:
            document = _bounded(path)
            match = _VERSION.search(document)
            version = match.group(1).decode("ascii", "replace").upper() if match else ""
            for name in wanted.get(version, [path.name]):
                found[name] = document
        return found

    def _snp_certificates(self) -> tuple[bytes, tuple[bytes, bytes]]:
        """The certificate of the key that signs reports, and (ASK or ASVK, ARK)."""
        given = [der for path in self.snp_chain for der in certificates(path)]
        parsed = [amd_certificate.parse(der) for der in given]
        roots = [each for each in parsed if each.subject == each.issuer]
        others = [each for each in parsed if each.subject != each.issuer]
        for root in roots:
            for issuer in others:
                leaves = [leaf for leaf in others if leaf.issuer == issuer.subject]
                if issuer.issuer == root.subject and len(leaves) == 1:
                    return leaves[0].der, (issuer.der, root.der)
        raise EvidenceFileError("--snp-chain: VCEK or VLEK, ASK or ASVK, and ARK are needed")


def binary(path: Path) -> bytes:
    """The bytes of a file that is raw, hex or base64; raises EvidenceFileError."""
    data = _bounded(path)
    stripped = data.strip()
    if _HEX.fullmatch(data):
        try:
            return bytes.fromhex(data.decode("ascii"))
        except ValueError as error:
            raise EvidenceFileError(f"{path}: hex digits, but an odd number of them") from error
    try:
        return base64.b64decode(b"".join(stripped.split()), validate=True)
    except (binascii.Error, ValueError):
        return data


def certificates(path: Path) -> tuple[bytes, ...]:
    """The DER of every certificate in a PEM file, or of the one in a DER file."""
    data = _bounded(path)
    found = _PEM.findall(data)
    if found:
        try:
            return tuple(base64.b64decode(b"".join(body.split()), validate=True) for body in found)
        except binascii.Error as error:
            raise EvidenceFileError(f"{path}: not a PEM file") from error
    if not data.startswith(b"\x30"):
        raise EvidenceFileError(f"{path}: neither PEM nor DER certificates")
    return (data,)


def _bounded(path: Path) -> bytes:
    with path.open("rb") as file:
        data = file.read(MAX_FILE_BYTES + 1)
    if not 1 <= len(data) <= MAX_FILE_BYTES:
        raise EvidenceFileError(f"{path}: 1 byte to {MAX_FILE_BYTES >> 20} MiB are read")
    return data
