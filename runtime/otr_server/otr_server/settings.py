"""Settings: frozen dataclasses built from a TOML file and the environment, nothing unknown let in.

A misspelt key that is silently ignored is a limit that silently does not hold, so every key must
name a field; errors name it by its dotted path (`listen.port`). Secrets never are settings: a
setting holds the *path* of a file, and `read_secret` reads it.

The environment overrides the file: `OTR__DRAIN_SECONDS=5` sets `drain_seconds` and
`OTR__LISTEN__PORT=50051` sets `listen.port`. Text from the environment is read by the field's type;
a tuple is either comma-separated or a TOML array, and an empty text means "none" where none is
allowed.
"""

from __future__ import annotations

import dataclasses
import enum
import math
import os
import stat
import tomllib
import types
import typing
from collections.abc import Mapping
from pathlib import Path
from typing import Any, TypeVar

from otr_protocol.errors import MalformedError

PREFIX = "OTR__"
MAX_SETTINGS_BYTES = 1 << 20
MAX_SECRET_BYTES = 1 << 16

SettingsType = TypeVar("SettingsType")


class SettingsError(MalformedError):
    """A setting is missing, unknown or of the wrong type; `field` is its dotted name."""

    reason = "BAD_SETTING"


class UnknownSettingError(SettingsError):
    """A key that no field has."""

    reason = "UNKNOWN_SETTING"


class MissingSettingError(SettingsError):
    """A field without default that nothing sets."""

    reason = "MISSING_SETTING"


class SecretFileError(SettingsError):
    """A secret's file is missing, too large, or readable by everybody."""

    reason = "BAD_SECRET_FILE"


class _Text(str):
    """Text from the environment, to be read by the type of its field."""

    __slots__ = ()


def load_settings(cls: type[SettingsType], mapping: Mapping[str, Any]) -> SettingsType:
    """An instance of the frozen dataclass `cls` from a nested mapping.

    Raises UnknownSettingError, MissingSettingError or SettingsError, each naming the dotted field.
    A ValueError or refusal of the dataclass's own `__post_init__` becomes a SettingsError too.
    """
    built = _build(cls, mapping, "")
    assert isinstance(built, cls)
    return built


def read_settings(
    cls: type[SettingsType], path: Path | None, environ: Mapping[str, str]
) -> SettingsType:
    """Settings from a TOML file (none: only the environment and defaults), then `environ`.

    Every variable that starts with `OTR__` must name a field. Raises as `load_settings` does.
    """
    mapping: dict[str, Any] = {} if path is None else _read_toml(path)
    for variable in sorted(environ):
        if variable.startswith(PREFIX):
            _override(mapping, variable, environ[variable])
    return load_settings(cls, mapping)


def read_secret(path: Path, *, max_bytes: int = MAX_SECRET_BYTES) -> bytes:
    """The bytes of a secret's file, which nobody but its owner and group may read.

    Group access is allowed because Kubernetes mounts secrets for a group (mode 0440).
    """
    try:
        with path.open("rb") as file:
            status = os.fstat(file.fileno())
            if not stat.S_ISREG(status.st_mode):
                raise SecretFileError(f"{path} is not a file")
            if status.st_mode & stat.S_IRWXO:
                raise SecretFileError(f"everybody may use {path}: chmod o= {path}")
            secret = file.read(max_bytes + 1)
    except OSError as error:
        raise SecretFileError(f"cannot read {path}: {error.strerror}") from error
    if len(secret) > max_bytes:
        raise SecretFileError(f"{path} is longer than {max_bytes} bytes")
    return secret


def _read_toml(path: Path) -> dict[str, Any]:
    try:
        with path.open("rb") as file:
            data = file.read(MAX_SETTINGS_BYTES + 1)
    except OSError as error:
        raise SettingsError(f"cannot read {path}: {error.strerror}") from error
    if len(data) > MAX_SETTINGS_BYTES:
        raise SettingsError(f"{path} is longer than {MAX_SETTINGS_BYTES} bytes")
    try:
        return tomllib.loads(data.decode())
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise SettingsError(f"{path} is not TOML: {error}") from error


def _override(mapping: dict[str, Any], variable: str, value: str) -> None:
    *parents, leaf = variable.removeprefix(PREFIX).lower().split("__")
    table = mapping
    for parent in parents:
        inner = table.setdefault(parent, {})
        if not isinstance(inner, dict):
            raise SettingsError(
                f"{variable} looks inside {parent}, which is no table", field=parent
            )
        table = inner
    table[leaf] = _Text(value)


def _build(cls: type, mapping: object, where: str) -> Any:
    """An instance of a dataclass; `where` is its dotted name, empty for the whole."""
    if not dataclasses.is_dataclass(cls):
        raise TypeError(f"{cls!r} is no dataclass")
    if not isinstance(mapping, Mapping):
        raise SettingsError(f"{where or 'settings'} must be a table", field=where or None)
    fields = {field.name: field for field in dataclasses.fields(cls) if field.init}
    for key in mapping:
        if key not in fields:
            known = ", ".join(sorted(fields))
            raise UnknownSettingError(
                f"unknown setting {_dotted(where, str(key))}; known here: {known}",
                field=_dotted(where, str(key)),
            )
    hints = typing.get_type_hints(cls)
    values: dict[str, Any] = {}
    for name, field in fields.items():
        dotted = _dotted(where, name)
        if name in mapping:
            values[name] = _coerce(hints[name], mapping[name], dotted)
        elif field.default is dataclasses.MISSING and field.default_factory is dataclasses.MISSING:
            raise MissingSettingError(f"setting {dotted} is missing", field=dotted)
    try:
        return cls(**values)
    except SettingsError:
        raise
    except (ValueError, MalformedError) as error:
        inner = error.field if isinstance(error, MalformedError) else None
        named = _dotted(where, inner) if inner else where or None
        raise SettingsError(f"{named or 'settings'}: {error}", field=named) from error


def _dotted(where: str, name: str) -> str:
    return f"{where}.{name}" if where else name


def _coerce(kind: Any, value: Any, field: str) -> Any:
    """`value` as `kind`, or a SettingsError that names `field`."""
    origin = typing.get_origin(kind)
    if origin in (typing.Union, types.UnionType):
        return _coerce_union(typing.get_args(kind), value, field)
    if origin is typing.Literal:
        return _one_of(typing.get_args(kind), value, field)
    if origin is tuple:
        return _coerce_tuple(typing.get_args(kind), value, field)
    if origin is frozenset:
        return frozenset(_coerce_tuple((*typing.get_args(kind), ...), value, field))
    if origin in (Mapping, dict):
        _, inner = typing.get_args(kind)
        if not isinstance(value, Mapping):
            raise SettingsError(f"{field} must be a table", field=field)
        return {str(k): _coerce(inner, v, _dotted(field, str(k))) for k, v in value.items()}
    if isinstance(kind, type) and dataclasses.is_dataclass(kind):
        return value if isinstance(value, kind) else _build(kind, value, field)
    if isinstance(kind, type) and issubclass(kind, enum.Enum):
        return kind(_one_of(tuple(member.value for member in kind), value, field))
    scalar = _SCALARS.get(kind)
    if scalar is None:
        raise TypeError(f"settings cannot hold {kind!r} ({field})")
    return scalar(value, field)


def _coerce_union(kinds: tuple[Any, ...], value: Any, field: str) -> Any:
    others = [kind for kind in kinds if kind is not type(None)]
    if len(others) != 1 or len(kinds) != 2:
        raise TypeError(f"the only union that settings know is `T | None` ({field})")
    if value is None or (isinstance(value, _Text) and value == ""):
        return None
    return _coerce(others[0], value, field)


def _coerce_tuple(kinds: tuple[Any, ...], value: Any, field: str) -> tuple[Any, ...]:
    if isinstance(value, _Text):
        value = _split(value, field)
    if not isinstance(value, list | tuple):
        raise SettingsError(f"{field} must be a list", field=field)
    if len(kinds) == 2 and kinds[1] is Ellipsis:
        kinds = (kinds[0],) * len(value)
    if len(kinds) != len(value):
        raise SettingsError(f"{field} must have {len(kinds)} items", field=field)
    return tuple(
        _coerce(kind, item, f"{field}[{index}]")
        for index, (kind, item) in enumerate(zip(kinds, value, strict=True))
    )


def _split(text: _Text, field: str) -> list[Any]:
    if text.lstrip().startswith("["):
        try:
            parsed = tomllib.loads(f"items = {text}")
        except tomllib.TOMLDecodeError as error:
            raise SettingsError(f"{field} is no TOML array: {error}", field=field) from error
        items = parsed.pop("items")
        if parsed or not isinstance(items, list):
            raise SettingsError(f"{field} is no TOML array", field=field)
        return items
    return [_Text(item.strip()) for item in text.split(",")] if text.strip() else []


def _one_of(allowed: tuple[Any, ...], value: Any, field: str) -> Any:
    for choice in allowed:
        same_type = type(choice) is type(value)
        if (same_type and choice == value) or (isinstance(value, _Text) and str(choice) == value):
            return choice
    names = ", ".join(map(str, allowed))
    raise SettingsError(f"{field} must be one of {names}", field=field)


def _integer(value: Any, field: str) -> int:
    if isinstance(value, _Text):
        try:
            return int(value, 10)
        except ValueError:
            pass
    elif isinstance(value, int) and not isinstance(value, bool):
        return value
    raise SettingsError(f"{field} must be a whole number", field=field)


def _real(value: Any, field: str) -> float:
    number = math.nan
    if isinstance(value, _Text):
        try:
            number = float(value)
        except ValueError:
            number = math.nan
    elif isinstance(value, int | float) and not isinstance(value, bool):
        number = float(value)
    # nan compares false with every limit, so a limit of nan would never hold.
    if not math.isfinite(number):
        raise SettingsError(f"{field} must be a finite number", field=field)
    return number


def _truth(value: Any, field: str) -> bool:
    if isinstance(value, bool):
        return value
    if isinstance(value, _Text):
        match value.lower():
            case "true" | "1" | "yes" | "on":
                return True
            case "false" | "0" | "no" | "off":
                return False
    raise SettingsError(f"{field} must be true or false", field=field)


def _text(value: Any, field: str) -> str:
    if isinstance(value, str):
        return str(value)
    raise SettingsError(f"{field} must be text", field=field)


def _path(value: Any, field: str) -> Path:
    if isinstance(value, Path):
        return value
    if isinstance(value, str) and value and "\0" not in value:
        return Path(value).expanduser()
    raise SettingsError(f"{field} must be a path", field=field)


_SCALARS: dict[type, Any] = {bool: _truth, int: _integer, float: _real, str: _text, Path: _path}
