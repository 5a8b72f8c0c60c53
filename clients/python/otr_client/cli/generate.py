"""`otr generate`: ask a running service, print tokens as they come, keep the verified answer."""

from __future__ import annotations

import asyncio
import os
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Annotated

import grpc
import typer

from otr_client.cli.ask_target import AskTarget, ask_target
from otr_client.cli.output import NOT_JUDGED, AsJson, CommandFailedError, emit, err, out
from otr_client.client import Chunk, Client, Completed
from otr_client.models_at_hand import find_model_of
from otr_client.request import DEFAULT_SYSTEM, Ask
from otr_client.stack.paths import DEFAULT_DIR
from otr_protocol.digest import H
from otr_protocol.request import SEED_BYTES
from otr_server.channel import UnreachableError, classify_handshake
from otr_server.status import reason_of

SERVERS_TEXT = "the text is the server's rendering of the signed ids: the model is not at hand"


def generate(
    prompt: Annotated[str, typer.Argument(help="What to ask.")],
    directory: Annotated[
        Path, typer.Option("--dir", help="A stack's directory (`otr up`): target, TLS and roots.")
    ] = DEFAULT_DIR,
    target: Annotated[str | None, typer.Option(help="HOST:PORT of another service.")] = None,
    roots: Annotated[Path | None, typer.Option(help="Trust roots file.")] = None,
    tls_dir: Annotated[
        Path | None, typer.Option(help="Directory with ca.pem, client.pem and client.key.")
    ] = None,
    model: Annotated[
        str, typer.Option(help="Served name or model id; default: the server's.")
    ] = "",
    system: Annotated[str, typer.Option(help="System message.")] = DEFAULT_SYSTEM,
    raw: Annotated[bool, typer.Option(help="No chat template: continue the text.")] = False,
    max_tokens: Annotated[int, typer.Option(min=1)] = 128,
    temperature: Annotated[float, typer.Option(min=0.0, help="0 is greedy.")] = 0.0,
    top_k: Annotated[int, typer.Option(min=0, help="0 keeps the whole vocabulary.")] = 0,
    top_p: Annotated[float, typer.Option(min=0.0, max=1.0)] = 1.0,
    seed: Annotated[
        str, typer.Option(help="64 hex digits, or any text, whose SHA-256 is the seed.")
    ] = "",
    stop: Annotated[list[str] | None, typer.Option(help="Stop string; may be repeated.")] = None,
    wait_receipt: Annotated[
        bool, typer.Option("--wait-receipt", help="Wait until the log has registered it.")
    ] = False,
    any_tls_key: Annotated[
        bool,
        typer.Option(
            "--any-tls-key",
            help="Do not check that the connection ends inside the TEE before the prompt is sent.",
        ),
    ] = False,
    output: Annotated[
        Path | None, typer.Option("--out", help="Write the answer file (.otr).")
    ] = None,
    timeout_seconds: Annotated[
        float, typer.Option("--timeout", min=1.0, help="Give up after so many seconds.")
    ] = 600.0,
    as_json: AsJson = False,
) -> None:
    """Ask a model; the answer is verified before the command succeeds.

    Waits for a stack that is just starting.

    Examples:

        otr generate "What is the capital of France?" --out answer.otr

        otr generate "Name three colours." --temperature 0.8 --seed 7 --wait-receipt --json
    """
    ask = Ask(
        prompt,
        raw=raw,
        system=system,
        model=model,
        max_tokens=max_tokens,
        temperature=temperature,
        top_k=top_k,
        top_p=top_p,
        seed=_seed(seed),
        stop=stop or (),
    )
    if output is not None:
        _require_writable(output)

    async def run() -> Completed:
        server = await ask_target(directory, target, roots, tls_dir)
        client = Client(
            server.target, server.tls, server.roots, require_attested_channel=not any_tls_key
        )
        try:
            async with client:
                events = client.generate(
                    ask, wait_receipt=wait_receipt, timeout_seconds=timeout_seconds
                )
                return await _generate(events, quiet=as_json)
        except UnreachableError as error:
            raise _away(server, error.message) from error
        except grpc.aio.AioRpcError as error:
            raise await _explained(error, server) from error

    completed = asyncio.run(run())
    notes = [*completed.verified.notes, *text_notes(completed)]
    if output is not None:
        _write(output, completed, ask)
    if as_json:
        emit(_document(completed, notes, output))
    else:
        _summarise(completed, notes, output)


async def _generate(events: AsyncIterator[Chunk | Completed], *, quiet: bool) -> Completed:
    async for event in events:
        if isinstance(event, Completed):
            return event
        if not quiet:
            out.print(event.text, end="", markup=False, soft_wrap=True)
    raise AssertionError("generate() ends with Completed or raises")


async def _explained(error: grpc.aio.AioRpcError, server: AskTarget) -> Exception:
    """What to say of a failed call: a refused certificate looks like a server that is away."""
    refusal = await classify_handshake(error, server.target, server.tls, "inference")
    if refusal is not None:
        return refusal
    if error.code() is grpc.StatusCode.UNAVAILABLE and reason_of(error) is None:
        return _away(server, error.details() or "")
    return error


def _away(server: AskTarget, details: str) -> CommandFailedError:
    return CommandFailedError(
        "UNAVAILABLE",
        f"no inference service answers at {server.target}; is `otr up` running? ({details})",
    )


def _require_writable(output: Path) -> None:
    """Before anything is asked: an answer that cannot be kept is paid for all the same."""
    parent = output.parent
    if output.is_dir():
        problem = "is a directory"
    elif not parent.is_dir():
        problem = "is in no directory"
    elif not os.access(output if output.exists() else parent, os.W_OK):
        problem = "is not writable"
    else:
        return
    raise CommandFailedError("OUT_NOT_WRITABLE", f"--out {output} {problem}", code=NOT_JUDGED)


def _write(output: Path, completed: Completed, ask: Ask) -> None:
    try:
        output.write_bytes(completed.answer)
    except OSError as error:
        request_id = ask.request_id.hex()
        raise CommandFailedError(
            "OUT_NOT_WRITABLE",
            f"--out {output}: {error.strerror}; the answer is verified, and the server gives it"
            f" again for request {request_id} (GetAnswer)",
            code=NOT_JUDGED,
            details={"request_id": request_id, "text": completed.text},
        ) from None


def text_notes(completed: Completed) -> tuple[str, ...]:
    """What is known of the text, which is not signed: the ids are. Raises CommandFailedError."""
    at_hand = find_model_of(completed.verified.statement.model_id)
    if at_hand is None:
        return (SERVERS_TEXT,)
    from otr_numerics.model_file import load_tokenizer

    tokenizer = load_tokenizer(at_hand.directory, at_hand.expected_model_id)
    if tokenizer.decode(completed.verified.blob.output_ids) != completed.text:
        raise CommandFailedError(
            "TEXT_DIFFERS", "the server's text is not what the signed ids say in this model"
        )
    return ()


def _seed(text: str) -> bytes:
    if not text:
        return b""
    try:
        seed = bytes.fromhex(text)
    except ValueError:
        seed = b""
    return seed if len(seed) == SEED_BYTES else H(text.encode("utf-8", "surrogateescape"))


def _document(completed: Completed, notes: list[str], output: Path | None) -> dict[str, object]:
    verified = completed.verified
    return {
        "ok": True,
        "text": completed.text,
        "finish_reason": completed.finish_reason,
        "model": verified.model_name,
        "model_id": verified.statement.model_id.hex(),
        "payload_hash": verified.signed.payload_hash.hex(),
        "prompt_tokens": verified.statement.prompt_count,
        "completion_tokens": verified.statement.output_count,
        "ttft_ms": round(completed.ttft_ms, 2),
        "provisional_ms": round(completed.provisional_ms, 2),
        "tokens_per_s": round(completed.tokens_per_s, 1),
        "verified": True,
        "time_basis": verified.time_basis.value,
        "log_index": None if verified.receipt is None else verified.receipt.leaf_index,
        "notes": notes,
        "file": None if output is None else str(output),
    }


def _summarise(completed: Completed, notes: list[str], output: Path | None) -> None:
    verified = completed.verified
    out.print()
    where = (
        "not in the log yet"
        if verified.receipt is None
        else (f"log entry {verified.receipt.leaf_index}")
    )
    err.print(
        f"[green]verified[/] {verified.statement.output_count} tokens, {completed.finish_reason},"
        f" {completed.tokens_per_s:.0f} tokens/s, statement"
        f" {verified.signed.payload_hash.hex()[:16]}, {where}",
        soft_wrap=True,
    )
    for note in notes:
        err.print(f"  note: {note}", markup=False, soft_wrap=True)
    if output is not None:
        err.print(f"  wrote {output}", markup=False, soft_wrap=True)
