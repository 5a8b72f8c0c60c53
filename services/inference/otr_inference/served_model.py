"""The one model this process serves, and what a request may ask of it."""

from __future__ import annotations

from collections.abc import Callable

from otr_inference import wire
from otr_inference.settings import Limits
from otr_inference.wire import Asked, Bounds, ModelUnknownError, RequestInvalidError
from otr_numerics.chat import Message
from otr_numerics.engine import Engine, Slot
from otr_numerics.generation import Generation
from otr_numerics.model_file import LoadedModel
from otr_protocol.request import GenerationInput, generation_input


class ServedModel:
    """A loaded model under its served name."""

    def __init__(
        self,
        loaded: LoadedModel,
        name: str,
        model_record: bytes,
        max_positions: int,
        limits: Limits,
    ) -> None:
        self.loaded = loaded
        self.name = name
        self.model_record = model_record
        self.context = min(max_positions, loaded.manifest.shape.context_length)
        self._limits = limits
        prompt_tokens = min(limits.max_prompt_tokens, self.context - 1)
        longest = max(map(len, loaded.tokenizer.token_bytes.table))
        self.bounds = Bounds(prompt_tokens, prompt_tokens * longest, limits.max_declared_value)

    @property
    def model_id(self) -> bytes:
        """The digest of the manifest: 32 bytes."""
        return self.loaded.model_id

    @property
    def max_tokens_limit(self) -> int:
        """The most output tokens one request may ask for."""
        return min(self._limits.max_output_tokens, self.context - 1)

    def require_named(self, model: str) -> None:
        """Raise ModelUnknownError unless `model` is our name or our id in hex (empty: default)."""
        if model not in ("", self.name, self.model_id.hex()):
            raise ModelUnknownError(
                f"{model[:80]!r} is not served here; {self.name!r} is", field="model"
            )

    def request(self, asked: Asked) -> GenerationInput:
        """Tokenize and bound a request.

        Raises RequestInvalidError and what the tokenizer raises.
        """
        manifest = self.loaded.manifest
        prompt_ids, field = self._prompt(asked)
        vocab = manifest.shape.vocab
        if max(prompt_ids) >= vocab:
            raise RequestInvalidError(
                f"{max(prompt_ids)} is not below the vocabulary's {vocab}", field=field
            )
        if len(prompt_ids) > self.bounds.prompt_tokens:
            raise RequestInvalidError(
                f"the prompt has {len(prompt_ids)} tokens,"
                f" at most {self.bounds.prompt_tokens} are served",
                field=field,
            )
        if asked.max_tokens > self.max_tokens_limit:
            raise RequestInvalidError(
                f"at most {self.max_tokens_limit} output tokens", field="max_tokens"
            )
        return generation_input(
            prompt_ids,
            max_tokens=asked.max_tokens,
            sampling=asked.sampling,
            seed=asked.seed,
            stop_ids=wire.stop_ids(asked, manifest.eos_ids, vocab),
            stop_strings=asked.stop_strings,
            declared_value=asked.declared_value,
            recipients=asked.recipients,
        )

    def capacity(self, request: GenerationInput) -> int:
        """Positions that the request can reach in the cache."""
        return min(self.context, len(request.prompt_ids) + request.max_tokens)

    def generation(
        self, request: GenerationInput, salt: bytes
    ) -> Callable[[Engine, Slot], Generation]:
        """What the engine's thread calls to begin this request."""
        return lambda engine, slot: Generation(self.loaded, request, salt, slot)

    def _prompt(self, asked: Asked) -> tuple[list[int], str]:
        tokenizer = self.loaded.tokenizer
        if asked.prompt_ids is not None:
            return list(asked.prompt_ids), "tokenized.input_token_ids"
        if asked.text is not None:
            return tokenizer.encode_prompt(asked.text), "text"
        messages = [Message(role, content) for role, content in asked.chat or ()]
        return tokenizer.encode_chat(messages), "chat.messages"
