"""A log that must not go on says why, is NOT_SERVING and signs nothing; its readers are served."""

from __future__ import annotations

import shutil
import sqlite3
from pathlib import Path

import grpc
import pytest
from grpc_health.v1 import health_pb2, health_pb2_grpc

from otr.commitment.v1 import commitment_pb2 as pb
from otr_commitment.locks import AlreadyRunningError
from otr_commitment.log_key import LogKeyMissingError
from otr_commitment.main import start
from otr_commitment.store_sqlite import IdentityChangedError
from otr_protocol.digest import H
from otr_protocol.tlog import checkpoint as checkpoints
from otr_protocol.tlog.note import SignerKey
from otr_server.settings import SecretFileError
from otr_server.status import reason_of
from support import log_service as logs
from support.log_service import EXHIBIT, Service, log_service


async def append(service: Service, first: int, count: int) -> None:
    records = [logs.statement(first + n) for n in range(count)]
    await service.stub().AppendBatch(logs.entries(records))


@pytest.fixture
async def copied(tmp_path: Path) -> Path:
    """A log of 30 entries whose data are a copy from when it had 20."""
    async with log_service(tmp_path) as service:
        await logs.put(service.stub(), *EXHIBIT.blobs)
        await append(service, 0, 20)
    shutil.copytree(tmp_path / "data", tmp_path / "copy")
    async with log_service(tmp_path) as service:
        await append(service, 20, 10)
    shutil.rmtree(tmp_path / "data")
    shutil.move(tmp_path / "copy", tmp_path / "data")
    return tmp_path


async def health_of(service: Service) -> int:
    target = f"127.0.0.1:{service.process.bound.health_port}"
    async with grpc.aio.insecure_channel(target) as channel:
        stub = health_pb2_grpc.HealthStub(channel)
        answer = await stub.Check(health_pb2.HealthCheckRequest())
        return int(answer.status)


async def require_refused(service: Service, reason: str) -> None:
    """Appends are refused with this reason, and health says NOT_SERVING."""
    assert await health_of(service) == health_pb2.HealthCheckResponse.NOT_SERVING
    stub = service.stub()
    for call in (
        stub.AppendEntry(logs.entry(logs.statement(1))),
        stub.AppendBatch(logs.entries([logs.statement(1000)])),
    ):
        with pytest.raises(grpc.aio.AioRpcError) as caught:
            await call
        assert caught.value.code() is grpc.StatusCode.FAILED_PRECONDITION
        assert reason_of(caught.value) == reason


async def test_a_rolled_back_log_refuses_to_go_on(copied: Path) -> None:
    before = (copied / "guard" / "log.guard").read_bytes()
    for _ in range(2):  # starting again does not help
        async with log_service(copied) as service:
            await require_refused(service, "LOG_ROLLED_BACK")
            registry = service.process.registry
            assert registry.get_sample_value("otr_log_equivocation_total") == 1
    assert (copied / "guard" / "log.guard").read_bytes() == before


async def test_a_rolled_back_log_still_serves_what_it_has_signed(copied: Path) -> None:
    async with log_service(copied) as service:
        stub = service.stub("client")
        note = (await stub.GetCheckpoint(pb.GetCheckpointRequest())).checkpoint
        signed = checkpoints.open_checkpoint(note, [service.log_key]).checkpoint
        assert signed.tree_size == 20
        answer = await stub.GetEntries(pb.GetEntriesRequest(max_entries=100))
        assert len(answer.entries) == 20
        assert await logs.get(stub, H(EXHIBIT.blob)) == EXHIBIT.blob


async def test_the_true_data_are_taken_again(copied: Path, tmp_path: Path) -> None:
    async with log_service(copied) as service:
        await require_refused(service, "LOG_ROLLED_BACK")
    # Not the guard's fault: the same guard accepts a log that is what it has marked.
    shutil.rmtree(copied / "data")
    (copied / "guard" / "log.guard").unlink()
    async with log_service(copied) as service:
        await logs.put(service.stub(), *EXHIBIT.blobs)
        await append(service, 0, 3)
    async with log_service(copied) as service:
        assert await health_of(service) == health_pb2.HealthCheckResponse.SERVING


async def test_a_lost_guard_needs_one_start_with_an_operators_word(tmp_path: Path) -> None:
    async with log_service(tmp_path) as service:
        await logs.put(service.stub(), *EXHIBIT.blobs)
        await append(service, 0, 5)
    (tmp_path / "guard" / "log.guard").unlink()
    async with log_service(tmp_path) as service:
        await require_refused(service, "LOG_GUARD_MISSING")
    async with log_service(tmp_path, adopt_guard=True) as service:
        await append(service, 5, 5)
    async with log_service(tmp_path) as service:
        await append(service, 10, 5)


async def test_lost_data_are_not_a_new_log(copied: Path) -> None:
    (copied / "data" / "log.db").unlink()
    async with log_service(copied) as service:
        await require_refused(service, "LOG_ROLLED_BACK")


@pytest.mark.parametrize(
    "damage",
    [
        "UPDATE tile SET data=zeroblob(length(data)) WHERE place=0",
        "DELETE FROM entry WHERE leaf_index=19",
        "UPDATE head SET root_hash=zeroblob(32)",
    ],
)
async def test_damaged_data_refuse_appends_and_show_no_tree(tmp_path: Path, damage: str) -> None:
    async with log_service(tmp_path) as service:
        await logs.put(service.stub(), *EXHIBIT.blobs)
        await append(service, 0, 20)
    with sqlite3.connect(tmp_path / "data" / "log.db") as db:
        db.execute(damage)
    async with log_service(tmp_path) as service:
        await require_refused(service, "LOG_TREE_MISMATCH")
        with pytest.raises(grpc.aio.AioRpcError) as caught:
            await service.stub("client").GetCheckpoint(pb.GetCheckpointRequest())
        assert reason_of(caught.value) == "LOG_NOT_PUBLISHED"
        # Blobs prove themselves.
        assert await logs.get(service.stub("client"), H(EXHIBIT.blob)) == EXHIBIT.blob


async def test_damage_found_while_serving_ends_appending(tmp_path: Path) -> None:
    async with log_service(tmp_path) as service:
        await logs.put(service.stub(), *EXHIBIT.blobs)
        for first in (0, 256, 512):
            await append(service, first, 256)
    with sqlite3.connect(tmp_path / "data" / "log.db") as db:
        db.execute("UPDATE tile SET data=zeroblob(8192) WHERE place=1")
    async with log_service(tmp_path, full_check_entries=10) as service:
        stub = service.stub()
        reason: str | None = None
        for number in range(768, 1768):  # the check runs beside
            try:
                await stub.AppendEntry(logs.entry(logs.statement(number)))
            except grpc.aio.AioRpcError as error:
                reason = reason_of(error)
                break
        assert reason in ("LOG_TREE_MISMATCH", "APPEND_OUTCOME_UNKNOWN")
        await require_refused(service, "LOG_TREE_MISMATCH")


async def test_two_processes_never_write_one_log(tmp_path: Path) -> None:
    async with log_service(tmp_path) as service:
        with pytest.raises(AlreadyRunningError):
            await start(logs.settings_in(tmp_path))
        # A copy of the data is no way around: the guard is held too.
        shutil.copytree(tmp_path / "data", tmp_path / "copy")
        with pytest.raises(AlreadyRunningError):
            await start(logs.settings_in(tmp_path, data_dir=tmp_path / "copy"))
        await logs.put(service.stub(), *EXHIBIT.blobs)
        await append(service, 0, 1)


async def test_a_log_without_its_key_does_not_start(tmp_path: Path) -> None:
    with pytest.raises(LogKeyMissingError):
        await start(logs.settings_in(tmp_path, generate_log_key=False))
    assert not (tmp_path / "data" / "log.db").exists()
    async with log_service(tmp_path):
        pass
    key = tmp_path / "keys" / "log.key"
    key.rename(tmp_path / "keys" / "hidden")
    with pytest.raises(LogKeyMissingError):
        await start(logs.settings_in(tmp_path))
    key.write_text(SignerKey(logs.ORIGIN, bytes(32)).secret_text())
    with pytest.raises(SecretFileError):
        await start(logs.settings_in(tmp_path))


async def test_a_log_with_another_key_does_not_start(tmp_path: Path) -> None:
    async with log_service(tmp_path):
        pass
    key = tmp_path / "keys" / "log.key"
    key.write_text(SignerKey(logs.ORIGIN, bytes(32)).secret_text())
    key.chmod(0o600)
    (tmp_path / "guard" / "log.guard").unlink()
    with pytest.raises(IdentityChangedError):
        await start(logs.settings_in(tmp_path))


async def test_a_start_that_fails_lets_go_of_the_log(tmp_path: Path) -> None:
    async with log_service(tmp_path) as service:
        taken = service.process.bound.port
        other = tmp_path / "other"
        listen = type(logs.settings_in(other).listen)(port=taken)
        with pytest.raises(Exception, match="in use"):
            await start(logs.settings_in(other, listen=listen))
    async with log_service(other) as service:
        assert await health_of(service) == health_pb2.HealthCheckResponse.SERVING
