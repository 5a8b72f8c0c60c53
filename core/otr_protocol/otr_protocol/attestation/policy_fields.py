"""How each kind of policy field is encoded, decoded, read from what people write and shown to them.

A policy has some twenty fields of few kinds; a kind is the four functions below, so that a field is
one line in `policy.FIELDS` and cannot be encoded in one way and read back in another.
"""

from __future__ import annotations

import enum
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Final

from otr_protocol.attestation.amd.snp_report import TcbVersion
from otr_protocol.dcbor import Value
from otr_protocol.errors import MalformedError
from otr_protocol.fields import as_array, as_byte_strings, as_integer, as_integers, as_text


class PolicyMalformedError(MalformedError):
    """Not a policy: a field is missing, unknown, or outside what it may be."""

    reason = "POLICY_MALFORMED"


@dataclass(frozen=True, slots=True)
class FieldKind:
    """One kind of field: `wire` names the type it has in the record.

    `encode` and `decode` go between the field's value and its deterministic-CBOR value (the latter
    raises a Refusal), `read` and `show` between it and plain JSON (`read` raises ValueError,
    TypeError or KeyError).
    """

    wire: type
    encode: Callable[[Any], Value]
    decode: Callable[[Value, str], Any]
    read: Callable[[Any], Any]
    show: Callable[[Any], Any]


def _decode_flag(value: Value, field: str) -> bool:
    number = as_integer(value, field)
    if number not in (0, 1):
        raise PolicyMalformedError("a flag is 0 or 1", field=field)
    return number == 1


def _decode_texts(value: Value, field: str) -> tuple[str, ...]:
    return tuple(as_text(item, field) for item in as_array(value, field))


def _decode_tcb(value: Value, field: str) -> TcbVersion:
    return _tcb(as_integers(as_array(value, field, length=5), field))


def _decode_registers(value: Value, field: str) -> tuple[tuple[int, tuple[bytes, ...]], ...]:
    pairs = (as_array(item, field, length=2) for item in as_array(value, field))
    return tuple((as_integer(index, field), as_byte_strings(v, field)) for index, v in pairs)


def _read_flag(value: Any) -> bool:
    if not isinstance(value, bool):
        raise TypeError("not a boolean")
    return value


def _read_number(value: Any) -> int:
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


def _read_digests(value: Any) -> tuple[bytes, ...]:
    return tuple(sorted(bytes.fromhex(text) for text in _read_texts(value)))


def _read_tcb(value: Any) -> TcbVersion:
    if not isinstance(value, dict):
        raise TypeError("not an object")
    return TcbVersion(**{name: _read_number(part) for name, part in value.items()})


def _read_registers(value: Any) -> tuple[tuple[int, tuple[bytes, ...]], ...]:
    if not isinstance(value, dict):
        raise TypeError("not an object")
    return tuple(sorted((int(index), _read_digests(values)) for index, values in value.items()))


def _tcb(numbers: tuple[int, ...]) -> TcbVersion:
    boot_loader, tee, snp, microcode, fmc = numbers
    return TcbVersion(boot_loader, tee, snp, microcode, fmc)


def tcb_integers(tcb: TcbVersion) -> tuple[int, int, int, int, int]:
    """Boot loader, TEE, SNP firmware, microcode, and Turin's FMC (0 elsewhere)."""
    return tcb.boot_loader, tcb.tee, tcb.snp, tcb.microcode, tcb.fmc


def _show_tcb(tcb: TcbVersion) -> dict[str, int]:
    names = ("boot_loader", "tee", "snp", "microcode", "fmc")
    return dict(zip(names, tcb_integers(tcb), strict=True))


def choice(kind: type[enum.Enum]) -> FieldKind:
    """A field whose value is one member of an enumeration, written by its text value."""

    def decode(value: Value, field: str) -> enum.Enum:
        try:
            return kind(as_text(value, field))
        except ValueError as error:
            raise PolicyMalformedError("not one of the known choices", field=field) from error

    return FieldKind(str, lambda member: str(member.value), decode, kind, lambda m: m.value)


FLAG: Final = FieldKind(int, int, _decode_flag, _read_flag, bool)
NUMBER: Final = FieldKind(int, int, as_integer, _read_number, int)
TEXT: Final = FieldKind(str, str, as_text, _read_text, str)
TEXTS: Final = FieldKind(tuple, tuple, _decode_texts, _read_texts, list)
DIGESTS: Final = FieldKind(
    tuple, tuple, as_byte_strings, _read_digests, lambda values: [value.hex() for value in values]
)
TCB: Final = FieldKind(tuple, tcb_integers, _decode_tcb, _read_tcb, _show_tcb)
REGISTERS: Final = FieldKind(
    tuple,
    tuple,
    _decode_registers,
    _read_registers,
    lambda pairs: {str(index): [value.hex() for value in values] for index, values in pairs},
)
