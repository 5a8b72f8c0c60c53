"""AMD's revocation lists: whether a product line's signing key is withdrawn (RFC 5280, section 5).

AMD publishes lists per product line, signed by its ARK, naming revoked ASKs and ASVKs. Individual
VCEKs and VLEKs are not listed: a vulnerable chip is told by its TCB.

A key that any list at hand names is refused, also by a list that is no longer current: a newer one
of another kind of key does not take that back. That the newest list is current is required only
where the policy asks for it.
"""

from __future__ import annotations

import enum
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from functools import lru_cache
from typing import Final

from otr_protocol.attestation.amd import der
from otr_protocol.attestation.amd.amd_certificate import (
    AmdCertificate,
    extensions,
    open_signed,
)
from otr_protocol.attestation.amd.amd_certificate import parse as parse_certificate
from otr_protocol.attestation.amd.snp_chain import SnpChain
from otr_protocol.attestation.certificates import ChainRejectedError
from otr_protocol.errors import MalformedError, RejectedError, UnknownError

MAX_CRL_BYTES: Final = 256 * 1024
MAX_REVOKED: Final = 4096
MAX_SKEW_SECONDS: Final = 120

_VERSION_2: Final = bytes.fromhex("020101")
_LIST_EXTENSIONS: Final = 0xA0
_REASON_CODE: Final = der.object_identifier("2.5.29.21")


class CrlMalformedError(MalformedError):
    """Not a complete revocation list that can be read."""

    reason = "SNP_CRL_MALFORMED"


class CrlRejectedError(RejectedError):
    """The list is not signed by the root whose name it bears."""

    reason = "SNP_CRL_REJECTED"


class CrlMissingError(UnknownError):
    """The policy wants a current list of this product line, and there is none."""

    reason = "SNP_CRL_MISSING"


class CrlStaleError(UnknownError):
    """The policy wants a current list, and the newest one is past its renewal or not yet valid."""

    reason = "SNP_CRL_STALE"


class SnpKeyRevokedError(RejectedError):
    """The vendor has revoked the key that certified the chip."""

    reason = "SNP_KEY_REVOKED"


class SnpKeyHeldError(RejectedError):
    """The vendor has suspended the key that certified the chip."""

    reason = "SNP_KEY_ON_HOLD"


class Revocation(enum.Enum):
    """Why a list names a key, as far as it matters here (RFC 5280, section 5.3.1)."""

    REVOKED = "revoked"
    HOLD = "hold"


_HOLD: Final = 6
_REMOVE_FROM_LIST: Final = 8
_LAST_REASON: Final = 10


@dataclass(frozen=True, slots=True)
class RevocationList:
    """A parsed list whose signature nobody has checked yet. Times in seconds since 1970 UTC."""

    der: bytes
    issuer: bytes
    revoked: Mapping[int, Revocation]
    this_update: int
    next_update: int
    tbs: bytes
    signature: bytes


@lru_cache(maxsize=32)
def parse(data: bytes) -> RevocationList:
    """Read one DER list of at most 256 KiB; CrlMalformedError otherwise."""
    if len(data) > MAX_CRL_BYTES:
        raise CrlMalformedError(f"a list of {len(data)} bytes is too large")
    try:
        return _parse(data)
    except (ValueError, OverflowError) as error:
        raise CrlMalformedError("not a revocation list that can be read") from error


def require_not_revoked(
    crls: Iterable[bytes], chain: SnpChain, *, now_s: int, required: bool
) -> int | None:
    """Refuse a chain whose vendor certificates are on a list of its root.

    Returns the last second at which a current list counts, None if none is current and none is
    `required`. A list of another root says nothing here and is passed over. Raises
    CrlMalformedError, CrlRejectedError, CrlMissingError, CrlStaleError, SnpKeyRevokedError or
    SnpKeyHeldError.
    """
    lists = [crl for crl in map(parse, crls) if crl.issuer == chain.ark.subject]
    for crl in lists:
        _require_signature(crl, chain.ark)
    named = {
        crl.revoked[certificate.serial]
        for crl in lists
        for certificate in (chain.intermediate, chain.ark)
        if certificate.serial in crl.revoked
    }
    if Revocation.REVOKED in named:
        raise SnpKeyRevokedError(f"{chain.intermediate.common_name!r} has been revoked")
    if named:
        raise SnpKeyHeldError(f"{chain.intermediate.common_name!r} is on hold")
    current = [
        crl.next_update - 1
        for crl in lists
        if crl.this_update <= now_s + MAX_SKEW_SECONDS and now_s < crl.next_update
    ]
    if current:
        return max(current)
    if not required:
        return None
    if not lists:
        raise CrlMissingError(f"no revocation list of {chain.product.name} is at hand")
    renewal = max(crl.next_update for crl in lists)
    raise CrlStaleError(f"no revocation list is current; the newest was to be renewed by {renewal}")


def _parse(data: bytes) -> RevocationList:
    document = open_signed(data)
    version, algorithm, issuer, this_update, next_update, *rest = der.children(
        document.signed, der.SEQUENCE
    )
    if version.encoded != _VERSION_2:
        raise der.DerError("not a revocation list of version 2")
    document.require_algorithm(algorithm)
    revoked: dict[int, Revocation] = {}
    if rest and rest[0].tag == der.SEQUENCE:
        revoked = _entries(rest.pop(0))
    if rest:
        (extended,) = rest
        # None is understood, so that a critical one refuses the list: a delta or a part of one.
        extensions(der.only_child(extended, _LIST_EXTENSIONS), understood=())
    return RevocationList(
        der=data,
        issuer=der.expect(issuer, der.SEQUENCE).encoded,
        revoked=revoked,
        this_update=der.seconds(this_update),
        next_update=der.seconds(next_update),
        tbs=document.signed.encoded,
        signature=document.signature,
    )


def _entries(element: der.Element) -> dict[int, Revocation]:
    found: dict[int, Revocation] = {}
    for entry in der.children(element, der.SEQUENCE):
        serial, revoked_at, *extended = der.children(entry, der.SEQUENCE)
        der.seconds(revoked_at)
        number = der.integer(serial)
        if number in found:
            raise der.DerError("a list names a certificate twice")
        found[number] = _revocation(extended)
        if len(found) > MAX_REVOKED:
            raise der.DerError("the list is too long")
    return found


def _revocation(extended: list[der.Element]) -> Revocation:
    if not extended:
        return Revocation.REVOKED
    (element,) = extended
    value = extensions(element, understood=(_REASON_CODE,)).get(_REASON_CODE)
    if value is None:
        return Revocation.REVOKED
    reason = der.integer(der.whole(value, der.ENUMERATED), der.ENUMERATED)
    # To be removed from a list is what a delta says, and this one is complete.
    if not 0 <= reason <= _LAST_REASON or reason == _REMOVE_FROM_LIST:
        raise der.DerError("not a reason of a complete list")
    return Revocation.HOLD if reason == _HOLD else Revocation.REVOKED


def _require_signature(crl: RevocationList, ark: AmdCertificate) -> None:
    if not ark.may_sign_lists:
        raise CrlRejectedError(f"{ark.common_name!r} may not sign revocation lists")
    try:
        _check_signature(crl.der, ark.der)
    except ChainRejectedError as error:
        raise CrlRejectedError("the revocation list's signature does not verify") from error


@lru_cache(maxsize=32)
def _check_signature(crl_der: bytes, ark_der: bytes) -> None:
    # Cached because one list stands beside every report of a day; a refusal is not cached.
    crl = parse(crl_der)
    parse_certificate(ark_der).require_signature(crl.signature, crl.tbs)
