"""Replay: the verdict of the past, byte for byte, from what the log holds."""

from __future__ import annotations

import asyncio
import dataclasses
import json
import os
import socket
import subprocess
import sys
from collections.abc import AsyncIterator, Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import grpc
import pytest
import pytest_asyncio

from otr.attestation.v1 import attestation_pb2 as pb
from otr.attestation.v1 import attestation_pb2_grpc as rpc
from otr_protocol.attestation.policy import RevocationMode
from otr_protocol.digest import H
from otr_server.channel import open_channel
from otr_server.process import Listen, Process
from otr_server.status import field_of, reason_of
from support import devtee_world as world
from support.attestation_service import (
    Deployment,
    blobs_held,
    deployment,
    put_blob,
    request,
)

pytestmark = pytest.mark.asyncio(loop_scope="module")


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def deployed(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Deployment]:
    async with deployment(tmp_path_factory.mktemp("replay")) as running:
        yield running


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def verifier(deployed: Deployment) -> Process:
    return await deployed.start()


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def original(deployed: Deployment, verifier: Process) -> pb.Verdict:
    """A verdict that led to a token, so that all it rests on is in the log."""
    stub = deployed.stub(verifier)
    answer = await stub.Verify(await request(stub, gpus=2))
    assert answer.attestation_token
    verdict: pb.Verdict = answer.verdict
    return verdict


@pytest.fixture
def auditor(deployed: Deployment, verifier: Process) -> Any:
    return deployed.stub(verifier, role="auditor")


def replay_of(verdict: pb.Verdict, **changes: Any) -> pb.ReplayRequest:
    fields = {
        "evidence_digest": verdict.evidence_digest,
        "collateral_digest": verdict.collateral_digest,
        "policy_digest": verdict.policy_digest,
        "appraisal_ms": verdict.appraised_ms,
    }
    return pb.ReplayRequest(**(fields | changes))


async def refusal(stub: Any, asked: pb.ReplayRequest) -> grpc.aio.AioRpcError:
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await stub.Replay(asked)
    return caught.value


async def test_the_same_inputs_give_the_same_verdict_byte_for_byte(
    auditor: Any, original: pb.Verdict
) -> None:
    for _ in range(5):
        verdict = (await auditor.Replay(replay_of(original))).verdict
        assert verdict.SerializeToString(deterministic=True) == original.SerializeToString(
            deterministic=True
        )


async def test_another_time_gives_another_verdict(auditor: Any, original: pb.Verdict) -> None:
    later = replay_of(original, appraisal_ms=original.appraised_ms + 2 * 86_400_000)
    verdict = (await auditor.Replay(later)).verdict
    assert verdict.status == pb.STATUS_INDETERMINATE
    assert {finding.reason for finding in verdict.findings} >= {"OCSP_STALE"}
    assert verdict.verdict_digest != original.verdict_digest


async def test_a_replay_stores_nothing_and_uses_no_challenge(
    deployed: Deployment, verifier: Process
) -> None:
    """Evidence that was never verified here can be replayed once somebody has logged it."""
    bundle = world.bundle().encode()
    for blob in (bundle, world.collateral().encode(), world.pki().policy().encode()):
        await put_blob(deployed.log, blob)
    asked = pb.ReplayRequest(
        evidence_digest=H(bundle),
        collateral_digest=world.collateral().digest,
        policy_digest=world.pki().policy().digest,
        appraisal_ms=world.NOW * 1000,
    )
    stub = deployed.stub(verifier, role="auditor")
    answers = [await stub.Replay(asked) for _ in range(2)]
    assert answers[0] == answers[1]
    assert answers[0].verdict.status == pb.STATUS_AFFIRMING


async def test_only_an_auditor_names_the_time(
    deployed: Deployment, verifier: Process, original: pb.Verdict
) -> None:
    for role in ("client", "inference", "operator"):
        stub = deployed.stub(verifier, role=role)
        error = await refusal(stub, replay_of(original))
        assert error.code() is grpc.StatusCode.PERMISSION_DENIED
        assert reason_of(error) == "APPRAISAL_TIME_DENIED"
        # Without a time everybody may ask how it stands now.
        answer = await stub.Replay(replay_of(original, appraisal_ms=0))
        assert answer.verdict.appraised_ms == deployed.clock.now_ms()


@pytest.mark.parametrize("field", ["evidence_digest", "collateral_digest", "policy_digest"])
async def test_what_the_log_does_not_have_is_named(
    auditor: Any, original: pb.Verdict, field: str
) -> None:
    error = await refusal(auditor, replay_of(original, **{field: b"x" * 32}))
    assert error.code() is grpc.StatusCode.NOT_FOUND
    assert (reason_of(error), field_of(error)) == ("REPLAY_INPUT_UNKNOWN", field)


@pytest.mark.parametrize("field", ["evidence_digest", "collateral_digest", "policy_digest"])
@pytest.mark.parametrize("value", [b"", b"x" * 31, b"x" * 33])
async def test_a_digest_has_32_bytes(
    auditor: Any, original: pb.Verdict, field: str, value: bytes
) -> None:
    error = await refusal(auditor, replay_of(original, **{field: value}))
    assert error.code() is grpc.StatusCode.INVALID_ARGUMENT
    assert field_of(error) == field


@pytest.mark.parametrize("field", ["evidence_digest", "collateral_digest", "policy_digest"])
async def test_a_blob_of_another_kind_is_refused(
    deployed: Deployment, auditor: Any, original: pb.Verdict, field: str
) -> None:
    await put_blob(deployed.log, b"\x81\x61x")
    error = await refusal(auditor, replay_of(original, **{field: H(b"\x81\x61x")}))
    assert error.code() is grpc.StatusCode.INVALID_ARGUMENT


async def test_a_blob_beyond_the_limit_is_not_read_to_its_end(
    deployed: Deployment, auditor: Any, original: pb.Verdict
) -> None:
    large = bytes(3 << 20)
    await put_blob(deployed.log, large)
    error = await refusal(auditor, replay_of(original, evidence_digest=H(large)))
    assert reason_of(error) == "BLOB_MISMATCH"


@pytest.mark.parametrize("time_ms", [-1, 253_402_300_799_001, 2**63 - 1])
async def test_a_time_outside_the_calendar_is_refused(
    auditor: Any, original: pb.Verdict, time_ms: int
) -> None:
    error = await refusal(auditor, replay_of(original, appraisal_ms=time_ms))
    assert error.code() is grpc.StatusCode.INVALID_ARGUMENT


async def test_a_policy_of_the_past_is_found_among_the_blobs(
    deployed: Deployment, original: pb.Verdict
) -> None:
    """The policy has changed since; the verdict has not."""
    process = await deployed.start(policy_file=deployed.directory / "files" / "other.cbor")
    stub = deployed.stub(process, role="auditor")
    verdict = (await stub.Replay(replay_of(original))).verdict
    assert verdict.verdict_digest == original.verdict_digest
    await deployed.stop(process)


@pytest.fixture(scope="module", autouse=True)
def other_policy(deployed: Deployment) -> None:
    deployed.settings()
    other = replace(world.pki().policy(), required_gpus=2)
    (deployed.directory / "files" / "other.cbor").write_bytes(other.encode())


async def test_an_audit_policy_can_be_replayed_and_never_affirms(
    deployed: Deployment, auditor: Any, original: pb.Verdict
) -> None:
    policy = replace(world.pki().policy(), revocation=RevocationMode.AS_ISSUED)
    await put_blob(deployed.log, policy.encode())
    asked = replay_of(
        original,
        policy_digest=policy.digest,
        appraisal_ms=original.appraised_ms + 2 * 3600_000,
    )
    verdict = (await auditor.Replay(asked)).verdict
    assert verdict.status == pb.STATUS_WARNING
    assert verdict.findings


async def test_no_replay_while_the_log_is_away(tmp_path: Path, original: pb.Verdict) -> None:
    async with deployment(tmp_path) as other:
        process = await other.start()
        stub = other.stub(process, role="auditor")
        await other.log.process.drain()
        error = await refusal(stub, replay_of(original))
    assert error.code() is grpc.StatusCode.UNAVAILABLE


@contextmanager
def own_process(deployed: Deployment, seed: int) -> Iterator[str]:
    """A verifier in an operating-system process of its own; yields its target."""
    settings = deployed.settings(listen=Listen())
    config = deployed.directory / f"seed-{seed}.toml"
    port = free_port()
    lines = [
        f'issuer = "{settings.issuer}"',
        *(
            f"{name} = {json.dumps(str(getattr(settings, name)))}"
            for name in (
                "signing_key_file",
                "trust_roots_file",
                "collateral_file",
                "policy_file",
                "commitment_target",
            )
        ),
        f'[listen]\nhost = "127.0.0.1"\nport = {port}',
        "[tls]",
        *(
            f"{field.name} = {json.dumps(str(getattr(settings.tls, field.name)))}"
            for field in dataclasses.fields(type(settings.tls))  # type: ignore[arg-type]
            if isinstance(getattr(settings.tls, field.name), str | Path)
        ),
    ]
    config.write_text("\n".join(lines))
    process = subprocess.Popen(
        [sys.executable, "-m", "otr_attestation", "--config", str(config)],
        env={**os.environ, "PYTHONHASHSEED": str(seed)},
        stdout=subprocess.DEVNULL,
    )
    try:
        yield f"127.0.0.1:{port}"
    finally:
        process.terminate()
        assert process.wait(20) == 0


def free_port() -> int:
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        port: int = listener.getsockname()[1]
        return port


async def digests_of(deployed: Deployment, seed: int, asked: pb.ReplayRequest, count: int) -> set:
    with own_process(deployed, seed) as target:
        tls = deployed.pki.client_tls("auditor")
        async with open_channel(target, tls, "attestation", wait_for_ready=True) as channel:
            stub = rpc.AttestationServiceStub(channel)
            found = {(await stub.Replay(asked, timeout=60)).verdict.verdict_digest}
            for start in range(1, count, 8):
                batch = min(8, count - start)
                answers = await asyncio.gather(*(stub.Replay(asked) for _ in range(batch)))
                found |= {answer.verdict.verdict_digest for answer in answers}
    return found


async def determinism(deployed: Deployment, original: pb.Verdict, count: int) -> None:
    asked = replay_of(original)
    for seed in (1, 4_000_000_000):
        assert await digests_of(deployed, seed, asked, count) == {original.verdict_digest}


async def test_processes_with_other_hash_seeds_replay_to_the_same_digest(
    deployed: Deployment, original: pb.Verdict
) -> None:
    await determinism(deployed, original, 20)


@pytest.mark.soak
@pytest.mark.timeout(1800)
async def test_a_thousand_replays_in_two_processes_give_one_digest(
    deployed: Deployment, original: pb.Verdict
) -> None:
    await determinism(deployed, original, 1000)


async def test_the_inputs_are_in_the_log(deployed: Deployment, original: pb.Verdict) -> None:
    held = await blobs_held(
        deployed.log,
        original.evidence_digest,
        original.collateral_digest,
        original.policy_digest,
    )
    assert held == [True, True, True]
