"""The appraisal policy: a typed document, addressed by the digest of its one encoding.

What a policy can say is listed here, field by field. What it cannot switch off is not: signatures,
pinned roots, the binding to the challenge, debug mode, one report per device and the reading rules
of every format are code. The default refuses simulated evidence and knows no CPU image, so it
affirms nothing until somebody says what they run.

    ["otr-policy-v1", accept_simulated, [hardware model, ...], minimum driver, minimum VBIOS,
     required GPUs, [launch measurement, ...], [boot loader, TEE, SNP, microcode], maximum VMPL,
     revocation mode, accept manifests on hold, require an SNP CRL, maximum collateral age (s),
     maximum token lifetime (s)]
"""

from __future__ import annotations

import enum
import re
from collections.abc import Mapping
from dataclasses import dataclass, fields, replace
from typing import Any, Final

from otr_protocol import dcbor
from otr_protocol.attestation.ear_claims import MAX_LIFETIME_SECONDS
from otr_protocol.attestation.evidence import MAX_GPUS
from otr_protocol.attestation.opaque import DRIVER_VERSION
from otr_protocol.attestation.snp_report import MEASUREMENT_BYTES, TcbVersion
from otr_protocol.digest import H
from otr_protocol.errors import MalformedError
from otr_protocol.fields import (
    as_array,
    as_byte_strings,
    as_integer,
    as_integers,
    as_text,
    check_ascending,
    check_bytes,
    check_name,
    check_range,
)

DOMAIN: Final = "otr-policy-v1"
MAX_POLICY_BYTES: Final = 64 * 1024
MAX_HWMODELS: Final = 64
MAX_MEASUREMENTS: Final = 256
MAX_VMPL: Final = 3
DAY_SECONDS: Final = 24 * 3600
MAX_COLLATERAL_AGE_SECONDS: Final = 366 * DAY_SECONDS
NO_MINIMUM_TCB: Final = TcbVersion(0, 0, 0, 0)

_VBIOS_VERSION: Final = re.compile(r"[0-9A-F]{2}(\.[0-9A-F]{2}){4}")


class PolicyMalformedError(MalformedError):
    """Not a policy: a field is missing, unknown, or outside what it may be."""

    reason = "POLICY_MALFORMED"


class RevocationMode(enum.Enum):
    """What to do when nobody says at this moment whether a certificate is revoked."""

    HARD_FAIL = "hard-fail"
    """Every certificate needs a response that is current now; otherwise INDETERMINATE."""
    LAST_GOOD = "last-good"
    """The last GOOD response also counts past its next update, with a WARNING, up to the
    maximum collateral age: for machines that cannot reach the vendor every day."""


@dataclass(frozen=True, slots=True)
class Policy:
    """One appraisal policy. Every field is part of the digest.

    `allowed_hwmodels` are common names of GPU identity certificates, `cpu_measurements` SNP launch
    measurements (48 bytes); both ascending, both lists of what is allowed, so that an empty list
    allows nothing. Versions are as reports spell them; the empty string is no minimum.
    """

    accept_simulated: bool = False
    allowed_hwmodels: tuple[str, ...] = ("GH100 A01 GSP BROM",)
    min_driver_version: str = "550.90.07"
    min_vbios_version: str = ""
    required_gpus: int = 1
    cpu_measurements: tuple[bytes, ...] = ()
    min_snp_tcb: TcbVersion = NO_MINIMUM_TCB
    max_vmpl: int = 0
    revocation: RevocationMode = RevocationMode.HARD_FAIL
    accept_rim_hold: bool = False
    require_snp_crl: bool = False
    max_collateral_age_s: int = DAY_SECONDS
    max_token_lifetime_s: int = MAX_LIFETIME_SECONDS

    def __post_init__(self) -> None:
        for model in self.allowed_hwmodels:
            check_name(model, "allowed_hwmodels")
        check_range(len(self.allowed_hwmodels), 0, MAX_HWMODELS, "allowed_hwmodels")
        check_ascending(
            tuple(model.encode() for model in self.allowed_hwmodels), "allowed_hwmodels"
        )
        if self.min_driver_version and not DRIVER_VERSION.fullmatch(self.min_driver_version):
            raise PolicyMalformedError("not a driver version", field="min_driver_version")
        if self.min_vbios_version and not _VBIOS_VERSION.fullmatch(self.min_vbios_version):
            raise PolicyMalformedError("not a VBIOS version", field="min_vbios_version")
        check_range(self.required_gpus, 0, MAX_GPUS, "required_gpus")
        check_range(len(self.cpu_measurements), 0, MAX_MEASUREMENTS, "cpu_measurements")
        for measurement in self.cpu_measurements:
            check_bytes(measurement, MEASUREMENT_BYTES, "cpu_measurements")
        check_ascending(self.cpu_measurements, "cpu_measurements")
        for component in _tcb_integers(self.min_snp_tcb):
            check_range(component, 0, 255, "min_snp_tcb")
        check_range(self.max_vmpl, 0, MAX_VMPL, "max_vmpl")
        check_range(
            self.max_collateral_age_s, 60, MAX_COLLATERAL_AGE_SECONDS, "max_collateral_age_s"
        )
        check_range(self.max_token_lifetime_s, 60, MAX_LIFETIME_SECONDS, "max_token_lifetime_s")

    def encode(self) -> bytes:
        """The policy's one encoding."""
        return dcbor.encode(
            (
                DOMAIN,
                int(self.accept_simulated),
                self.allowed_hwmodels,
                self.min_driver_version,
                self.min_vbios_version,
                self.required_gpus,
                self.cpu_measurements,
                _tcb_integers(self.min_snp_tcb),
                self.max_vmpl,
                self.revocation.value,
                int(self.accept_rim_hold),
                int(self.require_snp_crl),
                self.max_collateral_age_s,
                self.max_token_lifetime_s,
            )
        )

    @property
    def digest(self) -> bytes:
        """`policy_digest`: 32 bytes."""
        return H(self.encode())

    @classmethod
    def from_mapping(cls, mapping: Mapping[str, Any]) -> Policy:
        """A policy from settings as people write them; whatever is left out keeps its default.

        Measurements are hex, `min_snp_tcb` four numbers, `revocation` its name. Unknown keys and
        wrong types are refused with PolicyMalformedError naming the field.
        """
        known = {field.name for field in fields(cls)}
        changes: dict[str, Any] = {}
        for name, value in mapping.items():
            if name not in known:
                raise PolicyMalformedError(f"a policy has no field {name!r}", field=name)
            try:
                changes[name] = _READERS[name](value)
            except (ValueError, TypeError, KeyError) as error:
                raise PolicyMalformedError(f"{name} cannot be read", field=name) from error
        return replace(cls(), **changes)

    def to_mapping(self) -> dict[str, Any]:
        """The policy as people write it; `from_mapping` reads it back."""
        return {
            "accept_simulated": self.accept_simulated,
            "allowed_hwmodels": list(self.allowed_hwmodels),
            "min_driver_version": self.min_driver_version,
            "min_vbios_version": self.min_vbios_version,
            "required_gpus": self.required_gpus,
            "cpu_measurements": [measurement.hex() for measurement in self.cpu_measurements],
            "min_snp_tcb": list(_tcb_integers(self.min_snp_tcb)),
            "max_vmpl": self.max_vmpl,
            "revocation": self.revocation.value,
            "accept_rim_hold": self.accept_rim_hold,
            "require_snp_crl": self.require_snp_crl,
            "max_collateral_age_s": self.max_collateral_age_s,
            "max_token_lifetime_s": self.max_token_lifetime_s,
        }


def decode(data: bytes) -> Policy:
    """Read a policy of at most 64 KiB.

    Raises PolicyMalformedError or one of the refusals of `dcbor` and `fields`.
    """
    record = dcbor.open_record(
        data,
        DOMAIN,
        *(int, tuple, str, str, int, tuple, tuple, int, str, int, int, int, int),
        max_bytes=MAX_POLICY_BYTES,
        max_depth=2,
        max_items=1024,
    )
    tcb = as_array(record[6], "min_snp_tcb", length=4)
    modes = {mode.value: mode for mode in RevocationMode}
    mode = modes.get(as_text(record[8], "revocation"))
    if mode is None:
        raise PolicyMalformedError("an unknown revocation mode", field="revocation")
    return Policy(
        accept_simulated=_flag(as_integer(record[0], "accept_simulated")),
        allowed_hwmodels=tuple(
            as_text(model, "allowed_hwmodels") for model in as_array(record[1], "allowed_hwmodels")
        ),
        min_driver_version=as_text(record[2], "min_driver_version"),
        min_vbios_version=as_text(record[3], "min_vbios_version"),
        required_gpus=as_integer(record[4], "required_gpus"),
        cpu_measurements=as_byte_strings(record[5], "cpu_measurements"),
        min_snp_tcb=TcbVersion(*as_integers(tcb, "min_snp_tcb")),
        max_vmpl=as_integer(record[7], "max_vmpl"),
        revocation=mode,
        accept_rim_hold=_flag(as_integer(record[9], "accept_rim_hold")),
        require_snp_crl=_flag(as_integer(record[10], "require_snp_crl")),
        max_collateral_age_s=as_integer(record[11], "max_collateral_age_s"),
        max_token_lifetime_s=as_integer(record[12], "max_token_lifetime_s"),
    )


def _tcb_integers(tcb: TcbVersion) -> tuple[int, int, int, int]:
    return tcb.boot_loader, tcb.tee, tcb.snp, tcb.microcode


def _flag(value: int) -> bool:
    if value not in (0, 1):
        raise PolicyMalformedError("a flag is 0 or 1")
    return value == 1


def _read_bool(value: Any) -> bool:
    if not isinstance(value, bool):
        raise TypeError("not a boolean")
    return value


def _read_int(value: Any) -> int:
    if not isinstance(value, int) or isinstance(value, bool):
        raise TypeError("not a whole number")
    return value


def _read_text(value: Any) -> str:
    if not isinstance(value, str):
        raise TypeError("not text")
    return value


def _read_texts(value: Any) -> tuple[str, ...]:
    if not isinstance(value, list | tuple):
        raise TypeError("not a list")
    return tuple(sorted({_read_text(item) for item in value}))


def _read_measurements(value: Any) -> tuple[bytes, ...]:
    return tuple(sorted(bytes.fromhex(text) for text in _read_texts(value)))


def _read_tcb(value: Any) -> TcbVersion:
    if not isinstance(value, list | tuple):
        raise TypeError("not a list")
    return TcbVersion(*(_read_int(item) for item in value))


_READERS: Final = {
    "accept_simulated": _read_bool,
    "allowed_hwmodels": _read_texts,
    "min_driver_version": _read_text,
    "min_vbios_version": _read_text,
    "required_gpus": _read_int,
    "cpu_measurements": _read_measurements,
    "min_snp_tcb": _read_tcb,
    "max_vmpl": _read_int,
    "revocation": RevocationMode,
    "accept_rim_hold": _read_bool,
    "require_snp_crl": _read_bool,
    "max_collateral_age_s": _read_int,
    "max_token_lifetime_s": _read_int,
}
