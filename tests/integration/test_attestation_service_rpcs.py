"""The attestation service over gRPC: evidence in, a token out that is on record in the log."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import grpc
import pytest
import pytest_asyncio

from otr.attestation.v1 import attestation_pb2 as pb
from otr.attestation.v1 import attestation_pb2_grpc as rpc
from otr.commitment.v1 import commitment_pb2 as log_pb
from otr_devtee import Attester, DevelopmentPki
from otr_protocol.attestation import evidence as evidence_bundles
from otr_protocol.attestation import policy
from otr_protocol.attestation.ear import verify_token
from otr_protocol.digest import H
from otr_server.channel import open_channel
from otr_server.status import reason_of
from support.stack import Stack, running_stack

pytestmark = pytest.mark.asyncio(loop_scope="module")

AUDIENCE = "otr.local/log"
KEYS = {
    "operator_id": b"o" * 32,
    "session_key": b"s" * 32,
    "tls_spki_sha256": b"t" * 32,
    "model_id": b"m" * 32,
}


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def stack(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Stack]:
    root = tmp_path_factory.mktemp("stack")
    async with running_stack(root) as running:
        yield running


@pytest_asyncio.fixture(loop_scope="module")
async def verifier(stack: Stack) -> AsyncIterator[Any]:
    tls = stack.directory.client_tls("inference")
    target = stack.directory.target("attestation")
    async with open_channel(target, tls, "attestation") as channel:
        yield rpc.AttestationServiceStub(channel)


async def verify(stack: Stack, stub: Any, **changes: Any) -> pb.VerifyResponse:
    """Challenge and evidence of the stack's simulated machine, then Verify with `changes`."""
    binding = pb.KeyBinding(**KEYS)
    issued = await stub.IssueChallenge(
        pb.IssueChallengeRequest(audience=AUDIENCE, key_binding=binding)
    )
    machine = Attester(DevelopmentPki.load(stack.directory.devtee_dir))
    evidence = machine.collect(challenge=issued.challenge, **KEYS)
    request = pb.VerifyRequest(
        challenge=issued.challenge, audience=AUDIENCE, key_binding=binding, evidence=evidence
    )
    for name, value in changes.items():
        setattr(request, name, value)
    answer: pb.VerifyResponse = await stub.Verify(request)
    return answer


async def refusal(stack: Stack, stub: Any, **changes: Any) -> grpc.aio.AioRpcError:
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await verify(stack, stub, **changes)
    return caught.value


async def test_genuine_evidence_gets_a_token_under_the_published_keys(
    stack: Stack, verifier: Any
) -> None:
    answer = await verify(stack, verifier)
    assert answer.verdict.status == pb.STATUS_AFFIRMING
    assert answer.verdict.simulated
    jwks = (await verifier.GetJwks(pb.GetJwksRequest())).jwks
    result = verify_token(answer.attestation_token, jwks)
    assert (result.session_key, result.model_id) == (KEYS["session_key"], KEYS["model_id"])
    assert result.simulated
    assert result.expires_at * 1000 <= answer.verdict.not_after_ms


async def test_what_a_token_rests_on_is_in_the_log_before_the_token_is_out(
    stack: Stack, verifier: Any
) -> None:
    answer = await verify(stack, verifier)
    digests = [
        answer.verdict.evidence_digest,
        answer.verdict.collateral_digest,
        answer.verdict.policy_digest,
        H(answer.attestation_token),
    ]
    async with stack.stub("commitment", role="watcher") as log:
        held = await log.HasBlobs(log_pb.HasBlobsRequest(digests=digests))
    assert list(held.held) == [True] * 4


async def test_evidence_of_another_challenge_is_refused(stack: Stack, verifier: Any) -> None:
    machine = Attester(DevelopmentPki.load(stack.directory.devtee_dir))
    stale = machine.collect(challenge=b"c" * 32, **KEYS)
    assert reason_of(await refusal(stack, verifier, evidence=stale)) == "EVIDENCE_BINDING"


async def test_a_challenge_cannot_be_made_up(stack: Stack, verifier: Any) -> None:
    error = await refusal(stack, verifier, challenge=b"c" * 32)
    assert reason_of(error) == "CHALLENGE_REJECTED"


@pytest.mark.parametrize(
    "change",
    [
        {"audience": "another.log/otr"},
        {"audience": AUDIENCE + " "},
        *({name: b"x" * 32} for name in KEYS),
    ],
    ids=lambda change: next(iter(change)),
)
async def test_a_challenge_of_another_audience_or_key_is_refused_and_used_up(
    stack: Stack, verifier: Any, change: dict[str, Any]
) -> None:
    binding = pb.KeyBinding(**KEYS)
    issued = await verifier.IssueChallenge(
        pb.IssueChallengeRequest(audience=AUDIENCE, key_binding=binding)
    )
    assert len(issued.challenge) == 32
    machine = Attester(DevelopmentPki.load(stack.directory.devtee_dir))
    good = pb.VerifyRequest(
        challenge=issued.challenge,
        audience=AUDIENCE,
        key_binding=binding,
        evidence=machine.collect(challenge=issued.challenge, **KEYS),
    )
    wrong = pb.VerifyRequest.FromString(good.SerializeToString())
    for name, value in change.items():
        setattr(wrong if name == "audience" else wrong.key_binding, name, value)
    for attempt in (wrong, good):
        with pytest.raises(grpc.aio.AioRpcError) as caught:
            await verifier.Verify(attempt)
        assert reason_of(caught.value) == "CHALLENGE_REJECTED"


async def test_a_challenge_is_accepted_once(stack: Stack, verifier: Any) -> None:
    answer = await verify(stack, verifier)
    assert answer.attestation_token
    bundle = evidence_bundles.decode(await evidence_of(stack, answer))
    again = pb.VerifyRequest(
        challenge=bundle.challenge,
        audience=AUDIENCE,
        key_binding=pb.KeyBinding(**KEYS),
        evidence=bundle.encode(),
    )
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await verifier.Verify(again)
    assert reason_of(caught.value) == "CHALLENGE_REJECTED"


async def evidence_of(stack: Stack, answer: pb.VerifyResponse) -> bytes:
    """The evidence of a token, as anybody gets it from the log."""
    digest = answer.verdict.evidence_digest
    async with stack.stub("commitment", role="watcher") as log:
        parts = [part.chunk async for part in log.GetBlob(log_pb.GetBlobRequest(digest=digest))]
    return b"".join(parts)


async def test_damaged_evidence_is_refused_as_malformed(stack: Stack, verifier: Any) -> None:
    error = await refusal(stack, verifier, evidence=b"\x80")
    assert error.code() is grpc.StatusCode.INVALID_ARGUMENT


async def test_a_policy_that_is_not_active_is_unknown(stack: Stack, verifier: Any) -> None:
    error = await refusal(stack, verifier, policy_digest=b"p" * 32)
    assert reason_of(error) == "POLICY_UNKNOWN"


async def test_a_client_may_not_ask_for_challenges(stack: Stack) -> None:
    tls = stack.directory.client_tls()
    target = stack.directory.target("attestation")
    async with open_channel(target, tls, "attestation") as channel:
        stub = rpc.AttestationServiceStub(channel)
        with pytest.raises(grpc.aio.AioRpcError) as caught:
            await stub.IssueChallenge(pb.IssueChallengeRequest(audience=AUDIENCE))
        assert caught.value.code() is grpc.StatusCode.PERMISSION_DENIED
        assert json.loads((await stub.GetJwks(pb.GetJwksRequest())).jwks)["keys"]


async def test_a_role_that_the_process_does_not_take_is_not_served(stack: Stack) -> None:
    tls = stack.directory.client_tls()
    target = stack.directory.target("attestation")
    async with open_channel(target, tls, "attestation") as channel:
        stub = rpc.CollateralServiceStub(channel)
        with pytest.raises(grpc.aio.AioRpcError) as caught:
            await stub.GetCollateral(pb.GetCollateralRequest(key="rim/x"))
        assert caught.value.code() is grpc.StatusCode.UNIMPLEMENTED


async def test_the_default_policy_gives_simulated_evidence_no_token(tmp_path: Path) -> None:
    async with running_stack(tmp_path) as other:
        await other.stop("attestation")
        policy_file = other.directory.root / "public" / "policy.cbor"
        strict = replace(policy.decode(policy_file.read_bytes()), accept_simulated=False)
        policy_file.write_bytes(strict.encode())
        await other.start("attestation")
        tls = other.directory.client_tls("inference")
        target = other.directory.target("attestation")
        async with open_channel(target, tls, "attestation") as channel:
            answer = await verify(other, rpc.AttestationServiceStub(channel))
    assert not answer.attestation_token
    assert answer.verdict.status == pb.STATUS_CONTRAINDICATED
    assert answer.verdict.findings


async def test_no_token_while_the_log_is_down(tmp_path: Path) -> None:
    async with running_stack(tmp_path) as other:
        await other.stop("commitment")
        tls = other.directory.client_tls("inference")
        target = other.directory.target("attestation")
        async with open_channel(target, tls, "attestation", timeout_seconds=30) as channel:
            error = await refusal(other, rpc.AttestationServiceStub(channel))
    assert error.code() is grpc.StatusCode.UNAVAILABLE
    assert reason_of(error) == "LOG_UNAVAILABLE"


async def test_a_broken_collateral_file_does_not_replace_a_good_one(
    stack: Stack, verifier: Any
) -> None:
    file = stack.directory.root / "public" / "collateral.cbor"
    good = file.read_bytes()
    file.write_bytes(b"half written")
    assert (await verify(stack, verifier)).attestation_token
    file.write_bytes(good)
    stack.directory.refresh_collateral()
    answer = await verify(stack, verifier)
    assert answer.verdict.collateral_digest == H(file.read_bytes())
