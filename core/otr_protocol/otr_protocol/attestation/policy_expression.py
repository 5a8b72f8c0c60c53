"""A policy's own condition over what was verified: a bounded part of CEL (spec/attestation.md).

    devices.all(d, d["x-nvidia-gpu-driver-version"] >= "570") && !simulated

`cpu` and `devices` hold the `evidence_claims` of the parts by their EAT names, `status` is the tier
reached so far, `simulated` a truth value, `policy` the policy's own plain settings. The result is
true, false, or the name of a tier; it can only make a verdict worse.

CEL always ends, but not soon: three nested `map`s build what no memory holds, and the library then
aborts the process. So a condition is admitted only if its cost is bounded by its text: no function
that builds values, no arithmetic, no macro inside another, macros over lists that are in the
variables and nowhere else. What is left costs at most `MAX_TOKENS` steps, and `MAX_MACRO_TOKENS`
for each of at most `MAX_LIST` entries; tests hold the worst of it to 50 ms and 64 MB. The bound is
one of the text and not of a clock, so that two verifiers agree. A macro over a map would visit it
in an order that differs from process to process, so it is refused as well.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import lru_cache
from typing import TYPE_CHECKING, Any, Final

from otr_protocol.attestation.verdict import Finding, Status
from otr_protocol.errors import MalformedError

if TYPE_CHECKING:
    import cel

MAX_BYTES: Final = 4096
MAX_TOKENS: Final = 512
MAX_DEPTH: Final = 16
MAX_MACROS: Final = 8
MAX_MACRO_TOKENS: Final = 64
MAX_LIST: Final = 64
MAX_LEVELS: Final = 6
MAX_MEMBER_NODES: Final = 128
MAX_NODES: Final = 2048
MAX_CHARACTERS: Final = 256 * 1024
COMPONENT: Final = "platform"

VARIABLES: Final = frozenset({"cpu", "devices", "policy", "simulated", "status"})
# Never compared whole: only their members are, so that one comparison touches little.
_WHOLE: Final = frozenset({"cpu", "devices", "policy"})
_MACROS: Final = frozenset({"all", "exists", "exists_one"})
_METHODS: Final = _MACROS | {"contains", "endsWith", "size", "startsWith"}
_FUNCTIONS: Final = frozenset({"has", "int", "size"})
_WORDS: Final = frozenset({"false", "in", "null", "true"})
_OPENING: Final = {"(": ")", "[": "]"}

# No escapes, prefixes or triple quotes: then nothing that looks like text here is code to CEL, or
# the other way round.
_TOKEN: Final = re.compile(
    r"""[ \n]*(?:
        (?P<text>"[^"\\]*"|'[^'\\]*')(?!["'])
      | (?P<number>[0-9]{1,18})(?![\w.])
      | (?P<name>[A-Za-z_][A-Za-z0-9_]*)(?!["'])
      | (?P<mark>&&|\|\||==|!=|<=|>=|[-<>!?:,.()\[\]])
    )""",
    re.VERBOSE | re.ASCII,
)
_ADMITTED: Final = re.compile(r"[ -~\n]*")
_TIERS: Final = {status.tier: status for status in Status}


class PolicyExpressionError(MalformedError):
    """The condition is no CEL, or outside the part of it that is evaluated here."""

    reason = "POLICY_EXPRESSION_MALFORMED"


@dataclass(frozen=True, slots=True)
class _Token:
    kind: str
    text: str


@dataclass(frozen=True, slots=True)
class Compiled:
    """An admitted condition; `ranges` are the paths of the lists that its macros visit."""

    program: cel.Program
    ranges: tuple[tuple[str | int, ...], ...]


@lru_cache(maxsize=64)
def compile_expression(expression: str) -> Compiled:
    """Admit and compile a condition. Raises PolicyExpressionError."""
    tokens = tuple(_tokens(expression))
    partner = _partners(tokens)
    ranges = _Scan(tokens, partner).run()
    # Here and not above: the package brings its command line along, half a second of imports that
    # a policy without a condition has no use for.
    import cel

    try:
        program = cel.compile(expression)
    except Exception as error:
        raise PolicyExpressionError("the condition is not CEL", field="expression") from error
    return Compiled(program, ranges)


def judge(expression: str, variables: Mapping[str, Any]) -> tuple[Finding, ...]:
    """The findings of a condition over `variables` (the names of VARIABLES); none if it holds.

    Never raises: what cannot be evaluated is a finding that refuses. Pure, and independent of the
    order of maps.
    """
    try:
        compiled = compile_expression(expression)
        _check_variables(variables)
        for path in compiled.ranges:
            if not isinstance(_resolve(variables, path), list):
                raise PolicyExpressionError(f"{path!r} is no list", field="expression")
        result = compiled.program.execute(dict(variables))
    except Exception as error:  # the library has no class of its own; whatever it is, it refuses
        return (_failed(str(error)),)
    if result is True:
        return ()
    if result is False:
        return (_refused(Status.CONTRAINDICATED),)
    status = _TIERS.get(result) if isinstance(result, str) else None
    if status is None:
        return (_failed("the condition is neither a truth value nor a tier"),)
    return () if status is Status.AFFIRMING else (_refused(status),)


def _failed(why: str) -> Finding:
    return Finding(
        reason="POLICY_EXPRESSION_FAILED",
        component=COMPONENT,
        status=Status.CONTRAINDICATED,
        message=f"the policy's condition cannot be evaluated: {why[:200]}",
    )


def _refused(status: Status) -> Finding:
    return Finding(
        reason="POLICY_EXPRESSION_REFUSED",
        component=COMPONENT,
        status=status,
        message="the policy's condition does not hold",
    )


def _tokens(expression: str) -> Iterator[_Token]:
    if len(expression) > MAX_BYTES or not _ADMITTED.fullmatch(expression):
        raise PolicyExpressionError(
            f"a condition is at most {MAX_BYTES} printable ASCII characters", field="expression"
        )
    source, position, count = expression.rstrip(" \n"), 0, 0
    while position < len(source):
        match = _TOKEN.match(source, position)
        if match is None or match.lastgroup is None:
            raise PolicyExpressionError(
                f"character {position} is not of the language admitted here", field="expression"
            )
        count += 1
        if count > MAX_TOKENS:
            raise PolicyExpressionError(f"more than {MAX_TOKENS} tokens", field="expression")
        position = match.end()
        yield _Token(match.lastgroup, match.group(match.lastgroup))


def _partners(tokens: tuple[_Token, ...]) -> dict[int, int]:
    """The closing bracket of every opening one, by position."""
    partner: dict[int, int] = {}
    open_at: list[int] = []
    for place, token in enumerate(tokens):
        if token.kind != "mark":
            continue
        if token.text in _OPENING:
            open_at.append(place)
            if len(open_at) > MAX_DEPTH:
                raise PolicyExpressionError(f"nested deeper than {MAX_DEPTH}", field="expression")
        elif token.text in _OPENING.values():
            if not open_at or _OPENING[tokens[open_at[-1]].text] != token.text:
                raise PolicyExpressionError("a bracket has no partner", field="expression")
            partner[open_at.pop()] = place
    if open_at:
        raise PolicyExpressionError("a bracket has no partner", field="expression")
    return partner


class _Scan:
    """One walk over the tokens that admits every name by its place."""

    def __init__(self, tokens: tuple[_Token, ...], partner: dict[int, int]) -> None:
        self._tokens = tokens
        self._partner = partner
        self._macro_end = -1
        self._bound = ""
        self._macro_tokens = 0
        self._ranges: list[tuple[str | int, ...]] = []

    def run(self) -> tuple[tuple[str | int, ...], ...]:
        for place, token in enumerate(self._tokens):
            if token.kind == "name":
                self._name(place, token.text)
        return tuple(self._ranges)

    def _name(self, place: int, name: str) -> None:
        member = self._mark(place - 1) == "."
        if self._mark(place + 1) == "(":
            if name not in (_METHODS if member else _FUNCTIONS):
                raise PolicyExpressionError(f"{name}() is not admitted", field="expression")
            if name in _MACROS:
                self._macro(place)
        elif not member and name not in _WORDS:
            self._variable(place, name)

    def _macro(self, place: int) -> None:
        if place < self._macro_end:
            raise PolicyExpressionError("a macro stands inside another", field="expression")
        end = self._partner[place + 1]
        self._macro_tokens += end - place
        self._ranges.append(self._receiver(place - 2))
        if len(self._ranges) > MAX_MACROS or self._macro_tokens > MAX_MACRO_TOKENS:
            raise PolicyExpressionError("too much stands inside macros", field="expression")
        bound = self._tokens[place + 2]
        if bound.kind != "name" or bound.text in VARIABLES | _WORDS:
            raise PolicyExpressionError("a macro names its own variable", field="expression")
        self._macro_end, self._bound = end, bound.text

    def _receiver(self, place: int) -> tuple[str | int, ...]:
        """The path that ends at `place`, read backwards: names and indices from a variable."""
        path: list[str | int] = []
        while place >= 0:
            token = self._tokens[place]
            if token.kind == "name":
                path.append(token.text)
                if self._mark(place - 1) == ".":
                    place -= 2
                    continue
                if token.text in VARIABLES:
                    return tuple(reversed(path))
            elif token.text == "]" and place >= 3 and self._mark(place - 2) == "[":
                index = self._tokens[place - 1]
                if index.kind in ("text", "number"):
                    path.append(int(index.text) if index.kind == "number" else index.text[1:-1])
                    place -= 3
                    continue
            break
        raise PolicyExpressionError(
            "a macro visits a list of the variables, and nothing else", field="expression"
        )

    def _variable(self, place: int, name: str) -> None:
        if name == self._bound and place < self._macro_end:
            return
        if name not in VARIABLES:
            raise PolicyExpressionError(f"there is no {name!r} here", field="expression")
        if name in _WHOLE and self._mark(place + 1) not in (".", "["):
            before = self._tokens[place - 1].text if place else ""
            counted = before == "(" and place >= 2 and self._tokens[place - 2].text == "size"
            if not counted and before != "in":
                raise PolicyExpressionError(f"{name} is not compared whole", field="expression")

    def _mark(self, place: int) -> str:
        if 0 <= place < len(self._tokens) and self._tokens[place].kind == "mark":
            return self._tokens[place].text
        return ""


def _resolve(variables: Mapping[str, Any], path: tuple[str | int, ...]) -> Any:
    value: Any = variables
    for step in path:
        value = value[step]
    return value


def _check_variables(variables: Mapping[str, Any]) -> None:
    """Refuse values beyond what the bounds of the language hold for, or of a type CEL has not."""
    if variables.keys() != VARIABLES:
        raise PolicyExpressionError("the variables are not those of this version")
    cpu, devices = variables["cpu"], variables["devices"]
    # What can be named can be compared, again and again: so each such value is small.
    for member in (*cpu.values(), *devices):
        if _measure(member, MAX_LEVELS)[0] > MAX_MEMBER_NODES:
            raise PolicyExpressionError("a part says more than a condition may look at")
    nodes, characters = _measure(dict(variables), MAX_LEVELS + 2)
    if nodes > MAX_NODES or characters > MAX_CHARACTERS:
        raise PolicyExpressionError("more was verified than a condition may look at")


def _measure(value: Any, levels: int) -> tuple[int, int]:
    """How many values there are in `value`, itself included, and how many characters."""
    if levels < 0:
        raise PolicyExpressionError("a value is nested too deeply")
    if isinstance(value, str):
        return 1, len(value)
    if value is None or isinstance(value, bool | int):
        return 1, 0
    if isinstance(value, dict) and all(isinstance(key, str) for key in value):
        inner, own = list(value.values()), sum(map(len, value))
    elif isinstance(value, list) and len(value) <= MAX_LIST:
        inner, own = value, 0
    else:
        raise PolicyExpressionError("a value is of no type or size that conditions know")
    sizes = [_measure(item, levels - 1) for item in inner]
    return 1 + sum(nodes for nodes, _ in sizes), own + sum(length for _, length in sizes)
