"""Whom `otr generate` asks: a stack's inference service, or one with its own roots and TLS."""

from __future__ import annotations

import asyncio
import contextlib
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from otr_client.cli.files import read_roots
from otr_client.cli.output import NOT_JUDGED, CommandFailedError, err
from otr_client.stack.directory import StackDirectory
from otr_client.stack.waiting import until_started
from otr_protocol.trust import TrustRoots
from otr_server.handshake import split_target
from otr_server.tls import ClientTls

CONNECT_SECONDS: Final = 1.0


@dataclass(frozen=True, slots=True)
class AskTarget:
    """Whom to ask, as whom, and what to believe."""

    target: str
    tls: ClientTls
    roots: TrustRoots


async def ask_target(
    directory: Path, target: str | None, roots: Path | None, tls_dir: Path | None
) -> AskTarget:
    """What the options say, and what they leave out from the stack in `directory`.

    Waits for a stack that is starting when it is the stack that is asked. Raises
    CommandFailedError, StackNotFoundError, TlsFileError.
    """
    if target is not None:
        check_target(target)
    stack = StackDirectory(directory)
    if target is None:
        await _await_stack(stack)
        stack.require_prepared()
    else:
        _require_rest(stack, roots, tls_dir)
    tls = (
        ClientTls(tls_dir / "ca.pem", tls_dir / "client.pem", tls_dir / "client.key")
        if tls_dir is not None
        else stack.client_tls()
    )
    return AskTarget(
        target or stack.target("inference"), tls, read_roots(roots or stack.roots_file)
    )


def check_target(target: str) -> None:
    """Raise CommandFailedError unless `target` is HOST:PORT."""
    try:
        _, port = split_target(target)
        if not 0 < port < 1 << 16 or target.startswith(("http:", "https:")):
            raise ValueError
    except ValueError:
        raise CommandFailedError(
            "TARGET_INVALID", f"{target} is not HOST:PORT", code=NOT_JUDGED
        ) from None


def _require_rest(stack: StackDirectory, roots: Path | None, tls_dir: Path | None) -> None:
    given = {"--roots": roots, "--tls-dir": tls_dir}
    missing = [name for name, value in given.items() if value is None]
    if missing and not stack.is_prepared:
        raise CommandFailedError(
            "OPTIONS_MISSING",
            f"--target needs {' and '.join(missing)} too: there is no stack in {stack.root}"
            " to take them from",
            code=NOT_JUDGED,
        )


async def _await_stack(stack: StackDirectory) -> None:
    with err.status(f"waiting for the stack in {stack.root}"):
        await until_started(stack.root, running_already=await _answers(stack))


async def _answers(stack: StackDirectory) -> bool:
    """Whether something listens where the stack's inference service was last configured."""
    if not stack.is_prepared:
        return False
    host, port = split_target(stack.target("inference"))
    with contextlib.suppress(OSError, TimeoutError):
        async with asyncio.timeout(CONNECT_SECONDS):
            _, writer = await asyncio.open_connection(host, port)
            writer.close()
            return True
    return False
