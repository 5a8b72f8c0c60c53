"""Entries and receipts in their three forms: what a relying party can check with one public key."""

from __future__ import annotations

import dataclasses
import time

import cbor2
import pytest
from hypothesis import given
from hypothesis import strategies as st

from otr_protocol import dcbor, ed25519
from otr_protocol.digest import H
from otr_protocol.errors import MalformedError, Refusal
from otr_protocol.fields import FieldError
from otr_protocol.tlog import consistency, cose_receipt, entry, inclusion, note, proof_bundle, tree
from otr_protocol.tlog import receipt as receipts
from otr_protocol.tlog.entry import Entry, EntryKind
from otr_protocol.tlog.proof_bundle import ProofBundle
from otr_protocol.tlog.receipt import Receipt
from support.log_of import LOG_KEY, OTHER_KEY, WITNESS_KEY, SmallLog

LOG, WITNESS, OTHER = LOG_KEY.verifier, WITNESS_KEY.verifier, OTHER_KEY.verifier
SUBMITTER = "spiffe://otr.test/inference/i0"


def entry_of(number: int) -> Entry:
    return Entry(EntryKind.STATEMENT, b"record %d" % number, SUBMITTER, 1_700_000_000_000 + number)


@pytest.fixture(scope="module")
def log() -> SmallLog:
    built = SmallLog()
    built.append(*map(entry_of, range(300)))
    return built


# ------------------------------------------------------------------------------------- entries

kinds = st.sampled_from(EntryKind)


@given(kinds, st.binary(min_size=1, max_size=300), st.integers(0, 2**63 - 1))
def test_an_entry_survives_its_encoding(kind: EntryKind, record: bytes, log_time_ms: int) -> None:
    made = Entry(kind, record, SUBMITTER, log_time_ms)
    data = made.encode()
    assert Entry.decode(data) == made
    assert cbor2.loads(data) == ["otr-entry-v1", kind.value, record, SUBMITTER, log_time_ms]
    assert made.leaf_hash() == tree.leaf_hash(data)


def test_entry_kinds_are_the_numbers_of_the_protocol() -> None:
    names = ["STATEMENT", "DELEGATION", "MODEL", "WEIGHT_COMMITMENT", "AUDIT_RATE", "CLOSE"]
    assert {kind.name: kind.value for kind in EntryKind} == {n: i for i, n in enumerate(names)}


def test_the_idempotency_key_depends_on_kind_and_record_alone() -> None:
    one = Entry(EntryKind.CLOSE, b"record", "a", 1)
    two = Entry(EntryKind.CLOSE, b"record", "b", 2)
    assert one.idempotency_key() == two.idempotency_key() == H(b"\x05record")
    assert one.leaf_hash() != two.leaf_hash()
    assert entry.idempotency_key(EntryKind.MODEL, b"record") == H(b"\x02record")


@pytest.mark.parametrize(
    "value",
    [
        ("otr-entry-v2", 0, b"r", "s", 1),
        ("otr-entry-v1", 6, b"r", "s", 1),
        ("otr-entry-v1", -1, b"r", "s", 1),
        ("otr-entry-v1", 0, b"", "s", 1),
        ("otr-entry-v1", 0, b"x" * 16_385, "s", 1),
        ("otr-entry-v1", 0, b"r", "", 1),
        ("otr-entry-v1", 0, b"r", "s\n", 1),
        ("otr-entry-v1", 0, b"r", "s" * 256, 1),
        ("otr-entry-v1", 0, b"r", "s", -1),
        ("otr-entry-v1", 0, b"r", "s", 2**63),
        ("otr-entry-v1", 0, b"r", b"s", 1),
        ("otr-entry-v1", 0, b"r", "s"),
        ("otr-entry-v1", 0, b"r", "s", 1, 1),
    ],
)
def test_what_is_not_an_entry_is_malformed(value: dcbor.Value) -> None:
    with pytest.raises(MalformedError):
        Entry.decode(dcbor.encode(value))


def test_the_largest_entry_is_an_entry_of_a_tile_log() -> None:
    largest = Entry(EntryKind.STATEMENT, b"x" * 16_384, "s" * 255, 2**63 - 1)
    assert Entry.decode(largest.encode()) == largest
    assert len(largest.encode()) <= entry.MAX_ENTRY_BYTES < 65_535


# ------------------------------------------------------------------------------------ receipts


def test_a_receipt_proves_that_the_log_has_the_record_and_when_it_took_it(log: SmallLog) -> None:
    for index in (0, 1, 255, 256, 299):
        receipt = Receipt.decode(log.receipt(index).encode())
        verified = receipts.verify(EntryKind.STATEMENT, b"record %d" % index, receipt, [LOG])
        assert verified.leaf_index == index
        assert verified.log_time_ms == 1_700_000_000_000 + index
        assert verified.submitter == SUBMITTER
        assert verified.checkpoint == log.checkpoint()
        assert verified.log_key == LOG


def test_a_receipt_has_one_encoding(log: SmallLog) -> None:
    receipt = log.receipt(7)
    data = receipt.encode()
    assert Receipt.decode(data) == receipt
    assert cbor2.loads(data) == [
        "otr-receipt-v1",
        SUBMITTER,
        receipt.log_time_ms,
        7,
        list(receipt.inclusion_proof),
        receipt.checkpoint_note,
    ]


def test_a_receipt_says_nothing_about_any_other_record_kind_time_or_place(log: SmallLog) -> None:
    receipt = log.receipt(7)
    changes: list[tuple[EntryKind, bytes, Receipt]] = [
        (EntryKind.CLOSE, b"record 7", receipt),
        (EntryKind.STATEMENT, b"record 8", receipt),
        (EntryKind.STATEMENT, b"record 7", dataclasses.replace(receipt, log_time_ms=1)),
        (EntryKind.STATEMENT, b"record 7", dataclasses.replace(receipt, submitter="another")),
        (EntryKind.STATEMENT, b"record 7", dataclasses.replace(receipt, leaf_index=6)),
        (EntryKind.STATEMENT, b"record 7", dataclasses.replace(receipt, leaf_index=300)),
        (
            EntryKind.STATEMENT,
            b"record 7",
            dataclasses.replace(receipt, inclusion_proof=receipt.inclusion_proof[1:]),
        ),
    ]
    for kind, record, changed in changes:
        with pytest.raises(inclusion.InclusionRejectedError):
            receipts.verify(kind, record, changed, [LOG])


def test_a_receipt_of_another_log_is_refused(log: SmallLog) -> None:
    with pytest.raises(note.NoteRejectedError):
        receipts.verify(EntryKind.STATEMENT, b"record 7", log.receipt(7), [OTHER])


def test_lines_that_the_reader_cannot_check_are_refused_until_they_are_taken_out(
    log: SmallLog,
) -> None:
    receipt = log.receipt(7, witness_time=1_700_000_009)
    with pytest.raises(note.NoteRejectedError):
        receipts.verify(EntryKind.STATEMENT, b"record 7", receipt, [LOG])
    known = receipts.verify(
        EntryKind.STATEMENT, b"record 7", receipt, [LOG], witness_vkeys=[WITNESS]
    )
    assert [each.timestamp for each in known.cosignatures] == [1_700_000_009]
    ignoring = receipts.verify(
        EntryKind.STATEMENT, b"record 7", receipt, [LOG], unknown_lines="ignore"
    )
    assert ignoring.cosignatures == ()
    assert receipt.keeping_lines_of([LOG]) == log.receipt(7)


@pytest.mark.parametrize(
    "changes",
    [
        {"submitter": ""},
        {"log_time_ms": -1},
        {"leaf_index": -1},
        {"leaf_index": 2**63},
        {"inclusion_proof": (b"\x00" * 32,) * 64},
        {"inclusion_proof": (b"\x00" * 31,)},
        {"checkpoint_note": ""},
        {"checkpoint_note": "\ud800"},
        {"checkpoint_note": "x" * 13_000 + "\n\n\u2014 a AAAAAAAA\n"},
    ],
)
def test_a_receipt_that_cannot_be_is_malformed(log: SmallLog, changes: dict) -> None:  # type: ignore[type-arg]
    with pytest.raises(MalformedError):
        dataclasses.replace(log.receipt(7), **changes)


def test_the_longest_receipt_fits_its_bound() -> None:
    text = "log.example/otr\n" + "\u2014" * 4_000 + "\n"
    signed = note.sign_note(text, LOG_KEY)
    receipt = Receipt("s" * 255, 2**63 - 1, 2**63 - 2, (b"\xff" * 32,) * 63, signed)
    assert Receipt.decode(receipt.encode()) == receipt


def test_verifying_a_receipt_takes_well_under_a_millisecond(log: SmallLog) -> None:
    data = log.receipt(123).encode()
    fastest = float("inf")
    for _ in range(50):
        start = time.perf_counter()
        receipts.verify(EntryKind.STATEMENT, b"record 123", Receipt.decode(data), [LOG])
        fastest = min(fastest, time.perf_counter() - start)
    assert fastest < 0.001


# ---------------------------------------------------------------------------- tlog-proof bundles


def test_a_proof_bundle_says_what_the_receipt_says(log: SmallLog) -> None:
    receipt = log.receipt(42, witness_time=5)
    text = ProofBundle.of_receipt(receipt).encode()
    assert text.startswith("c2sp.org/tlog-proof@v1\nindex 42\n")
    bundle = ProofBundle.decode(text)
    assert bundle.encode() == text
    opened = proof_bundle.verify(
        bundle, log.entries[42].leaf_hash(), [LOG], witness_vkeys=[WITNESS], unknown_lines="refuse"
    )
    assert opened.checkpoint == log.checkpoint()
    assert [each.witness for each in opened.cosignatures] == [WITNESS]
    with pytest.raises(inclusion.InclusionRejectedError):
        proof_bundle.verify(bundle, log.entries[43].leaf_hash(), [LOG])


def test_extra_data_survive_and_nothing_vouches_for_them(log: SmallLog) -> None:
    bundle = dataclasses.replace(ProofBundle.of_receipt(log.receipt(0)), extra=b"anything")
    again = ProofBundle.decode(bundle.encode())
    assert again.extra == b"anything"
    proof_bundle.verify(again, log.entries[0].leaf_hash(), [LOG])


def test_a_bundle_of_a_single_leaf_has_an_empty_proof() -> None:
    log = SmallLog()
    log.append(entry_of(0))
    bundle = ProofBundle.decode(ProofBundle.of_receipt(log.receipt(0)).encode())
    assert bundle.inclusion_proof == ()
    proof_bundle.verify(bundle, log.entries[0].leaf_hash(), [LOG])


@pytest.mark.parametrize(
    ("old", "new"),
    [
        ("@v1", "@v2"),
        ("index 42\n", ""),
        ("index 42", "index 042"),
        ("index 42", "index -1"),
        ("index 42", "index  42"),
        ("index 42", "index 9223372036854775808"),
        ("index 42", "index " + "1" * 10_000),
        ("index 42", "extra \nindex 42"),
        ("index 42", "extra AB==\nindex 42"),
        ("index 42", "extra AAAA\nextra AAAA\nindex 42"),
        ("index 42\n", "index 42\nAAAA\n"),
        ("index 42\n", "index 42\n" + "A" * 43 + "=\n" + ("A" * 43 + "=\n") * 63),
        ("index 42\n", "index 42\n\n"),
        ("\n\n", "\n"),
        ("c2sp", "\nc2sp"),
        ("log.example/otr\n300\n", "log.example/otr\n0300\n"),
    ],
)
def test_what_is_not_a_proof_bundle_is_malformed(log: SmallLog, old: str, new: str) -> None:
    text = ProofBundle.of_receipt(log.receipt(42)).encode()
    assert old in text
    with pytest.raises(MalformedError):
        ProofBundle.decode(text.replace(old, new, 1))


# --------------------------------------------------------------------------------- COSE receipts


def cose_inclusion(log: SmallLog, index: int) -> bytes:
    head = log.checkpoint()
    proof = log.receipt(index).inclusion_proof
    return cose_receipt.sign_inclusion(
        index, head.tree_size, proof, head.root_hash, LOG, LOG_KEY.sign
    )


def test_a_cose_receipt_of_inclusion_verifies_against_the_leaf(log: SmallLog) -> None:
    verified = cose_receipt.verify_inclusion(
        cose_inclusion(log, 42), log.entries[42].leaf_hash(), LOG
    )
    head = log.checkpoint()
    assert verified == cose_receipt.VerifiedInclusion(42, head.tree_size, head.root_hash)


def test_a_cose_receipt_has_the_labels_of_rfc_9942(log: SmallLog) -> None:
    tagged = cbor2.loads(cose_inclusion(log, 42))
    assert tagged.tag == 18
    protected, unprotected, payload, signature = tagged.value
    assert cbor2.loads(protected) == {
        1: -8,
        4: H(LOG.public_key),
        15: {1: LOG.name},
        395: 1,
        "tree_size": 300,
    }
    assert protected == cbor2.dumps(cbor2.loads(protected), canonical=True)
    ((label, proofs),) = unprotected.items()
    assert label == 396
    ((proof_type, (proof,)),) = proofs.items()
    assert proof_type == -1
    assert cbor2.loads(proof) == [300, 42, list(log.receipt(42).inclusion_proof)]
    assert payload is None
    root = log.checkpoint().root_hash
    signed = cbor2.dumps(["Signature1", protected, b"", root])
    ed25519.verify(LOG.public_key, signature, signed)


def test_a_cose_receipt_of_consistency_verifies_between_two_roots(log: SmallLog) -> None:
    hashes = [each.leaf_hash() for each in log.entries]
    old_root, new_root = tree.root(hashes[:100]), tree.root(hashes)
    data = cose_receipt.sign_consistency(
        100, 300, consistency.prove(hashes, 100), new_root, LOG, LOG_KEY.sign
    )
    verified = cose_receipt.verify_consistency(data, 100, old_root, new_root, LOG)
    assert verified == cose_receipt.VerifiedConsistency(100, 300, new_root)
    with pytest.raises(consistency.ConsistencyRejectedError):
        cose_receipt.verify_consistency(data, 100, new_root, old_root, LOG)
    with pytest.raises(cose_receipt.CoseReceiptRejectedError):
        cose_receipt.verify_consistency(data, 101, old_root, new_root, LOG)
    with pytest.raises(cose_receipt.CoseReceiptMalformedError):
        cose_receipt.verify_inclusion(data, hashes[0], LOG)


def test_a_cose_receipt_of_a_single_leaf_has_an_empty_path() -> None:
    log = SmallLog()
    log.append(entry_of(0))
    verified = cose_receipt.verify_inclusion(
        cose_inclusion(log, 0), log.entries[0].leaf_hash(), LOG
    )
    assert (verified.leaf_index, verified.tree_size) == (0, 1)


def test_a_cose_receipt_is_bound_to_the_logs_name_and_key(log: SmallLog) -> None:
    data, leaf = cose_inclusion(log, 42), log.entries[42].leaf_hash()
    same_key = note.VerifierKey("log.example/else", LOG.public_key)
    for key in (OTHER, same_key, WITNESS):
        with pytest.raises(cose_receipt.CoseReceiptRejectedError):
            cose_receipt.verify_inclusion(data, leaf, key)
    with pytest.raises(ed25519.SignatureRejectedError):
        cose_receipt.verify_inclusion(data, log.entries[43].leaf_hash(), LOG)


def test_neither_signature_of_the_log_passes_for_the_other(log: SmallLog) -> None:
    head = log.checkpoint()
    data = cose_inclusion(log, 42)
    signature = data[-64:]
    line = note.SignatureLine(LOG.name, LOG.key_id, signature)
    with pytest.raises(note.NoteRejectedError):
        note.open_note(str(note.UnverifiedNote(head.text, (line,))), [LOG])
    of_note = note.parse_note(log.receipt(42).checkpoint_note).lines[0].signature
    with pytest.raises(ed25519.SignatureRejectedError):
        cose_receipt.verify_inclusion(data[:-64] + of_note, log.entries[42].leaf_hash(), LOG)


@pytest.mark.parametrize("cut", [1, 64, 66, 100])
def test_a_cose_receipt_cut_short_or_extended_is_malformed(log: SmallLog, cut: int) -> None:
    data, leaf = cose_inclusion(log, 42), log.entries[42].leaf_hash()
    for changed in (data[:-cut], data + b"\x00" * cut, b"\x84" + data[2:], b""):
        with pytest.raises(Refusal):
            cose_receipt.verify_inclusion(changed, leaf, LOG)


def test_a_field_error_names_the_field() -> None:
    with pytest.raises(FieldError) as caught:
        Entry(EntryKind.STATEMENT, b"r", "s", -1)
    assert caught.value.field == "log_time_ms"
