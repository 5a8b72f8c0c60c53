"""`otr attest`: real evidence from files, judged by the command as a user runs it."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from support import devtee_world as world

OTR = [str(Path(sys.executable).parent / "otr"), "attest"]
NONCE = "931d8dd0add203ac3d8b4fbde75e115278eefcdceac5b87671a748f32364dfcb"


def run(*arguments: str | Path) -> tuple[int, str, str]:
    ended = subprocess.run([*OTR, *map(str, arguments)], capture_output=True, text=True, timeout=60)
    return ended.returncode, ended.stdout, ended.stderr


def judged(*arguments: str | Path) -> tuple[int, dict[str, Any]]:
    code, output, errors = run("appraise", *arguments, "--json")
    assert errors == ""
    return code, json.loads(output)


def h100(vectors: Path) -> list[str | Path]:
    files = vectors / "nvidia" / "h100-550.90.07"
    given: list[str | Path] = ["--gpu-report", files / "report.bin", "--nonce", NONCE]
    given += ["--gpu-chain", files / "chain.pem"]
    given += ["--rim", files / "driver_rim.xml", "--rim", files / "vbios_rim.xml"]
    for response in sorted((files / "ocsp").iterdir()):
        given += ["--ocsp", response]
    return given


@pytest.mark.parametrize(
    ("mode", "code", "status", "reasons"),
    [
        ("require", 3, "INDETERMINATE", {"OCSP_STALE"}),
        ("as-issued", 0, "WARNING", {"REVOCATION_NOT_CURRENT"}),
        ("none", 0, "WARNING", {"REVOCATION_NOT_CHECKED"}),
    ],
)
def test_the_golden_h100_under_every_mode_of_revocation(
    vectors: Path, mode: str, code: int, status: str, reasons: set[str]
) -> None:
    found = judged(*h100(vectors), "--at", "2026-02-01T00:00:00Z", "--revocation", mode)
    assert (found[0], found[1]["status"]) == (code, status)
    assert {finding["reason"] for finding in found[1]["findings"]} == reasons
    claims = found[1]["evidence_claims"]["gpu-0"]
    assert claims["x-nvidia-gpu-driver-version"] == "550.90.07"


@pytest.mark.parametrize(
    ("at", "status"),
    [
        ("2024-06-01T02:08:28Z", "CONTRAINDICATED"),
        ("2024-06-01T02:08:29Z", "WARNING"),
        ("2026-02-22T23:17:58Z", "WARNING"),
        ("2026-02-22T23:17:59Z", "CONTRAINDICATED"),
    ],
)
def test_the_golden_window_is_exact_to_the_second(vectors: Path, at: str, status: str) -> None:
    assert judged(*h100(vectors), "--at", at, "--revocation", "as-issued")[1]["status"] == status


def test_the_switch_set_is_in_date(vectors: Path) -> None:
    files = vectors / "nvidia" / "ls10"
    code, verdict = judged(
        *("--switch-report", files / "report.hex", "--switch-chain", files / "chain.pem"),
        *("--rim", files / "bios_rim.xml", "--nonce", NONCE),
        *("--at", "2026-11-22", "--revocation", "none"),
    )
    assert (code, verdict["status"]) == (0, "WARNING")
    assert "switch-0" in verdict["evidence_claims"]


def test_a_tdx_quote_in_its_window_waits_only_for_an_image(vectors: Path) -> None:
    files = vectors / "intel" / "tdx_v4_dstack"
    given = ("--tdx-quote", files / "quote.bin", "--tdx-collateral", files / "collateral.json")
    code, verdict = judged(*given, "--at", "2025-07-01T00:00:00Z")
    assert code == 3
    reasons = {finding["reason"] for finding in verdict["findings"]}
    assert reasons == {"CPU_REPORT_DATA_UNCHECKED", "CPU_IMAGE_UNKNOWN"}
    quote = (files / "quote.bin").read_bytes()
    image, data = quote[48 + 136 : 48 + 184].hex(), quote[48 + 520 : 48 + 584].hex()
    code, verdict = judged(
        *given, "--at", "2025-07-01T00:00:00Z", "--image", image, "--report-data", data
    )
    assert (code, verdict["status"]) == (0, "AFFIRMING")
    assert not verdict["bound"]


def test_an_snp_report_under_its_image_is_affirmed(vectors: Path) -> None:
    files = vectors / "amd"
    report = (files / "milan_dstack_2026" / "report.bin").read_bytes()
    code, verdict = judged(
        *("--snp-report", files / "milan_dstack_2026" / "report.bin"),
        *("--snp-chain", files / "milan_dstack_2026" / "vcek.pem"),
        *("--snp-chain", files / "milan_v2" / "ask_ark.pem", "--at", "2026-11-22"),
        *("--image", report[0x90:0xC0].hex(), "--report-data", report[0x50:0x90].hex()),
    )
    assert (code, verdict["status"]) == (0, "AFFIRMING")


def test_development_evidence_is_refused_until_a_policy_allows_it(tmp_path: Path) -> None:
    pki, device = world.pki(), world.bundle().devices[0]
    given: list[str | Path] = []
    for option, name, content in (
        ("--gpu-report", "report", device.report),
        ("--rim", "driver.xml", pki.driver_rim),
        ("--rim", "vbios.xml", pki.vbios_rim),
        ("--trust-roots", "roots", pki.trust_roots().encode()),
    ):
        (tmp_path / name).write_bytes(content)
        given += [option, tmp_path / name]
    chain = b"".join(
        b"-----BEGIN CERTIFICATE-----\n" + _base64(der) + b"-----END CERTIFICATE-----\n"
        for der in device.certificates
    )
    (tmp_path / "chain.pem").write_bytes(chain)
    given += ["--gpu-chain", tmp_path / "chain.pem", "--nonce", device.report[4:36].hex()]
    given += ["--revocation", "none", "--at", "2027-01-15T08:00:00Z"]
    code, verdict = judged(*given)
    assert code == 1
    assert verdict["simulated"]
    assert "SIMULATED_EVIDENCE" in {finding["reason"] for finding in verdict["findings"]}
    policy = tmp_path / "policy.json"
    allowed = pki.policy().to_mapping() | {"accept_simulated": True, "required_gpus": 1}
    policy.write_text(json.dumps(allowed))
    code, verdict = judged(*given, "--policy", policy)
    assert (code, verdict["status"]) == (0, "WARNING")


def _base64(der: bytes) -> bytes:
    import base64

    return base64.encodebytes(der)


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["appraise", "--gpu-report", "/etc/hostname"], "--nonce"),
        (["appraise", "--gpu-report", "/etc/hostname", "--nonce", NONCE], "chain"),
        (["appraise", "--nonce", "12"], "64 hex digits"),
        (["appraise", "--at", "yesterday"], "--at"),
        (["appraise", "--policy", "/etc/hostname"], "JSON"),
        (["appraise", "--snp-report", "/nonexistent"], "--snp-chain"),
        (["appraise", "--tdx-quote", "/nonexistent"], "/nonexistent"),
    ],
)
def test_what_cannot_be_judged_ends_with_two_and_one_line(arguments: list[str], said: str) -> None:
    code, output, errors = run(*arguments)
    assert (code, output) == (2, "")
    assert said in errors
    assert "Traceback" not in errors


def test_nothing_to_appraise_is_no_success() -> None:
    code, verdict = judged()
    assert code == 1
    assert [finding["reason"] for finding in verdict["findings"]] == ["EVIDENCE_MISSING"]


def test_a_policy_says_what_it_changes(tmp_path: Path) -> None:
    policy = tmp_path / "policy.json"
    policy.write_text(json.dumps({"max_vmpl": 1, "revocation": "none"}))
    code, output, _ = run("policy", "check", policy, "--json")
    found = json.loads(output)
    assert code == 0
    assert found["changes"] == {"max_vmpl": 1, "revocation": "none"}
    assert found["audit_only"]
    assert len(found["policy_digest"]) == 64
    policy.write_text(json.dumps({"max_vmlp": 1}))
    code, _, errors = run("policy", "check", policy)
    assert code != 0
    assert "max_vmlp" in errors


def test_a_machine_without_hardware_says_so_in_one_line(tmp_path: Path) -> None:
    code, _, errors = run("collect", "--out", tmp_path / "evidence", "--no-gpu")
    assert code == 1
    assert len(errors.strip().splitlines()) == 1
    assert "Traceback" not in errors
