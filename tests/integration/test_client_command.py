"""The command `otr` as a person and a script meet it: exit codes, JSON, one line per mistake."""

from __future__ import annotations

import asyncio
import json
import sys
from collections.abc import AsyncIterator
from dataclasses import dataclass, replace
from pathlib import Path

import pytest
import pytest_asyncio

from otr_client.cli.generate import text_notes
from otr_client.cli.output import CommandFailedError
from otr_client.client import Client, Completed
from otr_client.request import Ask
from otr_client.stack.directory import StackDirectory
from support.stack import running_stack

pytestmark = pytest.mark.asyncio(loop_scope="module")

NOWHERE = Path("nowhere")
COMMAND = "import sys; from otr_client.cli.app import main; sys.argv[0] = 'otr'; main()"


@dataclass(frozen=True)
class Ran:
    code: int
    out: str
    err: str

    @property
    def document(self) -> dict[str, object]:
        loaded = json.loads(self.out)
        assert isinstance(loaded, dict)
        return loaded


async def otr(*arguments: str | Path) -> Ran:
    process = await asyncio.create_subprocess_exec(
        sys.executable,
        "-c",
        COMMAND,
        *map(str, arguments),
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
    )
    async with asyncio.timeout(60):
        out, err = await process.communicate()
    assert b"Traceback" not in err, err.decode()
    return Ran(process.returncode or 0, out.decode(), err.decode())


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def stack_dir(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Path]:
    root = tmp_path_factory.mktemp("stack")
    async with running_stack(root):
        yield root


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def answer(stack_dir: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    file = tmp_path_factory.mktemp("answers") / "answer.otr"
    ran = await otr(
        "generate", "In the beginning", "--raw", "--dir", stack_dir, "--max-tokens", "12",
        "--wait-receipt", "--out", file, "--json",
    )  # fmt: skip
    assert ran.code == 0, ran.err
    assert ran.document["verified"] is True
    assert ran.document["time_basis"] == "log"
    return file


async def test_a_genuine_answer_verifies_with_exit_code_0(stack_dir: Path, answer: Path) -> None:
    ran = await otr("verify", answer, "--dir", stack_dir, "--require-receipt", "--json")
    assert (ran.code, ran.document["verified"]) == (0, True)
    people = await otr("verify", answer, "--dir", stack_dir)
    assert people.code == 0
    assert "verified" in people.out


async def test_a_changed_answer_names_the_failed_check_with_exit_code_1(
    stack_dir: Path, answer: Path, tmp_path: Path
) -> None:
    changed = with_one_bit_changed(answer, tmp_path / "changed.otr")
    ran = await otr("verify", changed, "--dir", stack_dir, "--json")
    assert (ran.code, ran.document["verified"]) == (1, False)
    assert ran.document["failed_check"] == "statement_signature"
    people = await otr("verify", changed, "--dir", stack_dir)
    assert people.code == 1
    assert "statement_signature" in people.out


async def test_an_answer_shows_its_parts(answer: Path) -> None:
    ran = await otr("inspect", answer, "--model", "otr-tiny", "--json")
    assert ran.code == 0
    text = ran.document["text"]
    assert isinstance(text, dict)
    assert text["prompt"].endswith("In the beginning")


async def test_tokens_appear_as_they_come(stack_dir: Path) -> None:
    ran = await otr(
        "generate", "In the beginning", "--raw", "--dir", stack_dir, "--temperature", "0.7",
        "--top-k", "40", "--seed", "7", "--max-tokens", "8",
    )  # fmt: skip
    assert ran.code == 0
    assert ran.out.strip()
    assert "verified" in ran.err


def with_one_bit_changed(answer: Path, changed: Path) -> Path:
    data = bytearray(answer.read_bytes())
    data[200] ^= 1
    changed.write_bytes(data)
    return changed


def was_made(directory: Path) -> bool:
    return directory.exists()


MISTAKES = [
    ("a file that is not there", ("verify", "nowhere.otr"), 2),
    ("an unknown command", ("frobnicate",), 2),
    ("an unknown option", ("verify", "--frobnicate"), 2),
    ("a stack that is not there", ("generate", "hello", "--dir", "nowhere"), 1),
    ("an unknown model", ("up", "--model", "gpt-9"), 1),
    ("a model that cannot be fetched", ("model", "fetch", "gpt-9"), 2),
    ("an absurd temperature", ("generate", "hello", "--temperature", "-1"), 2),
]


@pytest.mark.parametrize(("arguments", "code"), [pytest.param(a, c, id=n) for n, a, c in MISTAKES])
async def test_a_mistake_is_answered_without_a_traceback(
    arguments: tuple[str, ...], code: int
) -> None:
    ran = await otr(*arguments)
    assert ran.code == code
    assert ran.err.strip()
    assert not was_made(NOWHERE)


async def test_a_request_the_server_refuses_names_its_reason(stack_dir: Path) -> None:
    ran = await otr("generate", "hello", "--raw", "--dir", stack_dir, "--model", "gpt-9")
    assert ran.code == 1
    assert "MODEL_UNKNOWN" in ran.err


async def test_a_text_that_the_signed_ids_do_not_say_is_refused(stack_dir: Path) -> None:
    stack = StackDirectory(stack_dir)
    async with Client(stack.target("inference"), stack.client_tls(), stack.roots()) as client:
        events = [event async for event in client.generate(Ask("A transaction is", raw=True))]
    completed = events[-1]
    assert isinstance(completed, Completed)
    assert text_notes(completed) == ()
    with pytest.raises(CommandFailedError) as refused:
        text_notes(replace(completed, text=completed.text + " not"))
    assert refused.value.reason == "TEXT_DIFFERS"


async def test_the_bundled_model_verifies_and_is_shown() -> None:
    verified = await otr("model", "verify", "otr-tiny", "--json")
    assert (verified.code, verified.document["corrupt"]) == (0, [])
    shown = await otr("model", "inspect", "otr-tiny", "--json")
    assert shown.document["layers"] == 4


async def test_an_operator_delegates_beside_the_request(tmp_path: Path) -> None:
    from otr_protocol.identity import Delegation, open_delegation

    key = tmp_path / "operator.key"
    made = await otr("operator", "keygen", key)
    assert made.code == 0
    assert (await otr("operator", "keygen", key)).code == 1  # never overwritten
    public = bytes.fromhex(made.out.split("public key")[1].split()[0])
    asked = Delegation(public, b"s" * 32, "otr.local/log", 1 << 41)
    request = tmp_path / "session.request"
    request.write_bytes(asked.payload())
    assert (await otr("operator", "delegate", request, "--key", key, "--yes")).code == 0
    answered = open_delegation(request.with_suffix(".delegation").read_bytes())
    assert answered.delegation == asked
