"""Intel's revocation lists: the PCK CA's of machines, the root's of CAs and signers.

Intel SGX PCK Certificate and CRL Profile Specification, revision 1.5, and RFC 5280; ECDSA P-256
with SHA-256 throughout. A list is of no use from the moment on at which it was to be renewed.
"""

from __future__ import annotations

from dataclasses import dataclass

from cryptography import x509

from otr_protocol.attestation.certificates import PARSE_ERRORS, Validity
from otr_protocol.attestation.intel import ecdsa
from otr_protocol.attestation.intel.pck_chain import ECDSA_WITH_SHA256, IntelCertificate
from otr_protocol.errors import MalformedError, Refusal


class IntelCrlMalformedError(MalformedError):
    """Not a revocation list that can be read."""

    reason = "INTEL_CRL_MALFORMED"


@dataclass(frozen=True, slots=True)
class RevocationList:
    """A parsed list; `issuer` is a DER name, `revoked` serial numbers, `validity` in seconds."""

    issuer: bytes
    revoked: frozenset[int]
    validity: Validity
    tbs: bytes
    signature: bytes

    def require_issued_by(self, issuer: IntelCertificate, refusal: type[Refusal]) -> None:
        """Raise `refusal` unless this CA signed the list."""
        if self.issuer != issuer.subject or not issuer.is_ca:
            raise refusal("a revocation list names another issuer")
        ecdsa.require_der(issuer.key, self.signature, self.tbs, refusal)


def parse(der: bytes) -> RevocationList:
    """Read one DER list, whose size the caller has bounded; IntelCrlMalformedError otherwise."""
    try:
        crl = x509.load_der_x509_crl(der)
        issuer = crl.issuer.public_bytes()
        revoked = frozenset(entry.serial_number for entry in crl)
        issued, renewed = crl.last_update_utc, crl.next_update_utc
    except PARSE_ERRORS as error:
        raise IntelCrlMalformedError("not a revocation list that can be read") from error
    if renewed is None or crl.signature_algorithm_oid != ECDSA_WITH_SHA256:
        raise IntelCrlMalformedError("a list without an end, or signed with another algorithm")
    return RevocationList(
        issuer=issuer,
        revoked=revoked,
        validity=Validity(int(issued.timestamp()), int(renewed.timestamp()) - 1),
        tbs=crl.tbs_certlist_bytes,
        signature=crl.signature,
    )
