"""Every outcome of the command `otr` has one exit code, one line, and with --json one object."""

from __future__ import annotations

import io
import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from otr_client.cli.app import main
from otr_protocol.identity import Delegation, open_delegation
from otr_protocol.trust import dump_roots
from support.answers import World, blob_of, request_of


class Ran:
    """What one run of the command left behind."""

    def __init__(self, code: int, out: str, err: str) -> None:
        self.code = code
        self.out = out
        self.err = err

    @property
    def document(self) -> dict[str, Any]:
        (line,) = self.out.splitlines()
        loaded = json.loads(line)
        assert isinstance(loaded, dict)
        return loaded


class Otr:
    """The command in this process: a new process per mistake would mostly import."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
        self._monkeypatch = monkeypatch
        self._capsys = capsys

    def __call__(self, *arguments: str | Path, typed: str = "") -> Ran:
        self._monkeypatch.setattr(sys, "argv", ["otr", *map(str, arguments)])
        self._monkeypatch.setattr(sys, "stdin", io.StringIO(typed))
        with pytest.raises(SystemExit) as ended:
            main()
        printed = self._capsys.readouterr()
        assert isinstance(ended.value.code, int)
        return Ran(ended.value.code, printed.out, printed.err)


@pytest.fixture
def otr(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path) -> Otr:
    monkeypatch.chdir(tmp_path)
    return Otr(monkeypatch, capsys)


@pytest.fixture
def answer(tmp_path: Path) -> Path:
    """A synthetic answer, well formed; its time is another than ours."""
    file = tmp_path / "answer.otr"
    file.write_bytes(World().answer(blob_of(request_of())).encode())
    return file


@pytest.fixture
def roots(tmp_path: Path) -> Path:
    file = tmp_path / "roots.json"
    file.write_text(dump_roots(World().roots()))
    return file


@pytest.fixture
def request_file(tmp_path: Path) -> Path:
    return tmp_path / "session.request"


def operator_key(otr: Otr, file: Path) -> bytes:
    return bytes.fromhex(otr("operator", "keygen", file).out.split()[2])


# Judged and not judged.


def test_a_refused_answer_is_code_1(otr: Otr, answer: Path, roots: Path) -> None:
    ran = otr("verify", answer, "--roots", roots, "--json")
    assert (ran.code, ran.document["ok"], ran.document["verified"]) == (1, False, False)
    assert ran.document["failed_check"]


def test_missing_roots_judge_nothing_and_name_the_option(otr: Otr, answer: Path) -> None:
    ran = otr("verify", answer, "--json")
    assert (ran.code, ran.document["reason"]) == (2, "ROOTS_UNREADABLE")
    assert "--roots" in ran.err


def test_malformed_roots_judge_nothing(otr: Otr, answer: Path) -> None:
    ran = otr("verify", answer, "--roots", answer, "--json")
    assert (ran.code, ran.document["ok"]) == (2, False)
    assert "verified" not in ran.document


def test_a_missing_answer_judges_nothing(otr: Otr, roots: Path) -> None:
    ran = otr("verify", "nowhere.otr", "--roots", roots, "--json")
    assert (ran.code, ran.document["reason"]) == (2, "ANSWER_UNREADABLE")


def test_a_closed_output_judges_nothing(
    otr: Otr, answer: Path, roots: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sys, "stdout", None)
    ran = otr("verify", answer, "--roots", roots, "--json")
    assert ran.code == 2
    assert "OUTPUT_CLOSED" in ran.err


def test_a_reader_who_goes_away_is_no_verdict(answer: Path, roots: Path) -> None:
    reading, writing = os.pipe()
    os.close(reading)
    command = [sys.executable, "-c", "from otr_client.cli.app import main; main()", "verify"]
    for form in ([], ["--json"]):
        ran = subprocess.run(
            [*command, answer, "--roots", roots, *form],
            stdout=writing,
            stderr=subprocess.PIPE,
            timeout=60,
        )
        assert (ran.returncode, ran.stderr) == (2, b"")
    os.close(writing)


# Mistakes.

ASK = ("generate", "hello", "--dir", "nowhere", "--json")
ASKED_WRONG = {
    "a seed without a temperature": ("--seed", "7"),
    "top-k without a temperature": ("--top-k", "3"),
    "top-p without a temperature": ("--top-p", "0.5"),
    "more tokens than a request may ask for": ("--max-tokens", "99999999999"),
    "a temperature that no integer encodes": ("--temperature", "1e-320"),
    "a system message that is not UTF-8": ("--system", "\udcff"),
    "a stop string that is not UTF-8": ("--stop", "\udcff"),
}


@pytest.mark.parametrize("options", ASKED_WRONG.values(), ids=ASKED_WRONG)
def test_a_request_that_none_may_make_is_refused(otr: Otr, options: tuple[str, ...]) -> None:
    ran = otr(*ASK, *options)
    assert (ran.code, ran.document["reason"]) == (1, "ASK_INVALID")


@pytest.mark.parametrize("target", ["garbage", "http://x:y", "http://x:1", "x:0", "x:99999"])
def test_a_target_is_host_and_port(otr: Otr, target: str) -> None:
    ran = otr(*ASK, "--target", target)
    assert (ran.code, ran.document["reason"]) == (2, "TARGET_INVALID")


def test_a_target_without_the_rest_says_what_is_missing(otr: Otr, roots: Path) -> None:
    ran = otr(*ASK, "--target", "127.0.0.1:1", "--roots", roots)
    assert ran.document["reason"] == "OPTIONS_MISSING"
    message = ran.document["message"]
    assert "--tls-dir" in message
    assert "--roots" not in message


@pytest.mark.parametrize("place", ["nowhere/a.otr", ".", "sealed/a.otr"])
def test_a_file_that_cannot_be_written_is_refused_before_asking(
    otr: Otr, tmp_path: Path, place: str
) -> None:
    (tmp_path / "sealed").write_text("no directory")
    ran = otr(*ASK, "--out", place)
    assert (ran.code, ran.document["reason"]) == (2, "OUT_NOT_WRITABLE")


def test_another_models_text_is_not_shown(otr: Otr, answer: Path) -> None:
    ran = otr("inspect", answer, "--model", "otr-tiny", "--json")
    assert (ran.code, ran.document["reason"]) == (1, "ANOTHER_MODEL")


def test_an_unknown_model_is_answered_with_the_known_ones(otr: Otr, tmp_path: Path) -> None:
    unknown = otr("model", "inspect", "nope", "--json").document["message"]
    assert "otr-tiny, smollm2" in unknown
    assert "manifest.cbor" in otr("model", "inspect", tmp_path, "--json").document["message"]
    missing = otr("model", "inspect", tmp_path / "x", "--json").document["message"]
    assert missing == f"no directory {tmp_path / 'x'}"


@pytest.mark.parametrize(
    "options",
    [("--port", "99999"), ("--port", "-5"), ("--window-seconds", "-3"), ("--threads", "0")],
)
def test_up_refuses_numbers_out_of_range(otr: Otr, options: tuple[str, str]) -> None:
    ran = otr("up", *options)
    assert ran.code == 2
    assert options[0] in ran.err


def test_a_key_in_no_directory_is_named_as_it_was_given(otr: Otr, tmp_path: Path) -> None:
    ran = otr("operator", "keygen", tmp_path / "nowhere" / "key")
    assert ran.code == 2
    assert f"{tmp_path / 'nowhere' / 'key'}: No such file" in ran.err


WITHOUT_SERVICES = """
import sys
sys.modules.update(grpc_health=None, otr_inference=None)
from otr_client.cli.app import main
for arguments in (["verify", "--help"], ["up"], ["demo"]):
    sys.argv = ["otr", *arguments]
    try:
        main()
    except SystemExit as ended:
        print("code", ended.code)
"""


def test_asking_and_verifying_need_no_service_installed() -> None:
    ran = subprocess.run(
        [sys.executable, "-c", WITHOUT_SERVICES], capture_output=True, text=True, timeout=60
    )
    assert [line for line in ran.stdout.splitlines() if line.startswith("code")] == [
        "code 0",
        "code 2",
        "code 2",
    ]
    assert ran.stderr.count("otr-client[stack]") == 2


# What an operator signs.


@pytest.mark.parametrize("origin", ["evil.example[bold][/bold]/log", "x[/nope]", "log\u202egro"])
def test_an_operator_is_shown_what_is_signed(
    otr: Otr, tmp_path: Path, request_file: Path, origin: str
) -> None:
    key = tmp_path / "operator.key"
    public = operator_key(otr, key)
    request_file.write_bytes(Delegation(public, b"s" * 32, origin, 1 << 41).payload())
    ran = otr("operator", "delegate", request_file, "--key", key, typed="y\n")
    assert ran.code == 0
    assert origin.replace("\u202e", "\\u202e") in ran.out
    signed = open_delegation(request_file.with_suffix(".delegation").read_bytes())
    assert signed.delegation.log_origin == origin


@pytest.mark.parametrize("typed", ["", "n\n"])
def test_nothing_is_signed_without_a_yes(
    otr: Otr, tmp_path: Path, request_file: Path, typed: str
) -> None:
    key = tmp_path / "operator.key"
    asked = Delegation(operator_key(otr, key), b"s" * 32, "otr.local/log", 1 << 41)
    request_file.write_bytes(asked.payload())
    ran = otr("operator", "delegate", request_file, "--key", key, typed=typed)
    assert ran.code == 1
    assert not request_file.with_suffix(".delegation").exists()


@pytest.mark.parametrize("content", [b"", b"\xff\xfe\x00", b"ab" * 31, b"zz" * 32])
def test_a_file_that_is_no_key_is_refused(
    otr: Otr, tmp_path: Path, request_file: Path, content: bytes
) -> None:
    key = tmp_path / "operator.key"
    key.write_bytes(content)
    request_file.write_bytes(b"")
    ran = otr("operator", "delegate", request_file, "--key", key)
    assert ran.code == 2
    assert "KEY_FILE_INVALID" in ran.err


@pytest.mark.parametrize(
    "command",
    [
        ("up",), ("generate",), ("verify",), ("inspect",), ("demo",), ("model", "fetch"),
        ("model", "convert"), ("model", "inspect"), ("model", "verify"),
        ("operator", "keygen"), ("operator", "delegate"),
    ],
    ids=" ".join,
)  # fmt: skip
def test_every_command_shows_how_it_is_used(otr: Otr, command: tuple[str, ...]) -> None:
    ran = otr(*command, "--help")
    assert ran.code == 0
    shown = [line for line in ran.out.splitlines() if f"otr {' '.join(command)}" in line]
    examples = [line for line in shown if "Usage" not in line]
    assert examples
    assert all(line.count("otr ") <= 2 for line in examples)  # one a line
