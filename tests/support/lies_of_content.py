"""Lies about what was asked, answered, owed and registered."""

from __future__ import annotations

from dataclasses import replace

from otr_protocol.output import Finish
from otr_protocol.statement import Profile
from otr_protocol.tlog.note import COSIGNATURE_V1, SignerKey
from otr_protocol.trace.root import empty_trace
from support.answers import (
    CONTENT_KEY,
    END_MS,
    LOG_TIME_MS,
    NOW_MS,
    OPERATOR,
    Key,
    blob_of,
    request_of,
    sealed_request,
)
from support.lie import (
    Lie,
    about,
    cosignature_first,
    open_blob_of_a_sealed_request,
    part,
    receipt_of_another_answer,
    receipt_with,
    sealed_to_fewer,
    signed_with,
    truncated_proof,
)
from support.log_of import OTHER_KEY, WITNESS_KEY

SECOND_WITNESS = SignerKey("witness.example/w2", b"\x05" * 32, COSIGNATURE_V1).verifier
WITHOUT_TRACE = replace(blob_of(), trace=empty_trace(blob_of().trace.sub_trace, 5))

CONTENT_LIES = [
    Lie(
        "an output id changed in the blob",
        "blob",
        "BLOB_DIGEST_MISMATCH",
        part(blob=replace(blob_of(), output_ids=(9, *blob_of().output_ids[1:])).encode()),
    ),
    Lie(
        "a sealed blob without its key",
        "blob",
        "BLOB_SEALING_MISMATCH",
        lambda world: replace(world.answer(blob_of(sealed_request())), content_key=b""),
    ),
    Lie(
        "a sealed blob with another key",
        "blob",
        "SEAL_BROKEN",
        lambda world: replace(world.answer(blob_of(sealed_request())), content_key=bytes(32)),
    ),
    Lie(
        "a public blob with a key",
        "blob",
        "BLOB_SEALING_MISMATCH",
        part(content_key=CONTENT_KEY),
    ),
    Lie(
        "a request with recipients, lying open",
        "blob",
        "BLOB_SEALING_MISMATCH",
        open_blob_of_a_sealed_request,
    ),
    Lie(
        "a request sealed to fewer than it names", "blob", "BLOB_SEALING_MISMATCH", sealed_to_fewer
    ),
    Lie(
        "an answer to another prompt",
        "input_digest",
        "INPUT_DIGEST_MISMATCH",
        signed_with(input_digest=blob_of(request_of(13)).input_digest()),
    ),
    Lie(
        "a miscounted prompt",
        "input_digest",
        "COUNT_MISMATCH",
        signed_with(prompt_count=13),
    ),
    Lie(
        "another output under the digest",
        "output_digest",
        "OUTPUT_DIGEST_MISMATCH",
        signed_with(output_digest=bytes(32)),
    ),
    Lie("a miscounted output", "output_digest", "COUNT_MISMATCH", signed_with(output_count=21)),
    Lie(
        "a stop id that nobody produced",
        "output_digest",
        "FINISH_CONTRADICTS_OUTPUT",
        about(lambda: replace(blob_of(), finish=Finish.STOP_ID)),
    ),
    Lie(
        "cancelled after all tokens were there",
        "output_digest",
        "FINISH_CONTRADICTS_OUTPUT",
        about(lambda: blob_of(request_of(max_tokens=20), finish=Finish.CANCELLED)),
    ),
    Lie(
        "another trace root",
        "trace_root",
        "TRACE_ROOT_MISMATCH",
        signed_with(trace_root=bytes(32)),
    ),
    Lie(
        "a trace of nothing for an answer of something",
        "trace_root",
        "TRACE_ROOT_MISMATCH",
        about(lambda: WITHOUT_TRACE),
    ),
    Lie(
        "a trace over other positions",
        "trace_root",
        "TRACE_ROOT_MISMATCH",
        about(lambda: replace(blob_of(), trace=replace(blob_of().trace, positions=30))),
    ),
    Lie(
        "a trace under another salt",
        "trace_root",
        "TRACE_ROOT_MISMATCH",
        about(lambda: replace(blob_of(), trace=replace(blob_of().trace, sub_trace=bytes(32)))),
    ),
    Lie(
        "a trace of other output",
        "trace_root",
        "TRACE_ROOT_MISMATCH",
        about(lambda: replace(blob_of(), trace=replace(blob_of().trace, out_root=bytes(32)))),
    ),
    Lie(
        "a float answer, for which there are no rules",
        "trace_root",
        "PROFILE_NOT_SUPPORTED",
        signed_with(profile=Profile.FLOAT),
    ),
    Lie(
        "less exposure than the client declared",
        "exposure",
        "EXPOSURE_TOO_SMALL",
        signed_with(exposure=999, cumulative_exposure=4_000),
    ),
    Lie(
        "a fee for an aborted answer",
        "exposure",
        "FEE_NOT_DUE",
        lambda world: world.answer(
            blob_of(finish=Finish.ABORTED), statement={"voucher_digest": bytes(32), "fee": 1}
        ),
    ),
    Lie(
        "an allowance by nobody pinned",
        "allowance",
        "ARBITER_NOT_PINNED",
        lambda world: world.answer(allowance=world.allowance(OPERATOR)),
    ),
    Lie(
        "more than the allowance",
        "allowance",
        "ALLOWANCE_EXCEEDED",
        signed_with(exposure=50_001, cumulative_exposure=60_000),
    ),
    Lie(
        "an allowance of another log",
        "allowance",
        "ALLOWANCE_EXCEEDED",
        lambda world: world.answer(allowance=world.allowance(log_origin=OTHER_KEY.name)),
    ),
    Lie(
        "an allowance of another session",
        "allowance",
        "ALLOWANCE_EXCEEDED",
        lambda world: world.answer(allowance=world.allowance(session_key=Key("x").public)),
    ),
    Lie(
        "an expired allowance",
        "allowance",
        "ALLOWANCE_EXCEEDED",
        lambda world: world.answer(allowance=world.allowance(not_after=END_MS - 1)),
    ),
    Lie(
        "no allowance where one is required",
        "allowance",
        "ALLOWANCE_MISSING",
        lambda world: world.answer(allowance=b""),
        lambda _: {"require_allowance": True},
    ),
    Lie(
        "no receipt where one is required",
        "receipt",
        "RECEIPT_MISSING",
        lambda world: world.answer(with_receipt=False),
        lambda _: {"require_receipt": True},
    ),
    Lie(
        "a receipt, and no log to hold it against",
        "receipt",
        "LOG_NOT_PINNED",
        lambda world: world.answer(),
        lambda _: {"logs": ()},
    ),
    Lie(
        "the receipt of another answer", "receipt", "INCLUSION_REJECTED", receipt_of_another_answer
    ),
    Lie("a truncated log proof", "receipt", "INCLUSION_REJECTED", receipt_with(truncated_proof)),
    Lie(
        "another log time than the leaf has",
        "receipt",
        "INCLUSION_REJECTED",
        receipt_with(lambda receipt: replace(receipt, log_time_ms=receipt.log_time_ms + 1)),
    ),
    Lie(
        "another place in the log",
        "receipt",
        "INCLUSION_REJECTED",
        receipt_with(lambda receipt: replace(receipt, leaf_index=receipt.leaf_index - 1)),
    ),
    Lie(
        "too few witnesses",
        "receipt",
        "WITNESS_QUORUM",
        lambda world: world.answer(),
        lambda _: {"witness_quorum": 1},
    ),
    Lie(
        "one witness of the two that are asked for",
        "receipt",
        "WITNESS_QUORUM",
        lambda world: world.answer(witness_time=LOG_TIME_MS // 1000 + 1),
        lambda _: {"witness_quorum": 2, "witnesses": (WITNESS_KEY.verifier, SECOND_WITNESS)},
    ),
    Lie(
        "no receipt where witnesses are asked for",
        "receipt",
        "RECEIPT_MISSING",
        lambda world: world.answer(with_receipt=False),
        lambda _: {"witness_quorum": 1},
    ),
    Lie(
        "a witness that cosigned before the log had it",
        "receipt",
        "LOG_TIME_IMPOSSIBLE",
        lambda world: world.answer(witness_time=LOG_TIME_MS // 1000 - 121),
    ),
    Lie(
        "a witness that cosigned in the future",
        "receipt",
        "LOG_TIME_IMPOSSIBLE",
        lambda world: world.answer(witness_time=NOW_MS // 1000 + 121),
    ),
    Lie(
        "a cosignature put before the log's signature",
        "receipt",
        "NOTE_REJECTED",
        cosignature_first,
    ),
    Lie(
        "a cosignature that the reader cannot check",
        "receipt",
        "NOTE_REJECTED",
        lambda world: world.answer(witness_time=1),
        lambda _: {"witnesses": ()},
    ),
    Lie(
        "registered before it ended",
        "receipt",
        "LOG_TIME_IMPOSSIBLE",
        lambda world: world.answer(log_time_ms=END_MS - 120_001),
    ),
    Lie(
        "registered in the future",
        "receipt",
        "LOG_TIME_IMPOSSIBLE",
        lambda world: world.answer(log_time_ms=NOW_MS + 120_001),
    ),
]
