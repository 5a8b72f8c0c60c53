"""Attacks on genuine answers, each with all the power its attacker really has, and each refused.

An attack that is not refused makes the demonstration fail. The attackers hold the answer files, the
operator's own key where an operator could cheat, and a simulated machine of their own; none of them
holds the session key, which never left the process that signed.
"""

from __future__ import annotations

import secrets
import shutil
import time
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, replace
from pathlib import Path

import grpc
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from otr.attestation.v1 import attestation_pb2 as pb
from otr.attestation.v1 import attestation_pb2_grpc as rpc
from otr_client.request import Ask
from otr_client.stack.directory import StackDirectory
from otr_devtee import Attester, DevelopmentPki
from otr_numerics.model_file import load_model
from otr_protocol.answer import Answer, open_answer
from otr_protocol.digest import H
from otr_protocol.errors import Refusal, RejectedError
from otr_protocol.identity import Delegation, sign_delegation
from otr_protocol.request_blob import open_blob
from otr_protocol.statement import open_statement, sign_statement
from otr_protocol.tlog.receipt import Receipt
from otr_protocol.trust import TrustRoots
from otr_protocol.verify_answer import verify_answer
from otr_server.channel import open_channel
from otr_server.status import reason_of

WEIGHTS = "int8.safetensors"


class EvidenceRefusedError(RejectedError):
    """The verifier issued no token; the message lists its findings."""

    reason = "EVIDENCE_REFUSED"


@dataclass(frozen=True, slots=True)
class Attempt:
    """What became of an attack; `reason` is the refusal's permanent reason, `detail` its line."""

    name: str
    refused: bool
    reason: str
    detail: str


@dataclass(frozen=True, slots=True)
class Loot:
    """What the attackers work with: two genuine answers with their requests, and the stack."""

    stack: StackDirectory
    roots: TrustRoots
    model_dir: Path
    asks: tuple[Ask, Ask]
    answers: tuple[bytes, bytes]
    scratch: Path


async def attempt(name: str, attack: Callable[[Loot], Awaitable[None]], loot: Loot) -> Attempt:
    """Run one attack. Only a typed refusal counts as refused; anything else is our bug."""
    try:
        await attack(loot)
    except Refusal as refusal:
        return Attempt(name, True, refusal.reason, refusal.message)
    except grpc.aio.AioRpcError as error:
        refused = reason_of(error)
        return Attempt(
            name, refused is not None, refused or error.code().name, error.details() or ""
        )
    return Attempt(name, False, "", "the attack was not refused")


async def output_token_changed(loot: Loot) -> None:
    """A relay swaps one word of the answer and recomputes what it can."""
    answer = open_answer(loot.answers[0])
    blob = open_blob(answer.blob)
    changed = (blob.output_ids[0] ^ 1, *blob.output_ids[1:])
    _verify(loot, replace(answer, blob=replace(blob, output_ids=changed).encode()))


async def other_weights_same_model_id(loot: Loot) -> None:
    """An operator loads cheaper weights and keeps the registered model's manifest."""
    copy = loot.scratch / "other-weights"
    shutil.copytree(loot.model_dir, copy)
    genuine = load_model(loot.model_dir).model_id
    weights = copy / WEIGHTS
    with weights.open("r+b") as file:
        file.seek(weights.stat().st_size // 2)
        (byte,) = file.read(1)
        file.seek(-1, 1)
        file.write(bytes((byte ^ 1,)))
    load_model(copy, genuine)


async def unattested_session_key(loot: Loot) -> None:
    """An operator delegates to a key outside any TEE and signs with it, keeping a genuine token."""
    answer = open_answer(loot.answers[0])
    operator = loot.stack.operator_key()
    rogue = Ed25519PrivateKey.generate()
    public = rogue.public_key().public_bytes_raw()
    delegation = sign_delegation(
        Delegation(
            operator.public_key().public_bytes_raw(),
            public,
            loot.stack.log_origin,
            _now_ms() + 3_600_000,
        ),
        operator.sign,
    )
    statement = replace(
        open_statement(answer.statement).statement,
        session_key=public,
        delegation_digest=H(delegation),
    )
    signed = sign_statement(statement, rogue.sign)
    _verify(loot, replace(answer, statement=signed, delegation=delegation, receipt=b""))


async def evidence_of_another_challenge(loot: Loot) -> None:
    """An attester answers today's challenge with evidence it collected for another one."""
    stack = loot.stack
    machine = Attester(DevelopmentPki.load(stack.devtee_dir))
    keys = {
        "operator_id": stack.operator_id(),
        "session_key": secrets.token_bytes(32),
        "tls_spki_sha256": secrets.token_bytes(32),
        "model_id": load_model(loot.model_dir).model_id,
    }
    evidence = machine.collect(challenge=secrets.token_bytes(32), **keys)
    channel = open_channel(
        stack.target("attestation"), stack.client_tls("inference"), "attestation"
    )
    async with channel:
        service = rpc.AttestationServiceStub(channel)
        binding = pb.KeyBinding(**keys)
        issued = await service.IssueChallenge(
            pb.IssueChallengeRequest(audience=stack.log_origin, key_binding=binding)
        )
        answer = await service.Verify(
            pb.VerifyRequest(
                challenge=issued.challenge,
                audience=stack.log_origin,
                key_binding=binding,
                evidence=evidence,
            )
        )
    if not answer.attestation_token:
        findings = answer.verdict.findings
        raise EvidenceRefusedError(
            ", ".join(f"{each.component}: {each.reason}" for each in findings)
        )


async def receipt_of_another_answer(loot: Loot) -> None:
    """A relay hands out the receipt of a different, registered answer."""
    answer, other = (open_answer(data) for data in loot.answers)
    _verify(loot, answer.with_receipt(other.receipt))


async def truncated_inclusion_proof(loot: Loot) -> None:
    """A relay cuts the log's proof short."""
    answer = open_answer(loot.answers[0])
    receipt = Receipt.decode(answer.receipt)
    shorter = replace(receipt, inclusion_proof=receipt.inclusion_proof[:-1])
    _verify(loot, answer.with_receipt(shorter.encode()))


async def old_answer_replayed(loot: Loot) -> None:
    """A server answers a new question with a genuine answer to an earlier one."""
    verified = verify_answer(loot.answers[0], loot.roots, _now_ms())
    loot.asks[1].require_answered(verified)


async def simulated_evidence_sold_as_hardware(loot: Loot) -> None:
    """An operator sells the development TEE to somebody who relies on hardware."""
    verify_answer(loot.answers[0], replace(loot.roots, allow_simulated=False), _now_ms())


ATTACKS: tuple[tuple[str, Callable[[Loot], Awaitable[None]]], ...] = (
    ("output token changed", output_token_changed),
    ("other weights under the same model id", other_weights_same_model_id),
    ("statement signed by a key that no evidence names", unattested_session_key),
    ("evidence with another challenge", evidence_of_another_challenge),
    ("receipt of another answer", receipt_of_another_answer),
    ("truncated log proof", truncated_inclusion_proof),
    ("old answer replayed to a new question", old_answer_replayed),
    ("simulated evidence sold as hardware", simulated_evidence_sold_as_hardware),
)


def _verify(loot: Loot, forged: Answer) -> None:
    verify_answer(forged.encode(), loot.roots, _now_ms())


def _now_ms() -> int:
    return time.time_ns() // 1_000_000
