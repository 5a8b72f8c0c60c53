"""A TD's event log is read strictly, and must replay to the registers of its quote."""

from __future__ import annotations

from hashlib import sha256, sha384

import pytest

from otr_protocol.attestation.evidence import INTEL_SGX, MAX_EVENT_LOG_BYTES
from otr_protocol.attestation.intel import event_log
from otr_protocol.attestation.intel.event_log import (
    EventLogMalformedError,
    EventLogMismatchError,
)
from support import event_logs as logs
from support import intel_world as world

QUOTE = world.quote(body=world.td_report(rtmrs=logs.registers()))


def test_a_log_replays_to_the_registers_it_filled() -> None:
    events = event_log.parse(logs.log())
    assert [(event.register, event.kind, event.data) for event in events] == [
        (index - 1, kind, data) for index, kind, data in logs.BOOT
    ]
    assert event_log.replay(events) == logs.registers()


def test_a_log_without_events_leaves_the_registers_at_zero() -> None:
    assert event_log.replay(event_log.parse(logs.specification())) == (bytes(48),) * 4


def test_one_extension_is_the_digest_of_register_and_digest() -> None:
    (value, *others) = event_log.replay(event_log.parse(logs.log([(1, 13, b"x")])))
    assert value == sha384(bytes(48) + sha384(b"x").digest()).digest()
    assert others == [bytes(48)] * 3


def test_events_without_action_extend_nothing() -> None:
    noise = [(0, logs.EV_NO_ACTION, b"StartupLocality"), (3, logs.EV_NO_ACTION, b"")]
    assert event_log.require_replay(logs.log([*logs.BOOT, *noise]), logs.registers())


@pytest.mark.parametrize("filling", [bytes(70), b"\xff" * 70, bytes(7), b"\xff"], ids=len)
def test_the_rest_of_the_table_may_be_filled(filling: bytes) -> None:
    assert event_log.parse(logs.log(filling=filling)) == event_log.parse(logs.log())


@pytest.mark.parametrize("filling", [bytes(70) + b"\1", b"\xff" * 70 + b"\0", bytes(12) + b"\xff"])
def test_filling_hides_nothing(filling: bytes) -> None:
    with pytest.raises(EventLogMalformedError):
        event_log.parse(logs.log(filling=filling))


def test_digests_of_other_algorithms_are_passed_over() -> None:
    both = ((logs.SHA256, 32), (logs.SHA384, 48))
    digests = [(logs.SHA384, sha384(b"x").digest()), (logs.SHA256, sha256(b"x").digest())]
    log = logs.specification(both) + logs.event(1, 13, b"x", digests)
    assert event_log.replay(event_log.parse(log))[0] == logs.registers([(1, 13, b"x")])[0]


X = sha384(b"x").digest()


@pytest.mark.parametrize(
    "log",
    [
        b"",
        logs.specification()[:-1],
        logs.specification(kind=4),
        logs.specification(index=5),
        logs.specification(digest=b"\1" * 20),
        logs.specification(signature=b"Spec ID Event02\0"),
        logs.specification(()),
        logs.specification([(algorithm, 48) for algorithm in range(4, 13)]),
        logs.specification([(logs.SHA384, 48), (logs.SHA384, 48)]),
        logs.specification([(logs.SHA384, 32)]),
        logs.specification([(logs.SHA256, 32)]),
        logs.specification([(logs.SHA384, 48), (0x99, 65)]),
        logs.specification([(logs.SHA384, 48), (0x99, 0)]),
        logs.specification(tail=b"\0"),
        logs.specification() + logs.event(5, 13, b"x"),
        logs.specification() + logs.event(0, 13, b"x"),
        logs.specification() + logs.event(1, 13, b"x", []),
        logs.specification() + logs.event(1, 13, b"x", [(logs.SHA256, X[:32])]),
        logs.specification() + logs.event(1, 13, b"x", [(logs.SHA384, X), (logs.SHA384, X)]),
        logs.specification([(logs.SHA384, 48), (logs.SHA256, 32)])
        + logs.event(1, 13, b"x", [(logs.SHA384, X), (logs.SHA384, X)]),
        logs.log()[:-1],
        logs.log() + b"\1",
        logs.specification() + bytes(MAX_EVENT_LOG_BYTES),
        logs.specification()
        + logs.number(1)
        + logs.number(13)
        + logs.number(1)
        + logs.number(logs.SHA384, 2)
        + X
        + b"\xff\xff\xff\xff",
    ],
    ids=[
        *("empty", "cut", "first type", "first index", "first digest", "signature"),
        *("no algorithm", "nine algorithms", "algorithm twice", "short SHA-384", "no SHA-384"),
        *("long digest", "no digest", "trailing specification", "register 5", "MRTD"),
        *("event without digest", "event of SHA-256", "two digests", "digest twice"),
        *("cut event", "trailing byte", "too large", "length beyond the end"),
    ],
)
def test_a_log_that_breaks_a_rule_is_refused(log: bytes) -> None:
    with pytest.raises(EventLogMalformedError):
        event_log.parse(log)


@pytest.mark.parametrize("number", range(len(logs.BOOT)))
def test_every_event_matters_and_the_register_is_named(number: int) -> None:
    without = [event for index, event in enumerate(logs.BOOT) if index != number]
    with pytest.raises(EventLogMismatchError) as caught:
        event_log.require_replay(logs.log(without), logs.registers())
    assert caught.value.register == logs.BOOT[number][0] - 1


def test_the_order_of_events_matters() -> None:
    swapped = (logs.BOOT[1], logs.BOOT[0], *logs.BOOT[2:])
    with pytest.raises(EventLogMismatchError):
        event_log.require_replay(logs.log(swapped), logs.registers())


def test_a_quote_is_affirmed_with_the_log_that_explains_it() -> None:
    assert world.judge(QUOTE, event_log=logs.log(filling=b"\xff" * 64)).findings == ()


@pytest.mark.parametrize("register", range(4))
def test_a_log_that_does_not_explain_a_register_is_refused_and_the_register_named(
    register: int,
) -> None:
    events = [event for event in logs.BOOT if event[0] != register + 1]
    (finding,) = world.judge(QUOTE, event_log=logs.log(events)).findings
    assert (finding.reason, finding.index) == ("EVENT_LOG_MISMATCH", register)
    assert finding.golden == logs.registers()[register]
    assert finding.runtime == bytes(48)


def test_a_malformed_log_is_refused_though_the_quote_is_genuine() -> None:
    assert world.reasons(world.judge(QUOTE, event_log=b"\0")) == ["EVENT_LOG_MALFORMED"]


def test_an_enclave_has_no_log() -> None:
    appraisal = world.judge(world.quote(version=3), kind=INTEL_SGX, event_log=logs.log())
    assert world.reasons(appraisal) == ["CPU_EVIDENCE_MALFORMED"]
