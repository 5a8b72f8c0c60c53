"""Whether this process may append, and why not, if it may not."""

from __future__ import annotations

from collections.abc import Callable

import structlog

from otr_protocol.errors import Refusal

log = structlog.get_logger(__name__)


class Standing:
    """Good until `refuse`, and never again after it: only a restart looks at the data anew.

    `on_refused` hears of the first refusal, on whatever thread found the reason.
    """

    def __init__(self) -> None:
        self._refusal: Refusal | None = None
        self._on_refused: Callable[[], None] | None = None

    @property
    def good(self) -> bool:
        """Whether the process may append."""
        return self._refusal is None

    def when_refused(self, tell: Callable[[], None]) -> None:
        """Who wants to know when it happens."""
        self._on_refused = tell

    def refuse(self, refusal: Refusal) -> None:
        """Append no more; the first reason is the one that everybody is told."""
        if self._refusal is None:
            self._refusal = refusal
            log.critical("appends_refused", reason=refusal.reason, error=refusal.message)
            if self._on_refused is not None:
                self._on_refused()

    def require_good(self) -> None:
        """Raise the reason for which this process appends no more, if there is one."""
        if self._refusal is not None:
            # A new one each time: a raised exception keeps the frames it passed through alive.
            raise type(self._refusal)(self._refusal.message)
