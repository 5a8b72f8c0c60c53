"""Ids and text: exact bytes per id, text that grows by whole characters, no smuggled turns."""

from __future__ import annotations

import json
import threading
import time
from itertools import pairwise
from typing import Any

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from tokenizers import Tokenizer

from otr_numerics.chat import ChatTemplate, Message, conversation
from otr_numerics.token_bytes import (
    Detokeniser,
    TokenBytes,
    TokenIdError,
    TokenTableMalformedError,
)
from otr_numerics.tokenizer import (
    ModelTokenizer,
    NoChatTemplateError,
    TextInvalidError,
    TokenizerMalformedError,
    build_token_bytes,
)
from otr_protocol import dcbor
from otr_protocol.errors import MalformedError
from support.float_models import CHAT_TEMPLATE, CONTROL, tokenizer_json

VOCAB = 300  # 263 tokens and 37 ids without one
DATA = tokenizer_json()
TABLE = build_token_bytes(DATA, vocab=VOCAB)
LIBRARY = Tokenizer.from_buffer(DATA)
TOKENIZER = ModelTokenizer(
    DATA, TABLE, chat_template=ChatTemplate(CHAT_TEMPLATE), bos_id=0, stop_ids=(2,)
)
START, END = TOKENIZER.control_tokens["<|im_start|>"], TOKENIZER.control_tokens["<|im_end|>"]
IDS = st.lists(st.integers(0, VOCAB - 1), max_size=40)
# Text that runs into every rule: control tokens, their fragments, spaces, digits, wide characters.
TRICKY = st.lists(
    st.one_of(
        st.sampled_from([*CONTROL, "<|", "|>", "<|im_", "the", " ", "\n", "12", "é", "🙂"]),
        st.text(max_size=5),
    ),
    max_size=12,
).map("".join)
# Two private-use characters are refused in messages; a test of their own says so.
RESERVED = {0x10FFFC: "x", 0x10FFFD: "y"}
TRICKY_MESSAGE = TRICKY.map(lambda text: text.translate(RESERVED))
PLAIN_MESSAGE = st.text(max_size=20).map(lambda text: text.translate(RESERVED))


def test_every_byte_is_a_token_and_control_tokens_have_no_bytes() -> None:
    assert {TABLE.of(token_id) for token_id in range(3, 259)} == {bytes((b,)) for b in range(256)}
    assert [TABLE.of(token_id) for token_id in TOKENIZER.control_tokens.values()] == [b""] * 3
    assert TABLE.of(VOCAB - 1) == b""
    assert TABLE.join(LIBRARY.encode("the thé 7").ids) == "the thé 7".encode()


@given(text=st.text(max_size=80))
@settings(max_examples=200, deadline=None)
def test_plain_text_survives_encoding(text: str) -> None:
    assert TOKENIZER.decode(TOKENIZER.encode(text)) == text


@given(text=TRICKY)
@settings(max_examples=200, deadline=None)
def test_typed_text_never_becomes_a_control_token(text: str) -> None:
    ids = TOKENIZER.encode(text)
    assert not set(ids) & set(TOKENIZER.control_tokens.values())
    assert TOKENIZER.decode(ids) == text


@given(ids=IDS)
@example(ids=[TABLE.table.index(b"\xf0"), TABLE.table.index(b"\x9f")])
@example(ids=[TABLE.table.index(b"\xff"), TABLE.table.index(b"a")])
@settings(max_examples=300, deadline=None)
def test_a_stream_of_ids_grows_by_whole_characters_to_the_same_text(ids: list[int]) -> None:
    stream = Detokeniser(TABLE)
    text = ""
    joined = b""
    for token_id in ids:
        text += stream.push(token_id)
        joined += TABLE.of(token_id)
        # What is out never changes, and no more than an unfinished character is held back.
        whole = joined.decode("utf-8", "replace")
        assert whole.startswith(text)
        assert len(whole) - len(text) <= 3
    assert text + stream.flush() == TABLE.text(ids) == TOKENIZER.decode(ids)


@given(ids=st.lists(st.integers(3, 262), max_size=40))
@settings(max_examples=200, deadline=None)
def test_text_is_what_the_library_decodes(ids: list[int]) -> None:
    assert TOKENIZER.decode(ids) == LIBRARY.decode(ids, skip_special_tokens=True)


def test_half_a_character_waits_and_is_replaced_only_at_the_end() -> None:
    ids = [TABLE.table.index(bytes((byte,))) for byte in "🙂".encode()]
    stream = TOKENIZER.detokeniser()
    assert [stream.push(token_id) for token_id in ids] == ["", "", "", "🙂"]
    assert stream.flush() == ""
    cut = TOKENIZER.detokeniser()
    assert "".join(cut.push(token_id) for token_id in ids[:3]) == ""
    assert cut.flush() == "\N{REPLACEMENT CHARACTER}"


@pytest.mark.parametrize("token_id", [-1, VOCAB, 2**32])
def test_an_id_outside_the_vocabulary_is_refused(token_id: int) -> None:
    with pytest.raises(TokenIdError):
        TOKENIZER.decode([3, token_id])
    with pytest.raises(TokenIdError):
        TOKENIZER.detokeniser().push(token_id)


def test_a_raw_prompt_starts_with_the_begin_of_sequence_id() -> None:
    assert TOKENIZER.encode_prompt("the") == [0, *TOKENIZER.encode("the")]
    without = ModelTokenizer(DATA, TABLE)
    assert without.encode_prompt("the") == TOKENIZER.encode("the")


@pytest.mark.parametrize(
    "text", ["", "\ud800", "x" * ((1 << 20) + 1)], ids=["empty", "lone", "long"]
)
def test_a_prompt_that_is_no_text_is_refused_by_field(text: str) -> None:
    with pytest.raises(TextInvalidError) as caught:
        TOKENIZER.encode_prompt(text)
    assert caught.value.field == "prompt"


@given(contents=st.lists(PLAIN_MESSAGE, min_size=1, max_size=4))
@settings(max_examples=200, deadline=None)
def test_a_conversation_is_encoded_as_the_library_would_encode_its_text(
    contents: list[str],
) -> None:
    messages = [Message("user", content) for content in contents]
    if any(mark in content for content in contents for mark in CONTROL):
        return
    rendered = ChatTemplate(CHAT_TEMPLATE).render(messages)
    assert TOKENIZER.encode_chat(messages) == LIBRARY.encode(rendered).ids


@given(contents=st.lists(TRICKY_MESSAGE, min_size=1, max_size=3))
@settings(max_examples=200, deadline=None)
def test_no_message_can_open_or_close_a_turn(contents: list[str]) -> None:
    messages = [Message("user", content) for content in contents]
    ids = TOKENIZER.encode_chat(messages)
    assert ids.count(START) == len(contents) + 1
    assert ids.count(END) == len(contents)
    assert TOKENIZER.decode(ids) == "".join(f"user\n{c}\n" for c in contents) + "assistant\n"


def test_a_quoted_control_token_is_read_as_its_letters() -> None:
    ids = TOKENIZER.encode_chat(conversation("say <|im_end|> now", system=None))
    inner = TOKENIZER.encode("user\nsay <|im_end|> now")
    assert ids == [
        START,
        *inner,
        END,
        *TOKENIZER.encode("\n"),
        START,
        *TOKENIZER.encode("assistant\n"),
    ]


def test_the_reserved_fences_are_refused_in_messages() -> None:
    with pytest.raises(TextInvalidError) as caught:
        TOKENIZER.encode_chat([Message("user", "a"), Message("user", "\U0010fffc1\U0010fffd")])
    assert caught.value.field == "messages[1].content"


def test_a_model_without_a_template_takes_no_conversation() -> None:
    with pytest.raises(NoChatTemplateError):
        ModelTokenizer(DATA, TABLE).encode_chat(conversation("hi"))


def test_the_table_file_is_canonical_and_bound_to_the_vocabulary() -> None:
    data = TABLE.encode()
    assert TokenBytes.decode(data, vocab=VOCAB) == TABLE
    with pytest.raises(TokenTableMalformedError):
        TokenBytes.decode(data, vocab=VOCAB + 1)
    with pytest.raises(TokenTableMalformedError):
        TokenBytes.decode(dcbor.encode(("otr-token-bytes-v1", (b"a", 1))), vocab=2)


@given(data=st.binary(max_size=200))
@settings(max_examples=200, deadline=None)
def test_a_garbage_table_is_a_typed_refusal(data: bytes) -> None:
    with pytest.raises(MalformedError):
        TokenBytes.decode(data, vocab=VOCAB)


def changed(**changes: Any) -> bytes:
    return json.dumps(json.loads(DATA) | changes).encode()


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"[]",
        b"{}",
        DATA[:-1],
        changed(decoder={"type": "WordPiece", "prefix": "##", "cleanup": True}),
        changed(decoder=None),
    ],
    ids=["empty", "list", "object", "truncated", "wordpiece", "undecodable"],
)
def test_a_tokenizer_without_fixed_bytes_is_refused(data: bytes) -> None:
    with pytest.raises(TokenizerMalformedError):
        build_token_bytes(data, vocab=VOCAB)


def test_a_tokenizer_larger_than_the_model_is_refused() -> None:
    with pytest.raises(TokenizerMalformedError):
        build_token_bytes(DATA, vocab=262)


def test_a_control_token_that_swallows_its_neighbours_is_refused() -> None:
    """Its ids would depend on text that the quoting rule treats as ordinary."""
    added = json.loads(DATA)["added_tokens"]
    added[1]["rstrip"] = True
    with pytest.raises(TokenizerMalformedError):
        ModelTokenizer(changed(added_tokens=added), TABLE)


def test_other_threads_run_while_a_long_text_is_encoded() -> None:
    ended = threading.Event()
    turns = []

    def count() -> None:
        while not ended.is_set():
            time.sleep(0.001)
            turns.append(time.monotonic())

    counter = threading.Thread(target=count)
    counter.start()
    started = time.monotonic()
    TOKENIZER.encode("the quick brown fox " * 20_000)
    stopped = time.monotonic()
    ended.set()
    counter.join()
    # With the GIL held for the whole time there would be one turn at the very end.
    between = [started, *(turn for turn in turns if started < turn < stopped), stopped]
    assert max(later - turn for turn, later in pairwise(between)) < 0.6 * (stopped - started)
