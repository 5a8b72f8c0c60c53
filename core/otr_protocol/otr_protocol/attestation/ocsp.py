"""Revocation: OCSP responses from a store, judged offline (RFC 6960).

A response counts only if all of this holds; each line is a forgery that a peer has accepted:

  - it is about this certificate: issuer name hash, issuer key hash and serial number;
  - it is signed by the certificate's issuer itself, or by a responder whose certificate that same
    issuer signed and which carries id-kp-OCSPSigning; never by the certificate that is in question
    or by one further down, whatever key usages those claim;
  - `thisUpdate <= now < nextUpdate`, with a small allowance for clocks, and not older than the
    policy allows.

Signature and binding are checked by `find`, once; whether a response still counts at a given time
is for `Standing.require_current`. A revocation is for ever: a genuine REVOKED outweighs any GOOD.
"""

from __future__ import annotations

import enum
import hashlib
from collections.abc import Iterable
from dataclasses import dataclass
from functools import lru_cache
from typing import Final

from cryptography import x509
from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat
from cryptography.x509 import ocsp
from cryptography.x509.oid import ExtendedKeyUsageOID

from otr_protocol.attestation import certificates
from otr_protocol.attestation.certificates import Certificate, ChainRejectedError, Validity
from otr_protocol.errors import MalformedError, RejectedError, UnknownError

MAX_RESPONSE_BYTES: Final = 16 * 1024
MAX_SKEW_SECONDS: Final = 120
# Real responses hold for 24 hours. One that holds for longer than this was not made by the vendor's
# service as we know it, and would keep a stolen key alive.
MAX_WINDOW_SECONDS: Final = 8 * 24 * 3600

_CERT_ID_HASHES: Final = ("sha1", "sha256", "sha384")


class OcspMalformedError(MalformedError):
    """Not a successful basic OCSP response for one certificate."""

    reason = "OCSP_MALFORMED"


class OcspRejectedError(RejectedError):
    """The response is not by anybody who may speak about this certificate."""

    reason = "OCSP_REJECTED"


class OcspStaleError(RejectedError):
    """The response is not current: from the future, past its next update, or too old."""

    reason = "OCSP_STALE"


class RevocationUnknownError(UnknownError):
    """No usable response says whether the certificate is revoked."""

    reason = "REVOCATION_UNKNOWN"


class CertificateRevokedError(RejectedError):
    """The issuer has revoked the certificate."""

    reason = "CERTIFICATE_REVOKED"


class CertificateOnHoldError(RejectedError):
    """The issuer has put the certificate on hold, which it may lift."""

    reason = "CERTIFICATE_ON_HOLD"


class CertificateStatus(enum.Enum):
    """What a responder says; the values are NVIDIA's claim values."""

    GOOD = "good"
    REVOKED = "revoked"
    UNKNOWN = "unknown"


@dataclass(frozen=True, slots=True)
class OcspResponse:
    """A parsed response; `responder` is the embedded certificate, if there is one."""

    der: bytes
    serial: int
    hash_name: str
    issuer_name_hash: bytes
    issuer_key_hash: bytes
    status: CertificateStatus
    on_hold: bool
    this_update: int
    next_update: int
    tbs: bytes
    signature: bytes
    responder: Certificate | None
    responder_key_hash: bytes | None
    responder_name: bytes | None


@dataclass(frozen=True, slots=True)
class Standing:
    """A genuine statement of the issuer about one certificate.

    `responder_validity` is the period of the responder's certificate, or of the issuer's where it
    answers itself. Times are seconds since 1970 UTC.
    """

    status: CertificateStatus
    on_hold: bool
    this_update: int
    next_update: int
    responder_validity: Validity

    @property
    def expires_at(self) -> int:
        """The last second at which this may be relied on as current."""
        return min(self.next_update - 1, self.responder_validity.not_after)

    def require_current(self, now_s: int, max_age_s: int) -> None:
        """Refuse with OcspStaleError unless current at `now_s` and at most `max_age_s` old."""
        self.require_recent(now_s, max_age_s)
        if now_s > self.expires_at:
            raise OcspStaleError(f"the response was to be renewed by {self.expires_at}")

    def require_recent(self, now_s: int, max_age_s: int) -> None:
        """Refuse with OcspStaleError unless made properly, not in the future and not too long ago.

        Weaker than `require_current`: it also takes the last known state past its next update.
        """
        made = self.this_update
        if not self.responder_validity.not_before <= made <= self.responder_validity.not_after:
            raise OcspStaleError("the responder's certificate was not valid at that time")
        if made > now_s + MAX_SKEW_SECONDS:
            raise OcspStaleError(f"the response is from the future: {made}")
        if now_s - made > max_age_s:
            raise OcspStaleError(f"the response of {made} is older than {max_age_s} s")


@lru_cache(maxsize=512)
def parse(der: bytes) -> OcspResponse:
    """Read one response of at most 16 KiB; OcspMalformedError otherwise."""
    if len(der) > MAX_RESPONSE_BYTES:
        raise OcspMalformedError(f"a response of {len(der)} bytes is too large")
    try:
        response = ocsp.load_der_ocsp_response(der)
        if response.response_status is not ocsp.OCSPResponseStatus.SUCCESSFUL:
            raise OcspMalformedError("the responder gave no answer")
        if response.public_bytes(Encoding.DER) != der:
            raise OcspMalformedError("the response has more than one encoding")
        if response.signature_algorithm_oid != certificates.ECDSA_WITH_SHA384:
            raise OcspMalformedError("the response is not signed with ECDSA and SHA-384")
        critical = [e for e in (*response.extensions, *response.single_extensions) if e.critical]
        next_update = response.next_update_utc
        embedded = response.certificates
        name = response.responder_name
        parsed = OcspResponse(
            der=der,
            serial=response.serial_number,
            hash_name=response.hash_algorithm.name,
            issuer_name_hash=response.issuer_name_hash,
            issuer_key_hash=response.issuer_key_hash,
            status=CertificateStatus[response.certificate_status.name],
            on_hold=response.revocation_reason is x509.ReasonFlags.certificate_hold,
            this_update=int(response.this_update_utc.timestamp()),
            next_update=int(next_update.timestamp()) if next_update is not None else 0,
            tbs=response.tbs_response_bytes,
            signature=response.signature,
            responder=(
                certificates.parse(embedded[0].public_bytes(Encoding.DER)) if embedded else None
            ),
            responder_key_hash=response.responder_key_hash,
            responder_name=name.public_bytes() if name is not None else None,
        )
    except (KeyError, *certificates.PARSE_ERRORS) as error:
        raise OcspMalformedError("not an OCSP response that can be read") from error
    if len(embedded) > 1 or critical or next_update is None:
        raise OcspMalformedError("the response is not of the shape the vendor's service gives")
    if not 0 < parsed.next_update - parsed.this_update <= MAX_WINDOW_SECONDS:
        raise OcspMalformedError("the response's window is empty or too long")
    if parsed.hash_name not in _CERT_ID_HASHES:
        raise OcspMalformedError(f"the certificate is named with {parsed.hash_name}")
    return parsed


def names(response: OcspResponse, certificate: Certificate, issuer: Certificate) -> bool:
    """Whether a response is about `certificate` as issued by `issuer`."""
    return response.serial == certificate.serial and (
        response.issuer_name_hash,
        response.issuer_key_hash,
    ) == issuer_hashes(issuer.der, response.hash_name)


@lru_cache(maxsize=256)
def issuer_hashes(issuer_der: bytes, hash_name: str) -> tuple[bytes, bytes]:
    """The two hashes by which a CertID names an issuer (DER): of its name, and of its key."""
    issuer = certificates.parse(issuer_der)
    name = issuer.subject_name
    # The key hash covers the bits of the key alone, without algorithm and length (RFC 6960 4.1.1).
    key = issuer.key.public_bytes(Encoding.X962, PublicFormat.UncompressedPoint)
    # SHA-1 identifies here and secures nothing: the signature below does.
    return (
        hashlib.new(hash_name, name, usedforsecurity=False).digest(),
        hashlib.new(hash_name, key, usedforsecurity=False).digest(),
    )


def verify(response: OcspResponse, certificate: Certificate, issuer: Certificate) -> Standing:
    """Check that the issuer of `certificate`, or a responder of its, gave this response about it.

    Raises OcspRejectedError. Says nothing about time.
    """
    if not names(response, certificate, issuer):
        raise OcspRejectedError("the response is about another certificate")
    responder = response.responder
    if responder is None:
        signer = issuer
    else:
        if responder.der != issuer.der:
            _require_delegated(responder, certificate, issuer)
        signer = responder
    _require_responder_id(response, signer)
    _check_signature(response.der, signer.der)
    return Standing(
        status=response.status,
        on_hold=response.on_hold,
        this_update=response.this_update,
        next_update=response.next_update,
        responder_validity=signer.validity,
    )


def _require_delegated(
    responder: Certificate, certificate: Certificate, issuer: Certificate
) -> None:
    """RFC 6960 section 4.2.2.2: issued by the very issuer, and marked for signing responses."""
    if responder.der == certificate.der or responder.is_ca:
        raise OcspRejectedError("a certificate may not vouch for itself or others of its chain")
    try:
        certificates.require_issued(responder, issuer)
    except ChainRejectedError as error:
        raise OcspRejectedError("the responder is not authorised by the issuer") from error
    try:
        usage = responder.parsed.extensions.get_extension_for_class(x509.ExtendedKeyUsage).value
    except x509.ExtensionNotFound:
        usage = x509.ExtendedKeyUsage([])
    if ExtendedKeyUsageOID.OCSP_SIGNING not in usage:
        raise OcspRejectedError("the responder's certificate is not for signing responses")
    if responder.usage is not None and not responder.usage.digital_signature:
        raise OcspRejectedError("the responder's key is not for signatures")


def _require_responder_id(response: OcspResponse, signer: Certificate) -> None:
    if response.responder_key_hash is not None:
        _, key_hash = issuer_hashes(signer.der, "sha1")
        matches = response.responder_key_hash == key_hash
    else:
        matches = response.responder_name == signer.subject_name
    if not matches:
        raise OcspRejectedError("the response names another responder than the one that signed")


@lru_cache(maxsize=512)
def _check_signature(response_der: bytes, signer_der: bytes) -> None:
    response, signer = parse(response_der), certificates.parse(signer_der)
    try:
        signer.key.verify(response.signature, response.tbs, ec.ECDSA(hashes.SHA384()))
    except InvalidSignature as error:
        raise OcspRejectedError("the response's signature does not verify") from error


def find(
    responses: Iterable[OcspResponse], certificate: Certificate, issuer: Certificate
) -> Standing:
    """What the responses at hand establish about a certificate.

    Responses about other certificates are passed over; one about this certificate that is forged
    is refused with OcspRejectedError rather than passed over, so that an attack is seen. Any
    genuine REVOKED wins, else the newest. Raises RevocationUnknownError if none is there.
    """
    found: Standing | None = None
    for response in responses:
        if not names(response, certificate, issuer):
            continue
        standing = verify(response, certificate, issuer)
        if standing.status is CertificateStatus.REVOKED and not standing.on_hold:
            return standing
        # A hold can be lifted, so there the newest word counts.
        if found is None or standing.this_update > found.this_update:
            found = standing
    if found is None:
        raise RevocationUnknownError(
            f"no response says whether certificate {certificate.serial:x} is revoked"
        )
    return found
