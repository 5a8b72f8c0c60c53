"""The SDK's client: stream an answer, check it against pinned roots before calling it an answer.

Nothing is asked before the channel is known to end inside the TEE (`attested_channel`).

async with Client("127.0.0.1:50051", tls, roots) as client:
    async for event in client.generate(Ask("What is the capital of France?")):
        if isinstance(event, Chunk):
            print(event.text, end="")
        else:
            Path("answer.otr").write_bytes(event.answer)
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator
from dataclasses import dataclass
from types import TracebackType
from typing import Self

import grpc

from otr.inference.v1 import inference_pb2 as pb
from otr.inference.v1 import inference_pb2_grpc as rpc
from otr_client.attested_channel import ROLE, AttestedChannel, open_attested_channel
from otr_client.request import Ask
from otr_protocol.attestation.ear import AttestationResult
from otr_protocol.attested_peer import TlsKeyNotAttestedError
from otr_protocol.errors import RejectedError
from otr_protocol.trust import TrustRoots
from otr_protocol.verify_answer import VerifiedAnswer, verify_answer
from otr_server.channel import open_channel
from otr_server.tls import ClientTls

MAX_WAIT_MS = 60_000
LEAVING_SECONDS = 600.0
"""How long a call may go on over a connection that new calls no longer use."""


class GenerationFailedError(RejectedError):
    """The server ended the stream without a signed answer; the message holds its reason."""

    reason = "GENERATION_FAILED"


class TokensDifferError(RejectedError):
    """The signed answer commits to other tokens than those that were streamed."""

    reason = "TOKENS_DIFFER"


@dataclass(frozen=True, slots=True)
class Chunk:
    """Tokens as they come: not signed yet."""

    text: str
    token_ids: tuple[int, ...]


@dataclass(frozen=True, slots=True)
class Completed:
    """A signed answer, verified here.

    `answer` is the `.otr` file. `ttft_ms` is from sending the request to the first chunk,
    `provisional_ms` from the last chunk to the verified statement: what verifiability added to the
    model's own time.
    """

    answer: bytes
    verified: VerifiedAnswer
    text: str
    finish_reason: str
    ttft_ms: float
    provisional_ms: float
    tokens_per_s: float
    timings: pb.Timings


class Client:
    """A connection to one inference service.

    `require_attested_channel` False trusts the certificate authority alone: whoever it has given a
    certificate of the service's name, or the service's key, may read the prompts.
    """

    def __init__(
        self,
        target: str,
        tls: ClientTls | None,
        roots: TrustRoots,
        *,
        require_attested_channel: bool = True,
    ) -> None:
        self._target = target
        # Requests that this client stopped: only their answers may say that they were cancelled.
        self._aborted: set[bytes] = set()
        self._tls = tls
        self._roots = roots
        self._plain = None if require_attested_channel else open_channel(target, tls, ROLE)
        self._attested: AttestedChannel | None = None
        self._connecting = asyncio.Lock()
        self._leaving: set[asyncio.Task[None]] = set()

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        await self.close()

    async def close(self) -> None:
        """Close the connection."""
        if self._plain is not None:
            await self._plain.close()
        if self._attested is not None:
            await self._attested.channel.close()
        for task in tuple(self._leaving):
            task.cancel()
        await asyncio.gather(*self._leaving, return_exceptions=True)

    async def attest(self) -> AttestationResult | None:
        """Make sure that the channel ends inside the TEE now; what its token says.

        None if this client does not look. Raises what `open_attested_channel` does.
        """
        if self._plain is not None:
            return None
        return (await self._connected()).result

    async def _connected(self, *, current: bool = True) -> AttestedChannel:
        """The attested channel; `current` False lets a token that has lapsed since stand."""
        async with self._connecting:
            link = self._attested
            if link is None or not link.is_connected:
                self._attested = await open_attested_channel(self._target, self._tls, self._roots)
            elif current and not link.is_current(time.time_ns() // 1_000_000):
                try:
                    await link.renew(self._roots)
                except TlsKeyNotAttestedError:  # the server was given another key since
                    self._attested = await open_attested_channel(
                        self._target, self._tls, self._roots
                    )
            if link is not None and link is not self._attested:
                self._let_go(link.channel)
            assert self._attested is not None
            return self._attested

    def _let_go(self, channel: grpc.aio.Channel) -> None:
        """Close a channel when the calls on it have ended."""
        task = asyncio.create_task(channel.close(grace=LEAVING_SECONDS))
        self._leaving.add(task)
        task.add_done_callback(self._leaving.discard)

    async def _stub(self, *, current: bool = True) -> rpc.InferenceServiceAsyncStub:
        if self._plain is not None:
            return rpc.InferenceServiceStub(self._plain)
        return rpc.InferenceServiceStub((await self._connected(current=current)).channel)

    async def generate(
        self, ask: Ask, *, wait_receipt: bool = False, timeout_seconds: float | None = None
    ) -> AsyncIterator[Chunk | Completed]:
        """Chunks, then one `Completed`.

        Raises what `attest` does before anything is sent, then grpc.aio.AioRpcError for a refused
        request, GenerationFailedError, AnswerRefusedError
        when the signed answer does not verify, and AnotherQuestionError or TokensDifferError when
        it verifies but is not the answer to this request or to this stream.
        """
        stub = await self._stub()
        started = time.monotonic()
        first = last = started
        streamed: list[int] = []
        stream = stub.Generate(ask.message(wait_receipt=wait_receipt), timeout=timeout_seconds)
        async for message in stream:
            kind = message.WhichOneof("response")
            if kind == "chunk":
                last = time.monotonic()
                first = first if streamed else last
                streamed += message.chunk.token_ids
                yield Chunk(message.chunk.text, tuple(message.chunk.token_ids))
            elif kind == "error":
                raise GenerationFailedError(f"{message.error.reason}: {message.error.message}")
            elif kind == "complete":
                complete = message.complete
                verified = self.check(ask, complete.answer)
                if streamed and verified.blob.output_ids != tuple(streamed):
                    raise TokensDifferError("the statement commits to other tokens")
                ended = time.monotonic()
                decoding = last - first
                yield Completed(
                    answer=complete.answer,
                    verified=verified,
                    text=complete.output_text,
                    finish_reason=verified.blob.finish.name.lower(),
                    ttft_ms=(first - started) * 1000,
                    provisional_ms=(ended - last) * 1000,
                    tokens_per_s=(len(streamed) - 1) / decoding if decoding > 0 else 0.0,
                    timings=complete.timings,
                )
                return
        raise GenerationFailedError("the stream ended without a signed answer")

    def check(self, ask: Ask, answer: bytes) -> VerifiedAnswer:
        """Verify an answer file and that it answers `ask`; see `generate` for what is raised."""
        verified = verify_answer(answer, self._roots, time.time_ns() // 1_000_000)
        ask.require_answered(verified, cancelled=ask.request_id in self._aborted)
        return verified

    async def receipt(self, ask: Ask, *, wait_ms: int = 10_000) -> tuple[bytes, bool]:
        """The answer file again, with its receipt if the log registered it within `wait_ms`.

        Returns (answer file, whether the server says it has a receipt); nothing is verified here:
        give the file to `check`. Raises grpc.aio.AioRpcError, and what `attest` does.
        """
        stub = await self._stub(current=False)
        response = await stub.GetAnswer(
            pb.GetAnswerRequest(request_id=ask.request_id, wait_receipt_ms=wait_ms),
            timeout=(wait_ms + 5_000) / 1000,
        )
        return response.answer, not response.receipt_pending

    async def abort(self, ask: Ask) -> bool:
        """Stop a running request; whether it was running.

        Raises grpc.aio.AioRpcError, and what `attest` does.
        """
        stub = await self._stub(current=False)
        self._aborted.add(ask.request_id)
        answer = await stub.Abort(pb.AbortRequest(request_id=ask.request_id))
        return answer.was_running

    async def model_info(self, model: str = "") -> pb.GetModelInfoResponse:
        """What the server says of its model, unverified.

        Raises grpc.aio.AioRpcError, and what `attest` does.
        """
        stub = await self._stub(current=False)
        return await stub.GetModelInfo(pb.GetModelInfoRequest(model=model))

    async def attestation(self) -> pb.GetAttestationResponse:
        """The server's current attestation token and delegation, unverified.

        Raises grpc.aio.AioRpcError, and what `attest` does.
        """
        stub = await self._stub(current=False)
        return await stub.GetAttestation(pb.GetAttestationRequest())
