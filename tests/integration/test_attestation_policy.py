"""PolicyService: which policies there are, which one is active, and what verdicts follow."""

from __future__ import annotations

from collections.abc import AsyncIterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import grpc
import pytest
import pytest_asyncio
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from otr.attestation.v1 import attestation_pb2 as pb
from otr_attestation.settings import PolicySettings
from otr_protocol import cose, dcbor
from otr_protocol.attestation import policy as policies
from otr_protocol.attestation import signed_policy
from otr_protocol.attestation.policy import Policy, RevocationMode
from otr_protocol.attestation.signed_policy import PolicyAuditOnlyError, sign_policy
from otr_server.process import Process
from otr_server.status import reason_of
from support import devtee_world as world
from support.attestation_service import Deployment, deployment, request
from support.stack import until_serving

BASE = world.pki().policy()
STRICT = replace(BASE, required_gpus=2)
AUDIT = replace(BASE, revocation=RevocationMode.AS_ISSUED)


@pytest_asyncio.fixture
async def deployed(tmp_path: Path) -> AsyncIterator[Deployment]:
    async with deployment(tmp_path) as running:
        yield running


@pytest_asyncio.fixture
async def process(deployed: Deployment) -> Process:
    """A verifier whose policies come from signers alone."""
    deployed.settings()
    return await deployed.start(policy_file=None, policies=deployed.policy_settings())


async def put(
    deployed: Deployment, process: Process, policy: Policy, sequence: int
) -> pb.PutPolicyResponse:
    return await put_bytes(deployed, process, deployed.signed(policy, sequence))


async def put_bytes(deployed: Deployment, process: Process, data: bytes) -> pb.PutPolicyResponse:
    stub = deployed.stub(process, "policy", role="operator")
    answer: pb.PutPolicyResponse = await stub.PutPolicy(pb.PutPolicyRequest(policy=data))
    return answer


async def get(deployed: Deployment, process: Process, digest: bytes = b"") -> pb.GetPolicyResponse:
    stub = deployed.stub(process, "policy", role="client")
    answer: pb.GetPolicyResponse = await stub.GetPolicy(pb.GetPolicyRequest(policy_digest=digest))
    return answer


async def refusal(call: Any) -> str | None:
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await call
    return reason_of(caught.value)


async def verdict(
    deployed: Deployment, process: Process, digest: bytes = b"", gpus: int = 1
) -> pb.VerifyResponse:
    stub = deployed.stub(process)
    asked = await request(stub, gpus=gpus)
    asked.policy_digest = digest
    answer: pb.VerifyResponse = await stub.Verify(asked)
    return answer


# ------------------------------------------------------------------------------------ activation


async def test_nothing_is_appraised_and_health_says_so_until_a_policy_is_active(
    deployed: Deployment, process: Process
) -> None:
    assert not process.serving
    assert await refusal(get(deployed, process)) == "NO_ACTIVE_POLICY"
    assert await refusal(verdict(deployed, process)) == "NO_ACTIVE_POLICY"
    answer = await put(deployed, process, BASE, 1)
    assert answer.active
    assert process.serving
    await until_serving(process)
    assert (await verdict(deployed, process)).attestation_token


async def test_the_highest_sequence_is_active(deployed: Deployment, process: Process) -> None:
    await put(deployed, process, BASE, 5)
    assert (await verdict(deployed, process)).verdict.policy_digest == BASE.digest
    assert not (await put(deployed, process, STRICT, 4)).active
    assert (await get(deployed, process)).policy_digest == BASE.digest
    other = replace(STRICT, max_token_lifetime_s=600)
    assert (await put(deployed, process, other, 6)).active
    answer = await verdict(deployed, process)
    assert answer.verdict.policy_digest == other.digest
    assert answer.verdict.status == pb.STATUS_CONTRAINDICATED
    # Back to the first one, under a new number; the old signature brings nothing back.
    assert not (await put(deployed, process, BASE, 5)).active
    assert (await put(deployed, process, BASE, 7)).active
    known = await get(deployed, process)
    assert (known.policy_digest, known.sequence, known.active) == (BASE.digest, 7, True)


async def test_a_sequence_number_is_given_once(deployed: Deployment, process: Process) -> None:
    await put(deployed, process, BASE, 5)
    assert await refusal(put(deployed, process, STRICT, 5)) == "POLICY_SEQUENCE_TAKEN"
    assert (await put(deployed, process, BASE, 5)).active  # the same again is no other
    assert await refusal(get(deployed, process, STRICT.digest)) == "POLICY_UNKNOWN"


async def test_a_policy_is_found_by_digest_with_its_signature(
    deployed: Deployment, process: Process
) -> None:
    data = deployed.signed(STRICT, 3)
    stored = await put_bytes(deployed, process, data)
    await put(deployed, process, BASE, 4)
    known = await get(deployed, process, stored.policy_digest)
    assert policies.decode(known.policy) == STRICT
    assert (known.signed_policy, known.sequence, known.active) == (data, 3, False)
    assert await refusal(get(deployed, process, b"x" * 32)) == "POLICY_UNKNOWN"


async def test_policies_survive_the_process(deployed: Deployment, process: Process) -> None:
    await put(deployed, process, STRICT, 1)
    await put(deployed, process, BASE, 2)
    await deployed.stop(process)
    again = await deployed.start(policy_file=None, policies=deployed.policy_settings())
    assert again.serving
    assert (await get(deployed, again)).policy_digest == BASE.digest
    assert (await get(deployed, again, STRICT.digest)).sequence == 1


async def test_a_signer_that_is_unpinned_takes_its_policies_along(
    deployed: Deployment, process: Process
) -> None:
    await put(deployed, process, BASE, 9)
    await deployed.stop(process)
    other = Ed25519PrivateKey.generate()
    public = other.public_key().public_bytes_raw()
    key_file = deployed.directory / "other.pub"
    key_file.write_text(public.hex())
    settings = PolicySettings(deployed.directory / "policies", (key_file,))
    again = await deployed.start(policy_file=None, policies=settings)
    assert not again.serving
    assert await refusal(get(deployed, again)) == "NO_ACTIVE_POLICY"
    assert await refusal(get(deployed, again, BASE.digest)) == "POLICY_SIGNER_UNKNOWN"
    assert (await put_bytes(deployed, again, sign_policy(STRICT, 1, other.sign, public))).active
    assert again.serving


async def test_the_settings_policy_is_active_whatever_signers_say(deployed: Deployment) -> None:
    deployed.settings()
    pinned = await deployed.start(policies=deployed.policy_settings())
    assert pinned.serving
    assert not (await put(deployed, pinned, STRICT, 99)).active
    known = await get(deployed, pinned)
    assert (known.policy_digest, known.sequence, known.signed_policy) == (BASE.digest, 0, b"")
    # It can still be asked for by name.
    answer = await verdict(deployed, pinned, STRICT.digest)
    assert answer.verdict.policy_digest == STRICT.digest


async def test_a_verifier_with_a_policy_file_takes_none_from_signers(deployed: Deployment) -> None:
    process = await deployed.start()
    assert await refusal(put(deployed, process, STRICT, 1)) == "POLICY_STORE_ABSENT"


# ------------------------------------------------------------------------------------- selection


async def test_a_request_selects_a_stored_policy(deployed: Deployment, process: Process) -> None:
    await put(deployed, process, STRICT, 1)
    await put(deployed, process, BASE, 2)
    assert (await verdict(deployed, process)).attestation_token
    answer = await verdict(deployed, process, STRICT.digest)
    assert answer.verdict.status == pb.STATUS_CONTRAINDICATED
    assert not answer.attestation_token
    answer = await verdict(deployed, process, STRICT.digest, gpus=2)
    assert answer.attestation_token
    assert answer.verdict.policy_digest == STRICT.digest


async def test_a_policy_that_nobody_signed_cannot_be_selected(
    deployed: Deployment, process: Process
) -> None:
    await put(deployed, process, BASE, 1)
    assert await refusal(verdict(deployed, process, Policy().digest)) == "POLICY_UNKNOWN"


# ----------------------------------------------------------------------------------------- audits


async def test_an_audit_policy_is_kept_and_gives_no_token(
    deployed: Deployment, process: Process
) -> None:
    await put(deployed, process, BASE, 1)
    assert not (await put(deployed, process, AUDIT, 0)).active
    deployed.clock.seconds = world.NOW + 3600
    answer = await verdict(deployed, process, AUDIT.digest)
    assert answer.verdict.status in (pb.STATUS_AFFIRMING, pb.STATUS_WARNING)
    assert not answer.attestation_token
    assert (await verdict(deployed, process)).attestation_token


async def test_an_audit_policy_cannot_become_active(deployed: Deployment, process: Process) -> None:
    public = deployed.signer.public_key().public_bytes_raw()
    payload = dcbor.encode((signed_policy.DOMAIN, 8, AUDIT.encode()))
    data = cose.sign1(payload, deployed.signer.sign, public)
    assert await refusal(put_bytes(deployed, process, data)) == "POLICY_AUDIT_ONLY"
    assert not process.serving


async def test_the_settings_cannot_name_an_audit_policy(deployed: Deployment) -> None:
    deployed.settings()
    (deployed.directory / "files" / "policy.cbor").write_bytes(AUDIT.encode())
    with pytest.raises(PolicyAuditOnlyError):
        await deployed.start()


# ------------------------------------------------------------------------------------ who and what


async def test_only_an_operator_puts_and_everybody_reads(
    deployed: Deployment, process: Process
) -> None:
    data = pb.PutPolicyRequest(policy=deployed.signed(BASE, 1))
    for role in ("client", "inference", "attestation", "auditor"):
        stub = deployed.stub(process, "policy", role=role)
        assert await refusal(stub.PutPolicy(data)) == "ROLE_DENIED"
    await put(deployed, process, BASE, 1)
    for role in ("client", "inference", "auditor"):
        stub = deployed.stub(process, "policy", role=role)
        assert (await stub.GetPolicy(pb.GetPolicyRequest())).active


async def test_an_operator_without_the_signers_key_changes_nothing(
    deployed: Deployment, process: Process
) -> None:
    stranger = Ed25519PrivateKey.generate()
    public = stranger.public_key().public_bytes_raw()
    data = sign_policy(BASE, 1, stranger.sign, public)
    assert await refusal(put_bytes(deployed, process, data)) == "POLICY_SIGNER_UNKNOWN"
    good = bytearray(deployed.signed(BASE, 1))
    good[-1] ^= 1
    assert await refusal(put_bytes(deployed, process, bytes(good))) == "SIGNATURE_REJECTED"
    assert not process.serving


@pytest.mark.parametrize(
    ("data", "reason"),
    [
        (b"", "FIELD_REQUIRED"),
        (bytes(70_000), "FIELD_LENGTH"),
        (BASE.encode(), "COSE_MALFORMED"),
        (b"\x84", "COSE_MALFORMED"),
    ],
)
async def test_what_is_no_signed_policy_is_refused(
    deployed: Deployment, process: Process, data: bytes, reason: str
) -> None:
    assert await refusal(put_bytes(deployed, process, data)) == reason


async def test_a_condition_beyond_the_bounds_cannot_be_activated(
    deployed: Deployment, process: Process
) -> None:
    hostile = replace(BASE, expression="[status]" + ".map(a, a + a)" * 40 + "[0].size() > 0")
    public = deployed.signer.public_key().public_bytes_raw()
    payload = dcbor.encode((signed_policy.DOMAIN, 8, hostile.encode()))
    data = cose.sign1(payload, deployed.signer.sign, public)
    assert await refusal(put_bytes(deployed, process, data)) == "POLICY_EXPRESSION_MALFORMED"
    # Kept under no number it can be selected, and then it refuses everything.
    await put(deployed, process, hostile, 0)
    answer = await verdict(deployed, process, hostile.digest)
    assert answer.verdict.status == pb.STATUS_CONTRAINDICATED
    assert [f.reason for f in answer.verdict.findings] == ["POLICY_EXPRESSION_FAILED"]


async def test_the_store_has_room_for_so_many_policies(deployed: Deployment) -> None:
    deployed.settings()
    settings = replace(deployed.policy_settings(), max_policies=2)
    process = await deployed.start(policy_file=None, policies=settings)
    await put(deployed, process, BASE, 1)
    await put(deployed, process, STRICT, 2)
    third = replace(BASE, max_token_lifetime_s=60)
    assert await refusal(put(deployed, process, third, 3)) == "STORE_FULL"
    assert (await put(deployed, process, BASE, 3)).active  # no new one
