"""A challenge is used once, soon, by whom it was issued to."""

from __future__ import annotations

from dataclasses import replace

import pytest

from otr_attestation.challenges import (
    Bound,
    ChallengeRejectedError,
    Challenges,
    TooManyChallengesError,
)

BOUND = Bound("log.example", b"o" * 32, b"s" * 32, b"t" * 32, b"m" * 32)


def challenges(capacity: int = 4) -> Challenges:
    return Challenges(lifetime_ms=1000, capacity=capacity)


def test_a_challenge_is_accepted_once() -> None:
    issued = challenges()
    challenge, expires_ms = issued.issue(BOUND, 5000, "a")
    assert (len(challenge), expires_ms) == (32, 6000)
    issued.consume(challenge, BOUND, 5999)
    with pytest.raises(ChallengeRejectedError):
        issued.consume(challenge, BOUND, 5999)


def test_an_expired_challenge_is_refused() -> None:
    issued = challenges()
    challenge, expires_ms = issued.issue(BOUND, 0, "a")
    with pytest.raises(ChallengeRejectedError):
        issued.consume(challenge, BOUND, expires_ms)


@pytest.mark.parametrize(
    "change",
    [
        {"audience": "other.example"},
        {"operator_id": b"x" * 32},
        {"session_key": b"x" * 32},
        {"tls_spki_sha256": b"x" * 32},
        {"model_id": b"x" * 32},
    ],
    ids=lambda change: next(iter(change)),
)
def test_a_challenge_for_somebody_else_is_refused_and_burnt(change: dict[str, bytes]) -> None:
    issued = challenges()
    challenge, _ = issued.issue(BOUND, 0, "a")
    with pytest.raises(ChallengeRejectedError):
        issued.consume(challenge, replace(BOUND, **change), 1)  # type: ignore[arg-type]
    with pytest.raises(ChallengeRejectedError):
        issued.consume(challenge, BOUND, 1)


def test_a_challenge_that_was_never_issued_is_refused() -> None:
    with pytest.raises(ChallengeRejectedError):
        challenges().consume(b"c" * 32, BOUND, 0)


def test_open_challenges_are_bounded_until_they_expire() -> None:
    issued = challenges(capacity=2)
    fresh = {issued.issue(BOUND, 0, caller)[0] for caller in "ab"}
    assert len(fresh) == 2
    with pytest.raises(TooManyChallengesError) as caught:
        issued.issue(BOUND, 999, "c")
    assert caught.value.retry_after_ms == 1000
    issued.issue(BOUND, 1000, "c")


def test_one_attester_leaves_places_for_the_others() -> None:
    issued = challenges(capacity=8)
    first, _ = issued.issue(BOUND, 0, "greedy")
    issued.issue(BOUND, 0, "greedy")
    with pytest.raises(TooManyChallengesError):
        issued.issue(BOUND, 0, "greedy")
    issued.issue(BOUND, 0, "other")
    issued.consume(first, BOUND, 1)
    issued.issue(BOUND, 1, "greedy")
