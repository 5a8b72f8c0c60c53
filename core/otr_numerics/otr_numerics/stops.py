"""Stop strings, matched on the bytes of the last 64 streamed ids (spec/statement.md, ST-12).

Text is compared as bytes of the manifest's token-byte table, so that two parties agree on a match
without agreeing on a tokenizer or on how broken UTF-8 is shown.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Sequence
from typing import Final

from otr_numerics.token_bytes import TokenBytes

WINDOW_TOKENS: Final = 64


class StopStrings:
    """Watches one stream of ids for any of its stop strings."""

    __slots__ = ("_strings", "_token_bytes", "_window")

    def __init__(self, strings: Sequence[bytes], token_bytes: TokenBytes) -> None:
        self._strings = tuple(strings)
        self._token_bytes = token_bytes
        self._window: deque[bytes] = deque(maxlen=WINDOW_TOKENS)

    def push(self, token_id: int) -> bool:
        """Whether a stop string lies in the window that ends with `token_id`.

        Raises TokenIdError for an id outside the vocabulary.
        """
        if not self._strings:
            return False
        self._window.append(self._token_bytes.of(token_id))
        tail = b"".join(self._window)
        return any(string in tail for string in self._strings)
