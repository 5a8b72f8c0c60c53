"""Settings of the attestation service: roles, and what each of them needs."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from otr_attestation.settings import Settings, VendorSettings
from otr_server.settings import SettingsError, UnknownSettingError, load_settings

LISTEN: dict[str, Any] = {"host": "127.0.0.1"}
VERIFIER: dict[str, Any] = {
    "listen": LISTEN,
    "issuer": "https://attestation.example",
    "signing_key_file": "/k",
    "trust_roots_file": "/r",
    "commitment_target": "127.0.0.1:1",
    "policy_file": "/p",
    "collateral_file": "/c",
}
COLLATERAL: dict[str, Any] = {
    "listen": LISTEN,
    "roles": ["collateral"],
    "collateral": {"data_dir": "/d"},
}


def load(mapping: dict[str, Any]) -> Settings:
    return load_settings(Settings, mapping)


def test_a_verifier_from_files_needs_no_more_than_it_did() -> None:
    settings = load(VERIFIER)
    assert settings.roles == ("verifier", "policy")
    assert settings.collateral is None


def test_the_collateral_role_needs_no_key_and_no_policy() -> None:
    settings = load(COLLATERAL)
    assert settings.signing_key_file is None
    assert settings.collateral is not None
    assert settings.collateral.vendors is None  # no egress unless asked for


def test_an_empty_table_of_vendors_means_the_vendors_own_addresses() -> None:
    mapping = COLLATERAL | {"collateral": {"data_dir": "/d", "vendors": {}}}
    settings = load(mapping).collateral
    assert settings is not None
    assert settings.vendors == VendorSettings()
    assert settings.vendors.nvidia_ocsp_url == "https://ocsp.ndis.nvidia.com/"


@pytest.mark.parametrize("missing", sorted(set(VERIFIER) - {"listen"}))
def test_a_verifier_says_what_it_lacks(missing: str) -> None:
    with pytest.raises(SettingsError):
        load({name: value for name, value in VERIFIER.items() if name != missing})


@pytest.mark.parametrize(
    "mapping",
    [
        VERIFIER | {"roles": []},
        VERIFIER | {"roles": ["verifier", "everything"]},
        VERIFIER | {"collateral_target": "127.0.0.1:2"},
        VERIFIER | {"collateral": {"data_dir": "/d"}},
        {"listen": LISTEN, "roles": ["policy"]},
        {"listen": LISTEN, "roles": ["collateral"]},
        VERIFIER | {"policies": {"data_dir": "/d", "signer_key_files": []}},
        VERIFIER | {"limits": {"max_appraisals": 0}},
        COLLATERAL | {"collateral": {"data_dir": "/d", "max_watchers": 0}},
        COLLATERAL | {"collateral": {"data_dir": "/d", "vendors": {"attempts": 0}}},
        COLLATERAL | {"collateral": {"data_dir": "/d", "vendors": {"timeout_seconds": 0.0}}},
    ],
)
def test_contradictions_are_refused(mapping: dict[str, Any]) -> None:
    with pytest.raises(SettingsError):
        load(mapping)


def test_unknown_settings_are_refused() -> None:
    with pytest.raises(UnknownSettingError):
        load(COLLATERAL | {"collateral": {"data_dir": "/d", "vendors": {"nvidia_url": "x"}}})


def test_only_the_vendors_adapter_can_reach_out() -> None:
    """The verifier's modules import no HTTP client: egress is the collateral role's alone."""
    package = Path(__file__).resolve().parents[2] / "services" / "attestation" / "otr_attestation"
    importing = {path.name for path in package.glob("*.py") if "import httpx" in path.read_text()}
    assert importing == {"peer_http.py"}
    using = {
        path.name
        for path in package.glob("*.py")
        if "otr_attestation.peer_http" in path.read_text()
    }
    assert using == {"peer_vendors.py"}
