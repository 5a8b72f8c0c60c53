"""Signed notes and checkpoints: who signed, what is refused, and what strict readers refuse."""

from __future__ import annotations

import dataclasses

import pytest

from otr_protocol.errors import MalformedError, Refusal
from otr_protocol.tlog import canonical_base64, checkpoint, note
from otr_protocol.tlog.checkpoint import Checkpoint
from otr_protocol.tlog.note import COSIGNATURE_V1, SignerKey, VerifierKey
from otr_protocol.tlog.tree import EMPTY_ROOT
from support.log_of import LOG_KEY, OTHER_KEY, WITNESS_KEY

HEAD = Checkpoint("log.example/otr", 7, b"\x05" * 32)
LOG, WITNESS, OTHER = LOG_KEY.verifier, WITNESS_KEY.verifier, OTHER_KEY.verifier
NOTE = checkpoint.sign_checkpoint(HEAD, LOG_KEY)
COSIGNED = note.add_lines(
    NOTE, [checkpoint.cosign(HEAD, WITNESS, WITNESS_KEY.sign, timestamp=1_700_000_000)]
)
STRANGER = note.add_lines(NOTE, [note.sign_text(HEAD.text, OTHER, OTHER_KEY.sign)])


def test_a_checkpoint_opens_with_its_logs_key() -> None:
    opened = checkpoint.open_checkpoint(NOTE, [LOG], unknown_lines="refuse")
    assert opened.checkpoint == HEAD
    assert opened.log_key == LOG
    assert opened.cosignatures == ()
    assert checkpoint.peek_checkpoint(NOTE.encode()) == HEAD


def test_cosignatures_of_known_witnesses_come_with_their_times() -> None:
    opened = checkpoint.open_checkpoint(
        COSIGNED, [LOG], witness_keys=[WITNESS], unknown_lines="refuse"
    )
    assert opened.cosignatures == (checkpoint.Cosignature(WITNESS, 1_700_000_000),)


def test_a_cosignature_covers_its_time_and_the_whole_text() -> None:
    line = note.parse_note(COSIGNED).lines[1]
    later = dataclasses.replace(line, signature=bytes(7) + b"\x01" + line.signature[8:])
    moved = str(note.UnverifiedNote(HEAD.text, (note.parse_note(NOTE).lines[0], later)))
    with pytest.raises(note.NoteRejectedError):
        checkpoint.open_checkpoint(moved, [LOG], witness_keys=[WITNESS])
    # Without the witness's key its line is nobody's, and ignored or refused as such.
    assert checkpoint.open_checkpoint(moved, [LOG]).cosignatures == ()
    with pytest.raises(note.NoteRejectedError):
        checkpoint.open_checkpoint(moved, [LOG], unknown_lines="refuse")


def test_a_cosignature_after_the_end_of_time_is_refused() -> None:
    line = note.parse_note(COSIGNED).lines[1]
    far = dataclasses.replace(line, signature=b"\xff" * 8 + line.signature[8:])
    with pytest.raises(note.NoteRejectedError, match="time"):
        note.open_note(str(note.UnverifiedNote(HEAD.text, (far,))), [WITNESS])


def test_a_strangers_line_is_ignored_or_refused_as_the_reader_asks() -> None:
    assert checkpoint.open_checkpoint(STRANGER, [LOG]).checkpoint == HEAD
    with pytest.raises(note.NoteRejectedError):
        checkpoint.open_checkpoint(STRANGER, [LOG], unknown_lines="refuse")
    assert note.keep_lines(STRANGER, [LOG]) == NOTE


def test_two_lines_by_one_key_count_once_or_are_refused() -> None:
    twice = note.add_lines(NOTE, note.parse_note(NOTE).lines)
    assert len(note.open_note(twice, [LOG]).signatures) == 1
    with pytest.raises(note.NoteRejectedError):
        note.open_note(twice, [LOG], unknown_lines="refuse")
    assert note.keep_lines(twice, [LOG]) == NOTE


def test_a_wrong_signature_by_a_known_key_rejects_the_note_whatever_else_it_has() -> None:
    forged = note.SignatureLine(OTHER.name, OTHER.key_id, bytes(64))
    mixed = note.add_lines(NOTE, [forged])
    assert note.open_note(mixed, [LOG]).text == HEAD.text
    with pytest.raises(note.NoteRejectedError):
        note.open_note(mixed, [LOG, OTHER])


def test_a_note_that_nobody_known_signed_is_refused() -> None:
    with pytest.raises(note.NoteRejectedError):
        note.open_note(NOTE, [OTHER])
    with pytest.raises(note.NoteRejectedError):
        note.open_note(NOTE, [])


def test_a_key_of_the_same_name_but_another_id_is_another_key() -> None:
    impostor = SignerKey(LOG.name, b"\x09" * 32)
    with pytest.raises(note.NoteRejectedError):
        note.open_note(checkpoint.sign_checkpoint(HEAD, impostor), [LOG])


def test_a_log_does_not_sign_for_another_origin() -> None:
    foreign = checkpoint.sign_checkpoint(HEAD, OTHER_KEY)
    with pytest.raises(note.NoteRejectedError):
        checkpoint.open_checkpoint(foreign, [OTHER])
    assert checkpoint.open_checkpoint(foreign, [OTHER], origin=HEAD.origin).checkpoint == HEAD
    with pytest.raises(note.NoteRejectedError):
        checkpoint.open_checkpoint(NOTE, [LOG], origin="log.example/else")
    with pytest.raises(note.NoteRejectedError):
        checkpoint.open_checkpoint(STRANGER, [LOG, OTHER], unknown_lines="refuse")


def test_a_cosignature_does_not_stand_in_for_the_logs_signature() -> None:
    line = checkpoint.cosign(HEAD, WITNESS, WITNESS_KEY.sign, timestamp=1)
    alone = str(note.UnverifiedNote(HEAD.text, (line,)))
    with pytest.raises(note.NoteRejectedError):
        checkpoint.open_checkpoint(alone, [LOG], witness_keys=[WITNESS])


def test_keys_of_the_wrong_type_are_refused_where_they_do_not_belong() -> None:
    with pytest.raises(note.KeyMalformedError):
        checkpoint.open_checkpoint(NOTE, [WITNESS])
    with pytest.raises(note.KeyMalformedError):
        checkpoint.open_checkpoint(NOTE, [LOG], witness_keys=[OTHER])


def test_two_keys_that_a_line_cannot_tell_apart_are_refused() -> None:
    # Four bytes collide after some 80,000 tries; anybody can make such a pair.
    seen: dict[bytes, VerifierKey] = {}
    for number in range(1_000_000):
        key = VerifierKey(LOG.name, number.to_bytes(32, "big"))
        other = seen.setdefault(key.key_id, key)
        if other != key:
            break
    else:
        pytest.fail("no collision in a million keys")
    with pytest.raises(note.KeyMalformedError):
        note.open_note(NOTE, [LOG, key, other])
    assert note.open_note(NOTE, [LOG, key, key]).text == HEAD.text


@pytest.mark.parametrize("key", [LOG, WITNESS, OTHER], ids=str)
def test_verifier_keys_survive_as_text(key: VerifierKey) -> None:
    assert VerifierKey.parse(str(key)) == key


def test_signer_keys_survive_as_text_and_stay_out_of_repr() -> None:
    for key in (LOG_KEY, WITNESS_KEY):
        assert SignerKey.parse(key.secret_text()) == key
        assert key.seed.hex() not in repr(key)
        assert repr(key.seed) not in repr(key)


def respelled_key(*, name: str = LOG.name, key_id: str = LOG.key_id.hex(), rest: str = "") -> str:
    material = canonical_base64.encode(b"\x01" + LOG.public_key)
    return f"{name}+{key_id}+{rest or material}"


@pytest.mark.parametrize(
    "vkey",
    [
        "",
        "log.example/otr",
        "log.example/otr+00000000",
        respelled_key(key_id="00000000"),
        respelled_key(key_id=LOG.key_id.hex().upper()),
        respelled_key(name="log.example/other"),
        respelled_key(name="log example"),
        respelled_key(name=""),
        respelled_key(rest="AQ=="),
        respelled_key(rest=canonical_base64.encode(b"\x02" + LOG.public_key)),
        respelled_key() + "=",
        respelled_key() + "\n",
        " " + respelled_key(),
        respelled_key(name="x" * 256),
        respelled_key(name="\ud800"),
        "x" * 100_000,
    ],
)
def test_a_key_in_any_other_spelling_is_malformed(vkey: str) -> None:
    assert VerifierKey.parse(respelled_key()) == LOG
    with pytest.raises(MalformedError):
        VerifierKey.parse(vkey)
    with pytest.raises(MalformedError):
        SignerKey.parse(vkey)
    with pytest.raises(MalformedError):
        SignerKey.parse("PRIVATE+KEY+" + vkey)


SIGNATURE = str(note.parse_note(NOTE).lines[0])


@pytest.mark.parametrize(
    "text",
    [
        "",
        "\n",
        "\n\n",
        HEAD.text,
        HEAD.text + "\n",
        HEAD.text + SIGNATURE,
        HEAD.text + "\n" + SIGNATURE[:-1],
        HEAD.text + "\n" + SIGNATURE + "trailing\n",
        HEAD.text + "\n" + SIGNATURE + "\n",
        HEAD.text + "\n" + SIGNATURE.replace("\u2014", "-"),
        HEAD.text + "\n" + SIGNATURE.replace("\u2014 ", "\u2014"),
        HEAD.text + "\n" + SIGNATURE.replace("\n", " \n"),
        HEAD.text + "\n" + SIGNATURE.replace("\n", "\r\n"),
        HEAD.text + "\n\u2014 log.example/otr\n",
        HEAD.text + "\n\u2014  AAAAAAAA\n",
        HEAD.text + "\n\u2014 a+b AAAAAAAA\n",
        HEAD.text + "\n\u2014 a\u00a0b AAAAAAAA\n",
        HEAD.text + "\n\u2014 name AAAA\n",
        HEAD.text + "\n\u2014 name AAAAAAB=\n",  # stray padding bits
        HEAD.text + "\n\u2014 name AAAAAAA\n",
        HEAD.text + "\n\u2014 name AAAA*AAA\n",
        "tab\t\n\n" + SIGNATURE,
        "nul\x00\n\n" + SIGNATURE,
        "\ud800\n\n" + SIGNATURE,
        HEAD.text + "\n" + SIGNATURE * 65,
        "x" * 70_000 + "\n\n" + SIGNATURE,
        "\u2014" * 30_000 + "\n\n" + SIGNATURE,
    ],
)
def test_what_is_not_a_note_is_malformed(text: str) -> None:
    with pytest.raises(MalformedError):
        note.parse_note(text)
    with pytest.raises(MalformedError):
        note.open_note(text, [LOG], unknown_lines="refuse")


def test_bytes_that_are_not_utf_8_are_malformed() -> None:
    with pytest.raises(note.NoteMalformedError):
        note.parse_note(b"\xff\n\n" + SIGNATURE.encode())


def test_sixty_four_signatures_are_read_and_stray_padding_bits_only_where_asked_for() -> None:
    assert len(note.parse_note(HEAD.text + "\n" + SIGNATURE * 64).lines) == 64
    stray = HEAD.text + "\n" + SIGNATURE + "\u2014 name AAAAAAB=\n"
    assert note.open_note(stray, [LOG]).text == HEAD.text
    with pytest.raises(MalformedError):
        note.open_note(stray, [LOG], unknown_lines="refuse")


def test_a_text_may_have_blank_lines_and_ends_at_the_last_one() -> None:
    signed = note.sign_note("one\n\ntwo\n", LOG_KEY, OTHER_KEY)
    opened = note.open_note(signed, [LOG, OTHER], unknown_lines="refuse")
    assert opened.text == "one\n\ntwo\n"
    assert [each.key for each in opened.signatures] == [LOG, OTHER]


@pytest.mark.parametrize("text", ["", "no newline", "tab\t\n"])
def test_a_text_that_would_not_come_back_is_not_signed(text: str) -> None:
    with pytest.raises(MalformedError):
        note.sign_note(text, LOG_KEY)
    with pytest.raises(MalformedError):
        note.sign_note("fine\n")


def test_only_cosignatures_have_a_timestamp() -> None:
    with pytest.raises(ValueError, match="cosignature"):
        note.sign_text(HEAD.text, LOG, LOG_KEY.sign, timestamp=1)
    with pytest.raises(ValueError, match="timestamp"):
        note.sign_text(HEAD.text, WITNESS, WITNESS_KEY.sign)
    assert WITNESS.signature_type == COSIGNATURE_V1


@pytest.mark.parametrize(
    "text",
    [
        "",
        "origin\n",
        "origin\n7\n",
        "\n7\nBQUFBQUFBQUFBQUFBQUFBQUFBQUFBQUFBQUFBQUFBQU=\n",
        "origin\n07\nBQUFBQUFBQUFBQUFBQUFBQUFBQUFBQUFBQUFBQUFBQU=\n",
        "origin\n+7\nBQUFBQUFBQUFBQUFBQUFBQUFBQUFBQUFBQUFBQUFBQU=\n",
        "origin\n-7\nBQUFBQUFBQUFBQUFBQUFBQUFBQUFBQUFBQUFBQUFBQU=\n",
        "origin\n7 \nBQUFBQUFBQUFBQUFBQUFBQUFBQUFBQUFBQUFBQUFBQU=\n",
        "origin\n1_0\nBQUFBQUFBQUFBQUFBQUFBQUFBQUFBQUFBQUFBQUFBQU=\n",
        "origin\n٧\nBQUFBQUFBQUFBQUFBQUFBQUFBQUFBQUFBQUFBQUFBQU=\n",
        "origin\n9223372036854775808\nBQUFBQUFBQUFBQUFBQUFBQUFBQUFBQUFBQUFBQUFBQU=\n",
        "origin\n" + "9" * 5_000 + "\nBQUFBQUFBQUFBQUFBQUFBQUFBQUFBQUFBQUFBQUFBQU=\n",
        "origin\n0\nBQUFBQUFBQUFBQUFBQUFBQUFBQUFBQUFBQUFBQUFBQU=\n",  # another empty tree
        "origin\n7\nBQUF\n",
        "origin\n7\nBQUFBQUFBQUFBQUFBQUFBQUFBQUFBQUFBQUFBQUFBQV=\n",
        "origin\n7\nBQUFBQUFBQUFBQUFBQUFBQUFBQUFBQUFBQUFBQUFBQU=",
        "origin\n7\nBQUFBQUFBQUFBQUFBQUFBQUFBQUFBQUFBQUFBQUFBQU=\n\n",
        "origin\n7\nBQUFBQUFBQUFBQUFBQUFBQUFBQUFBQUFBQUFBQUFBQU=\n" + "extension\n" * 17,
    ],
)
def test_what_is_not_a_checkpoint_is_malformed(text: str) -> None:
    with pytest.raises(MalformedError):
        checkpoint.parse_text(text)


@pytest.mark.parametrize(
    "head",
    [
        HEAD,
        Checkpoint("origin with spaces+plus", 0, EMPTY_ROOT),
        Checkpoint("origin", 2**63 - 1, b"\x01" * 32, ("extension", "another one")),
    ],
)
def test_checkpoints_survive_as_text(head: Checkpoint) -> None:
    assert checkpoint.parse_text(head.text) == head


@pytest.mark.parametrize(
    "arguments",
    [
        ("", 1, b"\x01" * 32),
        ("two\nlines", 1, b"\x01" * 32),
        ("origin", -1, b"\x01" * 32),
        ("origin", 2**63, b"\x01" * 32),
        ("origin", 1, b"\x01" * 31),
        ("origin", 0, b"\x01" * 32),
        ("origin", 1, b"\x01" * 32, ("",)),
        ("origin", 1, b"\x01" * 32, ("a\nb",)),
    ],
)
def test_values_that_no_checkpoint_has_are_refused(arguments: tuple) -> None:  # type: ignore[type-arg]
    with pytest.raises(Refusal):
        Checkpoint(*arguments)
