"""One answer as a state machine, from the prompt's first chunk to its trace.

A scheduler asks `feed` what to run next, runs it with other generations in one engine pass, and
hands the logits to `accept`. Nothing here depends on who else is in the batch or on how the prompt
is cut into chunks, so a watcher that drives one generation alone gets the same ids and the same
trace root.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final, Protocol

import numpy as np
import numpy.typing as npt

from otr_numerics.engine import Engine
from otr_numerics.kv_cache import Slot
from otr_numerics.sampling import sample
from otr_numerics.stops import StopStrings
from otr_numerics.tokenizer import ModelTokenizer
from otr_numerics.trace_recorder import TraceRecorder
from otr_numerics.weights import Weights
from otr_protocol.manifest import ModelManifest
from otr_protocol.output import Finish
from otr_protocol.request import GenerationInput, sub_salt
from otr_protocol.trace import TracePreimage, sampler_position

# Rows of a prompt per pass, so that a long prompt does not hold up those who are decoding.
PROMPT_CHUNK: Final = 64


class GenerationModel(Protocol):
    """What a generation needs of a `LoadedModel`."""

    @property
    def manifest(self) -> ModelManifest:
        """What the model commits to."""
        ...

    @property
    def weights(self) -> Weights:
        """Its weights, checked."""
        ...

    @property
    def tokenizer(self) -> ModelTokenizer:
        """Its tokenizer, for the bytes of ids."""
        ...


@dataclass(frozen=True, slots=True)
class StepOutcome:
    """One produced id, the text it completes (possibly none), and the end if this is it."""

    token_id: int
    text: str
    finish: Finish | None


@dataclass(frozen=True, slots=True)
class GenerationResult:
    """A finished generation: streamed ids, their text, why it ended, and its trace."""

    prompt_count: int
    output_ids: tuple[int, ...]
    text: str
    finish: Finish
    trace: TracePreimage


class Generation:
    """Drives one request on one slot; see the module's docstring for the protocol of calls."""

    def __init__(
        self, model: GenerationModel, request: GenerationInput, salt: bytes, slot: Slot
    ) -> None:
        """`slot` is fresh and holds prompt and output, or as much as the context allows."""
        self._model = model
        self._request = request
        self._slot = slot
        self._stop_ids = frozenset(request.stop_ids)
        self._stops = StopStrings(request.stop_strings, model.tokenizer.token_bytes)
        self._text = model.tokenizer.detokeniser()
        self._recorder = TraceRecorder(
            sub_salt(salt, "trace"), sub_salt(salt, "output"), model.manifest, slot
        )
        self._output: list[int] = []
        self._pieces: list[str] = []
        self._finish: Finish | None = None

    @property
    def finish(self) -> Finish | None:
        """Why the generation ended; None while it goes on."""
        return self._finish

    def feed(self) -> npt.NDArray[np.int64]:
        """The ids of the next pass: a chunk of the prompt, or the last id produced."""
        if self._finish is not None:
            raise RuntimeError("a finished generation is not fed")
        if self._output:
            return np.array(self._output[-1:], np.int64)
        done = self._slot.length
        return np.array(self._request.prompt_ids[done : done + PROMPT_CHUNK], np.int64)

    def accept(self, logits: npt.NDArray[np.int32]) -> StepOutcome | None:
        """Take the logits int32 [V] of the last row fed; None inside the prompt."""
        self._recorder.advance()
        prompt_count = len(self._request.prompt_ids)
        if self._slot.length < prompt_count:
            return None
        request, weights = self._request, self._model.weights
        token_id = sample(
            logits,
            request.sampling,
            request.seed,
            sampler_position(prompt_count, len(self._output)),
            weights.exp2,
            weights.formats,
        )
        self._output.append(token_id)
        piece = self._text.push(token_id)
        self._finish = self._why_ended(token_id)
        if self._finish is not None:
            piece += self._text.flush()
        self._pieces.append(piece)
        return StepOutcome(token_id, piece, self._finish)

    def stop(self, finish: Finish) -> None:
        """End early, as ABORTED or CANCELLED; without effect on a generation that has ended."""
        if self._finish is None:
            self._finish = finish
            self._pieces.append(self._text.flush())

    def result(self) -> GenerationResult:
        """The result of an ended generation; hashes the K/V pages."""
        if self._finish is None:
            raise RuntimeError("the generation goes on")
        prompt_count = len(self._request.prompt_ids)
        return GenerationResult(
            prompt_count=prompt_count,
            output_ids=tuple(self._output),
            text="".join(self._pieces),
            finish=self._finish,
            trace=self._recorder.finish(prompt_count, self._output),
        )

    def _why_ended(self, token_id: int) -> Finish | None:
        """The lowest finish that applies after `token_id`, or None."""
        matched = self._stops.push(token_id)
        if token_id in self._stop_ids:
            return Finish.STOP_ID
        if matched:
            return Finish.STOP_STRING
        # The last id produced is not fed, so one more id than positions fits.
        context = self._model.manifest.shape.context_length
        ended = len(self._output) >= self._request.max_tokens
        if ended or len(self._request.prompt_ids) + len(self._output) > context:
            return Finish.LENGTH
        return None


def generate(
    engine: Engine, model: GenerationModel, request: GenerationInput, salt: bytes
) -> GenerationResult:
    """Run one request alone to its end: what a replay or an audit does.

    Raises the engine's refusals for a request that does not fit it.
    """
    capacity = min(
        len(request.prompt_ids) + request.max_tokens, model.manifest.shape.context_length
    )
    slot = engine.open(capacity)
    try:
        generation = Generation(model, request, salt, slot)
        while generation.finish is None:
            (logits,) = engine.forward([(slot, generation.feed())])
            generation.accept(logits)
        return generation.result()
    finally:
        engine.close(slot)
