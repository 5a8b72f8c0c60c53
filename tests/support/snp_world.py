"""Synthetic AMD machines of every product line, with the keys at hand for attackers."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from functools import lru_cache
from typing import Any

from cryptography.hazmat.primitives.asymmetric import ec

from otr_devtee import reports
from otr_devtee.snp_issuing import RsaIdentity, issue_authority, issue_vcek, issue_vlek
from otr_protocol.attestation.amd.snp_appraisal import appraise_snp
from otr_protocol.attestation.amd.snp_product import GENOA, MILAN, TURIN, ProductLine
from otr_protocol.attestation.amd.snp_report import SigningKey, TcbVersion
from otr_protocol.attestation.collateral import collect
from otr_protocol.attestation.cpu_appraisal import CpuAppraisal
from otr_protocol.attestation.evidence import SEV_SNP, CpuEvidence
from otr_protocol.attestation.policy import Policy
from otr_protocol.attestation.trust_roots import TrustRootSet
from otr_protocol.digest import H
from support import devtee_world as world

NOW = world.NOW
LINES = (MILAN, GENOA, TURIN)
PROVIDER = "CN=cc-simulated.example"
REPORT_DATA = bytes(range(64))
IMAGE = b"\x11" * 48
ASK_SERIAL = 65537
ASVK_SERIAL = 65793
VLEK_LIFETIME = timedelta(days=365)
START = datetime.fromtimestamp(NOW - 3600, UTC)
END = START + timedelta(days=3650)


@dataclass(frozen=True)
class Machine:
    """One machine: who certified its key, the key, and what its reports truthfully say."""

    line: ProductLine
    kind: SigningKey
    ark: RsaIdentity
    intermediate: RsaIdentity
    key: ec.EllipticCurvePrivateKey
    certificate: bytes
    chip_id: bytes
    tcb: TcbVersion

    def report(self, **changes: Any) -> bytes:
        """A report of an ordinary guest, with changes that this machine's key signs."""
        arguments: dict[str, Any] = {
            "report_data": REPORT_DATA,
            "measurement": IMAGE,
            "chip_id": self.chip_id if self.kind is SigningKey.VCEK else bytes(64),
            "tcb": self.tcb,
            "key": self.key,
            "line": self.line,
            "signing_key": self.kind,
        }
        return reports.snp_report(**(arguments | changes))

    def certified(self, **changes: Any) -> Machine:
        """The same machine under a certificate with changes, from the same authority."""
        arguments: dict[str, Any] = {
            "tcb": self.tcb,
            "line": self.line,
            "not_before": START,
            "not_after": END,
        }
        public_key = self.key.public_key()
        if self.kind is SigningKey.VCEK:
            arguments |= {"chip_id": self.chip_id} | changes
            certificate = issue_vcek(self.intermediate, public_key, **arguments)
        else:
            arguments |= {"provider": PROVIDER, "not_after": START + VLEK_LIFETIME} | changes
            certificate = issue_vlek(self.intermediate, public_key, **arguments)
        return dataclasses.replace(self, certificate=certificate)


def authorities(
    line: ProductLine, kind: SigningKey, **changes: Any
) -> tuple[RsaIdentity, RsaIdentity]:
    """ASK or ASVK, and ARK, of a line. All lines share two RSA keys: those take seconds."""
    pki = world.pki()
    period: dict[str, Any] = {"not_before": START, "not_after": END}
    ark = issue_authority(f"ARK-{line.name}", None, serial=65536, key=pki.ark.key, **period)
    if kind is SigningKey.VCEK:
        name, serial = f"SEV-{line.name}", ASK_SERIAL
    else:
        name, serial = f"SEV-VLEK-{line.name}", ASVK_SERIAL
    arguments = {"common_name": name, "serial": serial, "key": pki.ask.key, **period}
    return issue_authority(issuer=ark, **(arguments | changes)), ark


def machine(
    line: ProductLine = MILAN, kind: SigningKey = SigningKey.VCEK, number: int = 0
) -> Machine:
    """A machine of a line; another `number` is another chip under the same vendor keys."""
    return _machine(line, kind, number)


@lru_cache(maxsize=16)
def _machine(line: ProductLine, kind: SigningKey, number: int) -> Machine:
    if number:
        intermediate, ark = machine(line, kind).intermediate, machine(line, kind).ark
    else:
        intermediate, ark = authorities(line, kind)
        # The lists of both kinds of keys are signed by one root.
        if kind is SigningKey.VLEK:
            ark = machine(line).ark
    fmc = 2 if line.has_fmc else 0
    return Machine(
        line=line,
        kind=kind,
        ark=ark,
        intermediate=intermediate,
        key=ec.generate_private_key(ec.SECP384R1()),
        certificate=b"",
        chip_id=(bytes((line.family, number + 1)) * (line.chip_id_bytes // 2)).ljust(64, b"\0"),
        tcb=TcbVersion(boot_loader=4, tee=1, snp=23, microcode=213, fmc=fmc),
    ).certified()


def roots(*machines: Machine) -> TrustRootSet:
    """The set that pins the roots of some machines; by default, of one of every line."""
    chosen = machines or tuple(machine(line) for line in LINES)
    return TrustRootSet("synthetic", b"", b"", frozenset(H(chip.ark.der) for chip in chosen))


def appraise(
    of: Machine,
    report: bytes | None = None,
    *,
    certificate: bytes | None = None,
    issuers: Sequence[tuple[bytes, bytes]] | None = None,
    crls: Sequence[bytes] = (),
    pinned: TrustRootSet | None = None,
    now_s: int = NOW,
    **policy: Any,
) -> CpuAppraisal:
    """What a verifier says of a machine's report, or of another one beside its certificate."""
    return appraise_snp(
        CpuEvidence(SEV_SNP, report or of.report(), (certificate or of.certificate,)),
        report_data=REPORT_DATA,
        collateral=collect(
            rims={},
            snp_issuers=issuers if issuers is not None else [(of.intermediate.der, of.ark.der)],
            crls=crls,
        ),
        policy=Policy(
            cpu_measurements=(IMAGE,), **({"accept_vlek": of.kind is SigningKey.VLEK} | policy)
        ),
        roots=[pinned or roots(of)],
        now_s=now_s,
    )


def reasons(appraisal: CpuAppraisal) -> list[str]:
    """The reasons of all findings, in order."""
    return [finding.reason for finding in appraisal.findings]
