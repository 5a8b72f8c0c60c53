"""Fresh OCSP responses of the vendor's shape: SHA-384 CertID, delegated responder, 24 hours."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import Final

from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.serialization import Encoding
from cryptography.x509 import ocsp

from otr_devtee.issuing import Identity

WINDOW: Final = timedelta(hours=24)


def respond(
    certificate: x509.Certificate,
    issuer: x509.Certificate,
    responder: Identity,
    now_s: int,
    *,
    status: ocsp.OCSPCertStatus = ocsp.OCSPCertStatus.GOOD,
    reason: x509.ReasonFlags | None = None,
) -> bytes:
    """The DER of a response about `certificate`, current for 24 hours from `now_s`.

    `status` and `reason` let tests revoke a certificate or put it on hold.
    """
    now = datetime.fromtimestamp(now_s, UTC)
    revoked = status is ocsp.OCSPCertStatus.REVOKED
    response = (
        ocsp.OCSPResponseBuilder()
        .add_response(
            cert=certificate,
            issuer=issuer,
            algorithm=hashes.SHA384(),
            cert_status=status,
            this_update=now,
            next_update=now + WINDOW,
            revocation_time=now if revoked else None,
            revocation_reason=reason if revoked else None,
        )
        .responder_id(ocsp.OCSPResponderEncoding.HASH, responder.certificate)
        .certificates([responder.certificate])
        .sign(responder.key, hashes.SHA384())
    )
    return response.public_bytes(Encoding.DER)
