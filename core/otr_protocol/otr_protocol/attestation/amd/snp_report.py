"""AMD SEV-SNP attestation report, versions 2, 3 and 5 (AMD 56860, SEV-SNP firmware ABI, table 23).

1184 bytes, little-endian:

    000 version (4)         004 guest SVN (4)       008 policy (8)
    010 family id (16)      020 image id (16)
    030 VMPL (4)            034 signature algorithm (4) = 1, ECDSA P-384 with SHA-384
    038 current TCB (8)     040 platform info (8)   048 key flags (4)       04c zero (4)
    050 report data (64)    090 launch measurement (48)                     0c0 host data (32)
    0e0 id key digest (48)  110 author key digest (48)
    140 report id (32)      160 report id of the migration agent (32)
    180 reported TCB (8)    188 from v3: CPU family, model, stepping        18b zero (21)
    1a0 chip id (64)        1e0 committed TCB (8)
    1e8 current build, minor, major, zero           1ec committed build, minor, major, zero
    1f0 launch TCB (8)      1f8 v5: mitigations at launch (8), now (8)      208 zero (152)
    2a0 signature over bytes 0..29f: r (72), s (72), zeros (368); numbers little-endian

The signature's padding is outside the signed part, so it must be zero. That leaves one freedom: of
every ECDSA signature (r, s) there is a twin (r, n - s) that also verifies, and genuine firmware
emits either. So bytes of a report do not name it; `SnpReport.evidence_id` does.

How a TCB version is laid out depends on the product (`snp_product`), so those stay bytes here.
"""

from __future__ import annotations

import enum
import struct
from dataclasses import dataclass
from typing import Final, NamedTuple

from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.asymmetric.utils import encode_dss_signature

from otr_protocol.digest import hash_record
from otr_protocol.errors import MalformedError, RejectedError, UnknownError

EVIDENCE_ID_DOMAIN: Final = "otr-snp-report-v1"
REPORT_BYTES: Final = 1184
SIGNED_BYTES: Final = 0x2A0
MEASUREMENT_BYTES: Final = 48
VERSIONS: Final = (2, 3, 5)

_LAYOUT: Final = struct.Struct(
    "<IIQ 16s16s II 8sQI4s 64s48s32s 48s48s 32s32s 8sBBB21s 64s8s 3s1s3s1s 8sQQ152s 48s24s48s392s"
)
_ZERO: Final = b"\0"
_ECDSA_P384_SHA384: Final = 1
_ALGORITHM: Final = ec.ECDSA(hashes.SHA384())
_CPUID_VERSION: Final = 3
_MITIGATIONS_VERSION: Final = 5

_POLICY_SMT: Final = 1 << 16
_POLICY_RESERVED_ONE: Final = 1 << 17
_POLICY_MIGRATION_AGENT: Final = 1 << 18
_POLICY_DEBUG: Final = 1 << 19
_POLICY_BITS: Final = 26

_FLAG_AUTHOR_KEY: Final = 1
_SIGNING_KEY_SHIFT: Final = 2
_SIGNING_KEY_MASK: Final = 0b111
_SIGNING_KEY_NONE: Final = 7
_FLAG_BITS: Final = 5

PLATFORM_FACTS: Final = {
    "smt": 1 << 0,
    "tsme": 1 << 1,
    "ecc": 1 << 2,
    "rapl-disabled": 1 << 3,
    "ciphertext-hiding": 1 << 4,
    "alias-check-complete": 1 << 5,
    "tio": 1 << 7,
}
"""What the platform says about itself, by the bit of the platform information."""
_KNOWN_PLATFORM_BITS: Final = sum(PLATFORM_FACTS.values())


class SnpReportMalformedError(MalformedError):
    """The bytes are not an SNP report of a version read here."""

    reason = "SNP_REPORT_MALFORMED"


class SnpSigningKeyError(UnknownError):
    """The report is signed by a kind of key that this version does not know."""

    reason = "SNP_SIGNING_KEY_UNSUPPORTED"


class SnpReportUnsignedError(RejectedError):
    """The report says of itself that nobody signed it."""

    reason = "SNP_REPORT_UNSIGNED"


class SnpReportSignatureError(RejectedError):
    """The report's signature does not verify under the certified key."""

    reason = "SNP_REPORT_SIGNATURE"


class SigningKey(enum.IntEnum):
    """Whose key signed a report; the numbers are those of the report's key flags."""

    VCEK = 0
    """The chip's own key."""
    VLEK = 1
    """A key that AMD made for a cloud provider, who loads it into his chips."""


@dataclass(frozen=True, slots=True)
class TcbVersion:
    """Security versions of boot loader, TEE, SNP firmware and microcode, and of Turin's FMC."""

    boot_loader: int
    tee: int
    snp: int
    microcode: int
    fmc: int = 0

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
    """A parsed report whose signature nobody has checked yet. Lengths as in the table above.

    `cpuid` is (family, model, stepping), None in version 2; `mitigations` the vectors at launch and
    now, None before version 5.
    """

    version: int
    guest_svn: int
    policy: int
    vmpl: int
    signing_key: SigningKey
    has_author_key: bool
    platform_info: int
    report_data: bytes
    measurement: bytes
    host_data: bytes
    id_key_digest: bytes
    author_key_digest: bytes
    current_tcb: bytes
    reported_tcb: bytes
    committed_tcb: bytes
    launch_tcb: bytes
    cpuid: tuple[int, int, int] | None
    chip_id: bytes
    mitigations: tuple[int, int] | None
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

    @property
    def unknown_platform_bits(self) -> int:
        """What the platform information says beyond the table above."""
        return self.platform_info & ~_KNOWN_PLATFORM_BITS

    @property
    def evidence_id(self) -> bytes:
        """Names the report by what was signed: 32 bytes, the same for either form of a signature.

        Whatever counts reports or keeps them from being used twice must key on this.
        """
        return hash_record(EVIDENCE_ID_DOMAIN, self.signed)

    def require_signature(self, key: ec.EllipticCurvePublicKey) -> None:
        """Refuse with SnpReportSignatureError unless `key` signed this report."""
        try:
            key.verify(encode_dss_signature(*self.signature), self.signed, _ALGORITHM)
        except InvalidSignature as error:
            raise SnpReportSignatureError("the report's signature does not verify") from error


class _Raw(NamedTuple):
    """The table above, as it stands in the report."""

    version: int
    guest_svn: int
    policy: int
    family_id: bytes
    image_id: bytes
    vmpl: int
    algorithm: int
    current_tcb: bytes
    platform_info: int
    key_flags: int
    zero_04c: bytes
    report_data: bytes
    measurement: bytes
    host_data: bytes
    id_key_digest: bytes
    author_key_digest: bytes
    report_id: bytes
    agent_id: bytes
    reported_tcb: bytes
    family: int
    model: int
    stepping: int
    zero_18b: bytes
    chip_id: bytes
    committed_tcb: bytes
    current_version: bytes
    zero_1eb: bytes
    committed_version: bytes
    zero_1ef: bytes
    launch_tcb: bytes
    launch_mitigations: int
    current_mitigations: int
    zero_208: bytes
    r: bytes
    zero_r: bytes
    s: bytes
    zero_s: bytes


def parse(report: bytes) -> SnpReport:
    """Read a report.

    Raises SnpReportMalformedError, SnpReportUnsignedError or SnpSigningKeyError.
    """
    if len(report) != REPORT_BYTES:
        raise SnpReportMalformedError(f"a report has {REPORT_BYTES} bytes, not {len(report)}")
    raw = _Raw._make(_LAYOUT.unpack(report))
    if raw.version not in VERSIONS:
        raise SnpReportMalformedError(f"report version {raw.version} is not read here")
    if raw.algorithm != _ECDSA_P384_SHA384:
        raise SnpReportMalformedError("the report is not signed with ECDSA P-384")
    _check_reserved(raw)
    return SnpReport(
        version=raw.version,
        guest_svn=raw.guest_svn,
        policy=raw.policy,
        vmpl=raw.vmpl,
        signing_key=_signing_key(raw.key_flags),
        has_author_key=bool(raw.key_flags & _FLAG_AUTHOR_KEY),
        platform_info=raw.platform_info,
        report_data=raw.report_data,
        measurement=raw.measurement,
        host_data=raw.host_data,
        id_key_digest=raw.id_key_digest,
        author_key_digest=raw.author_key_digest,
        current_tcb=raw.current_tcb,
        reported_tcb=raw.reported_tcb,
        committed_tcb=raw.committed_tcb,
        launch_tcb=raw.launch_tcb,
        cpuid=(raw.family, raw.model, raw.stepping) if raw.version >= _CPUID_VERSION else None,
        chip_id=raw.chip_id,
        mitigations=(
            (raw.launch_mitigations, raw.current_mitigations)
            if raw.version >= _MITIGATIONS_VERSION
            else None
        ),
        signed=report[:SIGNED_BYTES],
        signature=(int.from_bytes(raw.r, "little"), int.from_bytes(raw.s, "little")),
    )


def _check_reserved(raw: _Raw) -> None:
    """What no version uses is zero, and so is what this version does not have yet."""
    if raw.zero_r.strip(_ZERO) or raw.zero_s.strip(_ZERO):
        raise SnpReportMalformedError("the signature's padding is not zero")
    if not raw.policy & _POLICY_RESERVED_ONE:
        raise SnpReportMalformedError("the guest policy lacks its fixed bit")
    if raw.policy >> _POLICY_BITS or raw.key_flags >> _FLAG_BITS:
        raise SnpReportMalformedError("reserved bits of policy or key flags are not zero")
    reserved = raw.zero_04c + raw.zero_18b + raw.zero_1eb + raw.zero_1ef + raw.zero_208
    if reserved.strip(_ZERO):
        raise SnpReportMalformedError("reserved bytes are not zero")
    if raw.version < _CPUID_VERSION and (raw.family or raw.model or raw.stepping):
        raise SnpReportMalformedError(f"version {raw.version} does not name the processor")
    if raw.version < _MITIGATIONS_VERSION and (raw.launch_mitigations or raw.current_mitigations):
        raise SnpReportMalformedError(f"version {raw.version} does not list mitigations")


def _signing_key(flags: int) -> SigningKey:
    number = flags >> _SIGNING_KEY_SHIFT & _SIGNING_KEY_MASK
    if number == _SIGNING_KEY_NONE:
        raise SnpReportUnsignedError("the report says that it is not signed")
    try:
        return SigningKey(number)
    except ValueError as error:
        raise SnpSigningKeyError(f"signing key {number} is not known here") from error
