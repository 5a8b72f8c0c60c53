"""Waiting for a stack that is on its way, for commands started right after `otr up`."""

from __future__ import annotations

import asyncio
import time
from pathlib import Path
from typing import Final

from otr_client.stack.lock import StackState, stack_state

# As long as the supervisor gives the services (supervisor.START_SECONDS), and a little more.
STARTING_SECONDS: Final = 200.0
# `otr up &` needs this long, on a busy machine, until it holds the directory.
APPEARING_SECONDS: Final = 3.0
POLL_SECONDS: Final = 0.1


async def until_started(directory: Path, *, running_already: bool) -> StackState:
    """Wait while a stack starts in `directory`; the state it is left in.

    A directory where nothing runs gets a short while for a stack to appear, unless
    `running_already`: a stack that is served by other means takes no lock.
    """
    began = time.monotonic()
    while True:
        state = stack_state(directory)
        waited = time.monotonic() - began
        patience = STARTING_SECONDS if state is StackState.STARTING else APPEARING_SECONDS
        if state is StackState.READY or waited >= patience:
            return state
        if state is StackState.NONE and running_already:
            return state
        await asyncio.sleep(POLL_SECONDS)
