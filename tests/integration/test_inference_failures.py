"""What happens when something is full, gone, broken or late: refused clearly, nothing lost."""

from __future__ import annotations

import asyncio
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import grpc
import pytest

from otr.commitment.v1 import commitment_pb2 as log_pb
from otr_client.client import Chunk, GenerationFailedError
from otr_client.models_at_hand import find_model
from otr_inference.main import build
from otr_inference.settings import Limits, Settings
from otr_numerics.model_file import load_model
from otr_protocol.errors import Refusal, UnauthenticatedError
from otr_protocol.statement import open_statement
from otr_protocol.tlog.entry import Entry, EntryKind
from otr_protocol.verify_answer import TimeBasis
from otr_server.channel import classify_handshake, open_channel
from otr_server.dev_pki import make_dev_pki
from otr_server.settings import read_settings
from otr_server.status import reason_of, retry_after_ms_of
from support.stack import MODEL, Stack, raw, running_stack, until_serving


def inference(**settings: Any) -> Mapping[str, Mapping[str, Any]]:
    return {"inference": settings}


async def logged_statements(stack: Stack) -> list[bytes]:
    """Payload hashes of the statements in the log, in its order."""
    async with stack.stub("commitment", role="watcher") as stub:
        entries = (
            await stub.GetEntries(log_pb.GetEntriesRequest(from_index=0, max_entries=1024))
        ).entries
    decoded = [Entry.decode(each.entry) for each in entries]
    return [
        open_statement(entry.record).payload_hash
        for entry in decoded
        if entry.kind is EntryKind.STATEMENT
    ]


async def test_a_full_queue_says_when_to_come_back(tmp_path: Path) -> None:
    limits = Limits(max_running=1, max_waiting=1)
    async with running_stack(tmp_path, inference(limits=limits)) as stack:
        running = raw(max_tokens=480, ignore_eos=True)
        async with stack.stub("inference") as stub:
            first = stub.Generate(running.message())
            await first.read()  # it has its slot
            others = [stub.Generate(raw(max_tokens=4).message()) for _ in range(3)]

            async def refusal(call: Any) -> grpc.aio.AioRpcError | None:
                try:
                    async for _ in call:
                        pass
                except grpc.aio.AioRpcError as error:
                    return error
                return None

            errors = [error for error in await asyncio.gather(*map(refusal, others)) if error]
            first.cancel()
    assert errors
    assert {reason_of(error) for error in errors} == {"QUEUE_FULL"}
    assert {error.code() for error in errors} == {grpc.StatusCode.RESOURCE_EXHAUSTED}
    assert all((retry_after_ms_of(error) or 0) > 0 for error in errors)


async def test_answers_go_on_while_the_log_is_down_and_are_logged_once(tmp_path: Path) -> None:
    async with running_stack(tmp_path) as stack:
        before = await stack.answer(raw(), wait_receipt=True)
        await stack.stop("commitment")
        asks = [raw(f"Verse {n}") for n in range(3)]
        spooled = [await stack.answer(ask) for ask in asks]
        assert all(each.verified.time_basis is TimeBasis.OPERATOR for each in spooled)
        await stack.start("commitment")
        async with stack.client() as client:
            for ask in asks:
                answer, registered = await client.receipt(ask, wait_ms=20_000)
                assert registered
                assert client.check(ask, answer).receipt is not None
        expected = [each.verified.signed.payload_hash for each in (before, *spooled)]
        assert await logged_statements(stack) == expected


async def test_answers_survive_a_restart_and_seq_is_not_reused(tmp_path: Path) -> None:
    async with running_stack(tmp_path) as stack:
        ask = raw()
        first = await stack.answer(ask)
        await stack.stop("inference")
        await stack.start("inference")
        again = await stack.answer(ask)
        assert again.verified.signed.signed == first.verified.signed.signed
        later = await stack.answer(raw("Another verse"))
        old, new = first.verified.statement, later.verified.statement
        assert (old.session_key, old.seq) != (new.session_key, new.seq)
        assert new.seq == 0  # a key that died with its process is never signed with again


async def test_a_full_disk_refuses_what_is_new_and_keeps_what_was_given(tmp_path: Path) -> None:
    async with running_stack(tmp_path, inference(max_database_bytes=400_000)) as stack:
        given = []
        for number in range(400):
            ask = raw(f"Verse {number}", max_tokens=2)
            try:
                given.append((ask, await stack.answer(ask)))
            except (grpc.aio.AioRpcError, GenerationFailedError):
                break
        assert 0 < len(given) < 400
        with pytest.raises(grpc.aio.AioRpcError) as caught:
            await stack.answer(raw("One more"))
        assert reason_of(caught.value) == "STORAGE_FULL"
        assert caught.value.code() is grpc.StatusCode.RESOURCE_EXHAUSTED
        async with stack.client() as client:
            for ask, answer in (given[0], given[-1]):
                kept, _ = await client.receipt(ask, wait_ms=0)
                assert client.check(ask, kept).signed == answer.verified.signed


async def test_a_drain_finishes_the_answer_in_flight(tmp_path: Path) -> None:
    async with running_stack(tmp_path) as stack:
        ask = raw(max_tokens=300, ignore_eos=True)
        async with stack.client() as client:
            draining: asyncio.Task[None] | None = None
            completed = None
            async for event in client.generate(ask):
                if draining is None:
                    draining = asyncio.create_task(stack.stop("inference"))
                if not isinstance(event, Chunk):
                    completed = event
            assert draining is not None
            await draining
        assert completed is not None
        assert len(completed.verified.blob.output_ids) == 300


async def test_without_the_verifier_nothing_is_signed(tmp_path: Path) -> None:
    async with running_stack(tmp_path) as stack:
        await stack.stop("inference")
        await stack.stop("attestation")
        settings = read_settings(Settings, stack.directory.config_file("inference"), {})
        built = await build(settings)
        built.worker.start()
        await built.process.start()
        stack.processes["inference"] = built.process
        with pytest.raises(grpc.aio.AioRpcError) as caught:
            await stack.answer(raw())
        assert reason_of(caught.value) == "NOT_ATTESTED"
        assert not built.process.serving
        await stack.start("attestation")
        await until_serving(built.process)
        assert (await stack.answer(raw())).verified.statement.seq == 0


async def test_corrupt_weights_refuse_to_start_and_name_the_tensor(tmp_path: Path) -> None:
    async with running_stack(tmp_path / "stack") as stack:
        copy = tmp_path / "model"
        genuine = find_model(MODEL).directory
        shutil.copytree(genuine, copy)
        weights = copy / "int8.safetensors"
        data = bytearray(weights.read_bytes())
        data[-5000] ^= 1
        weights.write_bytes(data)
        settings = read_settings(
            Settings,
            stack.directory.config_file("inference"),
            {"OTR__MODEL_DIR": str(copy)},
        )
        with pytest.raises(Refusal) as caught:
            await build(settings)
    assert caught.value.reason == "MODEL_CORRUPT"
    assert caught.value.field
    with pytest.raises(Refusal):
        load_model(copy, load_model(genuine).model_id)


@pytest.mark.parametrize("certificate", ["missing", "foreign"])
async def test_no_or_a_foreign_certificate_is_unauthenticated(
    tmp_path: Path, certificate: str
) -> None:
    async with running_stack(tmp_path / "stack") as stack:
        ours = stack.directory.client_tls()
        foreign = make_dev_pki(tmp_path / "foreign", [("client", "local")])
        theirs = foreign.client_tls("client", "local")
        files = (
            {"certificate_file": None, "key_file": None}
            if certificate == "missing"
            else {"certificate_file": theirs.certificate_file, "key_file": theirs.key_file}
        )
        tls = type(ours)(ca_file=ours.ca_file, trust_domain=ours.trust_domain, **files)
        target = stack.directory.target("inference")
        async with open_channel(target, tls, "inference") as channel:
            call = channel.unary_unary("/otr.inference.v1.InferenceService/GetServerInfo")
            with pytest.raises(grpc.aio.AioRpcError) as caught:
                await call(b"")
        refusal = await classify_handshake(caught.value, target, tls, "inference")
    assert isinstance(refusal, UnauthenticatedError)
