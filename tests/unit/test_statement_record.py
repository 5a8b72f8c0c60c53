"""Statements: one encoding, one identity, no impossible field (spec/statement.md)."""

from __future__ import annotations

from dataclasses import fields, replace
from typing import Any

import cbor2
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from otr_protocol import cose
from otr_protocol.cose import KeyMismatchError
from otr_protocol.dcbor import RecordShapeError
from otr_protocol.digest import H
from otr_protocol.ed25519 import SignatureRejectedError
from otr_protocol.errors import MalformedError
from otr_protocol.fields import FieldError
from otr_protocol.statement import (
    Profile,
    Statement,
    open_statement,
    payload_hash,
    sign_statement,
    statement_from_payload,
)
from support.answers import ARBITER, SESSION, World, blob_of, stored_bytes

DIGESTS = (
    *("operator_id", "session_key", "delegation_digest", "model_id", "input_digest"),
    *("output_digest", "trace_root", "blob_digest", "token_digest"),
)


def honest(**changes: Any) -> Statement:
    world, blob = World(), blob_of()
    return world.statement(blob, stored_bytes(blob), world.delegation(), b"token", **changes)


@st.composite
def statements(draw: st.DrawFn) -> Statement:
    digest, amount = st.binary(min_size=32, max_size=32), st.integers(0, 2**62 - 1)
    identifier, seq, exposure = st.binary(min_size=16, max_size=64), draw(amount), draw(amount)
    start, voucher = draw(amount), draw(st.one_of(st.just(b""), digest))
    return Statement(
        **{name: draw(digest) for name in DIGESTS},
        request_id=draw(identifier),
        client_nonce=draw(identifier),
        profile=draw(st.sampled_from(Profile)),
        prompt_count=draw(st.integers(1, 2**32 - 1)),
        output_count=draw(st.integers(0, 2**32 - 1)),
        start_ms=start,
        end_ms=start + draw(amount),
        seq=seq,
        exposure=exposure,
        cumulative_exposure=exposure + (draw(amount) if seq else 0),
        voucher_digest=voucher,
        fee=draw(amount) if voucher else 0,
    )


@given(statements())
@settings(max_examples=100)
def test_a_payload_reads_back_as_the_statement_it_was_made_from(statement: Statement) -> None:
    assert statement_from_payload(statement.payload()) == statement


@given(statements())
@settings(max_examples=50)
def test_the_payload_is_the_fields_in_order_as_an_independent_encoder_writes_them(
    statement: Statement,
) -> None:
    values = [getattr(statement, each.name) for each in fields(statement)]
    values = [str(value) if isinstance(value, Profile) else value for value in values]
    assert statement.payload() == cbor2.dumps(["otr-statement-v1", *values])


def test_a_statement_is_identified_by_the_hash_of_its_payload() -> None:
    statement = honest()
    opened = open_statement(sign_statement(statement, SESSION.sign))
    assert opened.statement == statement
    assert opened.payload_hash == payload_hash(statement) == H(statement.payload())


def test_a_statement_by_another_key_than_it_names_is_refused() -> None:
    forged = cose.sign1(honest().payload(), ARBITER.sign, ARBITER.public)
    with pytest.raises(KeyMismatchError):
        open_statement(forged)


def test_a_signature_of_another_payload_is_refused() -> None:
    data = sign_statement(honest(), SESSION.sign)
    other = sign_statement(honest(seq=4), SESSION.sign)
    with pytest.raises(SignatureRejectedError):
        open_statement(data[:-64] + other[-64:])


@pytest.mark.parametrize("name", DIGESTS)
@pytest.mark.parametrize("length", [0, 31, 33])
def test_a_digest_of_another_length_is_refused(name: str, length: int) -> None:
    with pytest.raises(FieldError) as caught:
        honest(**{name: bytes(length)})
    assert caught.value.field == name


@pytest.mark.parametrize(
    ("field", "change"),
    [
        ("request_id", {"request_id": bytes(15)}),
        ("request_id", {"request_id": bytes(65)}),
        ("client_nonce", {"client_nonce": bytes(15)}),
        ("prompt_count", {"prompt_count": 0}),
        ("output_count", {"output_count": -1}),
        ("output_count", {"output_count": 2**32}),
        ("start_ms", {"start_ms": -1}),
        ("end_ms", {"end_ms": 2**63}),
        ("end_ms", {"start_ms": 2, "end_ms": 1}),
        ("seq", {"seq": -1}),
        ("exposure", {"exposure": -1}),
        ("cumulative_exposure", {"exposure": 5, "cumulative_exposure": 4}),
        ("cumulative_exposure", {"seq": 0, "exposure": 5, "cumulative_exposure": 6}),
        ("voucher_digest", {"voucher_digest": b"x"}),
        ("fee", {"fee": 1}),
        ("fee", {"fee": -1, "voucher_digest": bytes(32)}),
    ],
)
def test_an_impossible_field_is_refused_by_name(field: str, change: dict[str, Any]) -> None:
    with pytest.raises(FieldError) as caught:
        honest(**change)
    assert caught.value.field == field


def test_the_first_statement_of_a_session_starts_the_running_sum() -> None:
    first = honest(seq=0, exposure=7, cumulative_exposure=7)
    assert statement_from_payload(first.payload()) == first


def test_an_unknown_profile_is_refused() -> None:
    payload = honest().payload().replace(b"exact-int8", b"exact-int9")
    with pytest.raises(FieldError) as caught:
        statement_from_payload(payload)
    assert caught.value.field == "profile"


def test_another_number_of_fields_is_refused() -> None:
    values = cbor2.loads(honest().payload())
    for changed in (values[:-1], [*values, 0], ["otr-statement-v2", *values[1:]]):
        with pytest.raises(RecordShapeError):
            statement_from_payload(cbor2.dumps(changed))


@given(st.binary(max_size=600))
@settings(max_examples=200)
def test_bytes_that_are_no_statement_are_malformed(data: bytes) -> None:
    with pytest.raises(MalformedError):
        open_statement(data)


def test_every_field_changes_the_identity() -> None:
    statement = honest(voucher_digest=bytes(32), fee=1)
    seen = {payload_hash(statement)}
    for each in fields(statement):
        value = getattr(statement, each.name)
        changed: Any
        if isinstance(value, Profile):
            changed = Profile.FLOAT
        elif isinstance(value, bytes):
            changed = bytes([value[0] ^ 1]) + value[1:]
        else:
            changed = value + 1
        seen.add(payload_hash(replace(statement, **{each.name: changed})))
    assert len(seen) == 1 + len(fields(statement))
