"""The SDK sends a prompt only over a channel that ends at the attested TLS key (AT-23)."""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path

import grpc
import pytest
import pytest_asyncio

from otr_client.client import Client, Completed
from otr_protocol.errors import Refusal
from support.interception import impostor, relay
from support.stack import Stack, raw, running_stack


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def stack(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Stack]:
    async with running_stack(tmp_path_factory.mktemp("stack")) as running:
        yield running


pytestmark = pytest.mark.asyncio(loop_scope="module")


def client(stack: Stack, target: str, **options: bool) -> Client:
    directory = stack.directory
    return Client(target, directory.client_tls(), directory.roots(), **options)


async def ask(client: Client) -> Completed:
    async with client:
        async for event in client.generate(raw("a secret", max_tokens=4)):
            if isinstance(event, Completed):
                return event
    raise AssertionError("generate() ends with Completed or raises")


async def test_the_honest_server_is_asked(stack: Stack) -> None:
    target = stack.directory.target("inference")
    async with client(stack, target) as asker:
        result = await asker.attest()
        assert result is not None
        assert result.operator_id == stack.directory.operator_id()
    assert (await ask(client(stack, target))).verified.statement.output_count == 4


async def test_whoever_only_passes_bytes_on_changes_nothing(stack: Stack) -> None:
    async with relay(lambda number: stack.directory.target("inference")) as target:
        assert (await ask(client(stack, target))).verified.statement.output_count == 4


async def test_somebody_between_with_a_good_certificate_sees_no_prompt(
    stack: Stack, tmp_path: Path
) -> None:
    async with impostor(stack, tmp_path / "impostor") as (seen, target):
        with pytest.raises(Refusal) as caught:
            await ask(client(stack, target))
        assert caught.value.reason == "TLS_KEY_NOT_ATTESTED"
        assert seen.attestations == 1
        assert seen.prompts == []


async def test_without_the_check_somebody_between_reads_the_prompt(
    stack: Stack, tmp_path: Path
) -> None:
    async with impostor(stack, tmp_path / "impostor") as (seen, target):
        await ask(client(stack, target, require_attested_channel=False))
        assert [request.text for request in seen.prompts] == ["a secret"]


async def test_somebody_who_steps_in_after_the_first_handshake_sees_nothing(
    stack: Stack, tmp_path: Path
) -> None:
    async with impostor(stack, tmp_path / "impostor") as (seen, theirs):
        ours = stack.directory.target("inference")
        async with relay(lambda number: ours if number == 0 else theirs) as target:
            with pytest.raises(Refusal) as caught:
                await ask(client(stack, target))
        # Dialled again, it is the impostor from the start, and is known by its key.
        assert caught.value.reason == "TLS_KEY_NOT_ATTESTED"
        assert seen.prompts == []


async def test_somebody_who_steps_in_whenever_a_channel_is_opened_sees_nothing(
    stack: Stack, tmp_path: Path
) -> None:
    async with impostor(stack, tmp_path / "impostor") as (seen, theirs):
        ours = stack.directory.target("inference")
        first = True

        def choose(number: int) -> str:
            # The handshake that looks at the certificate is the first of each round.
            nonlocal first
            chosen, first = (ours if first else theirs), not first
            return chosen

        async with relay(choose) as target:
            with pytest.raises((Refusal, grpc.aio.AioRpcError)):
                await ask(client(stack, target))
        assert seen.prompts == []


async def test_somebody_who_shows_only_the_first_certificate_is_passed_by(
    stack: Stack, tmp_path: Path
) -> None:
    async with impostor(stack, tmp_path / "impostor") as (seen, theirs):
        ours = stack.directory.target("inference")
        async with relay(lambda number: theirs if number == 0 else ours) as target:
            assert (await ask(client(stack, target))).verified.statement.output_count == 4
        assert (seen.attestations, seen.prompts) == (0, [])


async def test_a_channel_without_tls_is_not_attested(stack: Stack) -> None:
    plain = Client("127.0.0.1:1", None, stack.directory.roots())
    with pytest.raises(Refusal) as caught:
        await ask(plain)
    assert caught.value.reason == "CHANNEL_NOT_ATTESTABLE"


async def test_nobody_there_is_said_so(stack: Stack) -> None:
    with pytest.raises(Refusal) as caught:
        await ask(client(stack, "127.0.0.1:1"))
    assert caught.value.reason == "UNREACHABLE"
