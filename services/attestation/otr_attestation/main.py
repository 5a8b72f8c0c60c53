"""The attestation process: settings, adapters, and nothing else."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

from prometheus_client import CollectorRegistry

from otr.attestation.v1 import attestation_pb2_grpc as rpc
from otr_attestation.appraiser import Appraiser, read_token_key
from otr_attestation.challenges import Challenges
from otr_attestation.collateral_file import CollateralFile
from otr_attestation.collaterals import Collaterals
from otr_attestation.gathering import Gathering
from otr_attestation.metrics import CollateralMetrics, VerifierMetrics
from otr_attestation.peer_collateral import CollateralPeer
from otr_attestation.peer_log import LogBlobs
from otr_attestation.peer_vendors import Vendors
from otr_attestation.policies import Policies
from otr_attestation.ports import CollateralClient, CollateralSource, Origin
from otr_attestation.servicer import AttestationServicer
from otr_attestation.servicer_collateral import CollateralServicer
from otr_attestation.servicer_policy import PolicyServicer
from otr_attestation.settings import CollateralSettings, Settings
from otr_attestation.store_collateral import CollateralDatabase
from otr_attestation.store_directory import CollateralDirectory
from otr_attestation.store_policies import PolicyDatabase
from otr_attestation.streaming import Streaming
from otr_attestation.verifying import Verifying
from otr_protocol.attestation import policy as policy_documents
from otr_protocol.attestation import trust_roots
from otr_protocol.attestation.trust_roots import TrustRootSet
from otr_protocol.errors import MalformedError
from otr_server.background import BackgroundTask
from otr_server.channel import open_channel
from otr_server.command import run_command
from otr_server.identity import ANY_ROLE
from otr_server.metrics import new_registry
from otr_server.process import Process, Servicer

NAME: Final = "otr-attestation"
PACKAGE: Final = "otr.attestation.v1"
MAX_OTHER_REQUEST_BYTES: Final = (1 << 20) + 65_536
ATTESTERS: Final = frozenset({"inference"})
OPERATORS: Final = frozenset({"operator"})
ROLES: Final = {
    "AttestationService": {
        "IssueChallenge": ATTESTERS,
        "Verify": ATTESTERS,
        "VerifyStream": ATTESTERS,
        "Replay": ANY_ROLE,
        "GetJwks": ANY_ROLE,
    },
    "CollateralService": {
        # Whoever asks may make this process ask a vendor, so only those ask who need the answer.
        "GetCollateral": frozenset({"attestation", "auditor", "inference", "operator"}),
        "PutCollateral": OPERATORS,
        "WatchCollateral": ANY_ROLE,
    },
    "PolicyService": {"PutPolicy": OPERATORS, "GetPolicy": ANY_ROLE},
}

Clock = Callable[[], int]


class SignerKeyError(MalformedError):
    """A policy signer's key file holds no Ed25519 public key in hex."""

    reason = "SIGNER_KEY_INVALID"


@dataclass
class _Parts:
    """What the roles of one process share, and what it has to close."""

    settings: Settings
    now_ms: Clock
    registry: CollectorRegistry
    draining: asyncio.Event = field(default_factory=asyncio.Event)
    servicers: list[Servicer] = field(default_factory=list)
    background: list[BackgroundTask] = field(default_factory=list)
    closing: list[Callable[[], Awaitable[None]]] = field(default_factory=list)

    def serve(self, service: str, add: Callable[[Any, Any], None], instance: object) -> None:
        self.servicers.append(Servicer(add, instance, f"{PACKAGE}.{service}"))

    def closes(self, close: Callable[[], None]) -> None:
        async def closed() -> None:
            await asyncio.to_thread(close)

        self.closing.append(closed)


async def start(settings: Settings, *, now_ms: Clock | None = None) -> Process:
    """Read keys, roots, policies and collateral, and serve; the log may come up later.

    `now_ms` is the clock of challenges, verdicts and collateral (default: this machine's).
    Health says SERVING once a policy is active.
    """
    parts = _Parts(settings, now_ms or (lambda: time.time_ns() // 1_000_000), new_registry())
    started: list[Process] = []
    try:
        collaterals = _collateral_role(parts)
        policies = await _policies(parts, lambda: _tell_health(started, policies))
        if "verifier" in settings.roles:
            assert policies is not None
            await _verifier_role(parts, policies, collaterals)
        if "policy" in settings.roles:
            assert policies is not None
            parts.serve(
                "PolicyService",
                rpc.add_PolicyServiceServicer_to_server,
                PolicyServicer(policies),
            )
        process = _process(parts)
        await process.start()
    except BaseException:
        for close in reversed(parts.closing):
            await close()
        raise
    started.append(process)
    _tell_health(started, policies)
    return process


def _process(parts: _Parts) -> Process:
    settings = parts.settings
    served = {servicer.full_name.removeprefix(f"{PACKAGE}.") for servicer in parts.servicers}
    return Process(
        NAME,
        settings.listen,
        settings.tls,
        parts.servicers,
        {
            f"/{PACKAGE}.{service}/{method}": roles
            for service, methods in ROLES.items()
            if service in served
            for method, roles in methods.items()
        },
        parts.background,
        reflection=settings.reflection,
        max_request_bytes=max(settings.max_evidence_bytes + 65_536, MAX_OTHER_REQUEST_BYTES),
        drain_seconds=settings.drain_seconds,
        closing=parts.closing,
        draining=parts.draining,
        registry=parts.registry,
    )


def _tell_health(started: Sequence[Process], policies: Policies | None) -> None:
    for process in started:
        process.set_serving(policies is None or policies.active is not None)


async def _policies(parts: _Parts, on_change: Callable[[], None]) -> Policies | None:
    settings = parts.settings
    if not {"verifier", "policy"} & set(settings.roles):
        return None
    pinned = None
    if settings.policy_file is not None:
        pinned = policy_documents.decode(await asyncio.to_thread(settings.policy_file.read_bytes))
    store, signers = None, []
    if settings.policies is not None:
        signers = [_signer_key(path) for path in settings.policies.signer_key_files]
        store = await asyncio.to_thread(
            PolicyDatabase,
            settings.policies.data_dir,
            max_policies=settings.policies.max_policies,
        )
        parts.closes(store.close)
    policies = Policies(pinned=pinned, store=store, signers=signers, on_change=on_change)
    await policies.open()
    return policies


def _collateral_role(parts: _Parts) -> Collaterals | None:
    settings = parts.settings.collateral
    if settings is None:
        return None
    store = CollateralDatabase(settings.data_dir, max_bytes=settings.max_store_bytes)
    parts.closes(store.close)
    collaterals = Collaterals(
        store,
        _origins(parts, settings),
        CollateralMetrics(parts.registry),
        now_s=lambda: parts.now_ms() // 1000,
        retry_seconds=settings.retry_seconds,
        refresh_ahead_seconds=settings.refresh_ahead_seconds,
        keep_expired_seconds=settings.keep_expired_seconds,
        max_fetches=settings.max_fetches,
        max_watchers=settings.max_watchers,
    )

    async def refresh_collateral() -> None:
        while True:
            await asyncio.sleep(settings.refresh_every_seconds)
            await collaterals.refresh()

    parts.background.append(refresh_collateral)
    parts.serve(
        "CollateralService",
        rpc.add_CollateralServiceServicer_to_server,
        CollateralServicer(collaterals, parts.draining),
    )
    return collaterals


def _origins(parts: _Parts, settings: CollateralSettings) -> list[Origin]:
    origins: list[Origin] = []
    if settings.directory is not None:
        origins.append(CollateralDirectory(settings.directory))
    if settings.vendors is not None:
        vendors = Vendors(settings.vendors)
        parts.closing.append(vendors.close)
        origins.append(vendors)
    return origins


async def _verifier_role(
    parts: _Parts, policies: Policies, collaterals: Collaterals | None
) -> None:
    settings = parts.settings
    assert settings.issuer is not None
    assert settings.signing_key_file is not None
    assert settings.trust_roots_file is not None
    assert settings.commitment_target is not None
    roots = (trust_roots.decode(await asyncio.to_thread(settings.trust_roots_file.read_bytes)),)
    appraiser = Appraiser(
        issuer=settings.issuer,
        signing_key=await asyncio.to_thread(read_token_key, settings.signing_key_file),
        trust_roots=roots,
    )
    challenges = Challenges(
        lifetime_ms=settings.challenge_seconds * 1000, capacity=settings.max_open_challenges
    )
    metrics = VerifierMetrics(parts.registry, lambda: challenges.open_count)
    tls = settings.tls.as_client() if settings.tls else None
    log = open_channel(settings.commitment_target, tls, "commitment")
    parts.closing.append(log.close)
    verifying = Verifying(
        appraiser,
        challenges,
        policies,
        await _collateral_source(parts, roots, collaterals),
        LogBlobs(log),
        metrics,
        max_evidence_bytes=settings.max_evidence_bytes,
        max_appraisals=settings.limits.max_appraisals,
        now_ms=parts.now_ms,
    )
    streaming = Streaming(
        verifying,
        metrics,
        parts.draining,
        max_streams=settings.limits.max_streams,
        max_in_flight=settings.limits.max_stream_in_flight,
    )
    parts.serve(
        "AttestationService",
        rpc.add_AttestationServiceServicer_to_server,
        AttestationServicer(verifying, streaming, now_ms=parts.now_ms),
    )


async def _collateral_source(
    parts: _Parts, roots: tuple[TrustRootSet, ...], collaterals: Collaterals | None
) -> CollateralSource:
    settings = parts.settings
    if settings.collateral_file is not None:
        return await asyncio.to_thread(CollateralFile, settings.collateral_file)
    client: CollateralClient
    if settings.collateral_target is not None:
        tls = settings.tls.as_client() if settings.tls else None
        channel = open_channel(settings.collateral_target, tls, "attestation")
        parts.closing.append(channel.close)
        client = CollateralPeer(channel)
    else:
        assert collaterals is not None
        client = collaterals
    return Gathering(client, roots, fresh_seconds=settings.collateral_fresh_seconds)


def _signer_key(path: Path) -> bytes:
    try:
        key = bytes.fromhex(path.read_text("ascii").strip())
    except ValueError as error:
        raise SignerKeyError(f"{path} holds no key in hex") from error
    if len(key) != 32:
        raise SignerKeyError(f"{path} holds {len(key)} bytes, not 32")
    return key


def main(argv: Sequence[str] | None = None) -> int:
    """`otr-attestation --config FILE`."""
    return run_command(NAME, Settings, start, argv)
