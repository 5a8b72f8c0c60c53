"""The attestation process: settings, adapters, and nothing else."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Sequence

from otr.attestation.v1 import attestation_pb2_grpc as rpc
from otr_attestation.appraiser import Appraiser
from otr_attestation.challenges import Challenges
from otr_attestation.servicer import AttestationServicer
from otr_attestation.settings import Settings
from otr_log.peer import LogPeer
from otr_server.channel import open_channel
from otr_server.command import run_command
from otr_server.identity import ANY_ROLE
from otr_server.metrics import new_registry
from otr_server.process import Process, Servicer

NAME = "otr-attestation"
PACKAGE = "otr.attestation.v1"
ATTESTERS = frozenset({"inference"})
ROLES = {
    "AttestationService": {
        "IssueChallenge": ATTESTERS,
        "Verify": ATTESTERS,
        "VerifyStream": ATTESTERS,
        "Replay": ANY_ROLE,
        "GetJwks": ANY_ROLE,
    },
    "CollateralService": {
        "GetCollateral": ANY_ROLE,
        "PutCollateral": frozenset({"operator"}),
        "WatchCollateral": ANY_ROLE,
    },
    "PolicyService": {"PutPolicy": frozenset({"operator"}), "GetPolicy": ANY_ROLE},
}


async def start(settings: Settings) -> Process:
    """Read keys, roots, policy and collateral, and serve; the log may come up later."""
    appraiser = await asyncio.to_thread(
        Appraiser,
        issuer=settings.issuer,
        signing_key_file=settings.signing_key_file,
        trust_roots_file=settings.trust_roots_file,
        policy_file=settings.policy_file,
        collateral_file=settings.collateral_file,
    )
    channel = open_channel(
        settings.commitment_target,
        settings.tls.as_client() if settings.tls else None,
        "commitment",
    )
    registry = new_registry()
    servicer = AttestationServicer(
        appraiser,
        Challenges(
            lifetime_ms=settings.challenge_seconds * 1000, capacity=settings.max_open_challenges
        ),
        LogPeer(channel),
        registry,
        issuer=settings.issuer,
        max_evidence_bytes=settings.max_evidence_bytes,
        now_ms=lambda: time.time_ns() // 1_000_000,
    )
    process = Process(
        NAME,
        settings.listen,
        settings.tls,
        [
            Servicer(
                rpc.add_AttestationServiceServicer_to_server,
                servicer,
                f"{PACKAGE}.AttestationService",
            ),
            Servicer(
                rpc.add_CollateralServiceServicer_to_server,
                rpc.CollateralServiceServicer(),
                f"{PACKAGE}.CollateralService",
            ),
            Servicer(
                rpc.add_PolicyServiceServicer_to_server,
                rpc.PolicyServiceServicer(),
                f"{PACKAGE}.PolicyService",
            ),
        ],
        {
            f"/{PACKAGE}.{service}/{method}": roles
            for service, methods in ROLES.items()
            for method, roles in methods.items()
        },
        reflection=settings.reflection,
        max_request_bytes=settings.max_evidence_bytes + 65_536,
        drain_seconds=settings.drain_seconds,
        closing=[channel.close],
        registry=registry,
    )
    await process.start()
    process.set_serving(True)
    return process


def main(argv: Sequence[str] | None = None) -> int:
    """`otr-attestation --config FILE`."""
    return run_command(NAME, Settings, start, argv)
