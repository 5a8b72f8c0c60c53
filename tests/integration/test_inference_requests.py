"""What a stranger can get wrong in a request, each refused by name; what idempotency promises."""

from __future__ import annotations

import asyncio
import sqlite3
import time
from collections.abc import AsyncIterator, Callable
from typing import Any

import grpc
import pytest
import pytest_asyncio

from otr.inference.v1 import inference_pb2 as pb
from otr_client.models_at_hand import find_model
from otr_numerics.engine import Engine
from otr_numerics.generation import generate
from otr_numerics.model_file import load_model
from otr_protocol.output import Finish
from otr_protocol.verify_answer import TimeBasis, verify_answer
from otr_server.channel import open_channel
from otr_server.status import field_of, reason_of
from support.stack import MODEL, Stack, raw, running_stack

pytestmark = pytest.mark.asyncio(loop_scope="module")

INVALID = grpc.StatusCode.INVALID_ARGUMENT


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def stack(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Stack]:
    async with running_stack(tmp_path_factory.mktemp("stack")) as running:
        yield running


async def refused(stack: Stack, request: pb.GenerateRequest) -> grpc.aio.AioRpcError:
    """The refusal of a request, which must come before any token."""
    async with stack.stub("inference") as stub:
        with pytest.raises(grpc.aio.AioRpcError) as caught:
            await stub.Generate(request).read()
    return caught.value


def set_field(name: str, value: Any) -> Callable[[pb.GenerateRequest], None]:
    def change(request: pb.GenerateRequest) -> None:
        target, *rest = name.split(".")
        holder: Any = request
        for part in rest:
            holder, target = getattr(holder, target), part
        if isinstance(value, list):
            getattr(holder, target).extend(value)
        else:
            setattr(holder, target, value)

    return change


BAD = [
    ("request_id", set_field("request_id", b"short"), "request_id"),
    ("client_nonce", set_field("client_nonce", b"n" * 65), "client_nonce"),
    ("salt", set_field("salt", b"s" * 31), "salt"),
    ("unknown model", set_field("model", "gpt-9"), "model"),
    ("empty prompt", set_field("text", ""), "text"),
    ("no prompt", lambda request: request.ClearField("text"), "input"),
    ("empty ids", lambda request: request.tokenized.SetInParent(), "tokenized.input_token_ids"),
    (
        "id outside the vocabulary",
        set_field("tokenized.input_token_ids", [2048]),
        "tokenized.input_token_ids",
    ),
    (
        "over-long prompt",
        set_field("tokenized.input_token_ids", [1] * 600),
        "tokenized.input_token_ids",
    ),
    ("chat role", lambda request: request.chat.messages.add(role="root"), "chat.messages.role"),
    ("no tokens", set_field("max_tokens", 0), "max_tokens"),
    ("too many tokens", set_field("max_tokens", 1 << 20), "max_tokens"),
    ("negative temperature", set_field("sampling_config.temperature", -1.0), None),
    ("infinite temperature", set_field("sampling_config.temperature", float("inf")), None),
    ("nan temperature", set_field("sampling_config.temperature", float("nan")), None),
    ("temperature near zero", set_field("sampling_config.temperature", 1e-300), None),
    ("stop id", set_field("stop_token_ids", [1 << 20]), "stop_token_ids"),
    ("long stop string", set_field("stop", ["x" * 257]), "stop_strings"),
    ("many stop strings", set_field("stop", [str(n) for n in range(17)]), "stop_strings"),
    ("over-long text", set_field("text", "word " * 200_000), "text"),
    ("many recipients", set_field("recipients", [b"r" * 32] * 17), "recipients"),
    ("value beyond bounds", set_field("declared_value", 2**63 - 1), "declared_value"),
    ("negative value", set_field("declared_value", -1), "declared_value"),
    ("recipient", set_field("recipients", [b"short"]), "recipients"),
    ("receipt wait", set_field("receipt_timeout_ms", -1), "receipt_timeout_ms"),
]


@pytest.mark.parametrize(("change", "field"), [pytest.param(c, f, id=n) for n, c, f in BAD])
async def test_a_bad_request_is_refused_by_the_name_of_its_field(
    stack: Stack, change: Callable[[pb.GenerateRequest], None], field: str | None
) -> None:
    request = raw().message()
    change(request)
    error = await refused(stack, request)
    assert error.code() is INVALID, error.details()
    assert field_of(error) == (field or "sampling_config.temperature")


async def test_top_p_outside_its_range_is_refused(stack: Stack) -> None:
    request = raw(temperature=1.0).message()
    request.sampling_config.ClearField("top_p_q16")
    request.sampling_config.top_p = 1.5
    error = await refused(stack, request)
    assert (error.code(), field_of(error)) == (INVALID, "sampling_config.top_p")


async def test_text_that_is_not_utf8_is_refused(stack: Stack) -> None:
    request = raw("MARKER").message().SerializeToString().replace(b"MARKER", b"MARK\xff\xfe")
    tls = stack.directory.client_tls()
    async with open_channel(stack.directory.target("inference"), tls, "inference") as channel:
        call = channel.unary_stream("/otr.inference.v1.InferenceService/Generate")
        with pytest.raises(grpc.aio.AioRpcError) as caught:
            await call(request).read()
    assert caught.value.code() is INVALID


async def test_a_voucher_is_refused_as_long_as_nobody_countersigns(stack: Stack) -> None:
    request = raw().message()
    request.voucher = b"voucher"
    assert reason_of(await refused(stack, request)) == "VOUCHERS_NOT_ACCEPTED"


async def test_the_float_profile_is_not_served(stack: Stack) -> None:
    request = raw().message()
    request.profile = pb.NUMERICS_PROFILE_FLOAT
    assert reason_of(await refused(stack, request)) == "PROFILE_NOT_SERVED"


async def test_an_unbuilt_method_is_unimplemented(stack: Stack) -> None:
    async with stack.stub("inference") as stub:
        with pytest.raises(grpc.aio.AioRpcError) as caught:
            await stub.OpenTrace(pb.OpenTraceRequest())
    assert caught.value.code() is grpc.StatusCode.UNIMPLEMENTED


async def test_the_same_request_again_gets_the_same_statement(stack: Stack) -> None:
    ask = raw()
    first = await stack.answer(ask)
    again = await stack.answer(ask)
    assert again.verified.signed.signed == first.verified.signed.signed


async def test_the_same_request_at_the_same_time_gets_the_same_statement(stack: Stack) -> None:
    ask = raw(max_tokens=64)
    answers = await asyncio.gather(*(stack.answer(ask) for _ in range(4)))
    assert len({answer.verified.signed.signed for answer in answers}) == 1


async def test_a_used_request_id_with_other_bytes_is_a_conflict(stack: Stack) -> None:
    ask = raw()
    await stack.answer(ask)
    request = ask.message()
    request.max_tokens += 1
    error = await refused(stack, request)
    assert error.code() is grpc.StatusCode.ALREADY_EXISTS
    assert field_of(error) == "request_id"


async def test_concurrent_answers_equal_those_given_alone(stack: Stack) -> None:
    asks = [raw(f"Chapter {n}", max_tokens=24, temperature=0.8) for n in range(7)]
    answers = await asyncio.gather(*(stack.answer(ask) for ask in asks))
    loaded = load_model(find_model(MODEL).directory)
    engine = Engine(loaded, slots=1, max_positions=256)
    for ask, answer in zip(asks, answers, strict=True):
        alone = generate(engine, loaded, answer.verified.blob.request, ask.salt)
        assert alone.output_ids == answer.verified.blob.output_ids
        assert alone.trace.trace_root() == answer.verified.statement.trace_root


async def test_a_client_that_leaves_is_owed_a_statement_for_what_was_streamed(
    stack: Stack,
) -> None:
    ask = raw(max_tokens=480, ignore_eos=True)
    async with stack.stub("inference") as stub:
        call = stub.Generate(ask.message())
        async for message in call:
            assert message.WhichOneof("response") == "chunk"
            break
        call.cancel()
        async with asyncio.timeout(10):
            while (await stub.GetServerInfo(pb.GetServerInfoRequest())).running:  # noqa: ASYNC110
                await asyncio.sleep(0.01)
        # The id stays taken until the partial answer is sealed; asking again waits for that.
        completed = None
        async for message in stub.Generate(ask.message()):
            completed = message.complete
    assert completed is not None
    verified = verify_answer(completed.answer, stack.directory.roots(), time.time_ns() // 1_000_000)
    ask.require_answered(verified, cancelled=True)
    assert verified.blob.finish is Finish.CANCELLED
    assert 0 < len(verified.blob.output_ids) < 480
    async with stack.stub("inference") as stub:
        info = await stub.GetServerInfo(pb.GetServerInfoRequest())
    assert (info.running, info.waiting) == (0, 0)


async def test_an_answer_goes_on_while_somebody_still_waits_for_it(stack: Stack) -> None:
    request = raw(max_tokens=200, ignore_eos=True).message()
    async with stack.stub("inference") as broken, stack.stub("inference") as again:
        first = broken.Generate(request)
        await first.read()  # it is being answered
        second = again.Generate(request)
        waiting = asyncio.create_task(second.read())
        await asyncio.sleep(0.1)  # the server knows the second call before the first one's end
        first.cancel()
        async with asyncio.timeout(30):
            message = await waiting
    assert message.complete.completion_tokens == 200
    assert message.complete.finish_reason == pb.FINISH_REASON_LENGTH


async def test_a_caller_is_served_when_the_first_one_left_before_the_answer_began(
    stack: Stack,
) -> None:
    request = raw(max_tokens=4).message()
    database = stack.directory.root / "data" / "inference" / "inference.sqlite"
    lock = sqlite3.connect(database, isolation_level=None)
    lock.execute("BEGIN IMMEDIATE")  # the disk is busy: nobody is admitted
    async with stack.stub("inference") as broken, stack.stub("inference") as again:
        first = broken.Generate(request)
        leaving = asyncio.create_task(first.read())
        await asyncio.sleep(0.2)
        waiting = asyncio.create_task(again.Generate(request).read())
        await asyncio.sleep(0.2)
        first.cancel()
        await asyncio.wait([leaving])
        await asyncio.sleep(0.2)
        lock.execute("ROLLBACK")
        lock.close()
        async with asyncio.timeout(10):
            message = await waiting
    assert message.complete.completion_tokens == 4


async def test_abort_stops_a_running_answer(stack: Stack) -> None:
    ask = raw(max_tokens=480, ignore_eos=True)
    abort = pb.AbortRequest(request_id=ask.request_id)
    async with stack.stub("inference") as stub:
        stream = stub.Generate(ask.message())
        await stream.read()
        assert (await stub.Abort(abort)).was_running
        async for message in stream:
            last = message
        assert last.complete.finish_reason == pb.FINISH_REASON_CANCELLED
        assert last.complete.completion_tokens < 480
        assert not (await stub.Abort(abort)).was_running


async def test_a_receipt_that_was_waited_for_is_in_the_answer(stack: Stack) -> None:
    answer = await stack.answer(raw(), wait_receipt=True)
    assert answer.verified.time_basis is TimeBasis.LOG


async def test_stop_strings_end_the_answer_and_are_part_of_it(stack: Stack) -> None:
    answer = await stack.answer(raw(max_tokens=64, stop=[" camp"]))
    assert answer.verified.blob.finish is Finish.STOP_STRING
    assert answer.text.endswith(" camp")


async def test_an_answer_is_told_only_to_who_asked(stack: Stack) -> None:
    ask = raw()
    await stack.answer(ask)
    async with stack.stub("inference", role="watcher") as stub:
        with pytest.raises(grpc.aio.AioRpcError) as caught:
            await stub.GetAnswer(pb.GetAnswerRequest(request_id=ask.request_id))
    assert reason_of(caught.value) == "ANSWER_UNKNOWN"


@pytest.mark.parametrize("length", [0, 15, 65])
async def test_abort_and_get_answer_refuse_what_is_no_request_id(stack: Stack, length: int) -> None:
    request_id = b"i" * length
    async with stack.stub("inference") as stub:
        for call in (
            stub.Abort(pb.AbortRequest(request_id=request_id)),
            stub.GetAnswer(pb.GetAnswerRequest(request_id=request_id)),
        ):
            with pytest.raises(grpc.aio.AioRpcError) as caught:
                await call
            assert (caught.value.code(), field_of(caught.value)) == (INVALID, "request_id")
