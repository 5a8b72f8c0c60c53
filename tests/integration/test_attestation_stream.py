"""VerifyStream: many requests over one call, in order, each with its own outcome."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Sequence
from pathlib import Path
from typing import Any

import grpc
import pytest
import pytest_asyncio
from prometheus_client import CollectorRegistry

from otr.attestation.v1 import attestation_pb2 as pb
from otr_attestation import wire
from otr_attestation.appraiser import Appraiser
from otr_attestation.challenges import Challenges
from otr_attestation.collateral_file import CollateralFile
from otr_attestation.metrics import VerifierMetrics
from otr_attestation.policies import Policies
from otr_attestation.settings import Limits
from otr_attestation.streaming import Streaming
from otr_attestation.verifying import Verifying
from otr_devtee import Attester
from otr_protocol.attestation.ear import verify_token
from otr_protocol.digest import H
from otr_server.process import Process
from otr_server.status import reason_of
from support import devtee_world as world
from support.attestation_service import AUDIENCE, Deployment, binding, deployment, request

pytestmark = pytest.mark.asyncio(loop_scope="module")

PARALLEL = 64


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def deployed(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Deployment]:
    async with deployment(tmp_path_factory.mktemp("stream")) as running:
        yield running


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def verifier(deployed: Deployment) -> Process:
    return await deployed.start(limits=Limits(max_streams=4, max_stream_in_flight=4))


@pytest.fixture
def stub(deployed: Deployment, verifier: Process) -> Any:
    return deployed.stub(verifier)


async def stream(
    stub: Any, requests: list[pb.VerifyStreamRequest]
) -> list[pb.VerifyStreamResponse]:
    async def send() -> AsyncIterator[pb.VerifyStreamRequest]:
        for each in requests:
            yield each

    return [answer async for answer in stub.VerifyStream(send())]


# One spoiler for each way in which a request can be wrong, with the reason that answers it.
BAD = {
    "CHALLENGE_REJECTED": lambda good: good.__setattr__("challenge", bytes(32)),
    "BINDING_MALFORMED": lambda good: good.__setattr__("audience", ""),
    "POLICY_UNKNOWN": lambda good: good.__setattr__("policy_digest", bytes(32)),
    "DCBOR_MALFORMED": lambda good: good.__setattr__("evidence", good.evidence[:-1]),
    "EVIDENCE_BINDING": lambda good: good.__setattr__("evidence", world.bundle().encode()),
}


async def test_answers_keep_the_order_of_the_requests(stub: Any) -> None:
    numbers = [7, 3, 2**63, 3, 0, 11, 12, 13, 14]
    sent = [
        pb.VerifyStreamRequest(sequence=number, request=await request(stub, session))
        for session, number in enumerate(numbers)
    ]
    answers = await stream(stub, sent)
    assert [answer.sequence for answer in answers] == numbers
    for asked, answer in zip(sent, answers, strict=True):
        assert not answer.HasField("error")
        assert answer.response.verdict.evidence_digest == H(asked.request.evidence)
        assert answer.response.attestation_token


@pytest.mark.parametrize("reason", sorted(BAD))
async def test_a_bad_request_is_answered_and_does_not_end_the_stream(
    stub: Any, reason: str
) -> None:
    sent = [pb.VerifyStreamRequest(sequence=n, request=await request(stub)) for n in range(3)]
    BAD[reason](sent[1].request)
    answers = await stream(stub, sent)
    assert [answer.HasField("error") for answer in answers] == [False, True, False]
    error = answers[1].error
    assert error.reason == reason
    assert error.code != 0
    assert not answers[1].HasField("response")
    assert answers[2].response.verdict.status == pb.STATUS_AFFIRMING


async def test_an_untrusted_verdict_is_an_answer_and_no_error(stub: Any) -> None:
    sent = [pb.VerifyStreamRequest(request=await request(stub, gpus=0))]
    (answer,) = await stream(stub, sent)
    assert not answer.HasField("error")
    assert answer.response.verdict.status == pb.STATUS_CONTRAINDICATED
    assert not answer.response.attestation_token


async def test_a_challenge_that_is_streamed_twice_is_accepted_once(stub: Any) -> None:
    once = await request(stub)
    answers = await stream(stub, [pb.VerifyStreamRequest(request=once)] * 4)
    assert [answer.error.reason for answer in answers] == ["", *["CHALLENGE_REJECTED"] * 3]


class Gate:
    """A log that takes its time: the edge of the system, so that the test decides when it moves."""

    def __init__(self) -> None:
        self.opened = asyncio.Event()

    async def put_blobs(self, blobs: Sequence[tuple[bytes, bytes]]) -> None:
        await self.opened.wait()

    async def get(self, digest: bytes, *, max_bytes: int) -> bytes | None:
        return None


async def test_no_more_is_read_than_is_worked_on(deployed: Deployment) -> None:
    settings, gate, registry = deployed.settings(), Gate(), CollectorRegistry()
    challenges = Challenges(lifetime_ms=60_000, capacity=100)
    metrics = VerifierMetrics(registry, lambda: 0)
    assert settings.collateral_file is not None
    verifying = Verifying(
        Appraiser(
            issuer=world.ISSUER,
            signing_key=world.token_key(),
            trust_roots=(world.pki().trust_roots(),),
        ),
        challenges,
        Policies(pinned=world.pki().policy(), store=None),
        CollateralFile(settings.collateral_file),
        gate,
        metrics,
        max_evidence_bytes=1 << 20,
        max_appraisals=8,
        now_ms=deployed.clock.now_ms,
    )
    streaming = Streaming(verifying, metrics, asyncio.Event(), max_streams=1, max_in_flight=3)
    read = 0

    async def requests() -> AsyncIterator[pb.VerifyStreamRequest]:
        nonlocal read
        for number in range(10):
            read += 1
            keys = binding(number)
            bound = wire.bound(AUDIENCE, pb.KeyBinding(**keys))
            challenge, _ = challenges.issue(bound, deployed.clock.now_ms(), "a")
            evidence = Attester(world.pki()).collect(challenge=challenge, **keys)
            yield pb.VerifyStreamRequest(
                sequence=number,
                request=pb.VerifyRequest(
                    challenge=challenge,
                    audience=AUDIENCE,
                    key_binding=pb.KeyBinding(**keys),
                    evidence=evidence,
                ),
            )

    answers = streaming.answers(requests())
    first = asyncio.ensure_future(anext(answers))
    await asyncio.wait([first], timeout=0.5)
    assert not first.done()
    assert read == 3
    gate.opened.set()
    assert (await first).sequence == 0
    # Whoever does not take the next answer is not read from either.
    await asyncio.sleep(0.2)
    assert read == 3
    assert [answer.sequence async for answer in answers] == list(range(1, 10))
    assert read == 10


async def test_more_streams_than_allowed_are_refused(stub: Any) -> None:
    held = [stub.VerifyStream() for _ in range(4)]
    for call in held:
        await call.write(pb.VerifyStreamRequest(request=pb.VerifyRequest(audience=AUDIENCE)))
        assert (await call.read()).error.reason == "BINDING_MALFORMED"
    fifth = stub.VerifyStream()
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await fifth.read()
    assert caught.value.code() is grpc.StatusCode.RESOURCE_EXHAUSTED
    assert reason_of(caught.value) == "TOO_MANY_STREAMS"
    for call in held:
        await call.done_writing()
        assert await call.read() is grpc.aio.EOF
    # Their places are free again.
    assert await stream(stub, []) == []


async def test_a_drain_answers_what_was_read_and_ends_the_stream(tmp_path: Path) -> None:
    async with deployment(tmp_path) as other:
        process = await other.start()
        stub = other.stub(process)
        call = stub.VerifyStream()
        await call.write(pb.VerifyStreamRequest(sequence=1, request=await request(stub)))
        assert (await call.read()).sequence == 1
        draining = asyncio.create_task(other.stop(process))
        assert await call.read() is grpc.aio.EOF
        assert await call.code() is grpc.StatusCode.OK
        await asyncio.wait_for(draining, 5)


async def test_only_attesters_may_stream(deployed: Deployment, verifier: Process) -> None:
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await stream(deployed.stub(verifier, role="client"), [])
    assert caught.value.code() is grpc.StatusCode.PERMISSION_DENIED


async def attempt(stub: Any, jwks: str, session: int, spoil: str | None) -> None:
    """One request beside many others: it gets the answer to itself and to nothing else."""
    asked = await request(stub, session)
    if spoil is not None:
        BAD[spoil](asked)
        with pytest.raises(grpc.aio.AioRpcError) as caught:
            await stub.Verify(asked)
        assert reason_of(caught.value) == spoil
        return
    answer = await stub.Verify(asked)
    assert answer.verdict.status == pb.STATUS_AFFIRMING
    assert answer.verdict.evidence_digest == H(asked.evidence)
    token = verify_token(answer.attestation_token, jwks)
    assert token.session_key == binding(session)["session_key"]
    assert token.challenge == asked.challenge
    assert token.evidence_digest == answer.verdict.evidence_digest


async def rounds(deployed: Deployment, verifier: Process, count: int) -> None:
    stubs = [deployed.stub(verifier) for _ in range(4)]
    jwks = (await stubs[0].GetJwks(pb.GetJwksRequest())).jwks
    spoilers: list[str | None] = [None, None, *sorted(BAD)]
    for number in range(count):
        deployed.clock.seconds += 1  # what the bad requests leave open expires some time
        async with asyncio.TaskGroup() as group:
            for lane in range(PARALLEL):
                session = number * PARALLEL + lane
                spoil = spoilers[(lane + number) % len(spoilers)]
                group.create_task(attempt(stubs[lane % 4], jwks, session, spoil))


async def test_parallel_good_and_bad_requests_do_not_mix(
    deployed: Deployment, verifier: Process
) -> None:
    await rounds(deployed, verifier, 2)


@pytest.mark.soak
@pytest.mark.timeout(3600)
async def test_a_thousand_rounds_of_parallel_requests_do_not_mix(
    deployed: Deployment, verifier: Process
) -> None:
    await rounds(deployed, verifier, 1000)


async def test_streams_and_calls_share_the_verifier(
    deployed: Deployment, verifier: Process
) -> None:
    stub = deployed.stub(verifier)
    sent = [pb.VerifyStreamRequest(sequence=n, request=await request(stub, n)) for n in range(6)]
    jwks = (await stub.GetJwks(pb.GetJwksRequest())).jwks
    answers, *_ = await asyncio.gather(
        stream(stub, sent), *(attempt(stub, jwks, 100 + n, None) for n in range(6))
    )
    for number, answer in enumerate(answers):
        token = verify_token(answer.response.attestation_token, jwks)
        assert token.session_key == binding(number)["session_key"]
