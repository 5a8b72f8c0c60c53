"""Backoff doubles, stops at its ceiling, and honours what the other side asked for."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from otr_server.backoff import Backoff


def test_delays_double_to_the_ceiling_and_start_over() -> None:
    backoff = Backoff(initial_seconds=1, maximum_seconds=5, draw=lambda: 0.0)
    assert [backoff.next_seconds() for _ in range(5)] == [0.5, 1.0, 2.0, 2.5, 2.5]
    backoff.reset()
    assert backoff.next_seconds() == 0.5


@given(st.floats(0, 0.999), st.floats(0, 100))
def test_a_delay_is_never_less_than_was_asked_for(draw: float, at_least: float) -> None:
    backoff = Backoff(initial_seconds=1, maximum_seconds=8, draw=lambda: draw)
    for step in (1, 2, 4, 8, 8):
        delay = backoff.next_seconds(at_least=at_least)
        assert max(step / 2, at_least) <= delay <= max(step / 2, at_least) + step / 2


def test_senseless_parameters_are_refused() -> None:
    with pytest.raises(ValueError, match="initial_seconds"):
        Backoff(initial_seconds=0)
    with pytest.raises(ValueError, match="factor"):
        Backoff(factor=0.5)
