"""What a stranger may send is bounded before it is copied, tokenized or looked up."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from otr.inference.v1 import inference_pb2 as pb
from otr_client.request import Ask
from otr_inference.wire import Bounds, RequestInvalidError, asked, request_id

BOUNDS = Bounds(prompt_tokens=100, prompt_bytes=1_500, declared_value=10**9)


def message() -> pb.GenerateRequest:
    """A request that is well formed."""
    return Ask("In the beginning", raw=True, max_tokens=4).message()


def chat(*contents: str) -> Callable[[pb.GenerateRequest], None]:
    def change(request: pb.GenerateRequest) -> None:
        for content in contents:
            request.chat.messages.add(role="user", content=content)

    return change


TOO_MUCH: list[tuple[str, Callable[[pb.GenerateRequest], object]]] = [
    ("text", lambda request: setattr(request, "text", "x" * 1_501)),
    ("text", lambda request: setattr(request, "text", "\u00e9" * 751)),
    ("chat.messages.content", chat("x" * 1_000, "x" * 501)),
    (
        "tokenized.input_token_ids",
        lambda request: request.tokenized.input_token_ids.extend([1] * 101),
    ),
    ("stop_strings", lambda request: request.stop.extend(["x"] * 17)),
    ("stop_token_ids", lambda request: request.stop_token_ids.extend([1] * 65)),
    ("recipients", lambda request: request.recipients.extend([b"r" * 32] * 17)),
]


@pytest.mark.parametrize(
    ("field", "change"), [pytest.param(f, c, id=f"{n}-{f}") for n, (f, c) in enumerate(TOO_MUCH)]
)
def test_too_much_of_a_field_is_refused_by_its_name(
    field: str, change: Callable[[pb.GenerateRequest], object]
) -> None:
    request = message()
    change(request)
    with pytest.raises(RequestInvalidError) as caught:
        asked(request, BOUNDS)
    assert caught.value.field == field


def test_as_much_as_is_served_is_taken() -> None:
    request = message()
    request.text = "x" * 1_500
    assert asked(request, BOUNDS).text == "x" * 1_500
    request.tokenized.input_token_ids.extend([1] * 100)
    assert asked(request, BOUNDS).prompt_ids == (1,) * 100


@pytest.mark.parametrize("length", [0, 15, 65])
def test_a_request_id_of_another_length_is_refused(length: int) -> None:
    with pytest.raises(RequestInvalidError) as caught:
        request_id(b"i" * length)
    assert caught.value.field == "request_id"
