"""An attacker changes one bit of something true: it is refused, and by a typed refusal only."""

from __future__ import annotations

import random
from collections.abc import Callable

import pytest

from otr_protocol import dcbor
from otr_protocol.errors import Refusal
from otr_protocol.tlog import checkpoint as checkpoints
from otr_protocol.tlog import consistency, cose_receipt, inclusion, note, proof_bundle, tree
from otr_protocol.tlog import receipt as receipts
from otr_protocol.tlog.entry import Entry, EntryKind
from otr_protocol.tlog.proof_bundle import ProofBundle
from otr_protocol.tlog.receipt import Receipt
from otr_protocol.tlog.subtrees import reader_over
from support.log_of import LOG_KEY, WITNESS_KEY, SmallLog

LEAVES = [tree.leaf_hash(b"leaf %d" % number) for number in range(256)]
ROOTS = [tree.root(LEAVES[:size]) for size in range(257)]
READERS = {size: reader_over(LEAVES[:size]) for size in range(1, 257)}
LOG, WITNESS = LOG_KEY.verifier, WITNESS_KEY.verifier


def flipped(data: bytes, bit: int) -> bytes:
    changed = bytearray(data)
    changed[bit // 8] ^= 1 << bit % 8
    return bytes(changed)


def test_12_000_inclusion_proofs_with_one_bit_changed_are_refused() -> None:
    draw = random.Random(1)
    for _ in range(12_000):
        size = draw.randrange(1, 257)
        index = draw.randrange(size)
        proof = list(inclusion.prove_with(READERS[size], index, size))
        leaf, root = LEAVES[index], ROOTS[size]
        target = draw.randrange(len(proof) + 2)
        bit = draw.randrange(256)
        if target == 0:
            leaf = flipped(leaf, bit)
        elif target == 1:
            root = flipped(root, bit)
        else:
            proof[target - 2] = flipped(proof[target - 2], bit)
        with pytest.raises(inclusion.InclusionRejectedError):
            inclusion.verify(index, size, leaf, proof, root)


def test_12_000_consistency_proofs_with_one_bit_changed_are_refused() -> None:
    draw = random.Random(2)
    for _ in range(12_000):
        size = draw.randrange(2, 257)
        old = draw.randrange(1, size)
        proof = list(consistency.prove_with(READERS[size], old, size))
        old_root, new_root = ROOTS[old], ROOTS[size]
        target = draw.randrange(len(proof) + 2)
        bit = draw.randrange(256)
        if target == 0:
            old_root = flipped(old_root, bit)
        elif target == 1:
            new_root = flipped(new_root, bit)
        else:
            proof[target - 2] = flipped(proof[target - 2], bit)
        with pytest.raises(consistency.ConsistencyRejectedError):
            consistency.verify(old, size, old_root, new_root, proof)


def test_a_proof_for_one_place_is_a_proof_for_no_other() -> None:
    for size in (1, 2, 3, 7, 8, 9, 64, 100):
        for index in range(size):
            proof = inclusion.prove_with(READERS[size], index, size)
            for elsewhere in range(size):
                if elsewhere != index:
                    with pytest.raises(inclusion.InclusionRejectedError):
                        inclusion.verify(elsewhere, size, LEAVES[index], proof, ROOTS[size])


@pytest.fixture(scope="module")
def log() -> SmallLog:
    built = SmallLog()
    built.append(*(Entry(EntryKind.STATEMENT, b"record %d" % n, "s", n) for n in range(9)))
    return built


def _refused_at_every_bit(data: bytes, check: Callable[[bytes], object]) -> int:
    check(data)
    for bit in range(len(data) * 8):
        with pytest.raises(Refusal):
            check(flipped(data, bit))
    return len(data) * 8


def test_every_bit_of_a_receipt_counts(log: SmallLog) -> None:
    data = log.receipt(3, witness_time=1_700_000_000).encode()

    def check(changed: bytes) -> object:
        receipt = Receipt.decode(changed)
        return receipts.verify(
            EntryKind.STATEMENT, b"record 3", receipt, [LOG], witness_vkeys=[WITNESS]
        )

    assert _refused_at_every_bit(data, check) > 3_000


def test_every_bit_of_the_record_counts(log: SmallLog) -> None:
    receipt = log.receipt(3)
    _refused_at_every_bit(
        b"record 3", lambda changed: receipts.verify(EntryKind.STATEMENT, changed, receipt, [LOG])
    )


def test_every_bit_of_a_cosigned_checkpoint_counts_to_a_strict_reader(log: SmallLog) -> None:
    data = log.receipt(3, witness_time=1_700_000_000).checkpoint_note.encode()
    _refused_at_every_bit(
        data,
        lambda changed: checkpoints.open_checkpoint(
            changed, [LOG], witness_keys=[WITNESS], unknown_lines="refuse"
        ),
    )


def test_every_bit_of_a_proof_bundle_counts_to_a_strict_reader(log: SmallLog) -> None:
    data = ProofBundle.of_receipt(log.receipt(3)).encode().encode()
    leaf = log.entries[3].leaf_hash()

    def check(changed: bytes) -> object:
        # A transport hands over text; bytes that are none never become a bundle.
        bundle = ProofBundle.decode(changed.decode("utf-8", errors="surrogateescape"))
        return proof_bundle.verify(bundle, leaf, [LOG], unknown_lines="refuse")

    _refused_at_every_bit(data, check)


def test_every_bit_of_a_cose_receipt_counts(log: SmallLog) -> None:
    head = log.checkpoint()
    data = cose_receipt.sign_inclusion(
        3,
        head.tree_size,
        log.receipt(3).inclusion_proof,
        head.root_hash,
        LOG,
        LOG_KEY.sign,
    )
    leaf = log.entries[3].leaf_hash()
    _refused_at_every_bit(data, lambda changed: cose_receipt.verify_inclusion(changed, leaf, LOG))


def test_a_cose_receipt_cannot_be_moved_to_a_place_with_the_same_path() -> None:
    """Leaf 8 of 9 and leaf 1 of 2 have the same path to the same root; RFC 9942 signs only that."""
    log = SmallLog()
    log.append(*(Entry(EntryKind.STATEMENT, b"record %d" % n, "s", n) for n in range(9)))
    proof, root = log.receipt(8).inclusion_proof, log.checkpoint().root_hash
    leaf = log.entries[8].leaf_hash()
    assert inclusion.root_from_inclusion(1, 2, leaf, proof) == root
    data = cose_receipt.sign_inclusion(8, 9, proof, root, LOG, LOG_KEY.sign)
    assert cose_receipt.verify_inclusion(data, leaf, LOG).leaf_index == 8
    start = dcbor.encode((9, 8, proof))
    moved = data.replace(start, dcbor.encode((2, 1, proof)))
    assert moved != data
    with pytest.raises(cose_receipt.CoseReceiptRejectedError):
        cose_receipt.verify_inclusion(moved, leaf, LOG)


def test_a_lenient_reader_ignores_a_damaged_line_but_never_a_damaged_text(log: SmallLog) -> None:
    """Of a flipped bit, either the note is refused or exactly the signed text comes out."""
    data = log.receipt(3, witness_time=1_700_000_000).checkpoint_note.encode()
    text = log.checkpoint().text
    survived = 0
    for bit in range(len(data) * 8):
        try:
            opened = note.open_note(flipped(data, bit), [LOG, WITNESS])
        except Refusal:
            continue
        assert opened.text == text
        survived += 1
    assert survived > 0
