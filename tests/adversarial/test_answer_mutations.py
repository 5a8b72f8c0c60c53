"""A courier who changes an answer file on its way: every change is noticed, and none crashes.

The courier has no key. It may replace, insert, drop, repeat, swap and cut bytes, exchange the
parts of two genuine answers, and use every freedom that a format leaves: the second ECDSA
signature, padding bits of base64, longer integers. What it hands over must be refused with a typed
reason.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Iterator
from dataclasses import replace

import pytest

from otr_protocol import cose
from otr_protocol.answer import Answer
from otr_protocol.attestation import compact_jws
from otr_protocol.digest import H
from otr_protocol.errors import Refusal
from otr_protocol.statement import sign_statement, statement_from_payload
from otr_protocol.tlog.receipt import Receipt
from otr_protocol.verify_answer import CHECKS, AnswerRefusedError, verify_answer
from support.answers import (
    LOG_TIME_MS,
    NOW_MS,
    SESSION,
    Key,
    World,
    blob_of,
    sealed_request,
)

P384_ORDER = int(
    "ffffffffffffffffffffffffffffffffffffffffffffffffc7634d81f4372ddf"
    "581a0db248b0a77aecec196accc52973",
    16,
)
WORLD = World()
ROOTS = WORLD.roots(witness_quorum=1)
PUBLIC = WORLD.answer(witness_time=LOG_TIME_MS // 1000)
SEALED = WORLD.answer(blob_of(sealed_request()), witness_time=LOG_TIME_MS // 1000)
OTHER = WORLD.answer(statement={"seq": 4}, witness_time=LOG_TIME_MS // 1000)
ANSWERS = {"public": PUBLIC, "sealed": SEALED}


def assert_refused(data: bytes) -> AnswerRefusedError:
    """The one way a bad answer may end. A verified answer or any other exception fails the test."""
    with pytest.raises(AnswerRefusedError) as caught:
        verify_answer(data, ROOTS, NOW_MS)
    refusal = caught.value
    assert refusal.check in CHECKS
    assert refusal.reason == refusal.reason.upper() != Refusal.reason
    return refusal


@pytest.mark.parametrize("name", ANSWERS)
def test_every_changed_byte_is_refused(name: str) -> None:
    data = ANSWERS[name].encode()
    verify_answer(data, ROOTS, NOW_MS)
    rng = random.Random(name)
    for place in range(len(data)):
        change = rng.randrange(1, 256)
        assert_refused(data[:place] + bytes([data[place] ^ change]) + data[place + 1 :])


@pytest.mark.soak
@pytest.mark.timeout(7200)
@pytest.mark.parametrize("name", ANSWERS)
def test_every_value_of_every_byte_is_refused(name: str) -> None:
    data = ANSWERS[name].encode()
    for place in range(len(data)):
        for change in range(1, 256):
            assert_refused(data[:place] + bytes([data[place] ^ change]) + data[place + 1 :])


# Heads of CBOR items that announce long integers, indefinite lengths, arrays and the like.
EXTREMES = (0, 0x18, 0x1B, 0x5F, 0x7F, 0x80, 0x9F, 0xFF)


def replace_bytes(data: bytes, rng: random.Random) -> bytes:
    place, length = rng.randrange(len(data)), rng.randrange(1, 9)
    return data[:place] + rng.randbytes(length) + data[place + length :]


def insert_bytes(data: bytes, rng: random.Random) -> bytes:
    place = rng.randrange(len(data) + 1)
    return data[:place] + rng.randbytes(rng.randrange(1, 9)) + data[place:]


def drop_bytes(data: bytes, rng: random.Random) -> bytes:
    place = rng.randrange(len(data))
    return data[:place] + data[place + rng.randrange(1, 40) :]


def repeat_bytes(data: bytes, rng: random.Random) -> bytes:
    place, length = rng.randrange(len(data)), rng.randrange(1, 200)
    return data[: place + length] + data[place : place + length] + data[place + length :]


def swap_bytes(data: bytes, rng: random.Random) -> bytes:
    first, second = sorted(rng.sample(range(len(data)), 2))
    swapped = bytearray(data)
    swapped[first], swapped[second] = swapped[second], swapped[first]
    return bytes(swapped)


def cut(data: bytes, rng: random.Random) -> bytes:
    return data[: rng.randrange(len(data))]


def set_to_extremes(data: bytes, rng: random.Random) -> bytes:
    changed = bytearray(data)
    for _ in range(rng.randrange(1, 4)):
        changed[rng.randrange(len(data))] = rng.choice(EXTREMES)
    return bytes(changed)


STRATEGIES: tuple[Callable[[bytes, random.Random], bytes], ...] = (
    replace_bytes,
    insert_bytes,
    drop_bytes,
    repeat_bytes,
    swap_bytes,
    cut,
    set_to_extremes,
)


def mutations(count: int, seed: int) -> Iterator[bytes]:
    rng = random.Random(seed)
    genuine = [answer.encode() for answer in ANSWERS.values()]
    while count:
        data = original = rng.choice(genuine)
        for _ in range(rng.randrange(1, 4)):
            if data:
                data = rng.choice(STRATEGIES)(data, rng)
        if data not in genuine:
            assert data != original
            count -= 1
            yield data


@pytest.mark.parametrize("seed", range(4))
def test_ten_thousand_mutations_are_refused_and_cause_no_other_exception(seed: int) -> None:
    for data in mutations(2_500, seed):
        assert_refused(data)


def mutate_one_part(answer: Answer, name: str, rng: random.Random) -> Answer | None:
    """A file that is canonical around a part that is not what it was."""
    part: bytes = getattr(answer, name)
    if not part:
        return None
    changed = rng.choice(STRATEGIES)(part, rng)
    try:
        return None if changed == part else replace(answer, **{name: changed})
    except Refusal:
        return None


def test_mutations_that_keep_the_file_canonical_are_refused() -> None:
    rng = random.Random(5)
    for _ in range(2_000):
        answer = rng.choice((PUBLIC, SEALED))
        name = rng.choice(list(Answer.__dataclass_fields__))
        mutated = mutate_one_part(answer, name, rng)
        # Dropping an optional part whole is no forgery: the result says what is missing.
        if mutated is not None and getattr(mutated, name):
            assert_refused(mutated.encode())


@pytest.mark.parametrize(
    ("name", "donor"),
    [
        ("statement", OTHER),
        ("statement", SEALED),
        ("receipt", OTHER),
        ("blob", SEALED),
        ("content_key", SEALED),
    ],
)
def test_parts_of_two_genuine_answers_do_not_mix(name: str, donor: Answer) -> None:
    verify_answer(donor.encode(), ROOTS, NOW_MS)
    assert_refused(replace(PUBLIC, **{name: getattr(donor, name)}).encode())


def test_an_operator_who_signs_garbage_causes_no_other_exception() -> None:
    """The courier has no key; a hostile operator has, so these bytes get past the signatures."""
    rng = random.Random(7)
    for _ in range(1_500):
        sealed = rng.random() < 0.5
        answer = SEALED if sealed else PUBLIC
        payload = cose.peek_payload(answer.statement)
        stored = rng.choice(STRATEGIES)(answer.blob, rng)
        if rng.random() < 0.5:
            payload = rng.choice(STRATEGIES)(payload, rng)
            forged = replace(answer, statement=cose.sign1(payload, SESSION.sign, SESSION.public))
            verify_or_refuse(forged)
        elif stored and stored != answer.blob:
            honest = statement_from_payload(payload)
            statement = replace(honest, blob_digest=H(stored))
            signed = sign_statement(statement, SESSION.sign)
            refusal = assert_refused(replace(answer, statement=signed, blob=stored).encode())
            assert CHECKS.index(refusal.check) >= CHECKS.index("blob")


def verify_or_refuse(answer: Answer) -> None:
    """A changed statement under a right signature may be true; it may not crash the reader."""
    try:
        verify_answer(answer.encode(), ROOTS, NOW_MS)
    except AnswerRefusedError:
        return


def test_the_second_signature_that_ecdsa_allows_is_refused() -> None:
    head, payload, signature = PUBLIC.token.split(b".")
    raw = compact_jws.base64url_decode(signature)
    r, s = raw[:48], int.from_bytes(raw[48:], "big")
    twin = compact_jws.base64url_encode(r + (P384_ORDER - s).to_bytes(48, "big")).encode()
    forged = b".".join((head, payload, twin))
    pinned = ROOTS.issuers[0].keys
    assert compact_jws.verify(forged, pinned, max_bytes=1 << 15), "the twin is a valid signature"
    assert assert_refused(replace(PUBLIC, token=forged).encode()).reason == "TOKEN_DIGEST_MISMATCH"


def test_a_strangers_signature_line_cannot_ride_in_a_receipt() -> None:
    receipt = Receipt.decode(PUBLIC.receipt)
    for line in ("— stranger.example AAAAAAAA\n", receipt.checkpoint_note.splitlines()[-1] + "\n"):
        padded = replace(receipt, checkpoint_note=receipt.checkpoint_note + line)
        refusal = assert_refused(PUBLIC.with_receipt(padded.encode()).encode())
        assert (refusal.check, refusal.reason) == ("receipt", "NOTE_REJECTED")


def test_a_publisher_of_the_couriers_own_names_no_model() -> None:
    own = WORLD.model_record(Key("courier"), name="a better model")
    refusal = assert_refused(replace(PUBLIC, model_record=own).encode())
    assert refusal.reason == "MODEL_NOT_PINNED"
