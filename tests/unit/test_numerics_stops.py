"""Stop strings on the bytes of the last 64 streamed ids."""

from __future__ import annotations

import pytest

from otr_numerics.stops import WINDOW_TOKENS, StopStrings
from otr_numerics.token_bytes import TokenBytes, TokenIdError

# 0 is a control token without bytes; 5 and 6 are the two halves of a character.
TABLE = TokenBytes((b"", b"a", b"b", b"ab", b"cab", b"\xc3", b"\xa9"))


def first_match(strings: list[bytes], ids: list[int]) -> int | None:
    stops = StopStrings(strings, TABLE)
    return next((index for index, token in enumerate(ids) if stops.push(token)), None)


def test_a_string_inside_one_token() -> None:
    assert first_match([b"a"], [2, 4, 1]) == 1


def test_a_string_across_tokens_ends_with_the_one_that_completes_it() -> None:
    assert first_match([b"bca"], [1, 2, 4]) == 2
    assert first_match([b"abab"], [1, 2, 1, 2]) == 3


def test_control_tokens_between_do_not_separate() -> None:
    assert first_match([b"ab"], [1, 0, 0, 2]) == 3


def test_a_character_across_tokens() -> None:
    assert first_match(["é".encode()], [5, 6]) == 1
    assert first_match(["é".encode()], [6, 5]) is None


def test_any_of_several_strings() -> None:
    assert first_match([b"zzz", b"ba"], [1, 2, 1]) == 2


def test_no_strings_never_match() -> None:
    assert first_match([], [1, 2, 3]) is None


def test_the_window_is_64_ids() -> None:
    """The 64th id from the end still counts, the 65th does not."""
    assert WINDOW_TOKENS == 64
    assert first_match([b"ab"], [1, *[0] * 62, 2]) == 63
    assert first_match([b"ab"], [1, *[0] * 63, 2]) is None


def test_an_id_outside_the_table_is_refused() -> None:
    stops = StopStrings([b"a"], TABLE)
    for token in (-1, len(TABLE)):
        with pytest.raises(TokenIdError):
            stops.push(token)
