"""A world with its own Intel: root, PCK CA, machines, quoting enclave, TCB info, revocation lists.

Real quotes show what is accepted on a few days of the past. Here everything can be varied and is
genuinely signed again, so that each check is the only thing between a quote and acceptance.
"""

from __future__ import annotations

import json
from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta
from functools import lru_cache
from hashlib import sha256
from typing import Any

from asn1crypto import core
from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.asymmetric.utils import decode_dss_signature
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

from otr_protocol.attestation.collateral import CollateralBundle, collect
from otr_protocol.attestation.cpu_appraisal import CpuAppraisal
from otr_protocol.attestation.evidence import INTEL_SGX, INTEL_TDX, CpuEvidence
from otr_protocol.attestation.intel import pck_chain
from otr_protocol.attestation.intel.tdx_appraisal import appraise_tdx
from otr_protocol.attestation.intel.tdx_collateral import TdxCollateral
from otr_protocol.attestation.intel.tdx_quote import INTEL_QE_VENDOR
from otr_protocol.attestation.policy import Policy
from otr_protocol.attestation.trust_roots import TrustRootSet

NOW = 1_800_000_000
DAY = 24 * 3600
P256_ORDER = 0xFFFFFFFF00000000FFFFFFFFFFFFFFFFBCE6FAADA7179E84F3B9CAC2FC632551
FMSPC = bytes.fromhex("0badc0de0001")
MRTD = bytes([0x11]) * 48
MRENCLAVE = bytes([0x33]) * 32
REPORT_DATA = bytes(range(64))
QE_SIGNER = bytes([0x44]) * 32
MODULE_SVN = bytes([6, 1, 3]).ljust(16, b"\0")
TDX15 = MODULE_SVN + bytes(48)
SEPT_VE_DISABLE = 1 << 28
_SGX = "1.2.840.113741.1.13.1"


@dataclass(frozen=True)
class Signer:
    """A key with its certificate."""

    key: ec.EllipticCurvePrivateKey
    certificate: x509.Certificate

    @property
    def der(self) -> bytes:
        return self.certificate.public_bytes(Encoding.DER)

    @property
    def pem(self) -> bytes:
        return pck_chain.pem_of(self.der)

    def sign(self, message: bytes) -> bytes:
        return raw_signature(self.key, message)


@dataclass(frozen=True)
class Intel:
    """Everything that one root stands for."""

    root: Signer
    authority: Signer
    documents: Signer
    machine: Signer
    attestation_key: ec.EllipticCurvePrivateKey

    @property
    def roots(self) -> TrustRootSet:
        return TrustRootSet("test", b"", b"", frozenset(), self.root.der)


def raw_signature(key: ec.EllipticCurvePrivateKey, message: bytes) -> bytes:
    """r || s, 64 bytes."""
    r, s = decode_dss_signature(key.sign(message, ec.ECDSA(hashes.SHA256())))
    return r.to_bytes(32, "big") + s.to_bytes(32, "big")


def second_s(signature: bytes) -> bytes:
    """The other signature that verifies: (r, n - s)."""
    s = P256_ORDER - int.from_bytes(signature[32:], "big")
    return signature[:32] + s.to_bytes(32, "big")


def certificate(
    name: str,
    issuer: Signer | None,
    *,
    ca: bool = False,
    extension: bytes = b"",
    days: tuple[int, int] = (-100, 1000),
    key: ec.EllipticCurvePrivateKey | None = None,
    algorithm: hashes.SHA256 | hashes.SHA384 | None = None,
) -> Signer:
    """A new certificate of Intel's profile, valid from and to days counted from NOW."""
    key = key or ec.generate_private_key(ec.SECP256R1())
    subject = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, name)])
    builder = (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(issuer.certificate.subject if issuer else subject)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(moment(NOW + days[0] * DAY))
        .not_valid_after(moment(NOW + days[1] * DAY))
        .add_extension(x509.BasicConstraints(ca=ca, path_length=None), critical=True)
        .add_extension(
            x509.KeyUsage(not ca, not ca, False, False, False, ca, ca, False, False),
            critical=True,
        )
    )
    if extension:
        oid = x509.ObjectIdentifier(_SGX)
        builder = builder.add_extension(x509.UnrecognizedExtension(oid, extension), critical=False)
    signed = builder.sign(issuer.key if issuer else key, algorithm or hashes.SHA256())
    return Signer(key, signed)


def platform_extension(
    *, cpu_svn: bytes = bytes([5]) * 16, pce_svn: int = 11, traits: tuple[bool, ...] = (True,) * 3
) -> bytes:
    """What a PCK certificate says: versions, family, and (dynamic, cached keys, SMT)."""
    tcb = [_entry(f"2.{number + 1}", core.Integer(svn)) for number, svn in enumerate(cpu_svn)]
    tcb += [_entry("2.17", core.Integer(pce_svn)), _entry("2.18", core.OctetString(cpu_svn))]
    configuration = [
        _entry(f"7.{number + 1}", core.Boolean(value)) for number, value in enumerate(traits)
    ]
    return _sequence(
        _entry("1", core.OctetString(bytes(16))),
        _entry("2", _sequence(*tcb)),
        _entry("3", core.OctetString(bytes(2))),
        _entry("4", core.OctetString(FMSPC)),
        _entry("5", b"\x0a\x01\x01"),
        _entry("6", core.OctetString(bytes(16))),
        _entry("7", _sequence(*configuration)),
    )


def _entry(suffix: str, value: Any) -> bytes:
    encoded = value if isinstance(value, bytes) else value.dump()
    return _sequence(core.ObjectIdentifier(f"{_SGX}.{suffix}").dump(), encoded)


def _sequence(*parts: bytes) -> bytes:
    encoded: bytes = core.Sequence(contents=b"".join(parts)).dump()
    return encoded


@lru_cache(maxsize=4)
def intel(name: str = "Test") -> Intel:
    """One world per name."""
    root = certificate(f"{name} Root CA", None, ca=True)
    authority = certificate(f"{name} PCK Platform CA", root, ca=True)
    return Intel(
        root=root,
        authority=authority,
        documents=certificate(f"{name} TCB Signing", root),
        machine=certificate(f"{name} PCK", authority, extension=platform_extension()),
        attestation_key=ec.generate_private_key(ec.SECP256R1()),
    )


def with_machine(world: Intel, **changes: Any) -> Intel:
    """The same Intel and another machine: arguments of `certificate`."""
    arguments: dict[str, Any] = {"extension": platform_extension()} | changes
    return replace(world, machine=certificate("Test PCK", world.authority, **arguments))


def moment(seconds: int) -> datetime:
    return datetime.fromtimestamp(seconds, UTC)


def td_report(
    *,
    attributes: int = SEPT_VE_DISABLE,
    tee_tcb_svn: bytes = MODULE_SVN,
    mr_signer_seam: bytes = bytes(48),
    seam_attributes: bytes = bytes(8),
    rtmrs: tuple[bytes, ...] = (bytes(48),) * 4,
    report_data: bytes = REPORT_DATA,
    tail: bytes = b"",
) -> bytes:
    """A TD report; `tail` is what TDX 1.5 adds: versions (16) and a service TD (48)."""
    return b"".join(
        (
            tee_tcb_svn,
            bytes([0x22]) * 48,
            mr_signer_seam,
            seam_attributes,
            attributes.to_bytes(8, "little"),
            (0x6_02E7).to_bytes(8, "little"),
            MRTD,
            bytes(3 * 48),
            *rtmrs,
            report_data,
            tail,
        )
    )


def enclave_report(
    *,
    attributes: int = 0x05,
    mr_enclave: bytes = MRENCLAVE,
    mr_signer: bytes = bytes([0x55]) * 32,
    product: int = 0,
    version: int = 0,
    report_data: bytes = REPORT_DATA,
) -> bytes:
    """An SGX enclave's report."""
    return b"".join(
        (
            bytes(48),
            attributes.to_bytes(16, "little"),
            mr_enclave,
            bytes(32),
            mr_signer,
            bytes(96),
            product.to_bytes(2, "little"),
            version.to_bytes(2, "little"),
            bytes(60),
            report_data,
        )
    )


def quote(
    world: Intel | None = None,
    *,
    version: int = 4,
    body: bytes | None = None,
    qe: dict[str, Any] | None = None,
    qe_key: bytes | None = None,
    chain: bytes | None = None,
    nul: bool = True,
) -> bytes:
    """A quote, genuinely signed; `chain` is other PEM text, `qe_key` what the QE vouches for."""
    world = world or intel()
    if body is None:
        body = {3: enclave_report(), 4: td_report(), 5: td_report(tail=TDX15)}[version]
    key = world.attestation_key.public_key()
    point = key.public_bytes(Encoding.X962, PublicFormat.UncompressedPoint)[1:]
    qe_data = bytes(range(32))
    vouched = sha256((qe_key or point) + qe_data).digest().ljust(64, b"\0")
    enclave: dict[str, Any] = {"mr_signer": QE_SIGNER, "product": 2, "version": 6}
    enclave |= {"attributes": 0x11, "report_data": vouched} | (qe or {})
    qe_report = enclave_report(**enclave)
    tee = 0 if version == 3 else 0x81
    header = b"".join(
        (
            version.to_bytes(2, "little"),
            (2).to_bytes(2, "little"),
            tee.to_bytes(4, "little"),
            bytes(4),
            INTEL_QE_VENDOR,
            bytes(20),
        )
    )
    if version == 5:
        kind = 2 if len(body) == 584 else 3
        header += kind.to_bytes(2, "little") + len(body).to_bytes(4, "little")
    if chain is None:
        chain = world.machine.pem + world.authority.pem + world.root.pem
        chain += b"\0" if nul else b""
    inner = b"".join(
        (
            qe_report,
            world.machine.sign(qe_report),
            (32).to_bytes(2, "little"),
            qe_data,
            (5).to_bytes(2, "little"),
            len(chain).to_bytes(4, "little"),
            chain,
        )
    )
    if version != 3:
        inner = (6).to_bytes(2, "little") + len(inner).to_bytes(4, "little") + inner
    signed = header + body
    data = raw_signature(world.attestation_key, signed) + point + inner
    return signed + len(data).to_bytes(4, "little") + data


def level(status: str = "UpToDate", *, svn: int = 5, **more: Any) -> dict[str, Any]:
    """A TCB level that the machine of `intel` just reaches."""
    return {
        "tcb": {
            "sgxtcbcomponents": [{"svn": svn}] * 16,
            "pcesvn": 11,
            "tdxtcbcomponents": [{"svn": value} for value in bytes([6, 0, 3]).ljust(16, b"\0")],
        },
        "tcbDate": "2026-05-13T00:00:00Z",
        "tcbStatus": status,
    } | more


def enclave_level(status: str = "UpToDate", version: int = 4, **more: Any) -> dict[str, Any]:
    """A level of the quoting enclave or of a TDX module."""
    return {
        "tcb": {"isvsvn": version},
        "tcbDate": "2026-05-13T00:00:00Z",
        "tcbStatus": status,
    } | more


MODULE: dict[str, Any] = {
    "mrsigner": "00" * 48,
    "attributes": "00" * 8,
    "attributesMask": "FF" * 8,
}


def collateral(
    world: Intel | None = None,
    *,
    tee: str = "TDX",
    levels: list[dict[str, Any]] | None = None,
    tcb_info: dict[str, Any] | None = None,
    qe_identity: dict[str, Any] | None = None,
    revoked: tuple[int, ...] = (),
    revoked_by_root: tuple[int, ...] = (),
    crl_days: tuple[int, int] = (-1, 29),
    signer: Signer | None = None,
    signer_chain: bytes | None = None,
) -> TdxCollateral:
    """Intel's collateral for the family, current from NOW - 1 day to NOW + 29 days."""
    world = world or intel()
    signer = signer or world.documents
    chain = signer_chain if signer_chain is not None else signer.pem + world.root.pem
    dates = {
        "issueDate": moment(NOW - DAY).strftime("%Y-%m-%dT%H:%M:%SZ"),
        "nextUpdate": moment(NOW + 29 * DAY).strftime("%Y-%m-%dT%H:%M:%SZ"),
        "tcbEvaluationDataNumber": 20,
    }
    info = {
        "id": tee,
        "version": 3,
        **dates,
        "fmspc": FMSPC.hex().upper(),
        "pceId": "0000",
        "tcbType": 0,
        "tdxModule": MODULE,
        "tdxModuleIdentities": [
            {"id": "TDX_01", **MODULE, "tcbLevels": [enclave_level(version=6)]},
        ],
        "tcbLevels": levels or [level()],
    }
    if tee == "SGX":
        del info["tdxModule"], info["tdxModuleIdentities"]
    identity = {
        "id": "TD_QE" if tee == "TDX" else "QE",
        "version": 2,
        **dates,
        "miscselect": "00000000",
        "miscselectMask": "FFFFFFFF",
        "attributes": "11".ljust(32, "0"),
        "attributesMask": "FBFFFFFFFFFFFFFF".ljust(32, "0"),
        "mrsigner": QE_SIGNER.hex().upper(),
        "isvprodid": 2,
        "tcbLevels": [enclave_level()],
    }
    info_text = json.dumps(info | (tcb_info or {})).encode()
    identity_text = json.dumps(identity | (qe_identity or {})).encode()
    return TdxCollateral(
        pck_crl_issuer_chain=world.authority.pem + world.root.pem,
        root_ca_crl=crl(world.root, revoked_by_root, crl_days),
        pck_crl=crl(world.authority, revoked, crl_days),
        tcb_info_issuer_chain=chain,
        tcb_info=info_text,
        tcb_info_signature=signer.sign(info_text),
        qe_identity_issuer_chain=chain,
        qe_identity=identity_text,
        qe_identity_signature=signer.sign(identity_text),
    )


def crl(
    issuer: Signer,
    revoked: tuple[int, ...] = (),
    days: tuple[int, int] = (-1, 29),
    algorithm: hashes.SHA256 | hashes.SHA384 | None = None,
) -> bytes:
    """A revocation list, DER."""
    builder = (
        x509.CertificateRevocationListBuilder()
        .issuer_name(issuer.certificate.subject)
        .last_update(moment(NOW + days[0] * DAY))
        .next_update(moment(NOW + days[1] * DAY))
        .add_extension(x509.CRLNumber(1), critical=False)
        .add_extension(
            x509.AuthorityKeyIdentifier.from_issuer_public_key(issuer.key.public_key()),
            critical=False,
        )
    )
    for serial in revoked:
        builder = builder.add_revoked_certificate(
            x509.RevokedCertificateBuilder()
            .serial_number(serial)
            .revocation_date(moment(NOW) - timedelta(days=2))
            .build()
        )
    signed = builder.sign(issuer.key, algorithm or hashes.SHA256())
    return signed.public_bytes(Encoding.DER)


POLICY = Policy(
    cpu_measurements=(MRTD,),
    sgx_enclaves=(MRENCLAVE,),
    tdx_traits=("cached-keys", "dynamic-platform", "smt"),
)


def judge(
    data: bytes,
    *records: TdxCollateral,
    policy: Policy = POLICY,
    kind: str = INTEL_TDX,
    roots: list[TrustRootSet] | None = None,
    report_data: bytes | None = REPORT_DATA,
    event_log: bytes = b"",
    now_s: int = NOW,
) -> CpuAppraisal:
    """The appraisal of a quote in this world, under its collateral unless other is given."""
    return appraise_tdx(
        CpuEvidence(kind, data, (), event_log),
        report_data=report_data,
        collateral=bundle(*(records or (standard(kind),))),
        policy=policy,
        roots=[intel().roots] if roots is None else roots,
        now_s=now_s,
    )


@lru_cache(maxsize=2)
def standard(kind: str = INTEL_TDX) -> TdxCollateral:
    return collateral(tee="SGX" if kind == INTEL_SGX else "TDX")


def bundle(*records: TdxCollateral) -> CollateralBundle:
    return collect(rims={}, intel=[record.encode() for record in records])


def reasons(appraisal: CpuAppraisal) -> list[str]:
    return [finding.reason for finding in appraisal.findings]
