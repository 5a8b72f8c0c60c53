"""From a finished generation to a durable, signed answer, and from that to an answer file.

The order is the guarantee: blob and statement are complete before `seal` assigns the sequence
number, and the signature exists only inside the transaction that makes both durable
(spec/statement.md).
"""

from __future__ import annotations

import asyncio
import secrets
from dataclasses import dataclass

from otr_inference.ports import AnswerRow, Sealed, Store
from otr_inference.session import Session, SessionExpiredError
from otr_inference.wire import Asked
from otr_numerics.generation import GenerationResult
from otr_protocol.answer import Answer
from otr_protocol.digest import H
from otr_protocol.request import GenerationInput
from otr_protocol.request_blob import RequestBlob, open_blob
from otr_protocol.sealed_blob import open_sealed, seal
from otr_protocol.statement import Profile, Statement, payload_hash, sign_statement
from otr_protocol.tlog.entry import EntryKind

CONTENT_KEY_BYTES = 32


@dataclass(frozen=True, slots=True)
class Prepared:
    """A blob ready to be stored: sealed to the recipients, or public with an empty key."""

    blob: RequestBlob
    stored: bytes
    content_key: bytes


class Sealer:
    """Signs answers of one operator and model."""

    def __init__(self, operator_id: bytes, model_id: bytes, store: Store) -> None:
        self._operator_id = operator_id
        self._model_id = model_id
        self._store = store

    async def seal(
        self,
        client: str,
        asked: Asked,
        request: GenerationInput,
        session: Session,
        result: GenerationResult,
        start_ms: int,
        end_ms: int,
    ) -> AnswerRow:
        """Sign the answer and make it durable.

        Raises SessionExpiredError when the session's token ended before the answer, and
        StorageFullError; in both cases nothing was signed.
        """
        if not session.covers(start_ms, end_ms):
            raise SessionExpiredError("the attestation ended before the answer did")
        prepared = await asyncio.to_thread(_prepare, asked, request, result)

        def sign(seq: int, cumulative_exposure: int) -> Sealed:
            statement = Statement(
                operator_id=self._operator_id,
                session_key=session.row.session_key,
                delegation_digest=H(session.row.delegation),
                request_id=asked.request_id,
                client_nonce=asked.client_nonce,
                model_id=self._model_id,
                profile=Profile.EXACT_INT8,
                input_digest=prepared.blob.input_digest(),
                output_digest=prepared.blob.output_opening().digest(),
                prompt_count=len(request.prompt_ids),
                output_count=len(result.output_ids),
                trace_root=result.trace.trace_root(),
                blob_digest=H(prepared.stored),
                start_ms=start_ms,
                end_ms=end_ms,
                token_digest=session.row.token_digest,
                seq=seq,
                exposure=request.declared_value,
                cumulative_exposure=cumulative_exposure,
                voucher_digest=b"",
                fee=0,
            )
            return Sealed(payload_hash(statement), sign_statement(statement, session.key.sign))

        return await self._store.seal(
            client,
            asked.request_id,
            session.row.session_key,
            request.declared_value,
            sign,
            blob=prepared.stored,
            blob_digest=H(prepared.stored),
            content_key=prepared.content_key,
            kind=int(EntryKind.STATEMENT),
        )


def answer_file(row: AnswerRow, model_record: bytes) -> bytes:
    """The `.otr` file of a sealed answer, with its receipt once there is one."""
    return Answer(
        statement=row.statement,
        delegation=row.session.delegation,
        token=row.session.token,
        allowance=b"",
        blob=row.blob,
        content_key=row.content_key,
        evidence_digest=row.session.evidence_digest,
        receipt=row.receipt or b"",
        model_record=model_record,
    ).encode()


def stored_blob(row: AnswerRow) -> RequestBlob:
    """The request blob of a stored answer, opened with our own content key when it is sealed."""
    if row.content_key:
        return open_blob(open_sealed(row.blob).open(row.content_key))
    return open_blob(row.blob)


def _prepare(asked: Asked, request: GenerationInput, result: GenerationResult) -> Prepared:
    blob = RequestBlob(
        salt=asked.salt,
        request=request,
        output_ids=tuple(result.output_ids),
        finish=result.finish,
        trace=result.trace,
    )
    encoded = blob.encode()
    if not request.is_sealed:
        return Prepared(blob, encoded, b"")
    content_key = secrets.token_bytes(CONTENT_KEY_BYTES)
    return Prepared(blob, seal(encoded, content_key, request.recipients), content_key)
