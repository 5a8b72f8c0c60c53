"""InferenceService: decode, admit, stream, seal, encode.

What later releases bring answers UNIMPLEMENTED, from the generated base class.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Coroutine
from dataclasses import dataclass
from importlib.metadata import version

import structlog

from otr.inference.v1 import inference_pb2 as pb
from otr.inference.v1 import inference_pb2_grpc as rpc
from otr_inference import wire
from otr_inference.answering import Answering, Outcome, ServerStoppingError, start_answering
from otr_inference.engine_worker import EngineWorker
from otr_inference.exposure import ExposureBudget, Reservation
from otr_inference.measurements import Measurements
from otr_inference.outbox import Outbox
from otr_inference.ports import AnswerRow, RequestIdReusedError, Store
from otr_inference.sealing import Sealer, answer_file, stored_blob
from otr_inference.served_model import ServedModel
from otr_inference.session import Sessions
from otr_inference.wire import Asked
from otr_protocol.errors import MalformedError, Refusal, RejectedError
from otr_protocol.output import Finish
from otr_server.identity import peer
from otr_server.status import Context

log = structlog.get_logger(__name__)

ENGINE_NAME = "exact-int8/numba"


class VouchersNotAcceptedError(RejectedError):
    """This release serves without payment only."""

    reason = "VOUCHERS_NOT_ACCEPTED"


class WaitTooLongError(MalformedError):
    """A wait is longer than a call may take."""

    reason = "WAIT_TOO_LONG"


@dataclass(eq=False, slots=True)
class _Arrival:
    """A request id that is being served: its bytes' fingerprint and the answer to come.

    `callers` wait for it. While there is one, the answer goes on: a client whose connection broke
    and who asks again under the same id gets the whole answer, whenever the first call's end is
    noticed.
    """

    fingerprint: bytes
    answer: asyncio.Future[Answering | AnswerRow]
    callers: int = 0


class InferenceServicer(rpc.InferenceServiceServicer):
    """Serves one model."""

    def __init__(
        self,
        model: ServedModel,
        worker: EngineWorker,
        sessions: Sessions,
        store: Store,
        sealer: Sealer,
        outbox: Outbox,
        measurements: Measurements,
        exposure: ExposureBudget,
        *,
        operator_id: bytes,
        log_origin: str,
        max_waiting: int,
        now_ms: Callable[[], int],
    ) -> None:
        self._model = model
        self._worker = worker
        self._sessions = sessions
        self._store = store
        self._sealer = sealer
        self._outbox = outbox
        self._measurements = measurements
        self._operator_id = operator_id
        self._log_origin = log_origin
        self._max_waiting = max_waiting
        self._now_ms = now_ms
        self._exposure = exposure
        self._arrivals: dict[tuple[str, bytes], _Arrival] = {}
        self._tasks: set[asyncio.Task[None]] = set()

    async def drain(self) -> None:
        """Wait until every answer in progress is sealed or given up."""
        while self._tasks:
            await asyncio.wait(self._tasks)

    async def Generate(
        self, request: pb.GenerateRequest, context: Context
    ) -> AsyncIterator[pb.GenerateResponse]:
        client = peer(context).uri
        asked = wire.asked(request, self._model.bounds)
        self._model.require_named(request.model)
        if asked.voucher:
            raise VouchersNotAcceptedError("vouchers are not accepted here", field="voucher")
        arrival, first = self._arrive(client, asked)
        arrival.callers += 1
        try:
            found = await asyncio.shield(arrival.answer)
            if isinstance(found, AnswerRow):
                complete = await self._complete(found, asked, None)
                yield pb.GenerateResponse(request_id=asked.request_id, complete=complete)
            elif first:
                async for message in self._stream(found):
                    yield message
            else:  # the same request again while it is being answered
                outcome = await asyncio.shield(found.outcome)
                complete = await self._complete(outcome.row, asked, None)
                yield pb.GenerateResponse(request_id=asked.request_id, complete=complete)
        finally:
            self._leave(arrival)

    async def _stream(self, answering: Answering) -> AsyncIterator[pb.GenerateResponse]:
        """What the call that began an answer sees of it."""
        asked, produced = answering.asked, 0
        try:
            async for steps in answering.steps():
                produced += len(steps)
                chunk = pb.GenerateChunk(
                    token_ids=[step.token_id for step in steps],
                    text="".join(step.text for step in steps),
                    prompt_tokens=len(answering.request.prompt_ids),
                    completion_tokens=produced,
                )
                yield pb.GenerateResponse(request_id=asked.request_id, chunk=chunk)
            outcome = await asyncio.shield(answering.outcome)
        except Refusal as refusal:
            if produced:
                error = pb.GenerateError(reason=refusal.reason, message=refusal.message)
                yield pb.GenerateResponse(request_id=asked.request_id, error=error)
            raise
        self._measurements.answered(outcome)
        complete = await self._complete(outcome.row, asked, outcome)
        yield pb.GenerateResponse(request_id=asked.request_id, complete=complete)

    async def Abort(self, request: pb.AbortRequest, context: Context) -> pb.AbortResponse:
        key = (peer(context).uri, wire.request_id(request.request_id))
        arrival = self._arrivals.get(key)
        if arrival is None:
            return pb.AbortResponse(was_running=False)
        answer = await asyncio.shield(arrival.answer)
        if isinstance(answer, AnswerRow):
            return pb.AbortResponse(was_running=False)
        answer.cancel(Finish.CANCELLED)
        return pb.AbortResponse(was_running=True)

    async def GetModelInfo(
        self, request: pb.GetModelInfoRequest, context: Context
    ) -> pb.GetModelInfoResponse:
        self._model.require_named(request.model)
        manifest = self._model.loaded.manifest
        return pb.GetModelInfoResponse(
            model_name=self._model.name,
            model_id=self._model.model_id,
            manifest=manifest.encode(),
            model_record=self._model.model_record,
            vocab_size=manifest.shape.vocab,
            max_context_length=self._model.context,
            max_tokens_limit=self._model.max_tokens_limit,
            eos_token_ids=manifest.eos_ids,
            has_chat_template=self._model.loaded.tokenizer.chat_template is not None,
            profile=pb.NUMERICS_PROFILE_EXACT_INT8,
            license=manifest.licence,
        )

    async def GetServerInfo(
        self, request: pb.GetServerInfoRequest, context: Context
    ) -> pb.GetServerInfoResponse:
        return pb.GetServerInfoResponse(
            server_version=version("otr-inference"),
            engine=ENGINE_NAME,
            operator_id=self._operator_id,
            session_key=self._sessions.current().row.session_key,
            model_names=[self._model.name],
            running=self._worker.running,
            waiting=self._worker.waiting,
            queue_capacity=self._max_waiting,
            spooled_statements=await self._store.outbox_size(),
            log_origin=self._log_origin,
        )

    async def GetAttestation(
        self, request: pb.GetAttestationRequest, context: Context
    ) -> pb.GetAttestationResponse:
        session = self._sessions.current()
        return pb.GetAttestationResponse(
            attestation_token=session.row.token,
            delegation=session.row.delegation,
            evidence_digest=session.row.evidence_digest,
            expires_ms=session.result.expires_at * 1000,
            simulated=session.result.simulated,
        )

    async def GetAnswer(
        self, request: pb.GetAnswerRequest, context: Context
    ) -> pb.GetAnswerResponse:
        if not 0 <= request.wait_receipt_ms <= wire.MAX_RECEIPT_MS:
            raise WaitTooLongError(
                f"0 to {wire.MAX_RECEIPT_MS} milliseconds", field="wait_receipt_ms"
            )
        client = peer(context).uri
        row = await self._store.answer(client, wire.request_id(request.request_id))
        if row is None:
            raise wire.AnswerUnknownError("no answer under this request id", field="request_id")
        row = await self._with_receipt(row, request.wait_receipt_ms)
        answer = await asyncio.to_thread(answer_file, row, self._model.model_record)
        return pb.GetAnswerResponse(answer=answer, receipt_pending=row.receipt is None)

    def _arrive(self, client: str, asked: Asked) -> tuple[_Arrival, bool]:
        """The arrival of this request id, and whether this call is its first."""
        key = (client, asked.request_id)
        arrival = self._arrivals.get(key)
        if arrival is not None:
            if arrival.fingerprint != asked.fingerprint:
                raise RequestIdReusedError(
                    "this request id is being used for a different request", field="request_id"
                )
            return arrival, False
        arrival = _Arrival(asked.fingerprint, asyncio.get_running_loop().create_future())
        self._arrivals[key] = arrival
        self._spawn(self._serve(key, arrival, asked))
        return arrival, True

    def _leave(self, arrival: _Arrival) -> None:
        """One caller less. An answer that nobody waits for any more stops within one step."""
        arrival.callers -= 1
        if arrival.callers or not arrival.answer.done() or arrival.answer.exception() is not None:
            return
        answer = arrival.answer.result()
        if isinstance(answer, Answering):
            answer.cancel(Finish.CANCELLED)

    async def _serve(self, key: tuple[str, bytes], arrival: _Arrival, asked: Asked) -> None:
        """Answer a request in a task of its own: it is nobody's who may leave."""
        client, _ = key
        try:
            stored = await self._store.admit(client, asked.request_id, asked.fingerprint)
            if stored is not None:
                arrival.answer.set_result(stored)
                return
            answering = await self._begin(client, asked)
            arrival.answer.set_result(answering)
            if not arrival.callers:
                answering.cancel(Finish.CANCELLED)
            await answering.run(self._sealer, self._store, self._now_ms)
        except BaseException as error:
            stopped = isinstance(error, asyncio.CancelledError)
            if not arrival.answer.done():
                arrival.answer.set_exception(
                    ServerStoppingError("the server is stopping") if stopped else error
                )
                arrival.answer.exception()  # retrieved: everybody may have left
            elif not stopped:
                log.error("answering_failed", exc_info=error)
            if stopped:
                raise
        finally:
            del self._arrivals[key]
            self._outbox.notify()

    async def _begin(self, client: str, asked: Asked) -> Answering:
        reservation: Reservation | None = None
        try:
            request = await asyncio.to_thread(self._model.request, asked)
            session, now_ms = self._sessions.current(), self._now_ms()
            reservation = self._exposure.reserve(
                session.row.session_key,
                client,
                request.declared_value,
                retry_after_ms=max(0, session.result.expires_at * 1000 - now_ms),
            )
            return start_answering(
                self._worker,
                client=client,
                asked=asked,
                request=request,
                session=session,
                reservation=reservation,
                start_ms=now_ms,
                capacity=self._model.capacity(request),
                make=self._model.generation(request, asked.salt),
            )
        except BaseException:
            if reservation is not None:
                reservation.give_back()
            await self._store.release(client, asked.request_id)
            raise

    def _spawn(self, work: Coroutine[None, None, None]) -> None:
        task = asyncio.create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def _with_receipt(self, row: AnswerRow, wait_ms: int) -> AnswerRow:
        if row.receipt is not None or not wait_ms:
            return row
        self._outbox.notify()
        await self._outbox.wait_receipt(row.payload_hash, wait_ms / 1000)
        return await self._store.answer_by_hash(row.payload_hash) or row

    async def _complete(
        self, row: AnswerRow, asked: Asked, outcome: Outcome | None
    ) -> pb.GenerateComplete:
        """The last message; `outcome` is None when the answer was given before."""
        self._outbox.notify()
        waiting_ns = self._measurements.clock_ns()
        row = await self._with_receipt(row, asked.receipt_ms)
        receipt_ns = self._measurements.clock_ns() - waiting_ns if asked.receipt_ms else 0
        timings = pb.Timings(receipt_us=receipt_ns // 1000)
        if outcome is not None:
            measured = outcome.measured
            timings.queue_us = measured.queue_ns // 1000
            timings.prefill_us = measured.prefill_ns // 1000
            timings.decode_us = measured.decode_ns // 1000
            timings.seal_us = measured.seal_ns // 1000
        return await asyncio.to_thread(self._complete_message, row, timings, outcome is None)

    def _complete_message(
        self, row: AnswerRow, timings: pb.Timings, replayed: bool
    ) -> pb.GenerateComplete:
        """Opening a blob and writing an answer file take too long for the event loop."""
        blob = stored_blob(row)
        return pb.GenerateComplete(
            output_token_ids=blob.output_ids,
            output_text=self._model.loaded.tokenizer.decode(blob.output_ids),
            finish_reason=wire.finish_reason(blob.finish),
            prompt_tokens=len(blob.request.prompt_ids),
            completion_tokens=len(blob.output_ids),
            answer=answer_file(row, self._model.model_record),
            statement=row.statement,
            receipt_pending=row.receipt is None,
            timings=timings,
            replayed=replayed,
        )
