"""No caller takes everything (otr_server.shares)."""

from __future__ import annotations

import pytest

from otr_protocol.errors import ExhaustedError
from otr_server.shares import Ration, Shares, share_of


class FullError(ExhaustedError):
    reason = "FULL"


def shares(limit: int, each: int) -> Shares:
    return Shares(limit, each, FullError, "places", retry_ms=70)


def test_one_caller_gets_its_share_and_leaves_the_rest_to_others() -> None:
    places = shares(4, 2)
    places.take("a")
    places.take("a")
    with pytest.raises(FullError) as caught:
        places.take("a")
    assert caught.value.retry_after_ms == 70
    places.take("b", 2)
    with pytest.raises(FullError):
        places.take("c")


def test_what_is_given_back_can_be_taken_again_and_nobody_is_remembered() -> None:
    places = shares(1, 1)
    with pytest.raises(ZeroDivisionError), places.taken("a"):
        raise ZeroDivisionError
    assert places._by_caller == {}
    with places.taken("b"), pytest.raises(FullError):
        places.take("a")
    places.take("a")


def test_a_refused_caller_takes_nothing() -> None:
    places = shares(4, 3)
    places.take("a", 2)
    with pytest.raises(FullError):
        places.take("a", 2)
    places.take("b", 2)


@pytest.mark.parametrize(
    ("limit", "least", "each"), [(1024, 1, 256), (1, 1, 1), (3, 1, 1), (8, 256, 8), (512, 256, 256)]
)
def test_a_share_is_a_quarter_and_never_nothing(limit: int, least: int, each: int) -> None:
    assert share_of(limit, least=least) == each


def test_a_ration_is_used_up_by_its_caller_alone_and_comes_back() -> None:
    now = 1000.0
    ration = Ration(10, 60, FullError, "bytes", clock=lambda: now)
    ration.use("a", 6)
    with pytest.raises(FullError) as caught:
        ration.use("a", 5)
    assert caught.value.retry_after_ms == 20_001  # periods begin at multiples of 60 s
    ration.use("a", 4)
    ration.use("b", 10)
    now = 1020.0
    ration.use("a", 10)
