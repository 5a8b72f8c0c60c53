"""What is asked of a model, as both sides hash it (spec/statement.md, "input").

    sub(x)       = H(dCBOR["otr-salt-v1", salt, x])             x = "input", "output", "trace"
    input_digest = H(dCBOR["otr-input-v1", sub("input"), root of prompt ids, [mode, tq, top_k, p16],
                           seed, max_tokens, stop ids, stop strings, declared_value, recipients])

The client chooses `salt` and can compute the digest alone, before and after. A field has one
spelling: stop ids, stop strings (UTF-8 bytes) and recipients are sets, written in strictly
ascending order; greedy sampling has all its parameters 0. Stop ids are the ones in force: the
model's end-of-sequence ids are in the list unless the client asked to ignore them.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from enum import IntEnum, unique
from typing import Final, Literal, TypeAlias

from otr_protocol.dcbor import Value
from otr_protocol.digest import hash_record
from otr_protocol.fields import (
    SALT_BYTES,
    FieldError,
    as_array,
    as_integer,
    check_amount,
    check_ascending,
    check_bytes,
    check_range,
)
from otr_protocol.recipients import check_recipient
from otr_protocol.trace.ids import MAX_ID, id_root
from otr_protocol.trace.leaf import PROMPT_TAG

SALT_DOMAIN: Final = "otr-salt-v1"
INPUT_DOMAIN: Final = "otr-input-v1"
SEED_BYTES: Final = 32
NO_SEED: Final = bytes(SEED_BYTES)
# 2 MiB of ids: beyond any context that is served, and bounded where bytes become objects.
MAX_IDS: Final = 1 << 19
MAX_STOP_IDS: Final = 128
MAX_STOP_STRINGS: Final = 16
MAX_STOP_STRING_BYTES: Final = 256
MAX_RECIPIENTS: Final = 16
TQ_LIMIT: Final = 1 << 30
P16_ONE: Final = 1 << 16

SubName: TypeAlias = Literal["input", "output", "trace"]


@unique
class SamplingMode(IntEnum):
    """How the next id is picked (spec/numerics.md section 5)."""

    GREEDY = 0
    SEEDED = 1


@dataclass(frozen=True, slots=True)
class Sampling:
    """Integer sampling parameters.

    Seeded: `tq = round(2^16 * log2(e) / temperature)` in [1, 2^30), `top_k` >= 0 where 0 keeps the
    whole vocabulary, `p16` = top_p in 1/65536 in [1, 65536]. Greedy: all three are 0.
    """

    mode: SamplingMode
    tq: int
    top_k: int
    p16: int

    def __post_init__(self) -> None:
        if self.mode is SamplingMode.GREEDY:
            check_range(self.tq, 0, 0, "tq")
            check_range(self.top_k, 0, 0, "top_k")
            check_range(self.p16, 0, 0, "p16")
        else:
            check_range(self.tq, 1, TQ_LIMIT - 1, "tq")
            check_range(self.top_k, 0, MAX_ID, "top_k")
            check_range(self.p16, 1, P16_ONE, "p16")

    def record(self) -> tuple[int, int, int, int]:
        """`[mode, tq, top_k, p16]`."""
        return (int(self.mode), self.tq, self.top_k, self.p16)


GREEDY: Final = Sampling(SamplingMode.GREEDY, 0, 0, 0)


def seeded(tq: int, *, top_k: int = 0, p16: int = P16_ONE) -> Sampling:
    """Sampling at the temperature that `tq` encodes."""
    return Sampling(SamplingMode.SEEDED, tq, top_k, p16)


def sampling_from_record(value: Value) -> Sampling:
    """Read `[mode, tq, top_k, p16]`. Raises FieldError."""
    mode, tq, top_k, p16 = (
        as_integer(item, "sampling") for item in as_array(value, "sampling", length=4)
    )
    try:
        return Sampling(SamplingMode(mode), tq, top_k, p16)
    except ValueError:
        raise FieldError(f"{mode} is no sampling mode", field="sampling") from None


def sub_salt(salt: bytes, name: SubName) -> bytes:
    """The 32-byte salt of one purpose. Disputes reveal the one they need, never `salt` itself."""
    check_bytes(salt, SALT_BYTES, "salt")
    return hash_record(SALT_DOMAIN, salt, name)


@dataclass(frozen=True, slots=True)
class GenerationInput:
    """One request, fully determined: with the model it decides every output id.

    `seed` has 32 bytes and is unused for greedy decoding (`NO_SEED` then, by convention).
    `declared_value` is in micro-units. `recipients` are X25519 keys (recipients.py); none means a
    public blob. `generation_input` builds it from sets in any order.
    """

    prompt_ids: tuple[int, ...]
    sampling: Sampling
    seed: bytes
    max_tokens: int
    stop_ids: tuple[int, ...] = ()
    stop_strings: tuple[bytes, ...] = ()
    declared_value: int = 0
    recipients: tuple[bytes, ...] = ()

    def __post_init__(self) -> None:
        check_range(len(self.prompt_ids), 1, MAX_IDS, "prompt_ids")
        check_range(min(self.prompt_ids), 0, MAX_ID, "prompt_ids")
        check_range(max(self.prompt_ids), 0, MAX_ID, "prompt_ids")
        check_bytes(self.seed, SEED_BYTES, "seed")
        check_range(self.max_tokens, 1, MAX_IDS, "max_tokens")
        check_range(len(self.stop_ids), 0, MAX_STOP_IDS, "stop_ids")
        check_ascending(self.stop_ids, "stop_ids")
        for stop_id in self.stop_ids:
            check_range(stop_id, 0, MAX_ID, "stop_ids")
        check_range(len(self.stop_strings), 0, MAX_STOP_STRINGS, "stop_strings")
        check_ascending(self.stop_strings, "stop_strings")
        for stop_string in self.stop_strings:
            _check_stop_string(stop_string)
        check_amount(self.declared_value, "declared_value")
        check_range(len(self.recipients), 0, MAX_RECIPIENTS, "recipients")
        check_ascending(self.recipients, "recipients")
        for recipient in self.recipients:
            check_recipient(recipient)

    @property
    def is_sealed(self) -> bool:
        """Whether the request blob is encrypted to the recipients."""
        return bool(self.recipients)

    def prompt_root(self, salt: bytes) -> bytes:
        """The root of the salted tree over the prompt ids."""
        return id_root(sub_salt(salt, "input"), PROMPT_TAG, self.prompt_ids)


def generation_input(
    prompt_ids: Iterable[int],
    *,
    max_tokens: int,
    sampling: Sampling = GREEDY,
    seed: bytes = NO_SEED,
    stop_ids: Iterable[int] = (),
    stop_strings: Iterable[str] = (),
    declared_value: int = 0,
    recipients: Iterable[bytes] = (),
) -> GenerationInput:
    """Build the canonical input: sets are sorted, duplicates dropped, stop strings encoded.

    Raises FieldError naming the field that no request may have.
    """
    return GenerationInput(
        prompt_ids=tuple(prompt_ids),
        sampling=sampling,
        seed=seed,
        max_tokens=max_tokens,
        stop_ids=tuple(sorted(set(stop_ids))),
        stop_strings=tuple(sorted({_encode_stop(text) for text in stop_strings})),
        declared_value=declared_value,
        recipients=tuple(sorted(set(recipients))),
    )


def input_digest(request: GenerationInput, salt: bytes) -> bytes:
    """The 32-byte digest by which a statement names its request."""
    sub = sub_salt(salt, "input")
    return hash_record(
        INPUT_DOMAIN,
        sub,
        id_root(sub, PROMPT_TAG, request.prompt_ids),
        request.sampling.record(),
        request.seed,
        request.max_tokens,
        request.stop_ids,
        request.stop_strings,
        request.declared_value,
        request.recipients,
    )


def _encode_stop(text: str) -> bytes:
    try:
        return text.encode()
    except UnicodeEncodeError:
        raise FieldError("a stop string is not Unicode text", field="stop_strings") from None


def _check_stop_string(stop_string: bytes) -> None:
    check_range(len(stop_string), 1, MAX_STOP_STRING_BYTES, "stop_strings")
    try:
        stop_string.decode()
    except UnicodeDecodeError:
        raise FieldError("a stop string is not UTF-8", field="stop_strings") from None
