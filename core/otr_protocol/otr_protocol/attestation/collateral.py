"""The collateral bundle: what the verifier knew besides the evidence (spec/attestation.md).

    ["otr-collateral-v2", [[manifest id, XML], ...], [OCSP response, ...], [[ASK, ARK], ...],
     [CRL, ...], [Intel collateral record, ...]]

Deterministic CBOR, every list in strictly ascending order, so that the same knowledge has the same
digest and a verdict can be replayed from it. Nothing in here is trusted for being here: manifests,
responses, vendor certificates and revocation lists are each verified up to a pinned root. A
manifest's id is only the name under which it is found.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from itertools import pairwise
from typing import Final, TypeVar

from otr_protocol import dcbor
from otr_protocol.attestation.certificates import MAX_CERTIFICATE_BYTES
from otr_protocol.attestation.nvidia.xml_signature import MAX_XML_BYTES
from otr_protocol.attestation.ocsp import MAX_RESPONSE_BYTES
from otr_protocol.dcbor import Value
from otr_protocol.digest import H
from otr_protocol.errors import MalformedError
from otr_protocol.fields import as_array, as_byte_strings, as_bytes, as_text, check_name

DOMAIN: Final = "otr-collateral-v2"
MAX_COLLATERAL_BYTES: Final = 1 << 20
MAX_RIMS: Final = 64
MAX_RESPONSES: Final = 512
MAX_SNP_ISSUERS: Final = 16
MAX_CRLS: Final = 16
MAX_CRL_BYTES: Final = 256 * 1024
MAX_INTEL_RECORDS: Final = 16
MAX_INTEL_RECORD_BYTES: Final = 128 * 1024

Key = TypeVar("Key", bytes, tuple[bytes, bytes])


class CollateralMalformedError(MalformedError):
    """Not a collateral bundle in its one encoding."""

    reason = "COLLATERAL_MALFORMED"


@dataclass(frozen=True, slots=True)
class CollateralBundle:
    """Unverified collateral, by kind.

    `rims` are (id, XML document) pairs, `ocsp_responses` and `crls` DER, `snp_issuers` pairs of ASK
    (or ASVK) and ARK certificates in DER, `intel` records of `intel.tdx_collateral`, one for each
    platform family. All ascending; `collect` sorts.
    """

    rims: tuple[tuple[str, bytes], ...]
    ocsp_responses: tuple[bytes, ...]
    snp_issuers: tuple[tuple[bytes, bytes], ...]
    crls: tuple[bytes, ...] = ()
    intel: tuple[bytes, ...] = ()

    def __post_init__(self) -> None:
        for field, count, maximum in (
            ("rims", len(self.rims), MAX_RIMS),
            ("ocsp_responses", len(self.ocsp_responses), MAX_RESPONSES),
            ("snp_issuers", len(self.snp_issuers), MAX_SNP_ISSUERS),
            ("crls", len(self.crls), MAX_CRLS),
            ("intel", len(self.intel), MAX_INTEL_RECORDS),
        ):
            if count > maximum:
                raise CollateralMalformedError(f"more than {maximum} {field}", field=field)
        for name, document in self.rims:
            check_name(name, "rims")
            _check_size("rims", document, MAX_XML_BYTES)
        for response in self.ocsp_responses:
            _check_size("ocsp_responses", response, MAX_RESPONSE_BYTES)
        for pair in self.snp_issuers:
            for der in pair:
                _check_size("snp_issuers", der, MAX_CERTIFICATE_BYTES)
        for crl in self.crls:
            _check_size("crls", crl, MAX_CRL_BYTES)
        for record in self.intel:
            _check_size("intel", record, MAX_INTEL_RECORD_BYTES)
        _check_order("rims", [name.encode() for name, _ in self.rims])
        _check_order("ocsp_responses", self.ocsp_responses)
        _check_order("snp_issuers", self.snp_issuers)
        _check_order("crls", self.crls)
        _check_order("intel", self.intel)

    def rim(self, name: str) -> bytes | None:
        """The manifest filed under a name, unverified."""
        return dict(self.rims).get(name)

    def encode(self) -> bytes:
        """The bundle's one encoding."""
        return dcbor.encode(
            (
                DOMAIN,
                self.rims,
                self.ocsp_responses,
                self.snp_issuers,
                self.crls,
                self.intel,
            )
        )

    @property
    def digest(self) -> bytes:
        """`collateral_digest`: the address of the bundle in the blob store."""
        return _digest(self)


@lru_cache(maxsize=16)
def _digest(bundle: CollateralBundle) -> bytes:
    return H(bundle.encode())


def collect(
    *,
    rims: dict[str, bytes],
    ocsp_responses: Sequence[bytes] = (),
    snp_issuers: Sequence[tuple[bytes, bytes]] = (),
    crls: Sequence[bytes] = (),
    intel: Sequence[bytes] = (),
) -> CollateralBundle:
    """A bundle of what is at hand, sorted and without repetitions."""
    return CollateralBundle(
        rims=tuple(sorted(rims.items(), key=lambda item: item[0].encode())),
        ocsp_responses=tuple(sorted(set(ocsp_responses))),
        snp_issuers=tuple(sorted(set(snp_issuers))),
        crls=tuple(sorted(set(crls))),
        intel=tuple(sorted(set(intel))),
    )


def decode(data: bytes) -> CollateralBundle:
    """Read a bundle of at most 1 MiB.

    Raises CollateralMalformedError or one of the refusals of `dcbor` and `fields`.
    """
    rims, responses, issuers, crls, intel = dcbor.open_record(
        data,
        DOMAIN,
        *(tuple, tuple, tuple, tuple, tuple),
        max_bytes=MAX_COLLATERAL_BYTES,
        max_depth=3,
        max_items=4096,
    )
    return CollateralBundle(
        rims=tuple(_rim(item) for item in as_array(rims, "rims")),
        ocsp_responses=as_byte_strings(responses, "ocsp_responses"),
        snp_issuers=tuple(_issuers(item) for item in as_array(issuers, "snp_issuers")),
        crls=as_byte_strings(crls, "crls"),
        intel=as_byte_strings(intel, "intel"),
    )


def _rim(value: Value) -> tuple[str, bytes]:
    name, document = as_array(value, "rims", length=2)
    return as_text(name, "rims"), as_bytes(document, "rims")


def _issuers(value: Value) -> tuple[bytes, bytes]:
    ask, ark = as_array(value, "snp_issuers", length=2)
    return as_bytes(ask, "snp_issuers"), as_bytes(ark, "snp_issuers")


def _check_size(field: str, content: bytes, maximum: int) -> None:
    if not 1 <= len(content) <= maximum:
        raise CollateralMalformedError(f"an item has 1 to {maximum} bytes", field=field)


def _check_order(field: str, keys: Sequence[Key]) -> None:
    if any(left >= right for left, right in pairwise(keys)):
        raise CollateralMalformedError(f"{field} are not in ascending order", field=field)
