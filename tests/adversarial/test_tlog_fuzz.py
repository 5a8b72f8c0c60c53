"""An attacker sends anything: every decoder answers with a value or a `Refusal`, quickly."""

from __future__ import annotations

import contextlib
import random
import time
from collections.abc import Callable
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from otr_protocol import cose, dcbor, ed25519
from otr_protocol.errors import Refusal
from otr_protocol.tlog import bundle, cose_receipt, proof_bundle, tiles
from otr_protocol.tlog import checkpoint as checkpoints
from otr_protocol.tlog import note as notes
from otr_protocol.tlog import receipt as receipts
from otr_protocol.tlog.entry import Entry, EntryKind
from otr_protocol.tlog.note import SignerKey, VerifierKey
from otr_protocol.tlog.proof_bundle import ProofBundle
from otr_protocol.tlog.receipt import Receipt
from support.log_of import LOG_KEY, WITNESS_KEY, SmallLog

LOG, WITNESS = LOG_KEY.verifier, WITNESS_KEY.verifier
SEED = b"\x07" * 32
PUBLIC = ed25519.public_key_of(SEED)


def _log() -> SmallLog:
    built = SmallLog()
    built.append(*(Entry(EntryKind.STATEMENT, b"record %d" % n, "s", n) for n in range(9)))
    return built


SMALL = _log()
HEAD = SMALL.checkpoint()
RECEIPT = SMALL.receipt(3, witness_time=1_700_000_000)
LEAF = SMALL.entries[3].leaf_hash()


def _text(data: bytes) -> str:
    return data.decode("utf-8", errors="surrogateescape")


def _verify_receipt(data: bytes) -> object:
    receipt = Receipt.decode(data)
    return receipts.verify(
        EntryKind.STATEMENT, b"record 3", receipt, [LOG], witness_vkeys=[WITNESS]
    )


def _verify_bundle(data: bytes) -> object:
    return proof_bundle.verify(ProofBundle.decode(_text(data)), LEAF, [LOG])


# Name, a valid input, and what a stranger's bytes go through.
DECODERS: dict[str, tuple[bytes, Callable[[bytes], Any]]] = {
    "dcbor": (dcbor.encode(("d", -1, 2**40, b"x" * 30, ("y", (b"", "z")))), dcbor.decode),
    "cose": (
        cose.sign1(b"payload", lambda m: ed25519.sign(SEED, m), PUBLIC),
        lambda data: cose.verify1(data, PUBLIC),
    ),
    "entry": (SMALL.entries[3].encode(), Entry.decode),
    "receipt": (RECEIPT.encode(), _verify_receipt),
    "note": (
        RECEIPT.checkpoint_note.encode(),
        lambda data: notes.open_note(data, [LOG, WITNESS]),
    ),
    "note as text": (
        RECEIPT.checkpoint_note.encode(),
        lambda data: notes.keep_lines(_text(data), [LOG]),
    ),
    "checkpoint": (
        RECEIPT.checkpoint_note.encode(),
        lambda data: checkpoints.open_checkpoint(
            _text(data), [LOG], witness_keys=[WITNESS], unknown_lines="refuse"
        ),
    ),
    "checkpoint text": (HEAD.text.encode(), lambda data: checkpoints.parse_text(_text(data))),
    "proof bundle": (ProofBundle.of_receipt(RECEIPT).encode().encode(), _verify_bundle),
    "cose receipt": (
        cose_receipt.sign_inclusion(
            3, 9, RECEIPT.inclusion_proof, HEAD.root_hash, LOG, LOG_KEY.sign
        ),
        lambda data: cose_receipt.verify_inclusion(data, LEAF, LOG),
    ),
    "entry bundle": (
        bundle.encode_bundle([b"a", b"", b"xyz"]),
        lambda data: bundle.decode_bundle(data, 3),
    ),
    "tile": (b"x" * 96, lambda data: tiles.check_tile(tiles.HashTile(0, 0, 3), data)),
    "tile path": (b"tile/0/x001/000.p/3", lambda data: tiles.parse_path(_text(data))),
    "verifier key": (str(LOG).encode(), lambda data: VerifierKey.parse(_text(data))),
    "signer key": (
        LOG_KEY.secret_text().encode(),
        lambda data: SignerKey.parse(_text(data)),
    ),
}


def _mutated(valid: bytes, draw: random.Random) -> bytes:
    """A few edits: bytes changed, cut out, repeated, inserted, or swapped for hostile ones."""
    data = bytearray(valid)
    for _ in range(draw.randrange(1, 5)):
        at = draw.randrange(len(data) + 1)
        end = min(len(data), at + draw.randrange(1, 40))
        match draw.randrange(6):
            case 0 if at < len(data):
                data[at] = draw.randrange(256)
            case 1:
                del data[at:end]
            case 2:
                data[at:at] = data[at:end]
            case 3:
                data[at:at] = draw.randbytes(draw.randrange(1, 12))
            case 4:
                data[at:end] = draw.choice(HOSTILE)
            case _:
                data = data[:at] if draw.randrange(2) else data[at:]
    return bytes(data)


HOSTILE = [
    b"\x9b\xff\xff\xff\xff\xff\xff\xff\xff",
    b"\x5b\x7f\xff\xff\xff\xff\xff\xff\xff",
    b"\x81" * 64,
    b"\xff" * 16,
    b"\n\n",
    b"\xe2\x80\x94 ",
    "\u2028".encode(),
    "\u0660".encode(),
    b"9" * 400,
    b"=",
    b"+",
    b"\x00",
    b"\xed\xa0\x80",
]


@pytest.mark.parametrize("name", DECODERS)
def test_two_thousand_mutations_raise_nothing_but_refusals(name: str) -> None:
    valid, decode = DECODERS[name]
    decode(valid)
    draw = random.Random(name)
    slowest = 0.0
    for _ in range(2_000):
        data = _mutated(valid, draw)
        start = time.perf_counter()
        with contextlib.suppress(Refusal):
            decode(data)
        slowest = max(slowest, time.perf_counter() - start)
    assert slowest < 0.5


@settings(max_examples=300, deadline=None)
@given(st.binary(max_size=300), st.sampled_from(sorted(DECODERS)))
def test_arbitrary_bytes_raise_nothing_but_refusals(data: bytes, name: str) -> None:
    with contextlib.suppress(Refusal):
        DECODERS[name][1](data)


@settings(max_examples=200, deadline=None)
@given(st.text(max_size=200))
def test_arbitrary_text_raises_nothing_but_refusals(text: str) -> None:
    for read in (notes.parse_note, checkpoints.parse_text, ProofBundle.decode, tiles.parse_path):
        with contextlib.suppress(Refusal):
            read(text)


@pytest.mark.parametrize("name", DECODERS)
def test_a_megabyte_of_anything_is_refused_quickly(name: str) -> None:
    decode = DECODERS[name][1]
    for filler in (b"\x00", b"\x81", b"\x9b", b"\xff", b"\n", b"A", b"\xe2\x80\x94 a A\n"):
        data = (filler * (1 << 20))[: 1 << 20]
        start = time.perf_counter()
        with pytest.raises(Refusal):
            decode(data)
        assert time.perf_counter() - start < 0.5
