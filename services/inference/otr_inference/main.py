"""The inference process: load, attest, serve. Settings and adapters, and nothing else."""

from __future__ import annotations

import asyncio
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass

import structlog

from otr.inference.v1 import inference_pb2_grpc as rpc
from otr_inference.delegations import DelegationDirectory, Delegations, OperatorKeyFile
from otr_inference.engine_worker import EngineWorker
from otr_inference.exposure import ExposureBudget
from otr_inference.measurements import Measurements
from otr_inference.outbox import Outbox
from otr_inference.peer_attestation import GrpcVerifier
from otr_inference.ports import Attester
from otr_inference.sealing import Sealer
from otr_inference.served_model import ServedModel
from otr_inference.servicer import InferenceServicer
from otr_inference.serving_key import ServingKey
from otr_inference.session import Session, Sessions
from otr_inference.settings import Settings
from otr_inference.store_sqlite import AnswerStore
from otr_log.peer import LogPeer
from otr_numerics.engine import Engine
from otr_numerics.model_file import load_model
from otr_protocol import identity
from otr_protocol.errors import MalformedError, RejectedError
from otr_protocol.registry import open_model_record
from otr_protocol.tlog.entry import EntryKind
from otr_protocol.tlog.note import VerifierKey
from otr_server.channel import open_channel
from otr_server.command import run_command
from otr_server.identity import ANY_ROLE
from otr_server.metrics import new_registry
from otr_server.process import Process, Servicer

NAME = "otr-inference"
SERVICE = "otr.inference.v1.InferenceService"
ASKERS = frozenset({"client", "watcher", "auditor", "operator"})
ROLES = {
    "Generate": ASKERS,
    "Abort": ASKERS,
    "GetAnswer": ASKERS,
    "OpenTrace": ANY_ROLE,
    "GetModelInfo": ANY_ROLE,
    "GetServerInfo": ANY_ROLE,
    "GetAttestation": ANY_ROLE,
}
# The engine's thread must get the GIL back soon after a kernel, also while gRPC encodes.
GIL_SWITCH_SECONDS = 0.0005

log = structlog.get_logger(__name__)


class AttesterUnknownError(MalformedError):
    """The settings name an attester that does not exist or lacks its settings."""

    reason = "ATTESTER_UNKNOWN"


class DelegationSourceError(MalformedError):
    """The settings say neither where the operator's key nor where its delegations are."""

    reason = "DELEGATION_SOURCE"


class ModelRecordMismatchError(RejectedError):
    """The registry record names another model than the one that was loaded."""

    reason = "MODEL_RECORD_MISMATCH"


class LogKeyMismatchError(MalformedError):
    """The log's verifier key and its origin name two logs."""

    reason = "LOG_KEY_MISMATCH"


@dataclass(frozen=True, slots=True)
class Built:
    """The parts of a process that was built and not started; benchmarks look inside."""

    process: Process
    worker: EngineWorker
    engine: Engine
    model: ServedModel


async def start(settings: Settings) -> Process:
    """Load and check the model, start the process; it serves once a session is attested."""
    built = await build(settings)
    built.worker.start()
    await built.process.start()
    return built.process


async def build(settings: Settings) -> Built:
    """Load and check the model and wire the parts together.

    Raises the refusals of the model, the operator's files and the settings.
    """
    sys.setswitchinterval(GIL_SWITCH_SECONDS)
    expected = bytes.fromhex(settings.expected_model_id) if settings.expected_model_id else None
    loaded = await asyncio.to_thread(load_model, settings.model_dir, expected)
    log.info("model_loaded", name=settings.model_name, model_id=loaded.model_id.hex())
    model = ServedModel(
        loaded,
        settings.model_name,
        _model_record(settings, loaded.model_id),
        settings.max_positions,
        settings.limits,
    )
    engine = await asyncio.to_thread(
        Engine,
        loaded,
        slots=settings.limits.max_running,
        max_positions=model.context,
        threads=settings.engine_threads,
    )
    await asyncio.to_thread(engine.warm)  # before SERVING: an answer's times are the model's
    worker = EngineWorker(
        engine,
        max_running=settings.limits.max_running,
        max_waiting=settings.limits.max_waiting,
        max_waiting_per_client=settings.limits.max_waiting_per_client,
    )
    log_key = _log_key(settings)
    registry = new_registry()
    store = AnswerStore(settings.data_dir / "inference.sqlite", settings.max_database_bytes)
    await store.open()
    if model.model_record:
        await store.enqueue(int(EntryKind.MODEL), model.model_record)
    client = settings.tls.as_client() if settings.tls else None
    log_channel = open_channel(settings.commitment_target, client, "commitment")
    verifier_channel = open_channel(settings.attestation_target, client, "attestation")
    outbox = Outbox(store, LogPeer(log_channel), log_key, registry)
    operator_public_key = bytes.fromhex(settings.operator_public_key_file.read_text().strip())
    operator_id = identity.operator_id(operator_public_key)

    def now_ms() -> int:
        return time.time_ns() // 1_000_000

    def session_changed(valid: bool, session: Session | None) -> None:
        process.set_serving(valid)
        if session is not None:
            outbox.notify()

    sessions = Sessions(
        operator_id=operator_id,
        tls_spki_sha256=ServingKey(settings.tls).spki_sha256,
        model_id=loaded.model_id,
        attester=_attester(settings),
        verifier=GrpcVerifier(verifier_channel, settings.log_origin),
        delegations=_delegations(settings, operator_public_key),
        store=store,
        now_ms=now_ms,
        renew_before_seconds=settings.renew_before_seconds,
        on_change=session_changed,
    )
    servicer = InferenceServicer(
        model,
        worker,
        sessions,
        store,
        Sealer(operator_id, loaded.model_id, store),
        outbox,
        Measurements(registry, settings.model_name, worker),
        ExposureBudget(settings.limits),
        operator_id=operator_id,
        log_origin=settings.log_origin,
        max_waiting=settings.limits.max_waiting,
        now_ms=now_ms,
    )

    async def stop_worker() -> None:
        await asyncio.to_thread(worker.stop)
        await servicer.drain()

    process = Process(
        NAME,
        settings.listen,
        settings.tls,
        [Servicer(rpc.add_InferenceServiceServicer_to_server, servicer, SERVICE)],
        {f"/{SERVICE}/{method}": roles for method, roles in ROLES.items()},
        [sessions.run, outbox.run, worker.watch, store.watch],
        reflection=settings.reflection,
        max_request_bytes=settings.limits.max_request_bytes,
        drain_seconds=settings.drain_seconds,
        closing=[store.close, log_channel.close, verifier_channel.close, stop_worker],
        registry=registry,
    )
    return Built(process, worker, engine, model)


def main(argv: Sequence[str] | None = None) -> int:
    """`otr-inference --config FILE`."""
    return run_command(NAME, Settings, start, argv)


def _model_record(settings: Settings, model_id: bytes) -> bytes:
    if settings.model_record_file is None:
        return b""
    record = settings.model_record_file.read_bytes()
    named = open_model_record(record)
    if named.model_id != model_id:
        raise ModelRecordMismatchError(
            f"{settings.model_record_file} names model {named.model_id.hex()},"
            f" the directory holds {model_id.hex()}"
        )
    return record


def _log_key(settings: Settings) -> VerifierKey:
    key = VerifierKey.parse(settings.log_vkey_file.read_text().strip())
    if key.name != settings.log_origin:
        raise LogKeyMismatchError(
            f"{settings.log_vkey_file} is the key of {key.name!r}, not of {settings.log_origin!r}",
            field="log_vkey_file",
        )
    return key


def _attester(settings: Settings) -> Attester:
    if settings.attester == "hardware":
        from otr_inference.attester_hardware import HardwareAttester

        return HardwareAttester(settings.hardware)
    if settings.attester != "development":
        raise AttesterUnknownError(
            f"attester {settings.attester!r}: there are 'development' and 'hardware'",
            field="attester",
        )
    if settings.devtee_dir is None:
        raise AttesterUnknownError(
            "attester 'development' signs with the key material in devtee_dir", field="devtee_dir"
        )
    from otr_inference.attester_development import DevelopmentAttester

    return DevelopmentAttester(settings.devtee_dir)


def _delegations(settings: Settings, operator_public_key: bytes) -> Delegations:
    if settings.operator_key_file is not None:
        return OperatorKeyFile(settings.operator_key_file, settings.log_origin)
    if settings.delegation_dir is not None:
        return DelegationDirectory(
            settings.delegation_dir, operator_public_key, settings.log_origin
        )
    raise DelegationSourceError(
        "set delegation_dir, or operator_key_file in development", field="delegation_dir"
    )
