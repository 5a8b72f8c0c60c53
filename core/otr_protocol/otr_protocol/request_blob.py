"""The request blob: everything that re-executing and checking one answer takes (spec/statement.md).

    ["otr-blob-v1", salt, prompt ids, [mode, tq, top_k, p16], seed, max_tokens, stop ids,
     stop strings, declared_value, recipients, output ids, finish, trace record]

Ids are one byte string of 4-byte big-endian words. `blob_digest` of a statement is `H` of the bytes
that the log stores: this record for a public request, its sealed form (sealed_blob.py) for one with
recipients. The trace record is the preimage of the trace root, whole.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

from otr_protocol import dcbor
from otr_protocol.errors import RejectedError
from otr_protocol.fields import (
    SALT_BYTES,
    as_byte_strings,
    as_bytes,
    as_integer,
    as_integers,
    check_bytes,
    check_range,
)
from otr_protocol.output import Finish, OutputOpening, finish_from_code
from otr_protocol.request import (
    MAX_IDS,
    GenerationInput,
    input_digest,
    sampling_from_record,
    sub_salt,
)
from otr_protocol.trace.ids import ID_BYTES, id_root, pack_ids, unpack_ids
from otr_protocol.trace.leaf import OUT_TAG
from otr_protocol.trace.root import TracePreimage, trace_from_record

BLOB_DOMAIN: Final = "otr-blob-v1"
MAX_BLOB_BYTES: Final = 3 << 20


class FinishContradictionError(RejectedError):
    """The output ids cannot have ended for the stated reason."""

    reason = "FINISH_CONTRADICTS_OUTPUT"


@dataclass(frozen=True, slots=True)
class RequestBlob:
    """One request with its answer and the preimage of its trace root."""

    salt: bytes
    request: GenerationInput
    output_ids: tuple[int, ...]
    finish: Finish
    trace: TracePreimage

    def __post_init__(self) -> None:
        check_bytes(self.salt, SALT_BYTES, "salt")
        check_range(len(self.output_ids), 0, MAX_IDS, "output_ids")

    def encode(self) -> bytes:
        """The record: the stored bytes of a public request, the plaintext of a sealed one.

        Raises FieldError for more than 3 MiB, which nobody could open.
        """
        request = self.request
        record = dcbor.encode(
            (
                BLOB_DOMAIN,
                self.salt,
                pack_ids(request.prompt_ids),
                request.sampling.record(),
                request.seed,
                request.max_tokens,
                request.stop_ids,
                request.stop_strings,
                request.declared_value,
                request.recipients,
                pack_ids(self.output_ids),
                int(self.finish),
                self.trace.record(),
            )
        )
        check_range(len(record), 0, MAX_BLOB_BYTES, "blob")
        return record

    def input_digest(self) -> bytes:
        """The input digest that a statement about this blob must carry."""
        return input_digest(self.request, self.salt)

    def output_opening(self) -> OutputOpening:
        """The preimage of the output digest: costs a hash tree over the output ids."""
        sub = sub_salt(self.salt, "output")
        return OutputOpening(sub, id_root(sub, OUT_TAG, self.output_ids), self.finish)

    def check_finish(self) -> None:
        """Raise FinishContradictionError where ids and finish code cannot both be true.

        Decides what needs no model: stop ids and `max_tokens`. Whether a stop string matched, or
        the context ended, takes the token-byte table and the manifest: re-execution decides.
        """
        stop_ids = frozenset(self.request.stop_ids)
        if not stop_ids.isdisjoint(self.output_ids[:-1]):
            raise FinishContradictionError("a stop id is not the last output id", field="finish")
        ends_in_stop_id = bool(self.output_ids) and self.output_ids[-1] in stop_ids
        if ends_in_stop_id != (self.finish is Finish.STOP_ID):
            raise FinishContradictionError(
                "finish STOP_ID and a stop id at the end go together", field="finish"
            )
        if self.finish is Finish.STOP_STRING and not (
            self.output_ids and self.request.stop_strings
        ):
            raise FinishContradictionError("no stop string can have matched", field="finish")
        if len(self.output_ids) > self.request.max_tokens:
            raise FinishContradictionError("more output than max_tokens", field="output_ids")
        if len(self.output_ids) == self.request.max_tokens and not self.finish.is_complete:
            raise FinishContradictionError(
                "max_tokens were produced, so LENGTH applies first", field="finish"
            )


def open_blob(data: bytes) -> RequestBlob:
    """Decode a blob record. Raises MalformedError subclasses only."""
    fields = dcbor.open_record(
        data,
        BLOB_DOMAIN,
        *(bytes, bytes, tuple, bytes, int, tuple, tuple, int, tuple, bytes, int, tuple),
        max_bytes=MAX_BLOB_BYTES,
    )
    salt, prompt, sampling, seed, max_tokens, stop_ids, stop_strings = fields[:7]
    declared_value, recipients, output, finish, trace = fields[7:]
    request = GenerationInput(
        prompt_ids=_ids(prompt, "prompt_ids"),
        sampling=sampling_from_record(sampling),
        seed=as_bytes(seed, "seed"),
        max_tokens=as_integer(max_tokens, "max_tokens"),
        stop_ids=as_integers(stop_ids, "stop_ids"),
        stop_strings=as_byte_strings(stop_strings, "stop_strings"),
        declared_value=as_integer(declared_value, "declared_value"),
        recipients=as_byte_strings(recipients, "recipients"),
    )
    return RequestBlob(
        salt=as_bytes(salt, "salt"),
        request=request,
        output_ids=_ids(output, "output_ids"),
        finish=finish_from_code(as_integer(finish, "finish")),
        trace=trace_from_record(trace),
    )


def _ids(value: dcbor.Value, field: str) -> tuple[int, ...]:
    packed = as_bytes(value, field)
    check_range(len(packed) // ID_BYTES, 0, MAX_IDS, field)
    return unpack_ids(packed, field)
