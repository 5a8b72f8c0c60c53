"""Nobody makes an operator sign for more than it chose, nor takes the room of everybody else."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import grpc
import pytest

from otr.inference.v1 import inference_pb2 as pb
from otr_inference.exposure import ExposureBudget, ExposureExhaustedError
from otr_inference.settings import Limits
from otr_protocol.statement import open_statement
from otr_server.settings import SettingsError, load_settings
from otr_server.status import field_of, reason_of, retry_after_ms_of
from support.stack import Stack, raw, running_stack

LIMITS = Limits(max_declared_value=100, max_client_exposure=150, max_session_exposure=200)


async def complete(stack: Stack, value: int, role: str = "client") -> pb.GenerateComplete:
    request = raw(max_tokens=2, declared_value=value).message()
    async with stack.stub("inference", role=role) as stub:
        async for message in stub.Generate(request):
            if message.WhichOneof("response") == "complete":
                return message.complete
    raise AssertionError("the stream ends with complete or raises")


async def refused(stack: Stack, value: int, role: str = "client") -> grpc.aio.AioRpcError:
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await complete(stack, value, role)
    return caught.value


async def test_a_value_beyond_what_the_operator_takes_poisons_nothing(tmp_path: Path) -> None:
    async with running_stack(tmp_path, {"inference": {"limits": LIMITS}}) as stack:
        for value in (2**63 - 1, 101):
            error = await refused(stack, value)
            assert error.code() is grpc.StatusCode.INVALID_ARGUMENT
            assert field_of(error) == "declared_value"
        await complete(stack, 100)
        # The client's share is used up before anything is computed, and not by anybody else.
        error = await refused(stack, 51)
        assert error.code() is grpc.StatusCode.RESOURCE_EXHAUSTED
        assert reason_of(error) == "EXPOSURE_EXHAUSTED"
        assert (retry_after_ms_of(error) or 0) > 0
        await complete(stack, 50)
        await complete(stack, 50, role="watcher")
        assert reason_of(await refused(stack, 1, role="operator")) == "EXPOSURE_EXHAUSTED"
        # What declares no value needs no room, and the sum is what was signed for.
        last = open_statement((await complete(stack, 0)).statement).statement
        assert (last.seq, last.exposure, last.cumulative_exposure) == (3, 0, 200)


def test_what_was_not_signed_for_is_given_back_once() -> None:
    budget = ExposureBudget(LIMITS)
    reserved = budget.reserve(b"key", "a", 100, retry_after_ms=1)
    with pytest.raises(ExposureExhaustedError):
        budget.reserve(b"key", "a", 100, retry_after_ms=1)
    reserved.give_back()
    reserved.give_back()
    budget.reserve(b"key", "a", 100, retry_after_ms=1)
    with pytest.raises(ExposureExhaustedError):
        budget.reserve(b"key", "a", 100, retry_after_ms=1)


def test_a_new_session_has_the_whole_room_and_an_old_one_gives_back_its_own() -> None:
    budget = ExposureBudget(LIMITS)
    old = budget.reserve(b"old", "a", 100, retry_after_ms=1)
    budget.reserve(b"new", "a", 100, retry_after_ms=1)
    old.give_back()
    with pytest.raises(ExposureExhaustedError):
        budget.reserve(b"new", "a", 100, retry_after_ms=1)


@pytest.mark.parametrize(
    "limits",
    [
        {"max_declared_value": -1},
        {"max_declared_value": 11, "max_client_exposure": 10},
        {"max_client_exposure": 11, "max_session_exposure": 10},
        {"max_session_exposure": 2**63},
    ],
)
def test_limits_under_which_a_sum_could_leave_its_field_are_refused(
    limits: Mapping[str, Any],
) -> None:
    small = {"max_declared_value": 1, "max_client_exposure": 2, "max_session_exposure": 3}
    with pytest.raises(SettingsError):
        load_settings(Limits, {**small, **limits})
