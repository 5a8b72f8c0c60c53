"""The command line of a service: `otr-<name> --config FILE.toml`, one function for all of them.

A user's mistake ends with one line on stderr and exit code 2, a refusal at start (corrupt weights,
a taken port) with one log line and 1; a traceback means a bug.
"""

from __future__ import annotations

import argparse
import asyncio
import os
import sys
from collections.abc import Awaitable, Callable, Sequence
from pathlib import Path
from typing import Protocol, TypeVar

import structlog

from otr_protocol.errors import Refusal
from otr_server import telemetry
from otr_server.process import Process, ProcessStartError
from otr_server.settings import SettingsError, read_settings

log = structlog.get_logger(__name__)


class ServiceSettings(Protocol):
    """What this module reads of a service's settings."""

    @property
    def log_level(self) -> str:
        """One of telemetry.LEVELS."""
        ...


Settings = TypeVar("Settings", bound=ServiceSettings)


def run_command(
    name: str,
    settings_type: type[Settings],
    start: Callable[[Settings], Awaitable[Process]],
    argv: Sequence[str] | None = None,
) -> int:
    """Read the settings, start the process, serve until a signal; returns the exit code.

    `start` returns a started process. `argv` defaults to the command line.
    """
    parser = argparse.ArgumentParser(
        prog=name, description="Settings come from FILE and from OTR__... variables."
    )
    parser.add_argument("--config", type=Path, metavar="FILE", help="TOML file with the settings")
    options = parser.parse_args(argv)
    try:
        settings = read_settings(settings_type, options.config, os.environ)
        telemetry.configure(settings.log_level, service=name)
    except (SettingsError, telemetry.LogLevelError) as error:
        sys.stderr.write(f"{name}: {error.message}\n")
        return 2

    async def serve() -> int:
        process = await start(settings)
        return await process.run_until_signal()

    try:
        return run(serve)
    except Refusal as refusal:
        log.critical(
            "start_refused", reason=refusal.reason, field=refusal.field, error=refusal.message
        )
    except ProcessStartError as error:
        log.critical("start_refused", reason="PROCESS_START", error=str(error))
    except KeyboardInterrupt:
        return 130  # Ctrl-C before the process had started
    except Exception as error:
        log.critical("crashed", exc_info=error)
    return 1


def run(main: Callable[[], Awaitable[int]]) -> int:
    """Run a coroutine function on uvloop where there is one, else on asyncio's own loop."""

    async def body() -> int:
        return await main()

    try:
        import uvloop
    except ImportError:  # no wheel for the platform
        return asyncio.run(body())
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        return runner.run(body())
