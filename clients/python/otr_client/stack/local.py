"""The whole stack as processes of this machine."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from types import TracebackType
from typing import Self

from otr_client.stack.directory import START_ORDER, StackDirectory, StackOptions
from otr_client.stack.lock import StackLock
from otr_client.stack.supervisor import Supervisor, Unit

# Development revocation answers last a day; half of that leaves time to be asleep.
REFRESH_SECONDS = 12 * 3600.0


class LocalStack:
    """Prepares a directory, starts the five services, and stops them again."""

    def __init__(self, directory: StackDirectory, options: StackOptions) -> None:
        self.directory = directory
        self._options = options
        self._lock: StackLock | None = None
        self.supervisor = Supervisor([])
        self._refresh: asyncio.Task[None] | None = None

    async def start(self, on_ready: Callable[[str], None] = lambda name: None) -> None:
        """Start everything and return when every service says SERVING.

        Raises StackRunningError when the directory has a running stack, ServiceFailedError, and
        the model's refusals. Call `stop` in any case.
        """
        directory = self.directory
        self._lock = lock = StackLock(directory.root)
        await asyncio.to_thread(directory.prepare, self._options)
        self.supervisor = Supervisor(
            [
                Unit(
                    name,
                    f"otr_{name}",
                    directory.config_file(name),
                    directory.log_file(name),
                    directory.health_target(name),
                )
                for name in START_ORDER
            ]
        )
        await self.supervisor.start(on_ready)
        self._refresh = asyncio.create_task(self._keep_collateral_fresh())
        lock.ready()

    async def stop(self) -> None:
        """Stop everything gracefully and give the directory free."""
        if self._refresh is not None:
            self._refresh.cancel()
        try:
            await self.supervisor.stop()
        finally:
            if self._lock is not None:
                self._lock.release()
                self._lock = None

    async def __aenter__(self) -> Self:
        try:
            await self.start()
        except BaseException:
            await self.stop()
            raise
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        await self.stop()

    async def _keep_collateral_fresh(self) -> None:
        while True:
            await asyncio.sleep(REFRESH_SECONDS)
            await asyncio.to_thread(self.directory.refresh_collateral)
