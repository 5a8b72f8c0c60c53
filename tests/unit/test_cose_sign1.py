"""COSE_Sign1: one spelling of every signed object, and no bit of it can change."""

from __future__ import annotations

import cbor2
import pytest

from otr_protocol import cose, dcbor, ed25519
from otr_protocol.digest import H
from otr_protocol.errors import MalformedError, Refusal

SEED = b"\x07" * 32
PUBLIC = ed25519.public_key_of(SEED)


def sign(message: bytes) -> bytes:
    return ed25519.sign(SEED, message)


SIGNED = cose.sign1(b"payload", sign, PUBLIC)


def test_a_signed_payload_comes_back() -> None:
    assert cose.verify1(SIGNED, PUBLIC) == b"payload"
    assert cose.peek_payload(SIGNED) == b"payload"
    assert cose.parse1(SIGNED).key_id == H(PUBLIC) == cose.key_id(PUBLIC)


@pytest.mark.parametrize("size", [0, 1, 23, 24, 255, 256, 65_535, 65_536])
def test_payloads_of_every_head_length_survive(size: int) -> None:
    assert cose.verify1(cose.sign1(b"x" * size, sign, PUBLIC), PUBLIC) == b"x" * size


def test_the_bytes_are_the_cose_structure_of_rfc_9052() -> None:
    protected, unprotected, payload, signature = cbor2.loads(SIGNED)
    assert cbor2.loads(protected) == {1: -8, 4: H(PUBLIC)}
    assert unprotected == {}
    assert payload == b"payload"
    to_be_signed = cbor2.dumps(["Signature1", protected, b"", payload])
    ed25519.verify(PUBLIC, signature, to_be_signed)
    assert cbor2.dumps([protected, {}, payload, signature], canonical=True) == SIGNED


def test_every_single_bit_counts() -> None:
    for position in range(len(SIGNED) * 8):
        changed = bytearray(SIGNED)
        changed[position // 8] ^= 1 << position % 8
        with pytest.raises(Refusal):
            cose.verify1(bytes(changed), PUBLIC)


def test_every_truncation_and_any_addition_is_malformed() -> None:
    for length in range(len(SIGNED)):
        with pytest.raises(MalformedError):
            cose.verify1(SIGNED[:length], PUBLIC)
    with pytest.raises(cose.CoseMalformedError):
        cose.verify1(SIGNED + b"\x00", PUBLIC)


def respelled(**parts: bytes) -> bytes:
    """The same signed object with some part spelled otherwise."""
    protected, _, payload, signature = cbor2.loads(SIGNED)
    spelling = {
        "tag": b"",
        "array": b"\x84",
        "protected": dcbor.encode(protected),
        "unprotected": b"\xa0",
        "payload": dcbor.encode(payload),
        "signature": dcbor.encode(signature),
    }
    return b"".join((spelling | parts).values())


@pytest.mark.parametrize(
    "parts",
    [
        {"tag": b"\xd2"},
        {"array": b"\x9f", "signature": dcbor.encode(cbor2.loads(SIGNED)[3]) + b"\xff"},
        {"array": b"\x98\x04"},
        {"unprotected": b"\xa1\x01\x27"},
        {"unprotected": b"\xb8\x00"},
        {"unprotected": b"\xbf\xff"},
        {"protected": dcbor.encode(bytes.fromhex("a2045820") + H(PUBLIC) + b"\x01\x27")},
        {"protected": dcbor.encode(bytes.fromhex("a10127"))},
        {"protected": dcbor.encode(bytes.fromhex("a20138070458") + b"\x20" + H(PUBLIC))},
        {"payload": b"\x58\x07payload"},
        {"payload": b"\x67payload"},
        {"payload": b"\xf6"},
        {"payload": b"\x5f\x47payload\xff"},
        {"signature": b"\x59\x00\x40" + cbor2.loads(SIGNED)[3]},
    ],
    ids=lambda parts: "+".join(parts),
)
def test_any_other_spelling_of_a_signed_object_is_refused(parts: dict[str, bytes]) -> None:
    assert respelled() == SIGNED
    with pytest.raises(MalformedError):
        cose.verify1(respelled(**parts), PUBLIC)


def test_another_key_is_refused_before_its_signature_is_looked_at() -> None:
    other = ed25519.public_key_of(b"\x08" * 32)
    with pytest.raises(cose.KeyMismatchError):
        cose.verify1(SIGNED, other)


def test_an_object_over_the_limit_is_refused() -> None:
    assert cose.verify1(SIGNED, PUBLIC, max_bytes=len(SIGNED)) == b"payload"
    with pytest.raises(cose.CoseMalformedError):
        cose.verify1(SIGNED, PUBLIC, max_bytes=len(SIGNED) - 1)


def test_a_signer_that_returns_another_length_is_our_mistake() -> None:
    with pytest.raises(ValueError, match="64 bytes"):
        cose.sign1(b"payload", lambda _: b"short", PUBLIC)


@pytest.mark.parametrize(
    ("seed", "public", "message", "signature"),
    [  # RFC 8032 section 7.1, tests 1 and 3
        (
            "9d61b19deffd5a60ba844af492ec2cc44449c5697b326919703bac031cae7f60",
            "d75a980182b10ab7d54bfed3c964073a0ee172f3daa62325af021a68f707511a",
            "",
            "e5564300c360ac729086e2cc806e828a84877f1eb8e5d974d873e06522490155"
            "5fb8821590a33bacc61e39701cf9b46bd25bf5f0595bbe24655141438e7a100b",
        ),
        (
            "c5aa8df43f9f837bedb7442f31dcb7b166d38535076f094b85ce3a2e0b4458f7",
            "fc51cd8e6218a1a38da47ed00230f0580816ed13ba3303ac5deb911548908025",
            "af82",
            "6291d657deec24024827e69c3abe01a30ce548a284743a445e3680d7db5ac3ac"
            "18ff9b538d16f290ae67f760984dc6594a7c15e9716ed28dc027beceea1ec40a",
        ),
    ],
)
def test_ed25519_is_that_of_rfc_8032(seed: str, public: str, message: str, signature: str) -> None:
    assert ed25519.public_key_of(bytes.fromhex(seed)).hex() == public
    assert ed25519.sign(bytes.fromhex(seed), bytes.fromhex(message)).hex() == signature
    ed25519.verify(bytes.fromhex(public), bytes.fromhex(signature), bytes.fromhex(message))


@pytest.mark.parametrize(("key", "signature"), [(31, 64), (33, 64), (32, 63), (32, 65), (0, 0)])
def test_keys_and_signatures_of_other_lengths_are_rejected(key: int, signature: int) -> None:
    with pytest.raises(ed25519.SignatureRejectedError):
        ed25519.verify(b"\x01" * key, b"\x01" * signature, b"")
