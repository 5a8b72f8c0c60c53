"""Text to token ids and back.

Encoding wraps the `tokenizers` library and is nobody's business but the client's: what is signed
are the ids. Decoding is not left to the library: it goes through the token-byte table that the
manifest commits to. Control tokens (such as `<|im_end|>`) are matched only where the model's own
chat template writes them, never in what a user typed, so that a prompt cannot open a turn of its
own.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, Final

from tokenizers import Tokenizer

from otr_numerics.chat import ChatTemplate, Message
from otr_numerics.token_bytes import Detokeniser, TokenBytes
from otr_protocol.errors import MalformedError, RejectedError

MAX_TOKENIZER_BYTES: Final = 64 << 20
MAX_TEXT_BYTES: Final = 1 << 20

# Two private-use characters fence a control-token string quoted by a user while the template runs.
_FENCE_OPEN, _FENCE_CLOSE = "\U0010fffc", "\U0010fffd"


class TokenizerMalformedError(MalformedError):
    """tokenizer.json is damaged, or of a kind whose tokens have no fixed bytes."""

    reason = "TOKENIZER_MALFORMED"


class TextInvalidError(MalformedError):
    """A prompt that is empty, too long, or not Unicode text."""

    reason = "TEXT_INVALID"


class NoChatTemplateError(RejectedError):
    """A conversation for a model that has no chat template."""

    reason = "NO_CHAT_TEMPLATE"


def _byte_of_character() -> dict[str, int]:
    """GPT-2's byte-level alphabet: printable Latin-1 stands for itself, the rest from U+0100 on."""
    printable = [*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100)]
    alphabet = {chr(byte): byte for byte in printable}
    others = (byte for byte in range(256) if chr(byte) not in alphabet)
    return alphabet | {chr(0x100 + index): byte for index, byte in enumerate(others)}


_BYTE_OF_CHARACTER: Final = _byte_of_character()


def _parse(data: bytes) -> tuple[Tokenizer, Mapping[str, Any]]:
    if len(data) > MAX_TOKENIZER_BYTES:
        raise TokenizerMalformedError("tokenizer.json exceeds 64 MiB", field="tokenizer.json")
    try:
        tokenizer = Tokenizer.from_buffer(data)
        description = json.loads(data)
    except Exception as error:  # the library raises bare Exception for anything it dislikes
        raise TokenizerMalformedError(
            f"tokenizer.json cannot be read: {error}", field="tokenizer.json"
        ) from error
    decoder = (description.get("decoder") or {}).get("type")
    if decoder != "ByteLevel":
        raise TokenizerMalformedError(
            f"decoder {decoder!r}: only byte-level tokens have fixed bytes", field="tokenizer.json"
        )
    return tokenizer, description


def build_token_bytes(data: bytes, *, vocab: int) -> TokenBytes:
    """The token-byte table of a byte-level tokenizer.json for a model with `vocab` ids.

    Raises TokenizerMalformedError when it is not byte level or has ids beyond the vocabulary.
    """
    tokenizer, description = _parse(data)
    table = [b""] * vocab
    added = {entry["id"]: entry for entry in description.get("added_tokens") or []}
    for token, token_id in tokenizer.get_vocab(with_added_tokens=True).items():
        if token_id >= vocab:
            raise TokenizerMalformedError(
                f"token id {token_id} is beyond the vocabulary of {vocab}", field="tokenizer.json"
            )
        if token_id in added:
            table[token_id] = b"" if added[token_id]["special"] else token.encode()
            continue
        try:
            table[token_id] = bytes(_BYTE_OF_CHARACTER[character] for character in token)
        except KeyError as error:
            raise TokenizerMalformedError(
                f"token {token_id} is not byte level", field="tokenizer.json"
            ) from error
    return TokenBytes(tuple(table))


class ModelTokenizer:
    """Encode prompts and conversations, decode ids. Thread safe; holds no state between calls."""

    def __init__(
        self,
        data: bytes,
        token_bytes: TokenBytes,
        *,
        chat_template: ChatTemplate | None = None,
        bos_id: int | None = None,
        stop_ids: Sequence[int] = (),
    ) -> None:
        """`data` is tokenizer.json; `bos_id` goes before raw prompts, `stop_ids` end an answer."""
        self._plain, description = _parse(data)
        # With this set, text never becomes a control token; `_encode_controlled` adds them itself.
        self._plain.encode_special_tokens = True
        self.token_bytes = token_bytes
        self.chat_template = chat_template
        self.bos_id = bos_id
        self.stop_ids = tuple(stop_ids)
        self.control_tokens: dict[str, int] = {}
        for entry in description.get("added_tokens") or []:
            if entry["special"]:
                if entry["lstrip"] or entry["rstrip"] or entry["single_word"]:
                    raise TokenizerMalformedError(
                        f"control token {entry['content']!r} swallows its neighbours",
                        field="tokenizer.json",
                    )
                self.control_tokens[entry["content"]] = entry["id"]
        longest_first = sorted(self.control_tokens, key=lambda token: (-len(token), token))
        # Without control tokens the pattern must match nowhere, and "" matches everywhere.
        pattern = "|".join(map(re.escape, longest_first)) or r"(?!)"
        self._control_pattern = re.compile(pattern)
        self._quoted = {
            token: f"{_FENCE_OPEN}{self.control_tokens[token]}{_FENCE_CLOSE}"
            for token in longest_first
        }
        self._unquoted = {quoted: token for token, quoted in self._quoted.items()}
        self._quoted_pattern = re.compile(f"{_FENCE_OPEN}[0-9]+{_FENCE_CLOSE}")

    def __len__(self) -> int:
        """The size of the model's vocabulary, which bounds every id."""
        return len(self.token_bytes)

    def encode(self, text: str) -> list[int]:
        """Ids of plain text; a control-token string in it is ordinary text. "" gives [].

        Raises TextInvalidError for more than 1 MiB or for lone surrogates.
        """
        _check_text(text, "prompt")
        return self._ids(text)

    def encode_prompt(self, text: str) -> list[int]:
        """Ids of a raw prompt: the begin-of-sequence id, if the model has one, and the text.

        Raises TextInvalidError for empty text and as `encode`.
        """
        if not text:
            raise TextInvalidError("the prompt is empty", field="prompt")
        bos = [] if self.bos_id is None else [self.bos_id]
        return bos + self.encode(text)

    def encode_chat(self, messages: Sequence[Message]) -> list[int]:
        """Ids of a conversation rendered by the model's chat template, up to the answer's start.

        Raises NoChatTemplateError, TextInvalidError, and what `ChatTemplate.render` raises.
        """
        if self.chat_template is None:
            raise NoChatTemplateError("this model has no chat template", field="chat")
        quoted = []
        for index, message in enumerate(messages):
            field = f"messages[{index}].content"
            _check_text(message.content, field)
            if _FENCE_OPEN in message.content or _FENCE_CLOSE in message.content:
                raise TextInvalidError(
                    "the private-use characters U+10FFFC and U+10FFFD are reserved", field=field
                )
            content = self._control_pattern.sub(
                lambda match: self._quoted[match.group()], message.content
            )
            quoted.append(Message(message.role, content))
        rendered = self.chat_template.render(quoted, bos_token=self._token_text(self.bos_id))
        return self._encode_controlled(rendered)

    def _token_text(self, token_id: int | None) -> str:
        return "" if token_id is None else str(self._plain.id_to_token(token_id))

    def _encode_controlled(self, rendered: str) -> list[int]:
        """Control tokens become their ids; the text between is encoded with quotations restored."""
        ids: list[int] = []
        start = 0
        for match in self._control_pattern.finditer(rendered):
            ids += self._encode_quoted(rendered[start : match.start()])
            ids.append(self.control_tokens[match.group()])
            start = match.end()
        return ids + self._encode_quoted(rendered[start:])

    def _encode_quoted(self, text: str) -> list[int]:
        restored = self._quoted_pattern.sub(lambda match: self._unquoted[match.group()], text)
        return self._ids(restored)

    def _ids(self, text: str) -> list[int]:
        # As a batch of one: only then does the library release the GIL, which it would otherwise
        # hold for a second per MiB. Offsets, which nobody reads, are half of the work.
        [encoding] = self._plain.encode_batch_fast([text], add_special_tokens=False)
        return list(encoding.ids)

    def decode(self, token_ids: Iterable[int]) -> str:
        """The text of a complete sequence; control tokens are silent. Raises TokenIdError."""
        return self.token_bytes.text(token_ids)

    def detokeniser(self) -> Detokeniser:
        """A fresh incremental decoder for one stream."""
        return Detokeniser(self.token_bytes)


def _check_text(text: str, field: str) -> None:
    try:
        size = len(text.encode())
    except UnicodeEncodeError as error:
        raise TextInvalidError(f"{field} is not Unicode text", field=field) from error
    if size > MAX_TEXT_BYTES:
        raise TextInvalidError(f"{field} has {size} bytes, at most 1 MiB", field=field)
