"""Settings refuse what they do not know, by name (otr_server.settings)."""

from __future__ import annotations

import contextlib
import enum
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import pytest
from hypothesis import given
from hypothesis import strategies as st

from otr_server.process import Listen
from otr_server.settings import (
    MissingSettingError,
    SecretFileError,
    SettingsError,
    UnknownSettingError,
    load_settings,
    read_secret,
    read_settings,
)


class Mode(enum.Enum):
    FAST = "fast"
    SAFE = "safe"


@dataclass(frozen=True, slots=True)
class Limits:
    requests: int = 4
    share: float = 0.5

    def __post_init__(self) -> None:
        if self.requests < 1:
            raise ValueError("requests must be positive")


@dataclass(frozen=True, slots=True)
class Settings:
    data_dir: Path
    name: str = "log"
    reflection: bool = False
    peers: tuple[str, ...] = ()
    pair: tuple[int, float] | None = None
    roles: frozenset[str] = frozenset()
    mode: Mode = Mode.SAFE
    level: Literal["info", "debug"] = "info"
    key_file: Path | None = None
    limits: Limits = field(default_factory=Limits)
    named: dict[str, int] = field(default_factory=dict)
    listen: Listen = field(default_factory=Listen)


def test_a_whole_file_becomes_typed_values(tmp_path: Path) -> None:
    file = tmp_path / "settings.toml"
    file.write_text(
        'data_dir = "/var/lib/otr"\npeers = ["a:1", "b:2"]\npair = [3, 4]\nroles = ["client"]\n'
        'mode = "fast"\nlevel = "debug"\n[limits]\nshare = 1\n[named]\nx = 7\n'
    )
    settings = read_settings(Settings, file, {})
    assert settings == Settings(
        data_dir=Path("/var/lib/otr"),
        peers=("a:1", "b:2"),
        pair=(3, 4.0),
        roles=frozenset({"client"}),
        mode=Mode.FAST,
        level="debug",
        limits=Limits(share=1.0),
        named={"x": 7},
    )
    assert isinstance(settings.limits.share, float)


@pytest.mark.parametrize(
    ("mapping", "field_name"),
    [
        ({"data_dir": "/d", "nmae": "x"}, "nmae"),
        ({"data_dir": "/d", "limits": {"request": 1}}, "limits.request"),
        ({"data_dir": "/d", "listen": {"prot": 1}}, "listen.prot"),
    ],
)
def test_an_unknown_key_is_refused_by_its_dotted_name(
    mapping: dict[str, Any], field_name: str
) -> None:
    with pytest.raises(UnknownSettingError) as caught:
        load_settings(Settings, mapping)
    assert caught.value.field == field_name
    assert field_name in str(caught.value)


def test_a_missing_setting_is_named() -> None:
    with pytest.raises(MissingSettingError) as caught:
        load_settings(Settings, {})
    assert caught.value.field == "data_dir"


@pytest.mark.parametrize(
    ("override", "field_name"),
    [
        ({"name": 3}, "name"),
        ({"reflection": "true"}, "reflection"),
        ({"reflection": 1}, "reflection"),
        ({"limits": {"requests": True}}, "limits.requests"),
        ({"limits": {"requests": 1.0}}, "limits.requests"),
        ({"limits": {"requests": 0}}, "limits"),
        ({"limits": {"share": float("nan")}}, "limits.share"),
        ({"limits": {"share": float("inf")}}, "limits.share"),
        ({"limits": 3}, "limits"),
        ({"peers": "a:1"}, "peers"),
        ({"peers": ["a:1", 2]}, "peers[1]"),
        ({"pair": [1]}, "pair"),
        ({"mode": "quick"}, "mode"),
        ({"level": "loud"}, "level"),
        ({"data_dir": ""}, "data_dir"),
        ({"named": {"x": "7"}}, "named.x"),
        ({"listen": {"port": 65536}}, "listen"),
    ],
)
def test_a_value_of_another_type_is_refused(override: dict[str, Any], field_name: str) -> None:
    with pytest.raises(SettingsError) as caught:
        load_settings(Settings, {"data_dir": "/d", **override})
    assert caught.value.field == field_name


def test_the_environment_overrides_the_file(tmp_path: Path) -> None:
    file = tmp_path / "settings.toml"
    file.write_text('data_dir = "/d"\nname = "file"\n[limits]\nrequests = 2\nshare = 0.25\n')
    environ = {
        "OTR__NAME": "environment",
        "OTR__LIMITS__REQUESTS": "9",
        "OTR__REFLECTION": "true",
        "OTR__PEERS": "a:1, b:2",
        "OTR__ROLES": '["client", "watcher"]',
        "OTR__PAIR": "",
        "OTR__MODE": "fast",
        "OTR__KEY_FILE": "/k",
        "PATH": "/bin",
        "OTR_VECTORS": "not a setting: one underscore",
    }
    settings = read_settings(Settings, file, environ)
    assert settings.name == "environment"
    assert type(settings.name) is str
    assert settings.limits == Limits(requests=9, share=0.25)
    assert settings.reflection is True
    assert settings.peers == ("a:1", "b:2")
    assert settings.roles == frozenset({"client", "watcher"})
    assert settings.pair is None
    assert settings.mode is Mode.FAST
    assert settings.key_file == Path("/k")


@pytest.mark.parametrize(
    ("variable", "value", "field_name"),
    [
        ("OTR__NMAE", "x", "nmae"),
        ("OTR__LIMITS__REQUESTS", "many", "limits.requests"),
        ("OTR__REFLECTION", "maybe", "reflection"),
        ("OTR__ROLES", "[unclosed", "roles"),
        ("OTR__LIMITS", "3", "limits"),
    ],
)
def test_a_bad_variable_is_refused(variable: str, value: str, field_name: str) -> None:
    with pytest.raises(SettingsError) as caught:
        read_settings(Settings, None, {"OTR__DATA_DIR": "/d", variable: value})
    assert caught.value.field == field_name


def test_a_file_that_is_no_toml_is_refused(tmp_path: Path) -> None:
    file = tmp_path / "settings.toml"
    file.write_text("data_dir = ")
    with pytest.raises(SettingsError, match="not TOML"):
        read_settings(Settings, file, {})
    with pytest.raises(SettingsError, match="cannot read"):
        read_settings(Settings, tmp_path / "absent.toml", {})


@given(
    st.recursive(
        st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=8),
        lambda inner: (
            st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=8), inner, max_size=3)
        ),
        max_leaves=8,
    ),
    st.sampled_from(["data_dir", "name", "peers", "pair", "limits", "mode", "named", "listen"]),
)
def test_any_value_is_either_taken_or_refused_with_a_reason(value: object, key: str) -> None:
    with contextlib.suppress(SettingsError):  # a refusal is an answer; anything else is not
        load_settings(Settings, {"data_dir": "/d", key: value})


def test_a_secret_that_everybody_may_read_is_refused(tmp_path: Path) -> None:
    secret = tmp_path / "secret"
    secret.write_bytes(b"\x01\x02")
    secret.chmod(0o440)
    assert read_secret(secret) == b"\x01\x02"
    secret.chmod(0o444)
    with pytest.raises(SecretFileError, match="everybody"):
        read_secret(secret)


def test_a_secret_that_is_missing_or_too_long_is_refused(tmp_path: Path) -> None:
    with pytest.raises(SecretFileError, match="cannot read"):
        read_secret(tmp_path / "absent")
    secret = tmp_path / "secret"
    secret.write_bytes(bytes(5))
    secret.chmod(0o400)
    with pytest.raises(SecretFileError, match="longer"):
        read_secret(secret, max_bytes=4)
