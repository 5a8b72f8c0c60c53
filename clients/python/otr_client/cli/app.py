"""Entry point of the command `otr`, and what its exit codes mean.

    0    done, verified
    1    refused: a check, a rule or a service said no
    2    nothing was judged: wrong usage, a file that cannot be read or written
    130  interrupted

A user's mistake is one line on stderr, never a traceback; with `--json` it is one object on stdout
as well (but for wrong usage, which is a mistake of the program that wrote the command line).
Everything else is imported inside `main`, so that Ctrl-C during the imports is no traceback either.
"""

from __future__ import annotations

import sys


def main() -> None:
    """Run the command line and exit."""
    try:
        sys.exit(_run())
    except KeyboardInterrupt:
        sys.exit(130)


def _run() -> int:
    from grpc.aio import AioRpcError

    from otr_client.cli.commands import app
    from otr_client.cli.output import NOT_JUDGED, REFUSED, CommandFailedError, fail
    from otr_protocol.errors import Refusal
    from otr_server.status import reason_of

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
