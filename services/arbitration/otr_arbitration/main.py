"""The arbitration process: settings, adapters, and nothing else."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Sequence

from otr.arbitration.v1 import arbitration_pb2_grpc as rpc
from otr_arbitration.arbiter import Arbiter
from otr_arbitration.servicer import ArbitrationServicer
from otr_arbitration.settings import Settings
from otr_arbitration.store_sqlite import ArbiterStore
from otr_log.follow import follow
from otr_log.peer import LogPeer
from otr_protocol.attestation.ear import Jwks
from otr_protocol.tlog.note import VerifierKey
from otr_server.channel import open_channel
from otr_server.command import run_command
from otr_server.identity import ANY_ROLE
from otr_server.process import Process, Servicer

NAME = "otr-arbitration"
SERVICE = "otr.arbitration.v1.ArbitrationService"
OPERATORS = frozenset({"operator", "inference"})
ACCOUNT_HOLDERS = frozenset({"operator", "client", "watcher", "auditor", "prover"})
ROLES = {
    f"/{SERVICE}/{method}": roles
    for methods, roles in (
        (("GetFinality", "WatchFinality", "GetServiceInfo"), ANY_ROLE),
        # What follows is in the contract and not built: those who may call it hear UNIMPLEMENTED.
        (("GetVoucher", "GetAllowance", "GetGame", "ListGames"), ANY_ROLE),
        (("WatchGames", "WatchNotices", "GetAccount", "ListPostings"), ANY_ROLE),
        # Anybody may challenge and pay: what is sent is signed by the key whose account it burdens.
        (("RaiseDispute", "Point", "TakeOverGame", "FileDirect", "CountersignVoucher"), ANY_ROLE),
        (("RegisterOperator", "IssueAllowance", "Reveal", "SubmitLeaf", "FillGap"), OPERATORS),
        (("SubmitAuditBundle",), OPERATORS | {"spotcheck"}),
        (("RequestWithdrawal", "CompleteWithdrawal"), ACCOUNT_HOLDERS),
        # Money from nowhere, and the stop of all finality: only for who runs the arbiter.
        (("Deposit", "Quarantine"), frozenset({"arbitration"})),
    )
    for method in methods
}


async def start(settings: Settings) -> Process:
    """Start the process; it serves once it follows the log."""
    vkey = VerifierKey.parse(settings.log_vkey_file.read_text().strip())
    jwks = Jwks.parse(settings.jwks_file.read_bytes())
    store = ArbiterStore(settings.data_dir / "arbitration.sqlite")
    cursor = await store.open()
    client = settings.tls.as_client() if settings.tls else None
    channel = open_channel(settings.commitment_target, client, "commitment", wait_for_ready=True)
    peer = LogPeer(channel)
    arbiter = Arbiter(
        store,
        peer,
        jwks,
        log_origin=vkey.name,
        window_ms=round(settings.window_seconds * 1000),
        accept_simulated=settings.accept_simulated,
        now_ms=lambda: time.time_ns() // 1_000_000,
    )
    arbiter.next_index = cursor.tree_size

    async def follow_the_log() -> None:
        latest = await store.cursor()
        await follow(peer, vkey, latest, arbiter.apply, process.set_serving)

    draining = asyncio.Event()

    async def end_watches() -> None:
        await draining.wait()
        arbiter.wake()

    process = Process(
        NAME,
        settings.listen,
        settings.tls,
        [
            Servicer(
                rpc.add_ArbitrationServiceServicer_to_server,
                ArbitrationServicer(
                    store, arbiter, vkey.name, draining, max_watchers=settings.max_watchers
                ),
                SERVICE,
            )
        ],
        ROLES,
        [follow_the_log, arbiter.judging, arbiter.finalising, end_watches],
        reflection=settings.reflection,
        drain_seconds=settings.drain_seconds,
        closing=[store.close, channel.close],
        draining=draining,
    )
    await process.start()
    return process


def main(argv: Sequence[str] | None = None) -> int:
    """`otr-arbitration --config FILE`."""
    return run_command(NAME, Settings, start, argv)
