"""The sampler against its plain wording, and the corners that a shortcut would get wrong."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from otr_numerics.sampling import sample
from otr_protocol.manifest import Formats
from otr_protocol.request import GREEDY, NO_SEED, P16_ONE, TQ_LIMIT, Sampling, seeded
from support.plain_sampler import plain_sample

EXP2 = np.rint(2**15 * 2.0 ** (-np.arange(1024) / 1024)).astype(np.int32)
TABLE: list[int] = EXP2.tolist()
MAX = 2**31 - 1
TQ_ONE = 94_548  # temperature 1
FLAT = seeded(TQ_ONE)

close = st.lists(st.integers(-40_000, 40_000), min_size=1, max_size=60)
tied = st.lists(st.sampled_from([0, 1, -1, 5_000, 5_001]), min_size=1, max_size=60)
whole = st.lists(st.integers(-MAX, MAX) | st.sampled_from([MAX, -MAX, 0]), min_size=1, max_size=40)
samplings = st.builds(
    seeded,
    st.integers(1, TQ_LIMIT - 1)
    | st.sampled_from([1, TQ_ONE, TQ_LIMIT - 1])
    | st.integers(1, 2**18),
    top_k=st.integers(0, 70) | st.sampled_from([0, 1, 2**32 - 1]),
    p16=st.integers(1, P16_ONE) | st.sampled_from([1, P16_ONE - 1, P16_ONE]),
)


def picked(logits: list[int], sampling: Sampling, seed: bytes = NO_SEED, position: int = 0) -> int:
    row: npt.NDArray[np.int32] = np.array(logits, np.int32)
    return sample(row, sampling, seed, position, EXP2, Formats())


@settings(max_examples=600, deadline=None)
@given(close | tied | whole, samplings, st.binary(min_size=32, max_size=32), st.integers(0, 2**32))
def test_it_picks_what_the_plain_wording_picks(
    logits: list[int], sampling: Sampling, seed: bytes, position: int
) -> None:
    expected = plain_sample(logits, sampling, seed, position, TABLE)
    assert picked(logits, sampling, seed, position) == expected


@settings(max_examples=100, deadline=None)
@given(tied | whole)
def test_greedy_takes_the_smallest_of_the_largest(logits: list[int]) -> None:
    assert picked(logits, GREEDY) == logits.index(max(logits))
    assert picked(logits, GREEDY) == plain_sample(logits, GREEDY, NO_SEED, 0, TABLE)


def test_a_large_vocabulary() -> None:
    random = np.random.default_rng(1)
    logits = (random.standard_normal(2_000) * 9_000).astype(np.int64).tolist()
    for position in range(20):
        for sampling in (FLAT, seeded(TQ_ONE, top_k=50), seeded(TQ_ONE, top_k=900, p16=60_000)):
            expected = plain_sample(logits, sampling, NO_SEED, position, TABLE)
            assert picked(logits, sampling, position=position) == expected


def test_top_k_keeps_the_smallest_ids_of_a_tie() -> None:
    logits = [0, 7, 7, 7, 7, 0]
    seen = {picked(logits, seeded(TQ_ONE, top_k=2), position=at) for at in range(200)}
    assert seen == {1, 2}


@pytest.mark.parametrize("sampling", [seeded(TQ_ONE, top_k=1), seeded(TQ_ONE, p16=1)])
def test_one_candidate_is_certain(sampling: Sampling) -> None:
    assert {picked([3, 9, 9, 1], sampling, position=at) for at in range(50)} == {1}


def test_top_p_keeps_the_shortest_prefix_that_reaches_the_share() -> None:
    """Four equal weights: exactly half of the mass is two of them, a bit more is three."""
    half, more = seeded(TQ_ONE, p16=P16_ONE // 2), seeded(TQ_ONE, p16=P16_ONE // 2 + 1)
    assert {picked([5] * 4, half, position=at) for at in range(200)} == {0, 1}
    assert {picked([5] * 4, more, position=at) for at in range(200)} == {0, 1, 2}


def test_an_id_without_weight_is_never_picked() -> None:
    """31 octaves down, the weight is 0; one that still has weight 1 can be picked."""
    assert {picked([0, -MAX, -MAX], FLAT, position=at) for at in range(200)} == {0}


def test_the_pick_needs_all_128_bits() -> None:
    """floor(u64 * W / 2^64) of 3 equal ids spreads as u64 does; 64 bits would wrap."""
    logits = [100] * 3
    for position in range(100):
        expected = plain_sample(logits, FLAT, b"\xff" * 32, position, TABLE)
        assert picked(logits, FLAT, b"\xff" * 32, position) == expected
    counts = np.bincount([picked(logits, FLAT, position=at) for at in range(3_000)], minlength=3)
    assert counts.min() > 900


def test_position_and_seed_both_matter() -> None:
    logits = [0] * 1_000
    base = picked(logits, FLAT)
    assert picked(logits, FLAT, position=1) != base
    assert picked(logits, FLAT, b"\x01" * 32) != base
    assert picked(logits, FLAT) == base
