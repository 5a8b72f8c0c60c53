"""Attestation processes as tests run them: real servers over mTLS on loopback, a clock that is set.

The evidence is the development TEE's (`devtee_world`), whose certificates and answers are dated
around `world.NOW`; so is the clock of every process here. The log is a real one beside them.
"""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

import grpc
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat

from otr.attestation.v1 import attestation_pb2 as pb
from otr.attestation.v1 import attestation_pb2_grpc as rpc
from otr.commitment.v1 import commitment_pb2 as log_pb
from otr_attestation.main import start
from otr_attestation.settings import CollateralSettings, PolicySettings, Settings
from otr_devtee import Attester
from otr_log.peer import LogPeer
from otr_protocol import dcbor
from otr_protocol.attestation import ocsp
from otr_protocol.attestation.collateral import CollateralBundle
from otr_protocol.attestation.policy import Policy
from otr_protocol.attestation.signed_policy import sign_policy
from otr_protocol.digest import H
from otr_server.channel import open_channel
from otr_server.dev_pki import DevPki, make_dev_pki
from otr_server.process import Listen, Process
from support import devtee_world as world
from support.log_service import Service as LogService
from support.log_service import log_service

ROLES: Final = ("attestation", "inference", "operator", "auditor", "client", "commitment")
AUDIENCE: Final = "log.test/otr"
STUBS: Final[dict[str, Any]] = {
    "attestation": rpc.AttestationServiceStub,
    "collateral": rpc.CollateralServiceStub,
    "policy": rpc.PolicyServiceStub,
}


@dataclass
class SetTime:
    """The clock of all processes of a deployment."""

    seconds: int = world.NOW

    def now_ms(self) -> int:
        """Milliseconds since 1970 UTC."""
        return self.seconds * 1000


@dataclass
class Deployment:
    """Processes in one directory, and channels to them by role."""

    directory: Path
    running_log: LogService | None = None
    clock: SetTime = field(default_factory=SetTime)
    processes: list[Process] = field(default_factory=list)
    channels: list[grpc.aio.Channel] = field(default_factory=list)
    signer: Ed25519PrivateKey = field(default_factory=Ed25519PrivateKey.generate)

    @property
    def log(self) -> LogService:
        """The log, of a deployment that has one."""
        assert self.running_log is not None
        return self.running_log

    @property
    def pki(self) -> DevPki:
        """Certificates of every role, under one CA."""
        return make_dev_pki(self.directory / "log" / "pki", ROLES)

    def settings(self, **changes: Any) -> Settings:
        """A verifier whose policy and collateral are files, until `changes` say otherwise."""
        files = self.directory / "files"
        files.mkdir(exist_ok=True)
        key = files / "token.pem"
        if not key.exists():
            pem = world.token_key().private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())
            key.touch(0o600)
            key.write_bytes(pem)
            (files / "roots.cbor").write_bytes(world.pki().trust_roots().encode())
            (files / "policy.cbor").write_bytes(world.pki().policy().encode())
            (files / "collateral.cbor").write_bytes(world.collateral().encode())
            (files / "signer.pub").write_text(self.signer.public_key().public_bytes_raw().hex())
        log = self.running_log
        chosen: dict[str, Any] = {
            "listen": Listen(),
            "issuer": world.ISSUER,
            "signing_key_file": key,
            "trust_roots_file": files / "roots.cbor",
            "collateral_file": files / "collateral.cbor",
            "policy_file": files / "policy.cbor",
            "commitment_target": None if log is None else log.process.bound.target,
            "tls": self.pki.server_tls("attestation"),
        }
        return Settings(**(chosen | changes))

    async def start(self, **changes: Any) -> Process:
        """Start an attestation process."""
        process = await start(self.settings(**changes), now_ms=self.clock.now_ms)
        self.processes.append(process)
        return process

    async def start_collateral(self, name: str = "collateral", **changes: Any) -> Process:
        """Start a process of the collateral role alone; `changes` are of its own table."""
        return await self.start(
            roles=("collateral",),
            collateral_file=None,
            policy_file=None,
            collateral=CollateralSettings(**({"data_dir": self.directory / name} | changes)),
        )

    def policy_settings(self, name: str = "policies") -> PolicySettings:
        """A policy store that takes this deployment's signer."""
        return PolicySettings(
            data_dir=self.directory / name,
            signer_key_files=(self.directory / "files" / "signer.pub",),
        )

    def signed(self, policy: Policy, sequence: int) -> bytes:
        """A policy by this deployment's signer."""
        public = self.signer.public_key().public_bytes_raw()
        return sign_policy(policy, sequence, self.signer.sign, public)

    def stub(self, process: Process, service: str = "attestation", role: str = "inference") -> Any:
        """A service as a caller of this role sees it."""
        channel = open_channel(
            process.bound.target, self.pki.client_tls(role), "attestation", timeout_seconds=60.0
        )
        self.channels.append(channel)
        return STUBS[service](channel)

    async def stop(self, process: Process) -> None:
        """Drain one process."""
        self.processes.remove(process)
        await process.drain()

    async def close(self) -> None:
        """Close channels and drain what still runs."""
        for channel in self.channels:
            await channel.close()
        for process in reversed(self.processes):
            await process.drain()


@asynccontextmanager
async def deployment(directory: Path, *, with_log: bool = True) -> AsyncIterator[Deployment]:
    """A directory with a log in it; attestation processes are the test's to start."""
    async with AsyncExitStack() as stack:
        deployed = Deployment(directory)
        if with_log:
            deployed.running_log = await stack.enter_async_context(log_service(directory / "log"))
        stack.push_async_callback(deployed.close)
        yield deployed


def binding(session: int = 3) -> dict[str, bytes]:
    """What a machine commits to, with a session key of its own."""
    return {
        "operator_id": bytes([2]) * 32,
        "session_key": session.to_bytes(32, "big"),
        "tls_spki_sha256": bytes([4]) * 32,
        "model_id": bytes([5]) * 32,
    }


async def request(stub: Any, session: int = 3, gpus: int = 1) -> pb.VerifyRequest:
    """Honest evidence for a challenge that `stub` just issued."""
    keys = binding(session)
    issued = await stub.IssueChallenge(
        pb.IssueChallengeRequest(audience=AUDIENCE, key_binding=pb.KeyBinding(**keys))
    )
    return pb.VerifyRequest(
        challenge=issued.challenge,
        audience=AUDIENCE,
        key_binding=pb.KeyBinding(**keys),
        evidence=Attester(world.pki(), gpus=gpus).collect(challenge=issued.challenge, **keys),
    )


def write_collateral(root: Path, bundle: CollateralBundle) -> Path:
    """A bundle as files in the layout that the collateral role reads."""
    for folder in ("rim", "ocsp", "snp"):
        (root / folder).mkdir(parents=True, exist_ok=True)
    for name, document in bundle.rims:
        (root / "rim" / f"{name}.xml").write_bytes(document)
    for response in bundle.ocsp_responses:
        (root / "ocsp" / f"{ocsp.parse(response).serial:x}.der").write_bytes(response)
    for ask, ark in bundle.snp_issuers:
        record = dcbor.encode(("otr-snp-issuers-v1", ask, ark))
        (root / "snp" / "issuers-Milan.pem").write_bytes(record)
    for crl in bundle.crls:
        (root / "snp" / "crl-Milan.der").write_bytes(crl)
    return root


async def blobs_held(log: LogService, *digests: bytes) -> list[bool]:
    """Which blobs the log holds."""
    held = await log.stub("watcher").HasBlobs(log_pb.HasBlobsRequest(digests=digests))
    return list(held.held)


async def put_blob(log: LogService, data: bytes) -> None:
    """Put a blob into the log, as an attestation service would."""
    log.stub("attestation")
    await LogPeer(log.channels["attestation"]).put_blobs([(H(data), data)])
