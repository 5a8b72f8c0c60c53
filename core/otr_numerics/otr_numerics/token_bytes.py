"""The token-byte table: which bytes each token id stands for, and text from a stream of ids.

The manifest commits to the table (PROTOCOL section 4: stop strings are matched on it), so that two
parties agree about text without agreeing about a tokenizer library. File `token_bytes.cbor`:

    ["otr-token-bytes-v1", [h'21', h'22', ...]]        one byte string per id, in order

Control tokens and ids without a token stand for no bytes: they never show in text and no stop
string can match them. Text is the concatenated bytes read as UTF-8, broken sequences replaced by
U+FFFD.
"""

from __future__ import annotations

import codecs
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Final

from otr_protocol import dcbor
from otr_protocol.digest import H
from otr_protocol.errors import MalformedError

DOMAIN: Final = "otr-token-bytes-v1"
# A table for 2^20 ids of 32 bytes on average; the largest Llama vocabulary has 202,048.
MAX_TABLE_BYTES: Final = 32 << 20
MAX_TOKENS: Final = 1 << 20


class TokenTableMalformedError(MalformedError):
    """The token-byte table is damaged or does not belong to the model's vocabulary."""

    reason = "TOKEN_TABLE_MALFORMED"


class TokenIdError(MalformedError):
    """A token id outside the vocabulary."""

    reason = "TOKEN_ID_INVALID"


@dataclass(frozen=True, slots=True)
class TokenBytes:
    """`table[id]` are the bytes of token `id`."""

    table: tuple[bytes, ...]

    def __len__(self) -> int:
        return len(self.table)

    def of(self, token_id: int) -> bytes:
        """The bytes of one id. Raises TokenIdError outside 0 .. len - 1."""
        # Negative ids would silently count from the end of the tuple.
        if not 0 <= token_id < len(self.table):
            raise TokenIdError(
                f"token id {token_id} is outside 0 to {len(self.table) - 1}", field="token_id"
            )
        return self.table[token_id]

    def join(self, token_ids: Iterable[int]) -> bytes:
        """The bytes of a sequence of ids. Raises TokenIdError."""
        return b"".join([self.of(token_id) for token_id in token_ids])

    def text(self, token_ids: Iterable[int]) -> str:
        """The text of a complete sequence of ids. Raises TokenIdError."""
        return self.join(token_ids).decode("utf-8", errors="replace")

    def encode(self) -> bytes:
        """The canonical file."""
        return dcbor.encode((DOMAIN, self.table))

    def digest(self) -> bytes:
        """SHA-256 of the canonical file: 32 bytes, in the manifest."""
        return H(self.encode())

    @classmethod
    def decode(cls, data: bytes, *, vocab: int) -> TokenBytes:
        """Read the canonical file of a model with `vocab` ids.

        Raises dcbor's refusals, and TokenTableMalformedError for another shape or size.
        """
        (items,) = dcbor.open_record(
            data, DOMAIN, tuple, max_bytes=MAX_TABLE_BYTES, max_items=MAX_TOKENS + 3, max_depth=2
        )
        assert isinstance(items, tuple)
        table = tuple(item for item in items if isinstance(item, bytes))
        if len(table) != len(items):
            raise TokenTableMalformedError("a table entry is no byte string", field="token_bytes")
        if len(table) != vocab:
            raise TokenTableMalformedError(
                f"the table has {len(table)} entries for {vocab} ids", field="token_bytes"
            )
        return cls(table)


class Detokeniser:
    """Text as it grows, one id at a time, never half a character.

    The deltas of all `push` calls and the final `flush` join to `TokenBytes.text` of the same ids.
    Bytes that can still become a character are held back (at most 3); bytes that turn out not to
    be one are replaced; what is incomplete at the end is replaced by `flush`.
    """

    __slots__ = ("_decoder", "_token_bytes")

    def __init__(self, token_bytes: TokenBytes) -> None:
        self._token_bytes = token_bytes
        self._decoder = codecs.getincrementaldecoder("utf-8")(errors="replace")

    def push(self, token_id: int) -> str:
        """The text that `token_id` completes, possibly empty. Raises TokenIdError."""
        return self._decoder.decode(self._token_bytes.of(token_id))

    def flush(self) -> str:
        """The end of the text: U+FFFD if a character was left incomplete, else nothing."""
        return self._decoder.decode(b"", final=True)
