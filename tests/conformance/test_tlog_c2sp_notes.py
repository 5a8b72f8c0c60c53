"""The examples of the C2SP specifications, a real Go checksum note, a witness's session."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from otr_protocol.errors import MalformedError, RejectedError
from otr_protocol.tlog import canonical_base64, consistency, proof_bundle
from otr_protocol.tlog import checkpoint as checkpoints
from otr_protocol.tlog import note as notes
from otr_protocol.tlog.note import VerifierKey
from otr_protocol.tlog.tree import EMPTY_ROOT

SUMDB = "sum.golang.org+033de0ae+Ac4zctda0e5eza+HJyk9SxEdh+s3Ux18htTTAD8OuAn8"
SIGSUM_ORIGIN = (
    "sigsum.org/v1/tree/4d6d8825a6bb689d459628312889dfbb0bcd41b5211d9e1ce768b0ff0309e562"
)
SIGSUM_KEY = "ffdc2d4d98e4124d3feaf788c0c2f9abfd796083d1f0495437f302ec79cf100f"


@pytest.fixture(scope="module")
def c2sp(vectors: Path) -> Path:
    return vectors / "tlog/c2sp"


def test_the_signed_note_example_opens_with_its_key(c2sp: Path) -> None:
    vkey = (c2sp / "signed-note-example.vkey").read_text().strip()
    key = VerifierKey.parse(vkey)
    assert str(key) == vkey
    note = (c2sp / "signed-note-example.note").read_bytes()
    opened = notes.open_note(note, [key], unknown_lines="refuse")
    assert opened.text == "This is an example message.\n"
    assert [signature.key for signature in opened.signatures] == [key]
    assert str(notes.parse_note(note)).encode() == note


def test_one_changed_byte_in_the_text_rejects_the_example(c2sp: Path) -> None:
    key = VerifierKey.parse((c2sp / "signed-note-example.vkey").read_text().strip())
    note = (c2sp / "signed-note-example.note").read_text()
    with pytest.raises(notes.NoteRejectedError):
        notes.open_note(note.replace("example", "exampl3", 1), [key])


def test_the_cosigned_checkpoint_example_parses(c2sp: Path) -> None:
    note = (c2sp / "cosignature-example.note").read_bytes()
    parsed = notes.parse_note(note)
    assert [line.name for line in parsed.lines] == [
        "example.com/behind-the-sofa",
        "witness.example.com/w1",
    ]
    assert [len(line.signature) for line in parsed.lines] == [64, 72]
    assert int.from_bytes(parsed.lines[1].signature[:8], "big") == 1679315147
    head = checkpoints.peek_checkpoint(note)
    assert (head.origin, head.tree_size) == ("example.com/behind-the-sofa", 20852163)
    assert head.text == parsed.text


def test_the_elided_proof_bundle_example_fails_cleanly_at_its_base64(c2sp: Path) -> None:
    text = (c2sp / "tlog-proof-example.txt").read_text()
    with pytest.raises(MalformedError):
        proof_bundle.ProofBundle.decode(text)
    # With the elided signatures replaced, everything else of the example is accepted.
    whole = re.sub(r"(— \S+) \S+", r"\1 AAAAAAAA", text)
    bundle = proof_bundle.ProofBundle.decode(whole)
    assert bundle.encode() == whole
    assert bundle.leaf_index == 73894
    assert len(bundle.inclusion_proof) == 5


def test_a_real_checkpoint_of_the_go_checksum_database_opens(vectors: Path) -> None:
    transcript = (vectors / "tlog/torchwood-witness/sumdb.txt").read_text()
    bodies = re.findall(r"```\n(old.*?)```", transcript, re.DOTALL)
    assert bodies
    for body in bodies:
        note = body.split("\n\n", 1)[1]
        # Its key name is not its origin, so the origin that is expected must be said.
        opened = checkpoints.open_checkpoint(
            note, [VerifierKey.parse(SUMDB)], origin="go.sum database tree"
        )
        assert opened.checkpoint.tree_size == 35_225_469
        with pytest.raises(notes.NoteRejectedError):
            checkpoints.open_checkpoint(note, [VerifierKey.parse(SUMDB)])


def test_a_witness_made_of_our_rules_answers_the_litewitness_session(vectors: Path) -> None:
    transcript = (vectors / "tlog/torchwood-witness/litewitness.txt").read_text()
    calls = re.findall(r"```\n(old.*?)```\nHTTP (\d+)", transcript, re.DOTALL)
    key = VerifierKey(SIGSUM_ORIGIN, bytes.fromhex(SIGSUM_KEY))
    size, root = 0, EMPTY_ROOT

    def add_checkpoint(body: str) -> int:
        """tlog-witness v1.0.0 over the pure rules; what a witness service would add is storage."""
        nonlocal size, root
        head, note = body.split("\n\n", 1)
        first, *encoded = head.split("\n")
        old = int(first.removeprefix("old "))
        proof = [canonical_base64.decode(each) for each in encoded]
        if checkpoints.peek_checkpoint(note).origin != key.name:
            return 404
        try:
            new = checkpoints.open_checkpoint(note, [key]).checkpoint
        except notes.NoteRejectedError:
            return 403
        if old > new.tree_size:
            return 400
        if old != size:
            return 409
        try:
            if old:
                consistency.verify(old, new.tree_size, root, new.root_hash, proof)
            elif proof:
                return 422
        except RejectedError:
            return 422
        size, root = new.tree_size, new.root_hash
        return 200

    answers = [add_checkpoint(body) for body, _ in calls]
    assert answers == [200, 403, 404, 422, 422, 200, 409, 200, 409]
    # The recording is from before the specification gave an unknown origin its own code.
    recorded = [int(code) for _, code in calls]
    assert [a for a, r in zip(answers, recorded, strict=True) if a != r] == [404]
    assert size == 5
