"""Chat templates: Jinja as Hugging Face models ship it, in a sandbox with bounds.

A template is part of the model directory and the manifest commits to it, but it comes from whoever
published the model: it runs without access to Python objects, with the filters and globals that
chat templates use and no others, and may write a bounded text. Options (`trim_blocks`,
`lstrip_blocks`, loop controls, `raise_exception`) are those of the transformers library, so that
templates render alike.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Final, NoReturn

import jinja2
import jinja2.ext
from jinja2.sandbox import ImmutableSandboxedEnvironment

from otr_protocol.errors import MalformedError

# What the golden vectors and the demo say to the model; SmolLM2's own template would insert "You
# are a helpful AI assistant named SmolLM, trained by Hugging Face" when a conversation has no
# system message.
DEFAULT_SYSTEM_PROMPT: Final = "You are a helpful AI assistant."
ROLES: Final = frozenset({"system", "user", "assistant"})

MAX_TEMPLATE_BYTES: Final = 64 << 10
MAX_MESSAGES: Final = 256
MAX_RENDERED_CHARACTERS: Final = 1 << 20

_FILTERS: Final = (
    "capitalize", "count", "default", "dictsort", "first", "items", "join", "last", "length",
    "list", "lower", "map", "rejectattr", "replace", "reverse", "selectattr", "string", "title",
    "trim", "unique", "upper",
)  # fmt: skip


class ChatTemplateError(MalformedError):
    """The template is not valid Jinja, or fails on these messages."""

    reason = "CHAT_TEMPLATE_INVALID"


class ChatRefusedError(MalformedError):
    """No conversation for this model: its template, or a bound, refuses these messages."""

    reason = "CHAT_MESSAGES_REFUSED"


@dataclass(frozen=True, slots=True)
class Message:
    """One turn; `role` is system, user or assistant."""

    role: str
    content: str


def conversation(prompt: str, *, system: str | None = DEFAULT_SYSTEM_PROMPT) -> tuple[Message, ...]:
    """One user message after a system message; `system=None` leaves that to the template."""
    user = Message("user", prompt)
    return (user,) if system is None else (Message("system", system), user)


class _Sandbox(ImmutableSandboxedEnvironment):
    # 'a' * 10**10 would allocate before the output bound sees it; templates have no use for these.
    intercepted_binops = frozenset({"*", "**", "%"})

    def call_binop(self, context: Any, operator: str, left: Any, right: Any) -> Any:
        if operator == "%" and isinstance(left, int) and isinstance(right, int):
            return super().call_binop(context, operator, left, right)
        raise jinja2.exceptions.SecurityError(f"operator {operator} is not allowed")

    def is_safe_attribute(self, obj: Any, attr: str, value: Any) -> bool:
        # Padding methods take a width, which is an unbounded allocation.
        allocating = {"center", "ljust", "rjust", "zfill", "expandtabs"}
        return attr not in allocating and super().is_safe_attribute(obj, attr, value)

    def wrap_str_format(self, value: Any) -> Any:
        # So does str.format, which the sandbox would otherwise allow in a guarded form.
        if super().wrap_str_format(value) is not None:
            raise jinja2.exceptions.SecurityError("str.format is not allowed")
        return None


def _raise_exception(message: str) -> NoReturn:
    raise ChatRefusedError(f"the chat template refuses: {message}", field="messages")


def _tojson(value: Any, indent: int | None = None) -> str:
    if indent is not None and not 0 <= indent <= 8:
        raise jinja2.exceptions.SecurityError("indent is limited to 8")
    return json.dumps(value, ensure_ascii=False, indent=indent)


def _environment() -> ImmutableSandboxedEnvironment:
    environment = _Sandbox(
        trim_blocks=True,
        lstrip_blocks=True,
        extensions=[jinja2.ext.loopcontrols],
        autoescape=False,
    )
    known = environment.filters
    environment.filters = {name: known[name] for name in _FILTERS} | {"tojson": _tojson}
    kept = {name: environment.globals[name] for name in ("range", "dict", "namespace")}
    environment.globals = kept | {"raise_exception": _raise_exception}
    return environment


class ChatTemplate:
    """A compiled template. Raises ChatTemplateError for one that is too long or not Jinja."""

    def __init__(self, source: str) -> None:
        if len(source.encode("utf-8", errors="replace")) > MAX_TEMPLATE_BYTES:
            raise ChatTemplateError("the chat template exceeds 64 KiB", field="chat_template")
        self.source = source
        try:
            self._template = _environment().from_string(source)
        except (jinja2.TemplateError, RecursionError) as error:
            raise ChatTemplateError(
                f"the chat template does not compile: {error}", field="chat_template"
            ) from error

    def render(
        self,
        messages: Sequence[Message],
        *,
        bos_token: str = "",
        eos_token: str = "",
        add_generation_prompt: bool = True,
    ) -> str:
        """The conversation as the model was trained to see it, up to where its answer starts.

        Raises ChatRefusedError (no message, too many, an unknown role, a text over the bound, the
        template's own `raise_exception`) and ChatTemplateError (the template fails).
        """
        if not 1 <= len(messages) <= MAX_MESSAGES:
            raise ChatRefusedError(
                f"{len(messages)} messages, not 1 to {MAX_MESSAGES}", field="messages"
            )
        for index, message in enumerate(messages):
            if message.role not in ROLES:
                raise ChatRefusedError(
                    f"role {message.role!r} is not one of {', '.join(sorted(ROLES))}",
                    field=f"messages[{index}].role",
                )
        pieces: list[str] = []
        length = 0
        try:
            for piece in self._template.generate(
                messages=[{"role": m.role, "content": m.content} for m in messages],
                bos_token=bos_token,
                eos_token=eos_token,
                add_generation_prompt=add_generation_prompt,
            ):
                length += len(piece)
                if length > MAX_RENDERED_CHARACTERS:
                    raise ChatRefusedError(
                        f"the conversation exceeds {MAX_RENDERED_CHARACTERS} characters",
                        field="messages",
                    )
                pieces.append(piece)
        except (jinja2.TemplateError, TypeError, ValueError, ArithmeticError, LookupError,
                AttributeError, RecursionError, MemoryError) as error:  # fmt: skip
            raise ChatTemplateError(
                f"the chat template fails on these messages: {error}", field="chat_template"
            ) from error
        return "".join(pieces)
