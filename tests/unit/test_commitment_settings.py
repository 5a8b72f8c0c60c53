"""A log starts with the key and the files it is meant to have, or says which one is wrong."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from otr_commitment import log_key
from otr_commitment.log_key import LogKeyMissingError, LogKeyUnusableError
from otr_commitment.settings import Settings
from otr_protocol.tlog.note import COSIGNATURE_V1, SignerKey, VerifierKey
from otr_server.settings import (
    MissingSettingError,
    SecretFileError,
    SettingsError,
    UnknownSettingError,
    load_settings,
)

ORIGIN = "log.test/otr"
MAPPING: dict[str, Any] = {
    "listen": {"port": 0},
    "origin": ORIGIN,
    "data_dir": "/var/lib/otr/log",
    "guard_file": "/var/lib/otr-guard/log.guard",
    "log_key_file": "/run/secrets/log.key",
    "tls": {"certificate_file": "/c", "key_file": "/k", "ca_file": "/a"},
}


def test_the_settings_that_are_needed_are_enough() -> None:
    settings = load_settings(Settings, MAPPING)
    assert settings.verify_statements
    assert not settings.generate_log_key


@pytest.mark.parametrize("name", MAPPING)
def test_a_missing_setting_is_named(name: str) -> None:
    mapping = {key: value for key, value in MAPPING.items() if key != name}
    with pytest.raises(MissingSettingError) as caught:
        load_settings(Settings, mapping)
    assert caught.value.field == name


def test_an_unknown_setting_is_refused_by_name() -> None:
    with pytest.raises(UnknownSettingError) as caught:
        load_settings(Settings, {**MAPPING, "limits": {"max_uplods": 1}})
    assert caught.value.field == "limits.max_uplods"


@pytest.mark.parametrize(
    "guard",
    ["/var/lib/otr/log/guard", "/var/lib/otr/log/sub/guard", "/var/lib/otr/other/../log/guard"],
)
def test_a_guard_among_the_data_that_it_guards_is_refused(guard: str) -> None:
    with pytest.raises(SettingsError, match="guard_file"):
        load_settings(Settings, {**MAPPING, "guard_file": guard})


@pytest.mark.parametrize(
    "limits",
    [
        {"max_pending_entries": 0},
        {"max_waiters": 0},
        {"max_blob_bytes": 1 << 30},
        {"upload_seconds": 0},
        {"download_seconds": 0},
        {"caller_share": 0},
    ],
)
def test_a_limit_that_would_not_hold_is_refused(limits: dict[str, int]) -> None:
    with pytest.raises(SettingsError):
        load_settings(Settings, {**MAPPING, "limits": limits})


def load(path: Path, *, may_make: bool = False, log_exists: bool = False) -> SignerKey:
    return log_key.load_or_make(path, ORIGIN, may_make=may_make, log_exists=log_exists)


def test_a_key_is_made_at_the_first_start_only_where_settings_allow(tmp_path: Path) -> None:
    path = tmp_path / "keys" / "log.key"
    with pytest.raises(LogKeyMissingError, match="generate_log_key"):
        load(path)
    assert not path.exists()
    key = load(path, may_make=True)
    assert load(path) == key
    assert path.stat().st_mode & 0o777 == 0o600
    public = log_key.public_file(path).read_text().strip()
    assert VerifierKey.parse(public) == key.verifier


def test_a_lost_key_is_never_replaced_once_there_is_a_log(tmp_path: Path) -> None:
    with pytest.raises(LogKeyMissingError, match="bring it back"):
        load(tmp_path / "log.key", may_make=True, log_exists=True)


@pytest.mark.parametrize(
    "text",
    [
        "",
        "not a key",
        str(SignerKey(ORIGIN, bytes(32)).verifier),
        SignerKey("log.test/other", bytes(32)).secret_text(),
        SignerKey(ORIGIN, bytes(32), COSIGNATURE_V1).secret_text(),
    ],
)
def test_a_file_that_holds_no_key_of_this_log_is_refused(tmp_path: Path, text: str) -> None:
    path = tmp_path / "log.key"
    path.write_text(text)
    path.chmod(0o600)
    with pytest.raises(LogKeyUnusableError):
        load(path)


def test_a_key_that_everybody_can_read_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "log.key"
    path.write_text(SignerKey(ORIGIN, bytes(32)).secret_text())
    path.chmod(0o644)
    with pytest.raises(SecretFileError):
        load(path)
