"""The appraisal policy: a typed document, addressed by the digest of its one encoding.

What a policy can say is listed in `FIELDS`, field by field. What it cannot switch off is not:
signatures, pinned roots, the binding to the challenge, debug mode, one report per device and the
reading rules of every format are code. The default refuses simulated evidence and knows no CPU
image, so it affirms nothing until somebody says what they run.

    ["otr-policy-v2", accept_simulated, [hardware model, ...], ..., expression]

The values stand in the order of `FIELDS`. `expression` is a condition in CEL over what was
verified; it can only make a verdict worse (`policy_expression`).
"""

from __future__ import annotations

import enum
import re
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any, Final

from otr_protocol import dcbor
from otr_protocol.attestation import policy_fields as kinds
from otr_protocol.attestation.amd.snp_report import MEASUREMENT_BYTES, TcbVersion
from otr_protocol.attestation.ear_claims import MAX_LIFETIME_SECONDS
from otr_protocol.attestation.evidence import MAX_GPUS, MAX_SWITCHES
from otr_protocol.attestation.nvidia.opaque import DRIVER_VERSION
from otr_protocol.attestation.policy_fields import FieldKind, PolicyMalformedError
from otr_protocol.digest import H
from otr_protocol.fields import check_ascending, check_bytes, check_name, check_range

DOMAIN: Final = "otr-policy-v2"
MAX_POLICY_BYTES: Final = 64 * 1024
MAX_NAMES: Final = 64
MAX_MEASUREMENTS: Final = 256
MAX_EXPRESSION_BYTES: Final = 4096
MAX_VMPL: Final = 3
RTMRS: Final = 4
ENCLAVE_BYTES: Final = 32
DAY_SECONDS: Final = 24 * 3600
MAX_COLLATERAL_AGE_SECONDS: Final = 366 * DAY_SECONDS
NO_MINIMUM_TCB: Final = TcbVersion(0, 0, 0, 0)

CC_MODES: Final = ("multi", "protected-pcie", "single")
TDX_TRAITS: Final = ("cached-keys", "dynamic-platform", "smt")

_VBIOS_VERSION: Final = re.compile(r"[0-9A-F]{2}(\.[0-9A-F]{2}){4}")


class RevocationMode(enum.Enum):
    """What to do when nobody says at this moment whether a certificate is revoked."""

    REQUIRE = "require"
    """Every certificate needs a response that is current now; otherwise INDETERMINATE."""
    LAST_GOOD = "last-good"
    """The last GOOD response also counts past its next update, with a WARNING, up to the
    maximum collateral age: for machines that cannot reach the vendor every day."""
    AS_ISSUED = "as-issued"
    """Audit only: each response is judged at its own time, always with a WARNING."""
    NONE = "none"
    """Audit only: nobody is asked, with a WARNING for every chain; a response that says REVOKED
    still counts."""

    @property
    def audit_only(self) -> bool:
        """Whether a verdict under this mode may never become a token."""
        return self in (RevocationMode.AS_ISSUED, RevocationMode.NONE)


@dataclass(frozen=True, slots=True)
class Policy:
    """One appraisal policy. Every field is part of the digest.

    `allowed_hwmodels` are common names of GPU identity certificates, `allowed_cc_modes` how GPUs
    may be passed through, `cpu_measurements` SNP launch measurements and TDX MRTDs (48 bytes),
    `tdx_rtmrs` per register the values it may have (48 bytes), `sgx_enclaves` MRENCLAVEs (32
    bytes), `tdx_tcb_statuses` and `tdx_advisories` what Intel may say of a platform, `tdx_traits`
    what a platform may be. All ascending, all lists of what is allowed, so that an empty list
    allows nothing, except that a register which `tdx_rtmrs` does not name is not compared.
    Versions are as reports spell them; the empty string is no minimum.
    """

    accept_simulated: bool = False
    allowed_hwmodels: tuple[str, ...] = ("GH100 A01 GSP BROM",)
    allowed_cc_modes: tuple[str, ...] = CC_MODES
    min_driver_version: str = "550.90.07"
    min_vbios_version: str = ""
    min_switch_bios_version: str = ""
    required_gpus: int = 1
    required_switches: int = 0
    cpu_measurements: tuple[bytes, ...] = ()
    tdx_rtmrs: tuple[tuple[int, tuple[bytes, ...]], ...] = ()
    tdx_tcb_statuses: tuple[str, ...] = ("UpToDate",)
    tdx_advisories: tuple[str, ...] = ()
    tdx_traits: tuple[str, ...] = TDX_TRAITS
    sgx_enclaves: tuple[bytes, ...] = ()
    min_snp_tcb: TcbVersion = NO_MINIMUM_TCB
    accept_vlek: bool = False
    max_vmpl: int = 0
    revocation: RevocationMode = RevocationMode.REQUIRE
    accept_rim_hold: bool = False
    require_snp_crl: bool = False
    max_collateral_age_s: int = DAY_SECONDS
    max_token_lifetime_s: int = MAX_LIFETIME_SECONDS
    expression: str = ""

    def __post_init__(self) -> None:
        for name in ("allowed_hwmodels", "tdx_tcb_statuses", "tdx_advisories"):
            _check_names(getattr(self, name), name)
        for name, known in (("allowed_cc_modes", CC_MODES), ("tdx_traits", TDX_TRAITS)):
            _check_names(getattr(self, name), name)
            if not set(getattr(self, name)) <= set(known):
                raise PolicyMalformedError(f"known are {', '.join(known)}", field=name)
        self._check_versions()
        check_range(self.required_gpus, 0, MAX_GPUS, "required_gpus")
        check_range(self.required_switches, 0, MAX_SWITCHES, "required_switches")
        _check_digests(self.cpu_measurements, MEASUREMENT_BYTES, "cpu_measurements")
        _check_digests(self.sgx_enclaves, ENCLAVE_BYTES, "sgx_enclaves")
        self._check_registers()
        for component in kinds.tcb_integers(self.min_snp_tcb):
            check_range(component, 0, 255, "min_snp_tcb")
        check_range(self.max_vmpl, 0, MAX_VMPL, "max_vmpl")
        check_range(
            self.max_collateral_age_s, 60, MAX_COLLATERAL_AGE_SECONDS, "max_collateral_age_s"
        )
        check_range(self.max_token_lifetime_s, 60, MAX_LIFETIME_SECONDS, "max_token_lifetime_s")
        check_range(len(self.expression.encode()), 0, MAX_EXPRESSION_BYTES, "expression")

    def _check_versions(self) -> None:
        if self.min_driver_version and not DRIVER_VERSION.fullmatch(self.min_driver_version):
            raise PolicyMalformedError("not a driver version", field="min_driver_version")
        for name in ("min_vbios_version", "min_switch_bios_version"):
            version = getattr(self, name)
            if version and not _VBIOS_VERSION.fullmatch(version):
                raise PolicyMalformedError("not a VBIOS version", field=name)

    def _check_registers(self) -> None:
        indices = tuple(bytes([index]) for index, _ in self.tdx_rtmrs if 0 <= index < RTMRS)
        if len(indices) != len(self.tdx_rtmrs):
            raise PolicyMalformedError(f"registers are 0 to {RTMRS - 1}", field="tdx_rtmrs")
        check_ascending(indices, "tdx_rtmrs")
        for _, values in self.tdx_rtmrs:
            _check_digests(values, MEASUREMENT_BYTES, "tdx_rtmrs")

    def encode(self) -> bytes:
        """The policy's one encoding."""
        values = (kind.encode(getattr(self, name)) for name, kind in FIELDS.items())
        return dcbor.encode((DOMAIN, *values))

    @property
    def digest(self) -> bytes:
        """`policy_digest`: 32 bytes."""
        return H(self.encode())

    @classmethod
    def from_mapping(cls, mapping: Mapping[str, Any]) -> Policy:
        """A policy from settings as people write them; whatever is left out keeps its default.

        Measurements are hex, `min_snp_tcb` an object of numbers, `revocation` its name. Unknown
        keys and wrong types are refused with PolicyMalformedError naming the field.
        """
        changes: dict[str, Any] = {}
        for name, value in mapping.items():
            kind = FIELDS.get(name)
            if kind is None:
                raise PolicyMalformedError(f"a policy has no field {name!r}", field=name)
            try:
                changes[name] = kind.read(value)
            except (ValueError, TypeError, KeyError) as error:
                raise PolicyMalformedError(f"{name} cannot be read", field=name) from error
        return replace(cls(), **changes)

    def to_mapping(self) -> dict[str, Any]:
        """The policy as people write it; `from_mapping` reads it back."""
        return {name: kind.show(getattr(self, name)) for name, kind in FIELDS.items()}


FIELDS: Final[Mapping[str, FieldKind]] = {
    "accept_simulated": kinds.FLAG,
    "allowed_hwmodels": kinds.TEXTS,
    "allowed_cc_modes": kinds.TEXTS,
    "min_driver_version": kinds.TEXT,
    "min_vbios_version": kinds.TEXT,
    "min_switch_bios_version": kinds.TEXT,
    "required_gpus": kinds.NUMBER,
    "required_switches": kinds.NUMBER,
    "cpu_measurements": kinds.DIGESTS,
    "tdx_rtmrs": kinds.REGISTERS,
    "tdx_tcb_statuses": kinds.TEXTS,
    "tdx_advisories": kinds.TEXTS,
    "tdx_traits": kinds.TEXTS,
    "sgx_enclaves": kinds.DIGESTS,
    "min_snp_tcb": kinds.TCB,
    "accept_vlek": kinds.FLAG,
    "max_vmpl": kinds.NUMBER,
    "revocation": kinds.choice(RevocationMode),
    "accept_rim_hold": kinds.FLAG,
    "require_snp_crl": kinds.FLAG,
    "max_collateral_age_s": kinds.NUMBER,
    "max_token_lifetime_s": kinds.NUMBER,
    "expression": kinds.TEXT,
}


def decode(data: bytes) -> Policy:
    """Read a policy of at most 64 KiB.

    Raises PolicyMalformedError or one of the refusals of `dcbor` and `fields`.
    """
    record = dcbor.open_record(
        data,
        DOMAIN,
        *(kind.wire for kind in FIELDS.values()),
        max_bytes=MAX_POLICY_BYTES,
        max_depth=4,
        max_items=2048,
    )
    return Policy(
        **{
            name: kind.decode(value, name)
            for (name, kind), value in zip(FIELDS.items(), record, strict=True)
        }
    )


def _check_names(names: tuple[str, ...], field: str) -> None:
    check_range(len(names), 0, MAX_NAMES, field)
    for name in names:
        check_name(name, field)
    check_ascending(tuple(name.encode() for name in names), field)


def _check_digests(digests: tuple[bytes, ...], size: int, field: str) -> None:
    check_range(len(digests), 0, MAX_MEASUREMENTS, field)
    for digest in digests:
        check_bytes(digest, size, field)
    check_ascending(digests, field)
