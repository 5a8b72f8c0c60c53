"""AMD's revocation lists: whether a product line's signing key (ASK) is withdrawn (RFC 5280).

AMD publishes one list per product line, signed by its ARK, naming revoked ASKs. Individual VCEKs
are not listed: a vulnerable chip is told by its TCB. Parsed like AMD's certificates (`snp_chain`).
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from functools import lru_cache
from typing import Any, Final

from asn1crypto import crl as asn1_crl
from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import padding, rsa

from otr_protocol.attestation.amd.snp_chain import SALT_BYTES, AmdCertificate, SnpChain, require_pss
from otr_protocol.errors import MalformedError, RejectedError, UnknownError

MAX_CRL_BYTES: Final = 256 * 1024
MAX_REVOKED: Final = 4096
MAX_SKEW_SECONDS: Final = 120


class CrlMalformedError(MalformedError):
    """Not a revocation list that can be read."""

    reason = "SNP_CRL_MALFORMED"


class CrlRejectedError(RejectedError):
    """The list is not signed by the root whose name it bears, or not current."""

    reason = "SNP_CRL_REJECTED"


class CrlMissingError(UnknownError):
    """The policy wants a current list of this product line, and there is none."""

    reason = "SNP_CRL_MISSING"


class SnpKeyRevokedError(RejectedError):
    """The vendor has revoked the key that certified the chip."""

    reason = "SNP_KEY_REVOKED"


@dataclass(frozen=True, slots=True)
class RevocationList:
    """A parsed list whose signature nobody has checked yet. Times in seconds since 1970 UTC."""

    issuer: bytes
    revoked: frozenset[int]
    this_update: int
    next_update: int
    tbs: bytes
    signature: bytes


@lru_cache(maxsize=32)
def parse(der: bytes) -> RevocationList:
    """Read one DER list of at most 256 KiB; CrlMalformedError otherwise."""
    if len(der) > MAX_CRL_BYTES:
        raise CrlMalformedError(f"a list of {len(der)} bytes is too large")
    try:
        crl: Any = asn1_crl.CertificateList.load(der, strict=True)
        tbs = crl["tbs_cert_list"]
        require_pss(crl["signature_algorithm"])
        entries = tbs["revoked_certificates"]
        if len(entries) > MAX_REVOKED:
            raise CrlMalformedError("the list is too long")
        return RevocationList(
            issuer=tbs["issuer"].dump(),
            revoked=frozenset(entry["user_certificate"].native for entry in entries),
            this_update=int(tbs["this_update"].native.timestamp()),
            next_update=int(tbs["next_update"].native.timestamp()),
            tbs=tbs.dump(),
            signature=crl["signature"].native,
        )
    except (ValueError, TypeError, KeyError, AttributeError, OverflowError) as error:
        raise CrlMalformedError("not a revocation list that can be read") from error


def require_not_revoked(
    crls: Iterable[bytes], chain: SnpChain, *, now_s: int, required: bool
) -> int | None:
    """Refuse a chain whose ASK is on its root's list.

    Returns the last second at which the newest list counts, None if there is none and none is
    `required`. A list of another root says nothing here and is passed over. Raises
    CrlMalformedError, CrlRejectedError, CrlMissingError or SnpKeyRevokedError.
    """
    newest: RevocationList | None = None
    for der in crls:
        crl = parse(der)
        if crl.issuer != chain.ark.subject:
            continue
        _require_signature(crl, chain.ark)
        if chain.ask.serial in crl.revoked:
            raise SnpKeyRevokedError(f"{chain.ask.common_name!r} has been revoked")
        if newest is None or crl.this_update > newest.this_update:
            newest = crl
    if newest is None:
        if required:
            raise CrlMissingError(f"no revocation list of {chain.product} is at hand")
        return None
    if newest.this_update > now_s + MAX_SKEW_SECONDS:
        raise CrlRejectedError("the revocation list is from the future")
    if now_s >= newest.next_update:
        raise CrlRejectedError(f"the revocation list was to be renewed by {newest.next_update}")
    return newest.next_update - 1


def _require_signature(crl: RevocationList, ark: AmdCertificate) -> None:
    assert isinstance(ark.key, rsa.RSAPublicKey)
    scheme = padding.PSS(mgf=padding.MGF1(hashes.SHA384()), salt_length=SALT_BYTES)
    try:
        ark.key.verify(crl.signature, crl.tbs, scheme, hashes.SHA384())
    except InvalidSignature as error:
        raise CrlRejectedError("the revocation list's signature does not verify") from error
