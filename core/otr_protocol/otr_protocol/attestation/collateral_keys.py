"""How a piece of collateral is called before anybody has it (spec/attestation.md).

    rim/NV_GPU_DRIVER_GH100_550.90.07                    a reference manifest, by its id
    ocsp/<issuer name>/<issuer key>/<serial>             a revocation answer, by its CertID (hex;
                                                         both hashes SHA-384)
    snp/issuers/Milan    snp/issuers/Milan/vlek          ASK and ARK, ASVK and ARK of a product line
    snp/crl/Milan        snp/crl/Milan/vlek              its revocation list
    snp/vcek/Milan/<chip id>/<TCB>                       its certificate; the TCB as 4.0.23.213:
                                                         boot loader, TEE, SNP, microcode, FMC
    tdx/<FMSPC>/platform    sgx/<FMSPC>/processor        Intel's collateral of a platform family

A key has one spelling. It says what is asked for and nothing about the answer, which is verified
like all collateral.
"""

from __future__ import annotations

import enum
import re
from dataclasses import dataclass
from typing import Final

from otr_protocol.errors import MalformedError

MAX_KEY_BYTES: Final = 512


class CollateralKeyError(MalformedError):
    """Not a key of any kind of collateral."""

    reason = "COLLATERAL_KEY_MALFORMED"


class CollateralKind(enum.Enum):
    """The kinds; the value is how their keys begin."""

    RIM = "rim"
    OCSP = "ocsp"
    SNP_ISSUERS = "snp/issuers"
    SNP_CRL = "snp/crl"
    SNP_VCEK = "snp/vcek"
    TDX = "tdx"
    SGX = "sgx"


_LINE: Final = r"(?:Milan|Genoa|Turin)"
_NAMES: Final = {
    CollateralKind.RIM: re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,127}"),
    CollateralKind.OCSP: re.compile(r"[0-9a-f]{96}/[0-9a-f]{96}/(?:0|[1-9a-f][0-9a-f]{0,39})"),
    CollateralKind.SNP_ISSUERS: re.compile(_LINE + r"(?:/vlek)?"),
    CollateralKind.SNP_CRL: re.compile(_LINE + r"(?:/vlek)?"),
    CollateralKind.SNP_VCEK: re.compile(
        _LINE + r"/(?:[0-9a-f]{16}|[0-9a-f]{128})/[0-9]{1,3}(?:\.[0-9]{1,3}){3,4}"
    ),
    CollateralKind.TDX: re.compile(r"[0-9A-F]{12}/(?:platform|processor)"),
    CollateralKind.SGX: re.compile(r"[0-9A-F]{12}/(?:platform|processor)"),
}


@dataclass(frozen=True, slots=True, order=True)
class CollateralKey:
    """One key, taken apart; `name` is what follows the kind."""

    text: str
    kind: CollateralKind
    name: str

    @property
    def parts(self) -> tuple[str, ...]:
        """The name's parts between its strokes."""
        return tuple(self.name.split("/"))


def key_of(kind: CollateralKind, name: str) -> CollateralKey:
    """The key of a kind and a name; CollateralKeyError for a name that this kind has not."""
    if len(name) > MAX_KEY_BYTES or not _NAMES[kind].fullmatch(name):
        raise CollateralKeyError(f"not a name of {kind.value}", field="key")
    return CollateralKey(f"{kind.value}/{name}", kind, name)


def parse(text: str) -> CollateralKey:
    """Read a key; CollateralKeyError for any other text."""
    for kind in CollateralKind:
        if text.startswith(f"{kind.value}/"):
            return key_of(kind, text.removeprefix(f"{kind.value}/"))
    raise CollateralKeyError("the key is of no known kind", field="key")


def rim(name: str) -> CollateralKey:
    """The key of the manifest filed under a name."""
    return key_of(CollateralKind.RIM, name)


def ocsp(issuer_name_hash: bytes, issuer_key_hash: bytes, serial: int) -> CollateralKey:
    """The key of a revocation answer, by a CertID whose hashes are SHA-384 (48 bytes each)."""
    name = f"{issuer_name_hash.hex()}/{issuer_key_hash.hex()}/{serial:x}"
    return key_of(CollateralKind.OCSP, name)


def snp(kind: CollateralKind, product: str, *, vlek: bool) -> CollateralKey:
    """The key of a product line's issuers or revocation list (SNP_ISSUERS, SNP_CRL)."""
    return key_of(kind, f"{product}/vlek" if vlek else product)


def intel(kind: CollateralKind, fmspc: bytes, authority: str) -> CollateralKey:
    """The key of Intel's collateral (TDX, SGX) for a family of 6 bytes under a PCK CA."""
    return key_of(kind, f"{fmspc.hex().upper()}/{authority}")
