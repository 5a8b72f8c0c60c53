"""What a caller asks, and the check that the answer is to exactly that.

A genuine answer to somebody else's question, or to an earlier one of ours, verifies too; `Ask`
keeps the identifiers and parameters of one request, so that `require_answered` can compare them
with what the signed statement commits to.
"""

from __future__ import annotations

import math
import secrets
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from otr.inference.v1 import inference_pb2 as pb
from otr_protocol.errors import MalformedError, RejectedError
from otr_protocol.fields import MAX_INT64
from otr_protocol.request import GREEDY, MAX_IDS, P16_ONE, SEED_BYTES, Sampling, seeded
from otr_protocol.trace.ids import MAX_ID
from otr_protocol.verify_answer import VerifiedAnswer

ID_BYTES = 32
# What the signed integer `tq` can encode (spec/numerics.md section 5), in round figures.
MIN_TEMPERATURE = 0.0001
MAX_TEMPERATURE = 100_000.0
# Said explicitly, because a chat template may otherwise put in a text of its own.
DEFAULT_SYSTEM = "You are a helpful AI assistant."


class AnotherQuestionError(RejectedError):
    """A genuine answer, but not to this request; `field` says what differs."""

    reason = "ANOTHER_QUESTION"


class AskInvalidError(MalformedError):
    """Parameters that no request may have."""

    reason = "ASK_INVALID"


@dataclass(frozen=True, slots=True)
class Ask:
    """One request. `prompt` is chat text unless `raw`; `prompt_ids`, when given, is used instead.

    `temperature` 0 is greedy, and takes neither seed nor `top_k` nor `top_p`. `seed` is 32 bytes;
    fresh randomness when sampling without one. Identifiers and salt are fresh randomness unless
    given, 32 bytes each. Raises AskInvalidError for what no request may have.
    """

    prompt: str = ""
    prompt_ids: Sequence[int] = ()
    raw: bool = False
    system: str | None = DEFAULT_SYSTEM
    model: str = ""
    max_tokens: int = 128
    temperature: float = 0.0
    top_k: int = 0
    top_p: float = 1.0
    seed: bytes = b""
    stop: Sequence[str] = ()
    stop_ids: Sequence[int] = ()
    ignore_eos: bool = False
    declared_value: int = 0
    recipients: Sequence[bytes] = ()
    request_id: bytes = field(default_factory=lambda: secrets.token_bytes(ID_BYTES))
    client_nonce: bytes = field(default_factory=lambda: secrets.token_bytes(ID_BYTES))
    salt: bytes = field(default_factory=lambda: secrets.token_bytes(ID_BYTES))

    def __post_init__(self) -> None:
        _check_texts(
            {
                "prompt": (self.prompt,),
                "system": (self.system or "",),
                "model": (self.model,),
                "stop": self.stop,
            }
        )
        for token_id in (*self.prompt_ids, *self.stop_ids):
            _check_range(token_id, 0, MAX_ID, "token id")
        _check_range(self.max_tokens, 1, MAX_IDS, "max_tokens")
        _check_range(self.declared_value, 0, MAX_INT64, "declared_value")
        if self.temperature == 0:
            self._check_greedy()
            return
        if not MIN_TEMPERATURE <= self.temperature <= MAX_TEMPERATURE:
            raise AskInvalidError(
                f"the temperature is 0 or {MIN_TEMPERATURE} to {MAX_TEMPERATURE}",
                field="temperature",
            )
        _check_range(self.top_k, 0, MAX_ID, "top_k")
        if not 0 < self.top_p <= 1:
            raise AskInvalidError("top_p is above 0 and at most 1", field="top_p")
        if not self.seed:
            object.__setattr__(self, "seed", secrets.token_bytes(SEED_BYTES))
        elif len(self.seed) != SEED_BYTES:
            raise AskInvalidError(f"the seed has {SEED_BYTES} bytes", field="seed")

    def _check_greedy(self) -> None:
        """Greedy decoding would ignore these, and the answer would differ from what was meant."""
        given = {"seed": bool(self.seed), "top_k": self.top_k != 0, "top_p": self.top_p != 1}
        for name, is_given in given.items():
            if is_given:
                raise AskInvalidError(f"{name} needs a temperature above 0", field=name)

    @property
    def sampling(self) -> Sampling:
        """The integer parameters that are signed (spec/numerics.md section 5)."""
        if not self.temperature:
            return GREEDY
        tq = round(65536 * math.log2(math.e) / self.temperature)
        return seeded(tq, top_k=self.top_k, p16=max(1, round(P16_ONE * self.top_p)))

    def message(self, *, wait_receipt: bool = False) -> pb.GenerateRequest:
        """The request of the contract."""
        request = pb.GenerateRequest(
            request_id=self.request_id,
            client_nonce=self.client_nonce,
            salt=self.salt,
            model=self.model,
            max_tokens=self.max_tokens,
            stop=self.stop,
            stop_token_ids=self.stop_ids,
            ignore_eos=self.ignore_eos,
            declared_value=self.declared_value,
            recipients=self.recipients,
            wait_receipt=wait_receipt,
        )
        if self.prompt_ids:
            request.tokenized.input_token_ids.extend(self.prompt_ids)
        elif self.raw:
            request.text = self.prompt
        else:
            if self.system is not None:
                request.chat.messages.add(role="system", content=self.system)
            request.chat.messages.add(role="user", content=self.prompt)
        if self.temperature:
            sampling = self.sampling
            request.sampling_config.temperature_q16 = sampling.tq
            request.sampling_config.top_k = sampling.top_k
            request.sampling_config.top_p_q16 = sampling.p16
            request.sampling_config.seed = self.seed
        return request

    def require_answered(self, verified: VerifiedAnswer, *, cancelled: bool = False) -> None:
        """Raise AnotherQuestionError unless `verified` answers this request.

        Compares everything the client knows: identifiers, salt, the model where one was named,
        sampling, limits, stops, value and recipients, and the prompt's ids when the client
        tokenized; with text, which ids the server made of it can be read in the blob (and `otr
        inspect` shows their text). An answer that says it was cancelled is refused
        (AnotherRequestError) unless the caller `cancelled` it.
        """
        statement, blob = verified.statement, verified.blob
        answered = blob.request
        comparisons: tuple[tuple[str, object, object], ...] = (
            ("request_id", statement.request_id, self.request_id),
            ("client_nonce", statement.client_nonce, self.client_nonce),
            ("salt", blob.salt, self.salt),
            ("sampling", answered.sampling, self.sampling),
            ("seed", answered.seed if self.temperature else b"", self.seed),
            ("max_tokens", answered.max_tokens, self.max_tokens),
            ("stop", set(answered.stop_strings), {text.encode() for text in self.stop}),
            ("declared_value", answered.declared_value, self.declared_value),
            ("recipients", set(answered.recipients), set(self.recipients)),
        )
        for name, theirs, ours in comparisons:
            if theirs != ours:
                raise AnotherQuestionError(f"the answer has another {name}", field=name)
        if not set(self.stop_ids) <= set(answered.stop_ids):
            raise AnotherQuestionError("the answer leaves out a stop id", field="stop_ids")
        if self.prompt_ids and answered.prompt_ids != tuple(self.prompt_ids):
            raise AnotherQuestionError("the answer has another prompt", field="prompt_ids")
        if self.model not in ("", statement.model_id.hex(), verified.model_name):
            raise AnotherQuestionError("the answer is by another model", field="model")
        verified.require_not_cancelled(cancelled=cancelled)


def _check_texts(texts: Mapping[str, Sequence[str]]) -> None:
    for name, each in texts.items():
        try:
            "".join(each).encode()
        except UnicodeEncodeError:
            raise AskInvalidError(f"the {name} is not valid UTF-8", field=name) from None


def _check_range(value: int, least: int, most: int, name: str) -> None:
    if not least <= value <= most:
        raise AskInvalidError(f"{name} is {least} to {most}", field=name)
