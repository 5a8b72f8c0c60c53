"""Requests and output digests: one spelling, hashed as written down (spec/statement.md)."""

from __future__ import annotations

import hashlib
from typing import Any

import cbor2
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from otr_protocol.fields import FieldError
from otr_protocol.output import Finish, OutputOpening, finish_from_code, output_digest
from otr_protocol.request import (
    GREEDY,
    GenerationInput,
    Sampling,
    SamplingMode,
    generation_input,
    input_digest,
    sampling_from_record,
    seeded,
    sub_salt,
)
from otr_protocol.trace import id_root
from support.answers import SALT, request_of

# Almost every 31 bytes and a zero are a canonical key of large order.
RECIPIENTS = st.binary(min_size=31, max_size=31).map(lambda low: b"\x09" + low[:-1] + b"\x01")
IDS = st.lists(st.integers(0, 2**32 - 1), min_size=1, max_size=20)


def sha256(value: Any) -> bytes:
    return hashlib.sha256(cbor2.dumps(value)).digest()


@st.composite
def requests(draw: st.DrawFn) -> GenerationInput:
    sampling = draw(
        st.just(GREEDY)
        | st.builds(
            seeded,
            st.integers(1, 2**30 - 1),
            top_k=st.integers(0, 2**32 - 1),
            p16=st.integers(1, 65536),
        )
    )
    return generation_input(
        draw(IDS),
        max_tokens=draw(st.integers(1, 4096)),
        sampling=sampling,
        seed=draw(st.binary(min_size=32, max_size=32)),
        stop_ids=draw(st.sets(st.integers(0, 2**32 - 1), max_size=5)),
        stop_strings=draw(st.sets(st.text("ab\n é", min_size=1, max_size=9), max_size=4)),
        declared_value=draw(st.integers(0, 2**63 - 1)),
        recipients=draw(st.sets(RECIPIENTS, max_size=3)),
    )


@given(requests(), st.binary(min_size=32, max_size=32))
@settings(max_examples=80)
def test_the_input_digest_is_the_hash_of_its_record(request: GenerationInput, salt: bytes) -> None:
    sub = sha256(["otr-salt-v1", salt, "input"])
    sampling = request.sampling
    record = [
        "otr-input-v1",
        sub,
        id_root(sub, "prompt", request.prompt_ids),
        [int(sampling.mode), sampling.tq, sampling.top_k, sampling.p16],
        request.seed,
        request.max_tokens,
        list(request.stop_ids),
        list(request.stop_strings),
        request.declared_value,
        list(request.recipients),
    ]
    assert input_digest(request, salt) == sha256(record)


def test_sub_salts_differ_by_purpose_and_hide_the_salt() -> None:
    subs = [sub_salt(SALT, name) for name in ("input", "output", "trace")]
    assert subs == [sha256(["otr-salt-v1", SALT, name]) for name in ("input", "output", "trace")]
    assert len({*subs, SALT}) == 4


@pytest.mark.parametrize("length", [0, 16, 31, 33])
def test_a_salt_has_32_bytes(length: int) -> None:
    with pytest.raises(FieldError):
        sub_salt(bytes(length), "input")


@pytest.mark.parametrize(
    "change",
    [
        {"prompt_count": 13},
        {"sampling": seeded(65536)},
        {"seed": bytes([1]) * 32},
        {"max_tokens": 65},
        {"stop_ids": [2]},
        {"stop_strings": ["x"]},
        {"declared_value": 1_001},
        {"recipients": [b"b" * 32]},
    ],
)
def test_every_part_of_a_request_changes_its_digest(change: dict[str, Any]) -> None:
    assert input_digest(request_of(**change), SALT) != input_digest(request_of(), SALT)


def test_sets_have_one_order_however_they_are_given() -> None:
    one = request_of(stop_ids=[5, 1, 5], stop_strings=["b", "a", "a"], recipients=[b"b" * 32] * 2)
    other = request_of(stop_ids=[1, 5], stop_strings=["a", "b"], recipients=[b"b" * 32])
    assert one == other
    assert one.stop_strings == (b"a", b"b")


@pytest.mark.parametrize(
    ("field", "change"),
    [
        ("prompt_ids", {"prompt_ids": ()}),
        ("prompt_ids", {"prompt_ids": (-1,)}),
        ("prompt_ids", {"prompt_ids": (2**32,)}),
        ("seed", {"seed": bytes(31)}),
        ("max_tokens", {"max_tokens": 0}),
        ("stop_ids", {"stop_ids": (2, 1)}),
        ("stop_ids", {"stop_ids": (1, 1)}),
        ("stop_ids", {"stop_ids": (-1,)}),
        ("stop_ids", {"stop_ids": tuple(range(129))}),
        ("stop_strings", {"stop_strings": (b"b", b"a")}),
        ("stop_strings", {"stop_strings": (b"",)}),
        ("stop_strings", {"stop_strings": (b"\xff",)}),
        ("stop_strings", {"stop_strings": (b"a" * 257,)}),
        ("stop_strings", {"stop_strings": tuple(b"%02d" % i for i in range(17))}),
        ("declared_value", {"declared_value": -1}),
        ("recipients", {"recipients": (bytes(31),)}),
        ("recipients", {"recipients": (b"b" * 32, b"a" * 32)}),
        ("recipients", {"recipients": tuple(bytes([i]) * 32 for i in range(17))}),
    ],
)
def test_a_request_that_cannot_be_is_refused_by_field(field: str, change: dict[str, Any]) -> None:
    honest: dict[str, Any] = {
        "prompt_ids": (1,),
        "sampling": GREEDY,
        "seed": bytes(32),
        "max_tokens": 1,
    }
    with pytest.raises(FieldError) as caught:
        GenerationInput(**(honest | change))
    assert caught.value.field == field


def test_a_stop_string_that_is_no_text_is_refused() -> None:
    with pytest.raises(FieldError):
        generation_input([1], max_tokens=1, stop_strings=["\ud800"])


@pytest.mark.parametrize(
    "sampling",
    [
        (0, 1, 0, 0),
        (0, 0, 1, 0),
        (0, 0, 0, 65536),
        (1, 0, 0, 65536),
        (1, 2**30, 0, 65536),
        (1, 1, 0, 0),
        (1, 1, 0, 65537),
        (1, 1, -1, 1),
        (2, 1, 0, 1),
    ],
)
def test_absurd_sampling_is_refused(sampling: tuple[int, int, int, int]) -> None:
    with pytest.raises(FieldError):
        sampling_from_record(sampling)


def test_sampling_reads_back() -> None:
    for sampling in (GREEDY, Sampling(SamplingMode.SEEDED, 94548, 40, 62259)):
        assert sampling_from_record(sampling.record()) == sampling


@given(st.binary(min_size=32, max_size=32), st.binary(min_size=32, max_size=32))
@settings(max_examples=20)
def test_the_output_digest_is_the_hash_of_its_record(sub: bytes, root: bytes) -> None:
    for finish in Finish:
        expected = sha256(["otr-output-v1", sub, root, int(finish)])
        assert output_digest(sub, root, finish) == expected
        OutputOpening(sub, root, finish).check(expected)


def test_finish_codes_are_the_ones_written_down() -> None:
    names = ["STOP_ID", "STOP_STRING", "LENGTH", "ABORTED", "CANCELLED"]
    assert [finish_from_code(code).name for code in range(5)] == names
    for code in (-1, 5):
        with pytest.raises(FieldError):
            finish_from_code(code)
