"""From the contract's messages to the protocol's values and back.

Everything a stranger can get wrong in `GenerateRequest` is refused here with the field's name,
before a token is looked up or a byte is stored, and lengths and counts before anything is copied.
Real-valued sampling parameters become the
integers that are signed (spec/numerics.md section 5), by the rule the contract states.
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Sequence
from dataclasses import dataclass

from otr.inference.v1 import inference_pb2 as pb
from otr_protocol.errors import MalformedError, RejectedError, UnknownError
from otr_protocol.output import Finish
from otr_protocol.request import (
    GREEDY,
    MAX_RECIPIENTS,
    MAX_STOP_IDS,
    MAX_STOP_STRINGS,
    NO_SEED,
    P16_ONE,
    SEED_BYTES,
    TQ_LIMIT,
    Sampling,
    seeded,
)

MAX_MESSAGES = 256
MAX_STOP_TOKEN_IDS = 64
MAX_VOUCHER_BYTES = 4096
DEFAULT_RECEIPT_MS = 10_000
MAX_RECEIPT_MS = 60_000
ROLES = frozenset({"system", "user", "assistant"})


class RequestInvalidError(MalformedError):
    """A field of the request has a value that no request may have."""

    reason = "REQUEST_INVALID"


class ModelUnknownError(MalformedError):
    """The request names a model that is not served here."""

    reason = "MODEL_UNKNOWN"


class ProfileNotServedError(RejectedError):
    """The request asks for another numerics profile than the one served here."""

    reason = "PROFILE_NOT_SERVED"


class AnswerUnknownError(UnknownError):
    """No answer was given to this client under this request id."""

    reason = "ANSWER_UNKNOWN"


@dataclass(frozen=True, slots=True)
class Bounds:
    """What the model and the operator bound in a request.

    `prompt_bytes` is more than any prompt of `prompt_tokens` ids has: longer text is refused
    without being tokenized.
    """

    prompt_tokens: int
    prompt_bytes: int
    declared_value: int


@dataclass(frozen=True, slots=True)
class Asked:
    """A request that is well formed; its prompt is not tokenized yet.

    Exactly one of `prompt_ids`, `text` and `chat` is given. `fingerprint` is 32 bytes over
    everything that the answer depends on.
    """

    request_id: bytes
    client_nonce: bytes
    salt: bytes
    prompt_ids: tuple[int, ...] | None
    text: str | None
    chat: tuple[tuple[str, str], ...] | None
    sampling: Sampling
    seed: bytes
    max_tokens: int
    stop_strings: tuple[str, ...]
    stop_ids: tuple[int, ...]
    ignore_eos: bool
    declared_value: int
    recipients: tuple[bytes, ...]
    voucher: bytes
    receipt_ms: int
    fingerprint: bytes


def request_id(value: bytes) -> bytes:
    """A request id's 16 to 64 bytes. Raises RequestInvalidError."""
    _length(value, 16, 64, "request_id")
    return value


def asked(request: pb.GenerateRequest, bounds: Bounds) -> Asked:
    """Check a request's form. Raises RequestInvalidError naming the field."""
    request_id(request.request_id)
    _length(request.client_nonce, 16, 64, "client_nonce")
    _length(request.salt, 32, 32, "salt")
    if request.profile == pb.NUMERICS_PROFILE_FLOAT:
        raise ProfileNotServedError("this server serves profile exact-int8", field="profile")
    if request.profile not in (
        pb.NUMERICS_PROFILE_UNSPECIFIED,
        pb.NUMERICS_PROFILE_EXACT_INT8,
    ):
        raise RequestInvalidError(f"{request.profile} is no profile", field="profile")
    if not request.max_tokens:
        raise RequestInvalidError("max_tokens is at least 1", field="max_tokens")
    _count(len(request.stop_token_ids), MAX_STOP_TOKEN_IDS, "stop_token_ids")
    _count(len(request.stop), MAX_STOP_STRINGS, "stop_strings")
    _count(len(request.recipients), MAX_RECIPIENTS, "recipients")
    if not 0 <= request.declared_value <= bounds.declared_value:
        raise RequestInvalidError(f"0 to {bounds.declared_value}", field="declared_value")
    for recipient in request.recipients:
        _length(recipient, 32, 32, "recipients")
    _length(request.voucher, 0, MAX_VOUCHER_BYTES, "voucher")
    if not 0 <= request.receipt_timeout_ms <= MAX_RECEIPT_MS:
        raise RequestInvalidError(f"0 to {MAX_RECEIPT_MS} milliseconds", field="receipt_timeout_ms")
    prompt_ids, text, chat = _input(request, bounds)
    sampling, seed = _sampling(request)
    return Asked(
        request_id=request.request_id,
        client_nonce=request.client_nonce,
        salt=request.salt,
        prompt_ids=prompt_ids,
        text=text,
        chat=chat,
        sampling=sampling,
        seed=seed,
        max_tokens=request.max_tokens,
        stop_strings=tuple(request.stop),
        stop_ids=tuple(request.stop_token_ids),
        ignore_eos=request.ignore_eos,
        declared_value=request.declared_value,
        recipients=tuple(request.recipients),
        voucher=request.voucher,
        receipt_ms=(request.receipt_timeout_ms or DEFAULT_RECEIPT_MS)
        if request.wait_receipt
        else 0,
        fingerprint=_fingerprint(request),
    )


def stop_ids(asked: Asked, eos_ids: Sequence[int], vocab: int) -> tuple[int, ...]:
    """The stop ids in force: the client's, and the model's own unless it ignores them."""
    for stop_id in asked.stop_ids:
        if stop_id >= vocab:
            raise RequestInvalidError(
                f"{stop_id} is not below the vocabulary's {vocab}", field="stop_token_ids"
            )
    ids = {*asked.stop_ids, *(() if asked.ignore_eos else eos_ids)}
    if len(ids) > MAX_STOP_IDS:
        raise RequestInvalidError(f"at most {MAX_STOP_IDS} stop ids", field="stop_token_ids")
    return tuple(sorted(ids))


def finish_reason(finish: Finish) -> pb.FinishReason.ValueType:
    """The contract's name of a finish code."""
    return pb.FinishReason.ValueType(int(finish) + 1)


def _input(
    request: pb.GenerateRequest, bounds: Bounds
) -> tuple[tuple[int, ...] | None, str | None, tuple[tuple[str, str], ...] | None]:
    which = request.WhichOneof("input")
    if which == "tokenized":
        ids = request.tokenized.input_token_ids
        if not ids:
            raise RequestInvalidError("the prompt is empty", field="tokenized.input_token_ids")
        _count(len(ids), bounds.prompt_tokens, "tokenized.input_token_ids")
        return tuple(ids), None, None
    if which == "text":
        if not request.text:
            raise RequestInvalidError("the prompt is empty", field="text")
        _prompt_bytes([request.text], bounds, "text")
        return None, request.text, None
    if which == "chat":
        messages = request.chat.messages
        if not 1 <= len(messages) <= MAX_MESSAGES:
            raise RequestInvalidError(f"1 to {MAX_MESSAGES} messages", field="chat.messages")
        for message in messages:
            if message.role not in ROLES:
                raise RequestInvalidError(
                    f"{message.role!r} is none of {', '.join(sorted(ROLES))}",
                    field="chat.messages.role",
                )
        if not any(message.content for message in messages):
            raise RequestInvalidError("the prompt is empty", field="chat.messages.content")
        _prompt_bytes([each.content for each in messages], bounds, "chat.messages.content")
        return None, None, tuple((message.role, message.content) for message in messages)
    raise RequestInvalidError("one of tokenized, text and chat is required", field="input")


def _sampling(request: pb.GenerateRequest) -> tuple[Sampling, bytes]:
    config = request.sampling_config
    tq = _temperature_q16(config)
    p16 = _top_p_q16(config)
    if config.top_k > 2**31:
        raise RequestInvalidError(
            "top_k is far above any vocabulary", field="sampling_config.top_k"
        )
    if tq is None:
        if config.seed:
            _length(config.seed, SEED_BYTES, SEED_BYTES, "sampling_config.seed")
        return GREEDY, config.seed or NO_SEED
    _length(config.seed, SEED_BYTES, SEED_BYTES, "sampling_config.seed")
    return seeded(tq, top_k=config.top_k, p16=p16), config.seed


def _temperature_q16(config: pb.SamplingConfig) -> int | None:
    """`tq`, or None for greedy decoding."""
    if config.HasField("temperature_q16"):
        field = "sampling_config.temperature_q16"
        if config.HasField("temperature"):
            raise RequestInvalidError("give temperature or temperature_q16, not both", field=field)
        tq = config.temperature_q16
    elif config.HasField("temperature"):
        field = "sampling_config.temperature"
        temperature = config.temperature
        if not math.isfinite(temperature) or temperature < 0:
            raise RequestInvalidError(f"{temperature} is no temperature", field=field)
        if temperature == 0:
            return None
        exact = 65536 * math.log2(math.e) / temperature
        tq = round(exact) if math.isfinite(exact) else TQ_LIMIT
    else:
        return None
    if not 1 <= tq < TQ_LIMIT:
        raise RequestInvalidError(
            f"the temperature is out of range: {tq} is not 1 to {TQ_LIMIT - 1}", field=field
        )
    return tq


def _top_p_q16(config: pb.SamplingConfig) -> int:
    if config.HasField("top_p_q16"):
        field = "sampling_config.top_p_q16"
        if config.HasField("top_p"):
            raise RequestInvalidError("give top_p or top_p_q16, not both", field=field)
        p16 = config.top_p_q16
    elif config.HasField("top_p"):
        field = "sampling_config.top_p"
        if not 0 < config.top_p <= 1:
            raise RequestInvalidError(f"{config.top_p} is not in (0, 1]", field=field)
        p16 = max(1, round(P16_ONE * config.top_p))
    else:
        return P16_ONE
    if not 1 <= p16 <= P16_ONE:
        raise RequestInvalidError(f"{p16} is not 1 to {P16_ONE}", field=field)
    return p16


def _fingerprint(request: pb.GenerateRequest) -> bytes:
    """SHA-256 of what the answer depends on: how long to wait for a receipt is not part of it.

    Never leaves this process and its database; the signed digests are the protocol's own.
    """
    same = pb.GenerateRequest()
    same.CopyFrom(request)
    same.ClearField("wait_receipt")
    same.ClearField("receipt_timeout_ms")
    return hashlib.sha256(same.SerializeToString(deterministic=True)).digest()


def _prompt_bytes(texts: Sequence[str], bounds: Bounds, field: str) -> None:
    """Refuse a prompt too long for the model by its size, since tokenizing costs far more."""
    size = sum(len(text.encode()) for text in texts)
    if size > bounds.prompt_bytes:
        raise RequestInvalidError(
            f"the prompt has {size} bytes, more than any of {bounds.prompt_tokens} tokens",
            field=field,
        )


def _count(count: int, high: int, field: str) -> None:
    if count > high:
        raise RequestInvalidError(f"{count} of them, at most {high} are served", field=field)


def _length(value: bytes, low: int, high: int, field: str) -> None:
    if not low <= len(value) <= high:
        expected = f"{low}" if low == high else f"{low} to {high}"
        raise RequestInvalidError(f"{len(value)} bytes, not {expected}", field=field)
