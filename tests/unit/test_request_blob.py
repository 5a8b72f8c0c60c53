"""Request blobs and their sealed form (spec/statement.md, spec/log.md)."""

from __future__ import annotations

from dataclasses import replace

import cbor2
import pytest
from cryptography.hazmat.primitives.asymmetric.x25519 import (
    X25519PrivateKey,
    X25519PublicKey,
)
from hypothesis import given, settings
from hypothesis import strategies as st

from otr_protocol import sealed_blob
from otr_protocol.digest import H
from otr_protocol.errors import MalformedError, Refusal
from otr_protocol.fields import FieldError
from otr_protocol.output import Finish
from otr_protocol.recipients import FIELD_PRIME, RecipientKeyError
from otr_protocol.request import seeded
from otr_protocol.request_blob import FinishContradictionError, RequestBlob, open_blob
from otr_protocol.sealed_blob import (
    BoxMismatchError,
    NotARecipientError,
    SealBrokenError,
    SealedBlob,
    is_sealed,
    open_sealed,
    seal,
)
from support.answers import (
    ARBITER_RECIPIENT,
    CLIENT_RECIPIENT,
    CONTENT_KEY,
    RecipientKey,
    blob_of,
    request_of,
    sealed_request,
)

RECIPIENTS = tuple(sorted((CLIENT_RECIPIENT.public, ARBITER_RECIPIENT.public)))


@pytest.mark.parametrize(
    "blob",
    [
        blob_of(),
        blob_of(output_count=0),
        blob_of(request_of(200, sampling=seeded(9, top_k=4, p16=5), stop_strings=["é", "\n"])),
        blob_of(sealed_request(), finish=Finish.STOP_ID),
    ],
)
def test_a_blob_reads_back(blob: RequestBlob) -> None:
    assert open_blob(blob.encode()) == blob


def test_a_blob_is_the_record_an_independent_encoder_writes() -> None:
    blob = blob_of()
    record = cbor2.loads(blob.encode())
    assert record[0] == "otr-blob-v1"
    assert record[2] == b"".join(i.to_bytes(4, "big") for i in blob.request.prompt_ids)
    assert record[10] == b"".join(i.to_bytes(4, "big") for i in blob.output_ids)
    assert H(cbor2.dumps(record[12])) == blob.trace.trace_root()
    assert cbor2.dumps(record) == blob.encode()


@given(st.binary(max_size=300))
@settings(max_examples=150)
def test_bytes_that_are_no_blob_are_malformed(data: bytes) -> None:
    for read in (open_blob, open_sealed):
        with pytest.raises(MalformedError):
            read(data)


@pytest.mark.parametrize(
    ("output", "finish"),
    [
        ((5, 2, 5), Finish.CANCELLED),  # went on after a stop id
        ((5, 2), Finish.CANCELLED),  # a stop id, called something else
        ((5, 6), Finish.STOP_ID),
        ((), Finish.STOP_ID),
        ((5, 6), Finish.STOP_STRING),  # without any stop string
        (tuple(range(5, 70)), Finish.LENGTH),  # more than max_tokens
        (tuple(range(5, 69)), Finish.CANCELLED),  # max_tokens, but called cancelled
    ],
)
def test_ids_and_finish_that_contradict_each_other_are_refused(
    output: tuple[int, ...], finish: Finish
) -> None:
    blob = replace(blob_of(), output_ids=output, finish=finish)
    with pytest.raises(FinishContradictionError):
        blob.check_finish()


@pytest.mark.parametrize(
    ("output", "finish"),
    [
        ((5, 2), Finish.STOP_ID),
        ((), Finish.ABORTED),
        ((), Finish.LENGTH),  # the prompt filled the context
        ((5,), Finish.CANCELLED),
        (tuple(range(5, 69)), Finish.LENGTH),
    ],
)
def test_ids_and_finish_that_agree_are_accepted(output: tuple[int, ...], finish: Finish) -> None:
    replace(blob_of(), output_ids=output, finish=finish).check_finish()


def test_a_sealed_blob_opens_for_every_recipient_and_nobody_else() -> None:
    sealed = open_sealed(seal(b"blob", CONTENT_KEY, RECIPIENTS))
    assert sealed.recipients == RECIPIENTS
    for key in (CLIENT_RECIPIENT, ARBITER_RECIPIENT):
        assert sealed.content_key(key.private) == CONTENT_KEY
    assert sealed.open(CONTENT_KEY) == b"blob"
    with pytest.raises(NotARecipientError):
        sealed.content_key(RecipientKey("stranger").private)
    with pytest.raises(SealBrokenError):
        sealed.open(bytes(32))


def test_sealing_is_a_function_of_its_arguments() -> None:
    assert seal(b"blob", CONTENT_KEY, RECIPIENTS) == seal(b"blob", CONTENT_KEY, RECIPIENTS)
    assert seal(b"blob", bytes(32), RECIPIENTS) != seal(b"blob", CONTENT_KEY, RECIPIENTS)


def test_a_recipient_sees_that_another_was_given_a_useless_box() -> None:
    sealed = open_sealed(seal(b"blob", CONTENT_KEY, RECIPIENTS))
    useless = open_sealed(seal(b"blob", bytes(32), RECIPIENTS)).boxes[1]
    cheated = SealedBlob((sealed.boxes[0], useless), sealed.ciphertext)
    honest = next(k for k in (CLIENT_RECIPIENT, ARBITER_RECIPIENT) if k.public == RECIPIENTS[0])
    with pytest.raises(BoxMismatchError):
        cheated.open(cheated.content_key(honest.private))


def test_adding_or_dropping_a_recipient_breaks_the_seal() -> None:
    sealed = open_sealed(seal(b"blob", CONTENT_KEY, RECIPIENTS))
    with pytest.raises(SealBrokenError):
        SealedBlob(sealed.boxes[:1], sealed.ciphertext).open(CONTENT_KEY)


def test_every_changed_byte_of_a_sealed_blob_is_refused() -> None:
    data = seal(b"blob", CONTENT_KEY, RECIPIENTS)
    for place in range(len(data)):
        changed = data[:place] + bytes([data[place] ^ 0x11]) + data[place + 1 :]
        with pytest.raises(Refusal):
            open_sealed(changed).open(CONTENT_KEY)


USELESS = [
    *(number.to_bytes(32, "little") for number in (0, 1, FIELD_PRIME - 1)),
    bytes.fromhex("e0eb7a7c3b41b8ae1656e3faf19fc46ada098deb9c32b1fd866205165f49b800"),
    bytes.fromhex("5f9c95bca3508c24b1d0b1559c83ef5b04445cc4581c8e86d8224eddd09f1157"),
]


@pytest.mark.parametrize("key", USELESS)
def test_a_key_of_small_order_is_refused_as_a_recipient(key: bytes) -> None:
    private = X25519PrivateKey.from_private_bytes(CLIENT_RECIPIENT.private)
    with pytest.raises(ValueError, match="shared"):
        private.exchange(X25519PublicKey.from_public_bytes(key))
    with pytest.raises(RecipientKeyError):
        seal(b"blob", CONTENT_KEY, (key,))
    with pytest.raises(RecipientKeyError):
        request_of(recipients=[key])


@pytest.mark.parametrize("number", [FIELD_PRIME, FIELD_PRIME + 9, 2**255 + 9, 2**256 - 1])
def test_a_second_spelling_of_a_key_is_refused_as_a_recipient(number: int) -> None:
    with pytest.raises(RecipientKeyError):
        request_of(recipients=[number.to_bytes(32, "little")])


def test_recipients_stand_once_and_in_order() -> None:
    for recipients in (RECIPIENTS[::-1], (RECIPIENTS[0],) * 2, ()):
        with pytest.raises(FieldError):
            seal(b"blob", CONTENT_KEY, recipients)


def test_the_two_forms_are_told_apart_by_their_domain() -> None:
    blob = blob_of(sealed_request())
    assert not is_sealed(blob.encode())
    assert is_sealed(seal(blob.encode(), CONTENT_KEY, RECIPIENTS))


def test_the_empty_blob_cannot_be_sealed_or_opened() -> None:
    with pytest.raises(FieldError):
        seal(b"", CONTENT_KEY, RECIPIENTS)
    record = [sealed_blob.SEALED_DOMAIN, [[b"b" * 32, bytes(32), bytes(48)]], bytes(16)]
    with pytest.raises(FieldError):
        open_sealed(cbor2.dumps(record))
