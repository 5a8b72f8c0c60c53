"""`otr inspect`: what is in an answer file, without judging it."""

from __future__ import annotations

import datetime
from pathlib import Path
from typing import Annotated

import typer

from otr_client.cli.files import read_answer
from otr_client.cli.output import AsJson, CommandFailedError, emit, out
from otr_client.models_at_hand import find_model
from otr_protocol.answer import Answer, open_answer
from otr_protocol.digest import H
from otr_protocol.identity import open_delegation
from otr_protocol.registry import open_model_record
from otr_protocol.request_blob import RequestBlob, open_blob
from otr_protocol.sealed_blob import is_sealed, open_sealed
from otr_protocol.statement import open_statement
from otr_protocol.tlog.checkpoint import peek_checkpoint
from otr_protocol.tlog.receipt import Receipt


def inspect(
    file: Annotated[Path, typer.Argument(help="Answer file (.otr).")],
    model: Annotated[
        str | None, typer.Option(help="A model at hand, to show the text of the ids.")
    ] = None,
    as_json: AsJson = False,
) -> None:
    """Show the parts of an answer file. Nothing is verified: `otr verify` does that.

    Examples:

        otr inspect answer.otr --model smollm2

        otr inspect answer.otr --json
    """
    answer = open_answer(read_answer(file))
    document = _document(answer)
    if model is not None:
        document["text"] = _text(answer, model)
    if as_json:
        emit(document)
        return
    out.print("not verified; use `otr verify`\n", style="yellow")
    _print(document, "")


def _document(answer: Answer) -> dict[str, object]:
    signed = open_statement(answer.statement)
    statement = signed.statement
    delegation = open_delegation(answer.delegation).delegation
    document: dict[str, object] = {
        "statement": {
            "payload_hash": signed.payload_hash.hex(),
            "operator_id": statement.operator_id.hex(),
            "session_key": statement.session_key.hex(),
            "request_id": statement.request_id.hex(),
            "model_id": statement.model_id.hex(),
            "profile": str(statement.profile),
            "prompt_count": statement.prompt_count,
            "output_count": statement.output_count,
            "trace_root": statement.trace_root.hex(),
            "start": _time(statement.start_ms),
            "end": _time(statement.end_ms),
            "seq": statement.seq,
            "exposure": statement.exposure,
            "cumulative_exposure": statement.cumulative_exposure,
            "fee": statement.fee,
        },
        "delegation": {
            "operator_public_key": delegation.operator_public_key.hex(),
            "log_origin": delegation.log_origin,
            "not_after": _time(delegation.not_after),
        },
        "token": {"bytes": len(answer.token), "digest": H(answer.token).hex()},
        "evidence_digest": answer.evidence_digest.hex(),
        "blob": _blob_document(answer),
    }
    if answer.model_record:
        record = open_model_record(answer.model_record)
        document["model_record"] = {
            "name": record.name,
            "publisher_key": record.publisher_key.hex(),
        }
    if answer.receipt:
        receipt = Receipt.decode(answer.receipt)
        checkpoint = peek_checkpoint(receipt.checkpoint_note)
        document["receipt"] = {
            "leaf_index": receipt.leaf_index,
            "log_time": _time(receipt.log_time_ms),
            "submitter": receipt.submitter,
            "log": checkpoint.origin,
            "tree_size": checkpoint.tree_size,
            "proof_hashes": len(receipt.inclusion_proof),
        }
    return document


def _blob_document(answer: Answer) -> dict[str, object]:
    sealed = is_sealed(answer.blob)
    head: dict[str, object] = {"bytes": len(answer.blob), "sealed": sealed}
    if sealed and not answer.content_key:
        return head
    blob = _open(answer)
    return head | {
        "prompt_ids": len(blob.request.prompt_ids),
        "output_ids": list(blob.output_ids),
        "sampling": list(blob.request.sampling.record()),
        "seed": blob.request.seed.hex(),
        "max_tokens": blob.request.max_tokens,
        "stop_ids": list(blob.request.stop_ids),
        "stop_strings": [text.decode() for text in blob.request.stop_strings],
        "declared_value": blob.request.declared_value,
        "finish": blob.finish.name.lower(),
        "segments": len(blob.trace.segments),
        "positions": blob.trace.positions,
    }


def _open(answer: Answer) -> RequestBlob:
    if is_sealed(answer.blob):
        return open_blob(open_sealed(answer.blob).open(answer.content_key))
    return open_blob(answer.blob)


def _text(answer: Answer, model: str) -> dict[str, str]:
    """The ids as text of `model`, which must be the one that the statement names.

    Any vocabulary makes some text of any ids; only that model's is the answer's.
    """
    from otr_numerics.model_file import inspect_model, load_tokenizer

    found = find_model(model)
    asked = open_statement(answer.statement).statement.model_id
    at_hand = inspect_model(found.directory).model_id
    if at_hand != asked:
        raise CommandFailedError(
            "ANOTHER_MODEL", f"{model} is {at_hand.hex()}, the answer is by {asked.hex()}"
        )
    tokenizer = load_tokenizer(found.directory, asked)
    blob = _open(answer)
    return {
        "prompt": tokenizer.decode(blob.request.prompt_ids),
        "output": tokenizer.decode(blob.output_ids),
    }


def _time(ms: int) -> str:
    try:
        moment = datetime.datetime.fromtimestamp(ms / 1000, datetime.UTC)
    except (ValueError, OverflowError, OSError):
        return f"{ms} ms"
    return moment.isoformat(timespec="milliseconds")


def _print(document: dict[str, object], indent: str) -> None:
    for name, value in document.items():
        if isinstance(value, dict):
            out.print(f"{indent}[bold]{name}[/]")
            _print(value, indent + "  ")
        else:
            out.print(f"{indent}{name:20} ", end="")
            out.print(str(value), markup=False, soft_wrap=True)
