"""A generation: why it ends, and that neither its company nor its chunks change it."""

from __future__ import annotations

import os
from collections.abc import Sequence

import numpy as np
import pytest

from otr_numerics.engine import Engine
from otr_numerics.generation import PROMPT_CHUNK, Generation, GenerationResult, generate
from otr_numerics.known_models import MODEL_IDS, OTR_TINY, models_directory
from otr_numerics.kv_cache import Slot
from otr_numerics.model_file import LoadedModel, load_model
from otr_numerics.token_bytes import TokenBytes
from otr_protocol.output import Finish
from otr_protocol.request import GenerationInput, generation_input, seeded

SALT = bytes(range(32))
SAMPLING = seeded(94_548, top_k=200, p16=62_000)


@pytest.fixture(scope="module")
def model() -> LoadedModel:
    return load_model(models_directory(os.environ) / OTR_TINY, MODEL_IDS[OTR_TINY])


@pytest.fixture(scope="module")
def engine(model: LoadedModel) -> Engine:
    return Engine(model, slots=4, max_positions=model.manifest.shape.context_length)


@pytest.fixture(scope="module")
def table(model: LoadedModel) -> TokenBytes:
    return model.tokenizer.token_bytes


def prompt(seed: int, count: int) -> list[int]:
    return np.random.default_rng(seed).integers(3, 2_000, count).tolist()


def drive(engine: Engine, generations: Sequence[Generation], slots: Sequence[Slot]) -> None:
    """One pass for every generation that goes on."""
    live = [(g, s) for g, s in zip(generations, slots, strict=True) if g.finish is None]
    rows = engine.forward([(slot, generation.feed()) for generation, slot in live])
    for (generation, _), row in zip(live, rows, strict=True):
        generation.accept(row)


def plain(engine: Engine, model: LoadedModel, ids: list[int], count: int) -> tuple[int, ...]:
    return generate(engine, model, generation_input(ids, max_tokens=count), SALT).output_ids


def test_max_tokens_ends_it(engine: Engine, model: LoadedModel) -> None:
    result = generate(engine, model, generation_input(prompt(1, 5), max_tokens=7), SALT)
    assert (len(result.output_ids), result.finish) == (7, Finish.LENGTH)
    assert result.prompt_count == 5
    assert result.trace.positions == 5 + 7 - 1
    assert engine.free_slots == 4


def test_a_stop_id_is_the_last_id(engine: Engine, model: LoadedModel) -> None:
    ids = plain(engine, model, prompt(1, 5), 12)
    stop = ids[3]
    request = generation_input(prompt(1, 5), max_tokens=12, stop_ids=[stop])
    result = generate(engine, model, request, SALT)
    assert result.finish is Finish.STOP_ID
    assert result.output_ids == ids[: ids.index(stop) + 1]


def test_a_stop_string_across_ids_is_streamed_whole(
    engine: Engine, model: LoadedModel, table: TokenBytes
) -> None:
    ids = plain(engine, model, prompt(1, 5), 12)
    text = (table.of(ids[3])[-1:] + table.of(ids[4])[:1]).decode()
    request = generation_input(prompt(1, 5), max_tokens=12, stop_strings=[text])
    result = generate(engine, model, request, SALT)
    ends = [n for n in range(1, 13) if text.encode() in table.join(ids[:n])]
    assert result.finish is Finish.STOP_STRING
    assert result.output_ids == ids[: ends[0]]
    assert text in result.text


def test_the_prompt_cannot_match_a_stop_string(
    engine: Engine, model: LoadedModel, table: TokenBytes
) -> None:
    ids = plain(engine, model, prompt(1, 5), 4)
    text = table.join([prompt(1, 5)[-1]]) + table.of(ids[0])
    if text in table.join(ids):
        pytest.fail("choose another prompt: the output alone matches")
    request = generation_input(prompt(1, 5), max_tokens=4, stop_strings=[text.decode()])
    assert generate(engine, model, request, SALT).finish is Finish.LENGTH


@pytest.mark.parametrize(
    ("with_id", "with_string", "finish"),
    [
        (True, True, Finish.STOP_ID),
        (True, False, Finish.STOP_ID),
        (False, True, Finish.STOP_STRING),
        (False, False, Finish.LENGTH),
    ],
)
def test_where_several_ends_apply_the_lowest_wins(
    engine: Engine,
    model: LoadedModel,
    table: TokenBytes,
    with_id: bool,
    with_string: bool,
    finish: Finish,
) -> None:
    (first,) = plain(engine, model, prompt(1, 5), 1)
    request = generation_input(
        prompt(1, 5),
        max_tokens=1,
        stop_ids=[first] if with_id else [],
        stop_strings=[table.of(first).decode()] if with_string else [],
    )
    result = generate(engine, model, request, SALT)
    assert (result.output_ids, result.finish) == ((first,), finish)


def test_the_end_of_the_context_is_a_length(engine: Engine, model: LoadedModel) -> None:
    """The last id is produced and never fed: one more id than there are positions."""
    context = model.manifest.shape.context_length
    request = generation_input(prompt(2, context - 3), max_tokens=100)
    result = generate(engine, model, request, SALT)
    assert (len(result.output_ids), result.finish) == (4, Finish.LENGTH)
    assert result.trace.positions == context


def test_a_prompt_of_the_whole_context_gives_one_id(engine: Engine, model: LoadedModel) -> None:
    context = model.manifest.shape.context_length
    result = generate(engine, model, generation_input(prompt(2, context), max_tokens=9), SALT)
    assert (len(result.output_ids), result.finish) == (1, Finish.LENGTH)


@pytest.mark.parametrize("finish", [Finish.CANCELLED, Finish.ABORTED])
def test_stopped_after_some_ids_it_keeps_them(
    engine: Engine, model: LoadedModel, finish: Finish
) -> None:
    ids = plain(engine, model, prompt(1, 5), 6)
    slot = engine.open(32)
    generation = Generation(model, generation_input(prompt(1, 5), max_tokens=20), SALT, slot)
    for _ in range(6):
        drive(engine, [generation], [slot])
    generation.stop(finish)
    generation.stop(Finish.ABORTED)
    result = generation.result()
    engine.close(slot)
    assert (result.output_ids, result.finish) == (ids, finish)
    whole = generate(engine, model, generation_input(prompt(1, 5), max_tokens=6), SALT)
    assert result.trace == whole.trace
    assert result.text == whole.text


def test_stopped_inside_the_prompt_it_commits_to_nothing(
    engine: Engine, model: LoadedModel
) -> None:
    slot = engine.open(200)
    request = generation_input(prompt(3, 2 * PROMPT_CHUNK), max_tokens=2)
    generation = Generation(model, request, SALT, slot)
    (row,) = engine.forward([(slot, generation.feed())])
    assert generation.accept(row) is None
    with pytest.raises(RuntimeError):
        generation.result()
    generation.stop(Finish.CANCELLED)
    with pytest.raises(RuntimeError):
        generation.feed()
    result = generation.result()
    engine.close(slot)
    assert (result.output_ids, result.text, result.trace.positions) == ((), "", 0)


def requests() -> list[GenerationInput]:
    """Prompts of under one, exactly one, and several chunks."""
    counts = (3, PROMPT_CHUNK, PROMPT_CHUNK + 1, 150)
    return [
        generation_input(prompt(n, n), max_tokens=18, sampling=SAMPLING, seed=bytes([n]) * 32)
        for n in counts
    ]


@pytest.fixture(scope="module")
def alone(engine: Engine, model: LoadedModel) -> list[GenerationResult]:
    return [generate(engine, model, request, SALT) for request in requests()]


@pytest.mark.parametrize("stagger", [0, 1, 4])
def test_company_changes_nothing(
    engine: Engine, model: LoadedModel, alone: list[GenerationResult], stagger: int
) -> None:
    slots = [engine.open(200) for _ in requests()]
    generations = [
        Generation(model, request, SALT, slot)
        for request, slot in zip(requests(), slots, strict=True)
    ]
    step = 0
    while any(generation.finish is None for generation in generations):
        joined = len(slots) if not stagger else min(len(slots), 1 + step // stagger)
        if any(generation.finish is None for generation in generations[:joined]):
            drive(engine, generations[:joined], slots[:joined])
        step += 1
    assert [generation.result() for generation in generations] == alone
    for slot in slots:
        engine.close(slot)


@pytest.mark.parametrize("chunk", [1, 7, 64, 150])
def test_the_chunks_of_a_prompt_change_nothing(
    engine: Engine, model: LoadedModel, alone: list[GenerationResult], chunk: int
) -> None:
    request = requests()[-1]
    slot = engine.open(200)
    generation = Generation(model, request, SALT, slot)
    ids = list(request.prompt_ids)
    for start in range(0, len(ids), chunk):
        (row,) = engine.forward([(slot, ids[start : start + chunk])])
        generation.accept(row)
    while generation.finish is None:
        drive(engine, [generation], [slot])
    assert generation.result() == alone[-1]
    engine.close(slot)


def test_the_pieces_join_to_the_text(engine: Engine, model: LoadedModel, table: TokenBytes) -> None:
    request = requests()[0]
    slot = engine.open(32)
    generation = Generation(model, request, SALT, slot)
    pieces = []
    while generation.finish is None:
        (row,) = engine.forward([(slot, generation.feed())])
        outcome = generation.accept(row)
        if outcome is not None:
            pieces.append(outcome.text)
    result = generation.result()
    engine.close(slot)
    assert "".join(pieces) == result.text == table.text(result.output_ids)
