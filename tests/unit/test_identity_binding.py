"""Delegations, model records, and what evidence commits to (spec/statement.md, attestation.md)."""

from __future__ import annotations

import hashlib
from typing import Any

import cbor2
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from otr_protocol import binding, cose
from otr_protocol.binding import DuplicateGpuReportError, GpuEvidence
from otr_protocol.cose import KeyMismatchError
from otr_protocol.digest import H
from otr_protocol.ed25519 import SignatureRejectedError
from otr_protocol.fields import FieldError
from otr_protocol.identity import Delegation, open_delegation, operator_id, sign_delegation
from otr_protocol.registry import ModelRecord, open_model_record, sign_model_record
from support.answers import MODEL_ID, OPERATOR, PUBLISHER, SESSION

DELEGATION = Delegation(OPERATOR.public, SESSION.public, "log.example/otr", 1_900_000_000_000)
RECORD = ModelRecord("Llama-3-70B", MODEL_ID, PUBLISHER.public)
BOUND = {
    "challenge": bytes([1]) * 32,
    "operator_id": bytes([2]) * 32,
    "session_key": bytes([3]) * 32,
    "tls_spki_sha256": bytes([4]) * 32,
    "model_id": bytes([5]) * 32,
}
ANCHOR = binding.anchor(**BOUND)


def test_an_operator_is_the_hash_of_its_key() -> None:
    assert operator_id(OPERATOR.public) == hashlib.sha256(OPERATOR.public).digest()
    with pytest.raises(FieldError):
        operator_id(OPERATOR.public[:-1])


def test_a_delegation_is_the_operators_word_about_a_session_key() -> None:
    data = sign_delegation(DELEGATION, OPERATOR.sign)
    opened = open_delegation(data)
    assert opened.delegation == DELEGATION
    assert opened.digest == H(data)
    assert DELEGATION.operator_id == operator_id(OPERATOR.public)
    assert cose.peek_payload(data) == cbor2.dumps(
        [
            "otr-delegation-v1",
            OPERATOR.public,
            SESSION.public,
            "log.example/otr",
            1_900_000_000_000,
        ]
    )


def test_a_session_key_cannot_delegate_to_itself_in_the_operators_name() -> None:
    with pytest.raises(KeyMismatchError):
        open_delegation(cose.sign1(DELEGATION.payload(), SESSION.sign, SESSION.public))
    with pytest.raises(SignatureRejectedError):
        open_delegation(sign_delegation(DELEGATION, SESSION.sign))


@pytest.mark.parametrize(
    "change",
    [{"log_origin": ""}, {"log_origin": "a\nb"}, {"log_origin": "x" * 256}, {"not_after": -1}],
)
def test_a_delegation_that_cannot_be_is_refused(change: dict[str, Any]) -> None:
    honest: dict[str, Any] = {
        "operator_public_key": OPERATOR.public,
        "session_key": SESSION.public,
        "log_origin": "o",
        "not_after": 0,
    }
    with pytest.raises(FieldError):
        Delegation(**(honest | change))


def test_a_model_record_is_the_publishers_word() -> None:
    data = sign_model_record(RECORD, PUBLISHER.sign)
    assert open_model_record(data) == RECORD
    assert cose.peek_payload(data) == cbor2.dumps(
        ["otr-model-v1", "Llama-3-70B", MODEL_ID, PUBLISHER.public]
    )
    with pytest.raises(KeyMismatchError):
        open_model_record(cose.sign1(RECORD.payload(), OPERATOR.sign, OPERATOR.public))


def test_the_anchor_is_the_sha_384_of_its_record() -> None:
    record = cbor2.dumps(["otr-anchor-v1", *BOUND.values()])
    assert hashlib.sha384(record).digest() == ANCHOR


@pytest.mark.parametrize("name", BOUND)
def test_everything_that_is_bound_changes_the_anchor(name: str) -> None:
    assert binding.anchor(**(BOUND | {name: bytes(32)})) != ANCHOR
    with pytest.raises(FieldError):
        binding.anchor(**(BOUND | {name: bytes(31)}))


def test_the_gpu_nonce_and_the_report_data_follow_from_the_anchor() -> None:
    digest = binding.gpu_digest([])
    assert binding.gpu_nonce(ANCHOR) == hashlib.sha256(ANCHOR + b"otr-gpu-v1").digest()
    data = binding.report_data(ANCHOR, digest)
    assert data == hashlib.sha384(ANCHOR + digest).digest() + bytes(16)
    assert len(data) == 64
    for wrong in (ANCHOR[:-1], b""):
        with pytest.raises(FieldError):
            binding.gpu_nonce(wrong)
        with pytest.raises(FieldError):
            binding.report_data(wrong, digest)


def test_without_a_gpu_the_digest_is_that_of_the_empty_list() -> None:
    expected = hashlib.sha256(cbor2.dumps(["otr-gpu-evidence-v1", []])).digest()
    assert binding.gpu_digest([]) == expected


@given(st.lists(st.binary(max_size=8), unique=True, max_size=5), st.randoms())
@settings(max_examples=40)
def test_the_gpu_digest_does_not_depend_on_the_order_of_gpus(
    reports: list[bytes], random: Any
) -> None:
    gpus = [GpuEvidence(report, (report + b"leaf", b"root")) for report in reports]
    record = [
        "otr-gpu-evidence-v1",
        [[report, [report + b"leaf", b"root"]] for report in sorted(reports)],
    ]
    random.shuffle(gpus)
    assert binding.gpu_digest(gpus) == hashlib.sha256(cbor2.dumps(record)).digest()


def test_one_report_does_not_stand_for_two_gpus() -> None:
    with pytest.raises(DuplicateGpuReportError):
        binding.gpu_digest([GpuEvidence(b"r", (b"a",)), GpuEvidence(b"r", (b"b",))])
