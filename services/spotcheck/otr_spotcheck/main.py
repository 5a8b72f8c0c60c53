"""The spot-check process: settings, adapters, and nothing else."""

from __future__ import annotations

from collections.abc import Sequence

from prometheus_client import Gauge

from otr.spotcheck.v1 import spotcheck_pb2_grpc as rpc
from otr_log.follow import follow
from otr_log.peer import LogPeer
from otr_protocol.tlog.note import VerifierKey
from otr_server.channel import open_channel
from otr_server.command import run_command
from otr_server.identity import ANY_ROLE
from otr_server.process import Process, Servicer
from otr_spotcheck.population import Population
from otr_spotcheck.servicer import SpotCheckServicer
from otr_spotcheck.settings import Settings

NAME = "otr-spotcheck"
SERVICE = "otr.spotcheck.v1.SpotCheckService"
WORKERS = frozenset({"prover"})
AUDITORS = frozenset({"auditor", "watcher", "arbitration"})
ROLES = {
    "GetSampling": ANY_ROLE,
    "RegisterWeightCommitment": frozenset({"operator", "prover"}),
    "GetWeightCommitment": ANY_ROLE,
    "GetParameters": ANY_ROLE,
    "LeaseTasks": WORKERS,
    "ExtendLease": WORKERS,
    "ReleaseLease": WORKERS,
    "SubmitProof": WORKERS,
    "SubmitReexecution": AUDITORS,
    "GetAudit": ANY_ROLE,
    "GetAuditBundle": AUDITORS,
    "WatchAudits": ANY_ROLE,
    "GetServiceInfo": ANY_ROLE,
}
"""All of the contract; those not built answer UNIMPLEMENTED, to whom they will be open."""


async def start(settings: Settings) -> Process:
    """Start the process; it serves once it follows the log."""
    vkey = VerifierKey.parse(settings.log_vkey_file.read_text().strip())
    population = Population(settings.data_dir / "spotcheck.sqlite")
    client = settings.tls.as_client() if settings.tls else None
    channel = open_channel(settings.commitment_target, client, "commitment", wait_for_ready=True)

    async def follow_the_log() -> None:
        await follow(
            LogPeer(channel), vkey, population.cursor, population.apply, process.set_serving
        )

    async def close_population() -> None:
        population.close()

    process = Process(
        NAME,
        settings.listen,
        settings.tls,
        [
            Servicer(
                rpc.add_SpotCheckServiceServicer_to_server,
                SpotCheckServicer(population, vkey.name),
                SERVICE,
            )
        ],
        {f"/{SERVICE}/{method}": roles for method, roles in ROLES.items()},
        [follow_the_log],
        reflection=settings.reflection,
        drain_seconds=settings.drain_seconds,
        closing=[close_population, channel.close],
    )
    Gauge(
        "otr_spotcheck_population", "Distinct statements followed.", registry=process.registry
    ).set_function(population.count)
    await process.start()
    return process


def main(argv: Sequence[str] | None = None) -> int:
    """`otr-spotcheck --config FILE`."""
    return run_command(NAME, Settings, start, argv)
