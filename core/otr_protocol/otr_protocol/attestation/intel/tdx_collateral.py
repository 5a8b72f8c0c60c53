"""Intel's collateral for one family of machines: TCB info, QE identity, CRLs and their issuers.

    ["otr-tdx-collateral-v1", PCK CRL issuer chain, root CA CRL, PCK CRL, TCB info issuer chain,
     TCB info, TCB info signature, QE identity issuer chain, QE identity, QE identity signature]

Nine byte strings: chains are PEM, CRLs DER, TCB info and QE identity the JSON text that Intel
signed, signatures r || s (64 bytes). They are the parts of `sgx_ql_qve_collateral_t` version 3 and
of the JSON files that collateral tools write (`from_json`). Source: Intel SGX and TDX Provisioning
Certification Service API, version 4.

A record speaks for one TEE, one FMSPC and one PCK CA, within the period in which all of it is
current; `read` says which. It is unverified: `tdx_verify` checks every signature in it.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from functools import lru_cache
from typing import Any, Final

import dcap_qvl

from otr_protocol import dcbor
from otr_protocol.attestation.certificates import Validity
from otr_protocol.attestation.collateral import MAX_INTEL_RECORD_BYTES, CollateralBundle
from otr_protocol.attestation.intel import ecdsa, pck_chain, revocation_list
from otr_protocol.attestation.intel.pck_chain import IntelCertificate, PckChain
from otr_protocol.attestation.intel.revocation_list import RevocationList
from otr_protocol.attestation.intel.tdx_quote import SGX, TDX, Quote
from otr_protocol.attestation.strict_json import Json, parse_object
from otr_protocol.errors import MalformedError, Refusal, RejectedError, UnknownError
from otr_protocol.fields import as_bytes

DOMAIN: Final = "otr-tdx-collateral-v1"
MAX_DOCUMENT_BYTES: Final = 64 * 1024
MAX_JSON_BYTES: Final = 2 * MAX_INTEL_RECORD_BYTES
SIGNATURE_BYTES: Final = 64

_TEES: Final = {"TDX": TDX, "SGX": SGX}
_FMSPC_BYTES: Final = 6
_MAX_CHAIN: Final = 3
_INSTANT: Final = re.compile(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\dZ", re.ASCII)
# A chain for the quote itself, which some tools add: here the quote brings its own.
_IGNORED: Final = "pck_certificate_chain"


class IntelCollateralMalformedError(MalformedError):
    """Not a collateral record in its one encoding, or a part of it that cannot be read."""

    reason = "INTEL_COLLATERAL_MALFORMED"


class IntelCollateralRejectedError(RejectedError):
    """Intel did not sign a part of the collateral, or has revoked the key that did."""

    reason = "INTEL_COLLATERAL_REJECTED"


class IntelCertificateRevokedError(RejectedError):
    """Intel has revoked the platform's certificate or that of its CA."""

    reason = "INTEL_CERTIFICATE_REVOKED"


class IntelCollateralMissingError(UnknownError):
    """No collateral for this family of machines is at hand."""

    reason = "INTEL_COLLATERAL_MISSING"


class IntelCollateralNotCurrentError(UnknownError):
    """The collateral at hand does not speak of this time."""

    reason = "INTEL_COLLATERAL_NOT_CURRENT"


@dataclass(frozen=True, slots=True)
class TdxCollateral:
    """The nine parts, as in the record. Chains and documents are at most 64 KiB each."""

    pck_crl_issuer_chain: bytes
    root_ca_crl: bytes
    pck_crl: bytes
    tcb_info_issuer_chain: bytes
    tcb_info: bytes
    tcb_info_signature: bytes
    qe_identity_issuer_chain: bytes
    qe_identity: bytes
    qe_identity_signature: bytes

    def __post_init__(self) -> None:
        for name in PARTS:
            part = getattr(self, name)
            if not 1 <= len(part) <= MAX_DOCUMENT_BYTES:
                raise IntelCollateralMalformedError(
                    f"{name} has 1 to {MAX_DOCUMENT_BYTES} bytes", field=name
                )
            if name.endswith("_signature") and len(part) != SIGNATURE_BYTES:
                raise IntelCollateralMalformedError(
                    f"{name} has {SIGNATURE_BYTES} bytes", field=name
                )

    def encode(self) -> bytes:
        """The record's one encoding, for `CollateralBundle.intel`."""
        return dcbor.encode((DOMAIN, *(getattr(self, name) for name in PARTS)))

    def to_json(self) -> str:
        """The form that collateral tools use: text as it is, binary parts as hex."""
        return json.dumps(
            {
                name: part.hex() if name in _BINARY else part.decode("utf-8")
                for name, part in ((name, getattr(self, name)) for name in PARTS)
            }
        )


PARTS: Final = tuple(TdxCollateral.__dataclass_fields__)
_BINARY: Final = ("root_ca_crl", "pck_crl", "tcb_info_signature", "qe_identity_signature")


@dataclass(frozen=True, slots=True, eq=False)
class ReadCollateral:
    """A record with what it says about itself, unverified until `require_signed`.

    `tee` is `tdx_quote.TDX` or `SGX`, `fmspc` (6 bytes) and `pce_id` (2) the family, `pck_issuer`
    the DER name of the CA whose certificates the PCK CRL covers, `validity` the seconds since 1970
    UTC (both ends included) in which every document, list and certificate of the record is
    current. `native` is the same for dcap-qvl. Compared by identity: `read` returns one object for
    one record.
    """

    parts: TdxCollateral
    tee: int
    fmspc: bytes
    pce_id: bytes
    pck_issuer: bytes
    evaluation_number: int
    validity: Validity
    tcb_info: Mapping[str, Json]
    qe_identity: Mapping[str, Json]
    pck_crl: RevocationList
    root_crl: RevocationList
    native: dcap_qvl.QuoteCollateralV3

    def require_current(self, now_s: int) -> None:
        """Refuse with IntelCollateralNotCurrentError a time of which the record does not speak."""
        if not self.validity.not_before <= now_s <= self.validity.not_after:
            raise IntelCollateralNotCurrentError(
                f"collateral is for {self.validity.not_before} to {self.validity.not_after}"
            )

    def require_signed(self, pinned_root: bytes) -> None:
        """Refuse with IntelCollateralRejectedError what Intel, under this root (DER), did not sign.

        Documents must be signed by a certificate that the root itself issued: a platform's own
        certificate leads to the same root and may not say how current platforms are.
        """
        _require_signed(self, pinned_root)

    def require_not_revoked(self, chain: PckChain) -> None:
        """Refuse with IntelCertificateRevokedError a quote's chain that is on one of the lists."""
        for crl, certificate in ((self.pck_crl, chain.leaf), (self.root_crl, chain.authority)):
            if certificate.serial in crl.revoked:
                raise IntelCertificateRevokedError("a certificate of the quote has been revoked")


def decode(record: bytes) -> TdxCollateral:
    """Read a record of at most 128 KiB.

    Raises IntelCollateralMalformedError or one of the refusals of `dcbor` and `fields`.
    """
    fields = dcbor.open_record(
        record,
        DOMAIN,
        *(bytes for _ in PARTS),
        max_bytes=MAX_INTEL_RECORD_BYTES,
        max_depth=1,
        max_items=len(PARTS) + 2,
    )
    return TdxCollateral(*(as_bytes(field, DOMAIN) for field in fields))


def from_json(text: bytes) -> TdxCollateral:
    """Read the JSON (UTF-8, at most 256 KiB) that collateral tools write.

    Raises JsonMalformedError or IntelCollateralMalformedError.
    """
    document = parse_object(text, max_bytes=MAX_JSON_BYTES)
    document.pop(_IGNORED, None)
    if set(document) != set(PARTS):
        raise IntelCollateralMalformedError(f"collateral has the members {', '.join(PARTS)}")
    parts: dict[str, bytes] = {}
    for name in PARTS:
        value = document[name]
        if not isinstance(value, str):
            raise IntelCollateralMalformedError(f"{name} is not text", field=name)
        try:
            parts[name] = bytes.fromhex(value) if name in _BINARY else value.encode("utf-8")
        except ValueError as error:
            raise IntelCollateralMalformedError(f"{name} is not hex", field=name) from error
    return TdxCollateral(**parts)


@lru_cache(maxsize=64)
def read(record: bytes) -> ReadCollateral:
    """Read a record and what its parts say of themselves.

    Raises IntelCollateralMalformedError, IntelCrlMalformedError, CertificateMalformedError,
    JsonMalformedError or one of the refusals of `dcbor` and `fields`.
    """
    parts = decode(record)
    tcb_info = parse_object(parts.tcb_info, max_bytes=MAX_DOCUMENT_BYTES)
    qe_identity = parse_object(parts.qe_identity, max_bytes=MAX_DOCUMENT_BYTES)
    root_crl = revocation_list.parse(parts.root_ca_crl)
    pck_crl = revocation_list.parse(parts.pck_crl)
    try:
        fmspc = bytes.fromhex(_text(tcb_info, "fmspc"))
        pce_id = bytes.fromhex(_text(tcb_info, "pceId"))
        native = dcap_qvl.QuoteCollateralV3(
            **{
                name: part if name in _BINARY else part.decode("utf-8")
                for name, part in ((name, getattr(parts, name)) for name in PARTS)
            }
        )
    except ValueError as error:
        raise IntelCollateralMalformedError("a part of the collateral cannot be read") from error
    tee = _TEES.get(_text(tcb_info, "id"))
    number = tcb_info.get("tcbEvaluationDataNumber")
    if tee is None or len(fmspc) != _FMSPC_BYTES or not isinstance(number, int):
        raise IntelCollateralMalformedError("TCB info does not say what it is for")
    validity = _document(tcb_info).intersect(_document(qe_identity))
    for crl in (root_crl, pck_crl):
        validity = validity.intersect(crl.validity)
    for certificate in _certificates(parts):
        validity = validity.intersect(certificate.validity)
    return ReadCollateral(
        parts=parts,
        tee=tee,
        fmspc=fmspc,
        pce_id=pce_id,
        pck_issuer=pck_crl.issuer,
        evaluation_number=number,
        validity=validity,
        tcb_info=tcb_info,
        qe_identity=qe_identity,
        pck_crl=pck_crl,
        root_crl=root_crl,
        native=native,
    )


def find(bundle: CollateralBundle, quote: Quote, now_s: int) -> ReadCollateral:
    """The record for a quote's TEE, family and PCK CA that is to be used at `now_s`.

    Of several, those that are current come first, then the one with the higher evaluation number
    (Intel's newer idea of what is up to date), then the one that lasts longer. Records that cannot
    be read are passed over. The record need not be current, if none is. Raises
    IntelCollateralMissingError if none fits.
    """
    unreadable = 0
    fitting: list[tuple[bool, int, int, ReadCollateral]] = []
    for record in bundle.intel:
        try:
            known = read(record)
        except Refusal:
            unreadable += 1
            continue
        if (known.tee, known.fmspc, known.pce_id, known.pck_issuer) == (
            quote.report.tee,
            quote.chain.platform.fmspc,
            quote.chain.platform.pce_id,
            quote.chain.leaf.issuer,
        ):
            period = known.validity
            current = period.not_before <= now_s <= period.not_after
            fitting.append((current, known.evaluation_number, period.not_after, known))
    if not fitting:
        raise IntelCollateralMissingError(
            f"no collateral for family {quote.chain.platform.fmspc.hex()} is at hand"
            + (f" ({unreadable} records cannot be read)" if unreadable else "")
        )
    return max(fitting, key=lambda candidate: candidate[:3])[3]


@lru_cache(maxsize=64)
def _require_signed(collateral: ReadCollateral, pinned_root: bytes) -> None:
    # Cached because one record serves every machine of its family; a refusal is not cached.
    parts = collateral.parts
    authority, root = _issuers(parts.pck_crl_issuer_chain, pinned_root)
    for crl, issuer in ((collateral.root_crl, root), (collateral.pck_crl, authority)):
        crl.require_issued_by(issuer, IntelCollateralRejectedError)
    for chain, document, signature in (
        (parts.tcb_info_issuer_chain, parts.tcb_info, parts.tcb_info_signature),
        (parts.qe_identity_issuer_chain, parts.qe_identity, parts.qe_identity_signature),
    ):
        signer, _ = _issuers(chain, pinned_root)
        if signer.is_ca:
            raise IntelCollateralRejectedError("a document is signed by a CA")
        if signer.serial in collateral.root_crl.revoked:
            raise IntelCollateralRejectedError("the signer of a document has been revoked")
        ecdsa.require_raw(signer.key, signature, document, IntelCollateralRejectedError)


def _issuers(pem: bytes, pinned_root: bytes) -> tuple[IntelCertificate, IntelCertificate]:
    """A certificate and the pinned root that issued it."""
    chain = read_chain(pem)
    if len(chain) != 2 or chain[1].der != pinned_root:
        raise IntelCollateralRejectedError("a chain of the collateral is not two certificates long")
    signer, root = chain
    try:
        signer.require_issued_by(root)
    except Refusal as refusal:
        raise IntelCollateralRejectedError("the root did not issue a chain's leaf") from refusal
    return signer, root


def read_chain(pem: bytes) -> tuple[IntelCertificate, ...]:
    """The certificates of one of the record's chains; CertificateMalformedError otherwise."""
    certificates = tuple(pck_chain.parse_certificate(der) for der in pck_chain.read_pem(pem))
    if not 1 <= len(certificates) <= _MAX_CHAIN:
        raise IntelCollateralMalformedError(f"a chain has 1 to {_MAX_CHAIN} certificates")
    return certificates


def _certificates(parts: TdxCollateral) -> Iterator[IntelCertificate]:
    for name in PARTS:
        if name.endswith("_chain"):
            yield from read_chain(getattr(parts, name))


def _document(document: Mapping[str, Json]) -> Validity:
    return Validity(_instant(document, "issueDate"), _instant(document, "nextUpdate") - 1)


def _instant(document: Mapping[str, Json], name: str) -> int:
    text = _text(document, name)
    try:
        if not _INSTANT.fullmatch(text):
            raise ValueError(text)
        return int(datetime.fromisoformat(text).astimezone(UTC).timestamp())
    except ValueError as error:
        raise IntelCollateralMalformedError(f"{name} is not a time in UTC", field=name) from error


def _text(document: Mapping[str, Any], name: str) -> str:
    value = document.get(name)
    if not isinstance(value, str):
        raise IntelCollateralMalformedError(f"{name} is not text", field=name)
    return value
