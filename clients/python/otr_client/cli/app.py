"""Entry point of the command `otr`, and what its exit codes mean.

    0    done, verified
    1    refused: a check, a rule or a service said no
    2    nothing was judged: wrong usage, a file that cannot be read or written
    130  interrupted

A user's mistake is one line on stderr, never a traceback; with `--json` it is one object on stdout
as well (but for wrong usage, which is a mistake of the program that wrote the command line).
Everything else is imported inside `main`, where Ctrl-C ends the process at once: raised among
imports, an interrupt can be swallowed by one of them, and the command would go on.
"""

from __future__ import annotations

import os
import signal
import sys

INTERRUPTED = 130


def main() -> None:
    """Run the command line and exit."""
    # Nothing has been started or written yet, so there is nothing to clean up. Whoever started us
    # deaf to Ctrl-C (a shell's background job) wants it so.
    if signal.getsignal(signal.SIGINT) is not signal.SIG_IGN:
        signal.signal(signal.SIGINT, lambda number, frame: os._exit(INTERRUPTED))
    try:
        sys.exit(_run())
    except KeyboardInterrupt:
        sys.exit(INTERRUPTED)


def _run() -> int:
    from grpc.aio import AioRpcError

    from otr_client.cli.commands import app
    from otr_client.cli.output import NOT_JUDGED, REFUSED, CommandFailedError, fail
    from otr_protocol.errors import Refusal
    from otr_server.status import reason_of

    if signal.getsignal(signal.SIGINT) is not signal.SIG_IGN:
        signal.signal(signal.SIGINT, signal.default_int_handler)
    try:
        app()  # ends with SystemExit
    except CommandFailedError as error:
        fail(error.reason, error.message, error.details)
        return error.code
    except Refusal as refusal:
        fail(refusal.reason, refusal.message)
        return REFUSED
    except AioRpcError as error:
        fail(reason_of(error) or error.code().name, error.details() or "the service gave no reason")
        return REFUSED
    except OSError as error:
        place = "" if error.filename is None else f"{error.filename}: "
        fail("OS_ERROR", place + (error.strerror or str(error)))
        return NOT_JUDGED
    return 0
