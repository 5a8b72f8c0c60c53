"""`otr-commitment --config FILE`: chooses the adapters, checks the log, serves it."""

from __future__ import annotations

import asyncio
import contextlib
import functools
import sys
import threading
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

from otr.commitment.v1 import commitment_pb2_grpc as rpc
from otr_commitment import continuity, log_key
from otr_commitment.admission import Admission
from otr_commitment.appending import Appender
from otr_commitment.blob_transfer import BlobTransfers
from otr_commitment.blobs_directory import BlobDirectory
from otr_commitment.guard_file import GuardFile
from otr_commitment.locks import FileLock, sync_directory
from otr_commitment.metrics import LogMetrics
from otr_commitment.ports import Clock, GuardConflictError, Head
from otr_commitment.publication import Publication
from otr_commitment.reading import Reading
from otr_commitment.sequencer import Committed, Sequencer, Start, first_head
from otr_commitment.servicer import ROLES, SERVICE, CommitmentServicer, Identity
from otr_commitment.settings import Settings
from otr_commitment.standing import Standing
from otr_commitment.store_sqlite import SqliteReader, SqliteWriter
from otr_commitment.tree import Tree
from otr_commitment.wire import MAX_REQUEST_BYTES
from otr_protocol.digest import H
from otr_protocol.errors import Refusal
from otr_protocol.tlog.edge import Edge
from otr_protocol.tlog.note import SignerKey
from otr_server.background import BackgroundTask
from otr_server.command import run_command
from otr_server.metrics import new_registry
from otr_server.process import Process, Servicer

NAME = "otr-commitment"
DATABASE = "log.db"
LOCK = "writer.lock"
CALLS_BESIDE_WAITERS = 1024


class SystemClock:
    """The machine's clock."""

    def now_ms(self) -> int:
        """Milliseconds since 1970 UTC."""
        return time.time_ns() // 1_000_000


@dataclass(frozen=True, slots=True)
class OpenedLog:
    """A log whose files are open and locked. `start` is None when it must not be appended to."""

    key: SignerKey
    writer: SqliteWriter
    reader: SqliteReader
    guard: GuardFile
    blobs: BlobDirectory
    standing: Standing
    published: Head | None
    start: Start | None


def open_log(settings: Settings, metrics: LogMetrics, closing: contextlib.ExitStack) -> OpenedLog:
    """Open, lock and check everything on disk; what is opened is closed by `closing`.

    A log that may not go on is opened all the same, with a standing that says why. Raises
    AlreadyRunningError, LogKeyMissingError, IdentityChangedError and the like: then there is
    nothing to serve.
    """
    data_dir = settings.data_dir
    data_dir.mkdir(parents=True, exist_ok=True)
    sync_directory(data_dir.parent)
    lock = FileLock(data_dir / LOCK)
    closing.callback(lock.release)
    database = data_dir / DATABASE
    key = log_key.load_or_make(
        settings.log_key_file,
        settings.origin,
        may_make=settings.generate_log_key,
        log_exists=database.exists() or settings.guard_file.exists(),
    )
    vkey = str(key.verifier)
    guard = GuardFile(settings.guard_file, H(vkey.encode()))
    closing.callback(guard.close)
    writer = SqliteWriter(
        database, origin=settings.origin, vkey=vkey, max_bytes=settings.max_database_bytes
    )
    closing.callback(writer.close)
    reader = SqliteReader(database)
    closing.callback(reader.close)
    blobs = BlobDirectory(
        data_dir,
        metrics,
        max_total_bytes=settings.max_total_blob_bytes,
        min_free_bytes=settings.min_free_bytes,
    )
    standing = Standing()
    head = writer.head() or first_head(writer, key)
    edge: Edge | None = None
    try:
        edge = continuity.check_stored(writer, head, key.verifier)
        if head.tree_size <= settings.full_check_entries:
            continuity.check_tiles(writer, head.tree_size)
    except Refusal as refusal:
        standing.refuse(refusal)
        return OpenedLog(key, writer, reader, guard, blobs, standing, None, None)
    try:
        continuity.check_guard(writer, head, guard, adopt=settings.adopt_guard)
    except Refusal as refusal:
        standing.refuse(refusal)
        if isinstance(
            refusal, continuity.RolledBackError | continuity.ForkedError | GuardConflictError
        ):
            metrics.equivocations.inc()
        return OpenedLog(key, writer, reader, guard, blobs, standing, head, None)
    return OpenedLog(key, writer, reader, guard, blobs, standing, head, Start(edge, head))


async def start(settings: Settings, *, clock: Clock | None = None) -> Process:
    """Open the log and serve it; returns the started process.

    It is SERVING unless the log may not go on: then appends are refused with the reason. Raises
    what `open_log` raises, ProcessStartError or TlsFileError; nothing is left open then.
    """
    closing = contextlib.ExitStack()
    try:
        return await _start(settings, SystemClock() if clock is None else clock, closing)
    except BaseException:
        closing.close()
        raise


async def _start(settings: Settings, clock: Clock, closing: contextlib.ExitStack) -> Process:
    registry = new_registry()
    metrics = LogMetrics(registry)
    log_ = await asyncio.to_thread(open_log, settings, metrics, closing)
    loop = asyncio.get_running_loop()
    limits = settings.limits
    share = limits.caller_share
    publication = Publication(log_.published, max_waiters=limits.max_waiters, share=share)
    readers = _threads(closing, 4, "log reader")
    appender = Appender(
        Admission(log_.blobs, verify_statements=settings.verify_statements),
        log_.reader,
        log_.standing,
        _threads(closing, 1, "log admission"),
        metrics,
        max_pending=limits.max_pending_entries,
        share=share,
    )

    def deliver(committed: Committed) -> None:
        if committed.head is not None:
            publication.publish(committed.head, committed.prefixes)
            metrics.published(committed.head.tree_size, cosignatures=0)
        appender.deliver(committed)

    background: list[BackgroundTask] = []
    if log_.start is not None:
        sequencer = Sequencer(
            log_.writer,
            log_.guard,
            log_.start,
            log_.key,
            clock,
            log_.standing,
            lambda committed: _on_loop(loop, functools.partial(deliver, committed)),
            metrics,
        )
        sequencer.start()
        closing.callback(sequencer.stop)
        appender.connect(sequencer.submit)
        if log_.start.head.tree_size > settings.full_check_entries:
            background.append(_full_check(log_, log_.start.head, closing))
    if log_.published is not None:
        metrics.published(log_.published.tree_size, cosignatures=0)
        metrics.watch_checkpoint_age(lambda: (clock.now_ms() - publication.head.log_time_ms) / 1000)
    metrics.watch_blob_bytes(lambda: float(log_.blobs.total_bytes))
    servicer = CommitmentServicer(
        Identity(settings.origin, log_.key),
        appender,
        publication,
        Reading(log_.reader, Tree(log_.reader)),
        BlobTransfers(
            log_.blobs,
            _threads(closing, 8, "log blobs"),
            max_uploads=limits.max_uploads,
            max_downloads=limits.max_downloads,
            share=share,
            upload_seconds=limits.upload_seconds,
            download_seconds=limits.download_seconds,
        ),
        readers,
        max_blob_bytes=limits.max_blob_bytes,
        guest_bytes_per_hour=limits.guest_bytes_per_hour,
    )
    draining = asyncio.Event()

    async def end_streams() -> None:
        await draining.wait()
        publication.close()

    async def close() -> None:
        # On a thread: the sequencer finishes what is queued and tells this loop about it.
        await asyncio.to_thread(closing.close)

    process = Process(
        NAME,
        settings.listen,
        settings.tls,
        [Servicer(rpc.add_CommitmentServiceServicer_to_server, servicer, SERVICE)],
        ROLES,
        [end_streams, *background],
        reflection=settings.reflection,
        max_request_bytes=MAX_REQUEST_BYTES,
        max_concurrent_calls=limits.max_waiters + CALLS_BESIDE_WAITERS,
        drain_seconds=settings.drain_seconds,
        closing=[close],
        draining=draining,
        registry=registry,
    )
    await process.start()
    log_.standing.when_refused(
        lambda: _on_loop(loop, functools.partial(process.set_serving, False))
    )
    process.set_serving(log_.standing.good)
    return process


def _on_loop(loop: asyncio.AbstractEventLoop, work: Callable[[], None]) -> None:
    loop.call_soon_threadsafe(work)


def _full_check(log_: OpenedLog, head: Head, closing: contextlib.ExitStack) -> BackgroundTask:
    """Check the tiles of a large log while it serves; damage ends appending."""
    stopping = threading.Event()
    threads = _threads(closing, 1, "log full check")
    closing.callback(stopping.set)  # runs before the thread is waited for

    def check() -> None:
        try:
            continuity.check_tiles(log_.reader, head.tree_size, stopping=stopping.is_set)
        except continuity.TreeMismatchError as error:
            log_.standing.refuse(error)

    async def full_check() -> None:
        await asyncio.get_running_loop().run_in_executor(threads, check)

    return full_check


def _threads(closing: contextlib.ExitStack, count: int, name: str) -> ThreadPoolExecutor:
    threads = ThreadPoolExecutor(count, thread_name_prefix=name)
    closing.callback(threads.shutdown)
    return threads


def main() -> None:
    """The console script."""
    sys.exit(run_command(NAME, Settings, start))


if __name__ == "__main__":
    main()
