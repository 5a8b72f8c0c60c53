"""`otr generate`: ask a running service, print tokens as they come, keep the verified answer."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import grpc
import typer

from otr_client.cli.output import emit, err, exit_with, fail, out
from otr_client.cli.up import DEFAULT_DIR
from otr_client.client import Client, Completed, reason
from otr_client.request import DEFAULT_SYSTEM, Ask
from otr_client.stack.directory import StackDirectory
from otr_protocol.errors import Refusal
from otr_protocol.trust import TrustRoots, load_roots
from otr_server.channel import classify_handshake
from otr_server.status import reason_of
from otr_server.tls import ClientTls


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
    output: Annotated[
        Path | None, typer.Option("--out", help="Write the answer file (.otr).")
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="One JSON object on stdout.")] = False,
) -> None:
    """Ask a model; the answer is verified before the command succeeds.

    Examples:
        otr generate "What is the capital of France?" --out answer.otr
        otr generate "Name three colours." --temperature 0.8 --seed 7 --wait-receipt --json
    """
    try:
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
        server = _server(directory, target, roots, tls_dir)
        completed = asyncio.run(_generate(server, ask, wait_receipt, quiet=as_json))
    except grpc.aio.AioRpcError as error:
        fail(reason_of(error) or error.code().name, reason(error))
        raise exit_with(1) from None
    except Refusal as refusal:
        fail(refusal.reason, refusal.message)
        raise exit_with(1) from None
    if output is not None:
        output.write_bytes(completed.answer)
    if as_json:
        emit(_document(completed, output))
    else:
        _summarise(completed, output)


@dataclass(frozen=True, slots=True)
class _Server:
    """Whom to ask, as whom, and what to believe."""

    target: str
    tls: ClientTls
    roots: TrustRoots


async def _generate(server: _Server, ask: Ask, wait_receipt: bool, *, quiet: bool) -> Completed:
    try:
        async with Client(server.target, server.tls, server.roots) as client:
            completed: Completed | None = None
            async for event in client.generate(ask, wait_receipt=wait_receipt):
                if isinstance(event, Completed):
                    completed = event
                elif not quiet:
                    out.print(event.text, end="", markup=False, soft_wrap=True)
    except grpc.aio.AioRpcError as error:
        # A refused certificate looks like a server that is away; say which of the two it is.
        refusal = await classify_handshake(error, server.target, server.tls, "inference")
        raise (refusal or error) from error
    assert completed is not None  # generate() ends with it or raises
    return completed


def _server(
    directory: Path, target: str | None, roots: Path | None, tls_dir: Path | None
) -> _Server:
    stack = StackDirectory(directory)
    if target is None or roots is None or tls_dir is None:
        stack.require_prepared()
    tls = (
        ClientTls(tls_dir / "ca.pem", tls_dir / "client.pem", tls_dir / "client.key")
        if tls_dir is not None
        else stack.client_tls()
    )
    pinned = load_roots((roots or stack.roots_file).read_bytes())
    return _Server(target or stack.target("inference"), tls, pinned)


def _seed(text: str) -> bytes:
    if not text:
        return b""
    try:
        seed = bytes.fromhex(text)
    except ValueError:
        seed = b""
    if len(seed) == 32:
        return seed
    from otr_protocol.digest import H

    return H(text.encode())


def _document(completed: Completed, output: Path | None) -> dict[str, object]:
    verified = completed.verified
    return {
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
        "notes": list(verified.notes),
        "file": None if output is None else str(output),
    }


def _summarise(completed: Completed, output: Path | None) -> None:
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
    for note in verified.notes:
        err.print(f"  note: {note}", markup=False, soft_wrap=True)
    if output is not None:
        err.print(f"  wrote {output}", markup=False, soft_wrap=True)
