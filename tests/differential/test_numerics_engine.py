"""The engine against the reference on whole models, and against itself however it is driven."""

from __future__ import annotations

import hashlib
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest

from otr_numerics.engine import Engine
from otr_numerics.generation import generate
from otr_numerics.kernels_step import run
from otr_numerics.known_models import MODEL_IDS, OTR_TINY, models_directory
from otr_numerics.model_file import LoadedModel, load_model
from otr_numerics.reference import Operation, ReferenceRun
from otr_protocol.request import generation_input, seeded
from support.operation_bench import Bench, random_model

PROMPTS = 8
LENGTH = 64
Array = npt.NDArray[Any]


@pytest.fixture(scope="module")
def model() -> LoadedModel:
    return load_model(models_directory(os.environ) / OTR_TINY, MODEL_IDS[OTR_TINY])


@pytest.fixture(scope="module")
def sequences(model: LoadedModel) -> list[list[int]]:
    random = np.random.default_rng(8)
    return [random.integers(0, model.weights.vocab, LENGTH).tolist() for _ in range(PROMPTS)]


@pytest.fixture(scope="module")
def states(model: LoadedModel, sequences: list[list[int]]) -> list[dict[str, Array]]:
    """Logits, residuals of segments, K and V of every sequence, by the reference."""
    return [reference_state(model, ids) for ids in sequences]


def reference_state(model: LoadedModel, ids: list[int]) -> dict[str, Array]:
    run, residuals = ReferenceRun(model.weights), []
    layout = model.manifest.trace_layout()
    last = [f"{layout.segment(s)[-1]}.down_res" for s in range(layout.segment_count)]

    def record(operation: Operation) -> None:
        if operation.op_id in last:
            residuals.append(operation.output["x"])

    logits = run.forward(ids, record)
    caches = run.caches
    return {
        "logits": logits,
        "residuals": np.stack(residuals),
        "keys": np.stack([cache.keys.swapaxes(0, 1) for cache in caches]),
        "key_scales": np.stack([cache.key_scales.T for cache in caches]),
        "values": np.stack([cache.values.swapaxes(0, 1) for cache in caches]),
        "value_scales": np.stack([cache.value_scales.T for cache in caches]),
    }


def engine_states(
    model: LoadedModel, sequences: list[list[int]], *, batch: int, chunk: int, threads: int
) -> list[dict[str, Array]]:
    """The same of the engine: `batch` sequences together, `chunk` ids of each per call."""
    engine = Engine(model, slots=batch, max_positions=LENGTH + 3, threads=threads)
    found: list[dict[str, Array]] = []
    for start in range(0, len(sequences), batch):
        group = sequences[start : start + batch]
        slots = [engine.open(LENGTH) for _ in group]
        logits: list[list[Array]] = [[] for _ in group]
        for position in range(0, LENGTH, chunk):
            feeds = [
                (slot, ids[position : position + chunk])
                for slot, ids in zip(slots, group, strict=True)
            ]
            rows = engine.forward(feeds, all_logits=True)
            for parts, part in zip(logits, np.split(rows, len(group)), strict=True):
                parts.append(part)
        for slot, parts in zip(slots, logits, strict=True):
            names = ("residuals", "keys", "key_scales", "values", "value_scales")
            state = {name: getattr(slot, name)[:] for name in names}
            found.append(
                {"logits": np.concatenate(parts)} | {k: v.copy() for k, v in state.items()}
            )
            engine.close(slot)
    return found


@pytest.mark.parametrize("threads", [1, 2])
@pytest.mark.parametrize("batch", [1, 7])
@pytest.mark.parametrize("chunk", [LENGTH, 5, 1])
def test_eight_prompts_of_64_ids_however_they_are_computed(
    model: LoadedModel,
    sequences: list[list[int]],
    states: list[dict[str, Array]],
    threads: int,
    batch: int,
    chunk: int,
) -> None:
    found = engine_states(model, sequences, batch=batch, chunk=chunk, threads=threads)
    for state, expected in zip(found, states, strict=True):
        for name, tensor in expected.items():
            assert np.array_equal(state[name], tensor), name


def test_every_operation_of_a_sequence(model: LoadedModel, sequences: list[list[int]]) -> None:
    """Run by run, what each operation commits to is in the work arrays, bit for bit."""
    bench = Bench(model.weights, slots=1)
    weights, count = model.weights, LENGTH
    bench.rows([0] * count, range(count))
    bench.work.ids[:count] = sequences[0]
    seen = 0
    for operation in ReferenceRun(weights).operations(sequences[0]):
        bench.run(operation.op_id, count)
        for name, expected in operation.output.items():
            assert np.array_equal(committed(bench, operation.op_id, name, count), expected), (
                operation.op_id,
                name,
            )
        seen += 1
    assert seen == 3 + 10 * weights.shape.layers


def committed(bench: Bench, op_id: str, name: str, count: int) -> Array:
    """A committed tensor of an operation that has just run."""
    work, cache, shape = bench.work, bench.cache, bench.weights.shape
    kind = op_id.split(".")[-1]
    if kind == "rope_q":
        layer, rows, width = int(op_id.split(".")[0]), slice(0, count), shape.head_dim
        if name == "M":
            scales = [
                cache.key_scales[0, layer, :, rows].T,
                cache.value_scales[0, layer, :, rows].T,
            ]
            return np.concatenate([work.query_scales[:count], *scales], axis=1)
        kept = [part[0, layer, :, rows, :width] for part in (cache.keys, cache.values)]
        heads = [part.swapaxes(0, 1).reshape(count, -1) for part in kept]
        return np.concatenate([work.queries[:count, :, :width].reshape(count, -1), *heads], axis=1)
    queries = shape.heads * shape.head_dim
    widths = {"act": shape.ffn, "attn_q": queries}
    found: dict[str, Array] = {
        "q": work.q[:, : widths.get(kind, shape.hidden)],
        "M": work.M,
        "e": work.e,
        "x": work.x,
        "o": work.attended,
        "qkv": work.wide[:, : queries + 2 * shape.kv_heads * shape.head_dim],
        "gate_up": work.wide[:, : 2 * shape.ffn],
        "logits": bench.logits,
    }
    return found[name][:count]


def test_every_operation_of_a_model_whose_widths_are_odd() -> None:
    for seed in range(5):
        weights = random_model(seed, scalars={"0.q.S": 33, "0.k.S": 33, "0.v.S": 33})
        bench, count = Bench(weights, slots=1), 53
        bench.rows([0] * count, range(count))
        ids = np.random.default_rng(seed).permutation(count).tolist()
        bench.work.ids[:count] = ids
        for operation in ReferenceRun(weights).operations(ids):
            bench.run(operation.op_id, count)
            for name, expected in operation.output.items():
                found = committed(bench, operation.op_id, name, count)
                assert np.array_equal(found, expected), (operation.op_id, name)


def test_a_warm_engine_compiles_nothing_when_it_is_used(
    model: LoadedModel, sequences: list[list[int]]
) -> None:
    engine, cold = (Engine(model, slots=2, max_positions=64) for _ in range(2))
    engine.warm()
    assert engine.free_slots == 2
    dispatcher: Any = run
    compiled = len(dispatcher.signatures)
    feeds = [(engine.open(64), sequences[0]), (engine.open(64), sequences[1][:1])]
    logits = engine.forward(feeds)
    assert len(dispatcher.signatures) == compiled == 1
    assert (logits[0] == cold.forward([(cold.open(64), sequences[0])])[0]).all()


def digest(model: LoadedModel, sequence: list[int]) -> str:
    """Logits of a sequence and the trace root of a sampled answer."""
    engine = Engine(model, slots=1, max_positions=LENGTH, threads=1)
    slot = engine.open(LENGTH)
    logits = engine.forward([(slot, sequence)], all_logits=True)
    engine.close(slot)
    request = generation_input(sequence[:9], max_tokens=20, sampling=seeded(80_000), seed=bytes(32))
    result = generate(engine, model, request, bytes(range(32)))
    parts = logits.astype("<i4").tobytes() + result.trace.trace_root()
    return hashlib.sha256(parts + repr(result.output_ids).encode()).hexdigest()


_PROGRAM = """
import importlib.util, json, os, sys
from pathlib import Path
path, models, ids = sys.argv[1:]
spec = importlib.util.spec_from_file_location("subject", path)
subject = importlib.util.module_from_spec(spec)
spec.loader.exec_module(subject)
print(subject.digest(subject.load_model(Path(models)), json.loads(ids)))
"""


def test_a_fresh_process_computes_the_same(model: LoadedModel, sequences: list[list[int]]) -> None:
    here = Path(__file__)
    paths = [str(here.parent.parent), *(path for path in sys.path if path)]
    program = [sys.executable, "-c", _PROGRAM, str(here)]
    directory = str(models_directory(os.environ) / OTR_TINY)
    done = subprocess.run(
        [*program, directory, str(sequences[0])],
        env=os.environ | {"PYTHONPATH": os.pathsep.join(paths)},
        capture_output=True,
        text=True,
        check=True,
    )
    assert done.stdout.strip() == digest(model, sequences[0])
