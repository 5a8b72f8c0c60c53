"""AMD SEV-SNP attestation report, versions 2 and 3 (AMD 56860, SEV-SNP firmware ABI, table 22).

1184 bytes, little-endian:

    000 version (4)         004 guest SVN (4)       008 policy (8)
    030 VMPL (4)            034 signature algorithm (4) = 1, ECDSA P-384 with SHA-384
    038 current TCB (8)     040 platform info (8)   048 key flags (4)
    050 report data (64)    090 launch measurement (48)
    0c0 host data (32)      180 reported TCB (8)    188 v3: CPU family, model, stepping
    1a0 chip id (64)        1e0 committed TCB (8)   1f0 launch TCB (8)
    2a0 signature over bytes 0..29f: r (72), s (72), zeros (368); numbers little-endian

The signature's padding is outside the signed part, so it must be zero: a report has one encoding.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.asymmetric.utils import encode_dss_signature

from otr_protocol.errors import MalformedError, RejectedError, UnknownError

REPORT_BYTES: Final = 1184
SIGNED_BYTES: Final = 0x2A0
MEASUREMENT_BYTES: Final = 48
VERSIONS: Final = (2, 3)

_ECDSA_P384_SHA384: Final = 1
_NUMBER_BYTES: Final = 72
_COORDINATE_BYTES: Final = 48

_POLICY_SMT: Final = 1 << 16
_POLICY_RESERVED_ONE: Final = 1 << 17
_POLICY_MIGRATION_AGENT: Final = 1 << 18
_POLICY_DEBUG: Final = 1 << 19
_SIGNING_KEY_VCEK: Final = 0


class SnpReportMalformedError(MalformedError):
    """The bytes are not an SNP report of a version read here."""

    reason = "SNP_REPORT_MALFORMED"


class SnpSigningKeyError(UnknownError):
    """The report is signed by another kind of key than a VCEK."""

    reason = "SNP_SIGNING_KEY_UNSUPPORTED"


class SnpReportSignatureError(RejectedError):
    """The report's signature does not verify under the chip's key."""

    reason = "SNP_REPORT_SIGNATURE"


@dataclass(frozen=True, slots=True)
class TcbVersion:
    """Security versions of boot loader, TEE, SNP firmware and microcode, and of Turin's FMC."""

    boot_loader: int
    tee: int
    snp: int
    microcode: int
    fmc: int = 0

    @classmethod
    def from_bytes(cls, data: bytes) -> TcbVersion:
        """From the 8 bytes of a report: byte 0, 1, 6 and 7; the four between are reserved."""
        if any(data[2:6]):
            raise SnpReportMalformedError("reserved bytes of a TCB version are not zero")
        return cls(boot_loader=data[0], tee=data[1], snp=data[6], microcode=data[7])

    def at_least(self, minimum: TcbVersion) -> bool:
        """Whether every component reaches that of `minimum`."""
        return (
            self.boot_loader >= minimum.boot_loader
            and self.tee >= minimum.tee
            and self.snp >= minimum.snp
            and self.microcode >= minimum.microcode
            and self.fmc >= minimum.fmc
        )


@dataclass(frozen=True, slots=True)
class SnpReport:
    """A parsed report whose signature nobody has checked yet. Lengths as in the table above."""

    version: int
    guest_svn: int
    policy: int
    vmpl: int
    report_data: bytes
    measurement: bytes
    host_data: bytes
    reported_tcb: TcbVersion
    committed_tcb: TcbVersion
    chip_id: bytes
    signed: bytes
    signature: tuple[int, int]

    @property
    def debug(self) -> bool:
        """Whether the host may read and change the guest's memory."""
        return bool(self.policy & _POLICY_DEBUG)

    @property
    def migration_agent(self) -> bool:
        """Whether another guest may move this one, and therefore hold its keys."""
        return bool(self.policy & _POLICY_MIGRATION_AGENT)

    @property
    def smt_allowed(self) -> bool:
        """Whether the guest may run beside another on one core."""
        return bool(self.policy & _POLICY_SMT)

    def require_signature(self, key: ec.EllipticCurvePublicKey) -> None:
        """Refuse with SnpReportSignatureError unless `key` signed this report."""
        try:
            key.verify(
                encode_dss_signature(*self.signature), self.signed, ec.ECDSA(hashes.SHA384())
            )
        except InvalidSignature as error:
            raise SnpReportSignatureError("the report's signature does not verify") from error


def parse(report: bytes) -> SnpReport:
    """Read a report; raises SnpReportMalformedError or SnpSigningKeyError."""
    if len(report) != REPORT_BYTES:
        raise SnpReportMalformedError(f"a report has {REPORT_BYTES} bytes, not {len(report)}")
    version = _u32(report, 0x000)
    if version not in VERSIONS:
        raise SnpReportMalformedError(f"report version {version} is not read here")
    if _u32(report, 0x034) != _ECDSA_P384_SHA384:
        raise SnpReportMalformedError("the report is not signed with ECDSA P-384")
    policy = int.from_bytes(report[0x008:0x010], "little")
    if not policy & _POLICY_RESERVED_ONE:
        raise SnpReportMalformedError("the guest policy lacks its fixed bit")
    signing_key = (_u32(report, 0x048) >> 2) & 0b111
    if signing_key != _SIGNING_KEY_VCEK:
        raise SnpSigningKeyError("only reports signed by a VCEK are appraised")
    return SnpReport(
        version=version,
        guest_svn=_u32(report, 0x004),
        policy=policy,
        vmpl=_u32(report, 0x030),
        report_data=report[0x050:0x090],
        measurement=report[0x090:0x0C0],
        host_data=report[0x0C0:0x0E0],
        reported_tcb=TcbVersion.from_bytes(report[0x180:0x188]),
        committed_tcb=TcbVersion.from_bytes(report[0x1E0:0x1E8]),
        chip_id=report[0x1A0:0x1E0],
        signed=report[:SIGNED_BYTES],
        signature=_signature(report[SIGNED_BYTES:]),
    )


def _u32(data: bytes, offset: int) -> int:
    return int.from_bytes(data[offset : offset + 4], "little")


def _signature(data: bytes) -> tuple[int, int]:
    r, s, padding = (
        data[:_NUMBER_BYTES],
        data[_NUMBER_BYTES : 2 * _NUMBER_BYTES],
        data[2 * _NUMBER_BYTES :],
    )
    if any(r[_COORDINATE_BYTES:]) or any(s[_COORDINATE_BYTES:]) or any(padding):
        raise SnpReportMalformedError("the signature's padding is not zero")
    return int.from_bytes(r, "little"), int.from_bytes(s, "little")
