"""Logs: one JSON object a line on stderr, with the request id of the call they belong to.

Nothing secret is logged: values under names that hold secrets or users' text are replaced, and
bytes appear as hex only while they are short enough to be a digest or a key id. Call `configure`
once per process; modules log through `structlog.get_logger(__name__)`.
"""

from __future__ import annotations

import logging
import re
import secrets
import sys
from collections.abc import Iterable, MutableMapping
from contextvars import ContextVar, Token
from typing import Any, Literal, TextIO

import structlog

from otr_protocol.errors import MalformedError

REQUEST_ID_KEY = "x-request-id"
MAX_SHOWN_BYTES = 64

Level = Literal["debug", "info", "warning", "error", "critical"]
LEVELS: tuple[Level, ...] = ("debug", "info", "warning", "error", "critical")

_REQUEST_ID = re.compile(r"[A-Za-z0-9._:/+=-]{1,128}")
_CONFIDENTIAL = re.compile(
    r"(^|_)(secret|password|passphrase|private_key|salt|authorization|credential|token|jwt"
    r"|prompt|text|messages|content)$",
    re.IGNORECASE,
)
_scope: ContextVar[dict[str, object] | None] = ContextVar("otr_request_scope", default=None)


class LogLevelError(MalformedError):
    """A log level that does not exist."""

    reason = "BAD_LOG_LEVEL"


def configure(
    level: str = "info", *, service: str | None = None, stream: TextIO | None = None
) -> None:
    """Send structlog's and the standard library's logs to `stream` (stderr) as JSON lines.

    Raises LogLevelError for a level that is none of LEVELS. May be called again.
    """
    if level not in LEVELS:
        raise LogLevelError(f"log_level must be one of {', '.join(LEVELS)}", field="log_level")
    number = getattr(logging, level.upper())
    static = {} if service is None else {"service": service}

    def add_static(_: Any, __: str, event: MutableMapping[str, Any]) -> MutableMapping[str, Any]:
        return {**static, **event}

    shared: list[structlog.typing.Processor] = [
        structlog.contextvars.merge_contextvars,
        _add_scope,
        structlog.processors.add_log_level,
        structlog.processors.TimeStamper(fmt="iso", utc=True),
        add_static,
        _withhold,
        structlog.processors.format_exc_info,
    ]
    renderer = structlog.processors.JSONRenderer(default=str, ensure_ascii=False)
    output = stream if stream is not None else sys.stderr
    structlog.configure(
        processors=[*shared, renderer],
        wrapper_class=structlog.make_filtering_bound_logger(number),
        logger_factory=structlog.PrintLoggerFactory(output),
        cache_logger_on_first_use=False,
    )
    handler = logging.StreamHandler(output)
    handler.setFormatter(
        structlog.stdlib.ProcessorFormatter(
            foreign_pre_chain=[*shared[:2], structlog.stdlib.add_logger_name, *shared[2:]],
            processors=[structlog.stdlib.ProcessorFormatter.remove_processors_meta, renderer],
        )
    )
    root = logging.getLogger()
    root.handlers[:] = [handler]
    root.setLevel(number)


def request_id_from(metadata: Iterable[tuple[str, str | bytes]] | None) -> str:
    """The caller's request id if it sent a well-formed one, else a new one of 32 hex characters.

    A malformed id is replaced rather than refused: it only serves to find log lines again, and
    must not carry line breaks or megabytes into them.
    """
    for key, value in metadata or ():
        if key == REQUEST_ID_KEY and isinstance(value, str) and _REQUEST_ID.fullmatch(value):
            return value
    return secrets.token_hex(16)


class request_scope:  # noqa: N801 - used as a `with` statement's verb, like contextlib's
    """Every log line within carries the request id and the values; outgoing calls pass it on.

    A class, and not contextlib's decorator: this runs around every call.
    """

    __slots__ = ("_bound", "_reset")

    def __init__(self, request_id: str, **values: object) -> None:
        self._bound: dict[str, object] = {"request_id": request_id, **values}
        self._reset: Token[dict[str, object] | None] | None = None

    def __enter__(self) -> None:
        self._reset = _scope.set(self._bound)

    def __exit__(self, *_: object) -> None:
        assert self._reset is not None
        _scope.reset(self._reset)


def current_request_id() -> str | None:
    """The request id of the call being handled, if one is."""
    scope = _scope.get()
    return None if scope is None else str(scope["request_id"])


def _add_scope(_: Any, __: str, event: MutableMapping[str, Any]) -> MutableMapping[str, Any]:
    return {**(_scope.get() or {}), **event}


def _withhold(_: Any, __: str, event: MutableMapping[str, Any]) -> MutableMapping[str, Any]:
    return {key: _shown(key, value) for key, value in event.items()}


def _shown(key: str, value: object) -> object:
    if key != "event" and _CONFIDENTIAL.search(key):
        return "[withheld]"
    if isinstance(value, bytes | bytearray | memoryview):
        size = len(value)
        return bytes(value).hex() if size <= MAX_SHOWN_BYTES else f"[{size} bytes]"
    if isinstance(value, dict):
        return {str(k): _shown(str(k), v) for k, v in value.items()}
    if isinstance(value, list | tuple):
        return [_shown(key, item) for item in value]
    return value
