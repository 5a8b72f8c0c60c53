"""The recorder against spec/trace.md, computed from the reference with plain hashing."""

from __future__ import annotations

import os
from hashlib import sha256
from typing import Any

import cbor2
import numpy as np
import pytest

from otr_numerics.engine import Engine
from otr_numerics.known_models import MODEL_IDS, OTR_TINY, models_directory
from otr_numerics.model_file import LoadedModel, load_model
from otr_numerics.reference import Operation, ReferenceRun
from otr_numerics.trace_recorder import TraceRecorder
from support.rfc9162 import mth

SUB_TRACE, SUB_OUTPUT = b"\x11" * 32, b"\x22" * 32
EMPTY = sha256(b"").digest()


@pytest.fixture(scope="module")
def model() -> LoadedModel:
    return load_model(models_directory(os.environ) / OTR_TINY, MODEL_IDS[OTR_TINY])


@pytest.fixture(scope="module")
def engine(model: LoadedModel) -> Engine:
    return Engine(model, slots=1, max_positions=256)


def record(*values: Any) -> bytes:
    return sha256(cbor2.dumps(list(values))).digest()


def tree(sub: bytes, tag: str, leaves: list[bytes]) -> bytes:
    prefixed = [record("otr-leaf-v1", sub, tag, i) + leaf for i, leaf in enumerate(leaves)]
    return mth([sha256(b"\x00" + data).digest() for data in prefixed])


def plain_root(model: LoadedModel, fed: list[int], output: list[int]) -> bytes:
    """The trace root by TR-1 to TR-9, from the reference's own tensors."""
    shape, s = model.manifest.shape, model.manifest.trace_segment_layers
    operations: dict[str, Operation] = {}
    run = ReferenceRun(model.weights)
    run.forward(fed, lambda done: operations.update({done.op_id: done}))
    positions, segments = len(fed), []
    for first in range(0, shape.layers, s):
        layers = range(first, min(shape.layers, first + s))
        x = operations[f"{layers[-1]}.down_res"].output["x"]
        residuals = [row.astype("<i4").tobytes() for row in x]
        pages = []
        for layer in layers:
            cache = run.caches[layer]
            kinds = ((cache.keys, cache.key_scales), (cache.values, cache.value_scales))
            for head in range(shape.kv_heads):
                for rows, scales in kinds:
                    for start in range(0, positions, 64):
                        part = slice(start, min(positions, start + 64))
                        page = rows[part, head].astype("i1").tobytes()
                        pages.append(page + scales[part, head].astype("<u4").tobytes())
        number = first // s
        res = tree(SUB_TRACE, f"res/{number}", residuals)
        segments.append([res, tree(SUB_TRACE, f"kv/{number}", pages)])
    out = tree(SUB_OUTPUT, "out", [token.to_bytes(4, "big") for token in output])
    return record("otr-trace-v1", SUB_TRACE, positions, segments, out)


def ids_of(count: int) -> list[int]:
    return np.random.default_rng(count).integers(0, 2_048, count).tolist()


@pytest.mark.parametrize(
    ("prompt", "produced"), [(1, 1), (5, 9), (60, 5), (63, 2), (60, 6), (100, 31)]
)
@pytest.mark.parametrize("every", [0, 1, 3])
def test_the_root_follows_from_the_rules(
    model: LoadedModel, engine: Engine, prompt: int, produced: int, every: int
) -> None:
    """`every`: how many passes between two calls of `advance`; 0 leaves all to `finish`."""
    ids = ids_of(prompt + produced)
    slot = engine.open(200)
    recorder = TraceRecorder(SUB_TRACE, SUB_OUTPUT, model.manifest, slot)
    engine.forward([(slot, ids[:prompt])])
    for step in range(produced - 1):
        engine.forward([(slot, ids[prompt + step : prompt + step + 1])])
        if every and step % every == 0:
            recorder.advance()
    preimage = recorder.finish(prompt, ids[prompt:])
    engine.close(slot)
    assert preimage.positions == prompt + produced - 1
    assert preimage.trace_root() == plain_root(model, ids[:-1], ids[prompt:])


def test_rows_beyond_the_last_position_do_not_count(model: LoadedModel, engine: Engine) -> None:
    """An id that was fed but whose successor was never streamed is not part of the trace."""
    ids = ids_of(12)
    slot = engine.open(16)
    recorder = TraceRecorder(SUB_TRACE, SUB_OUTPUT, model.manifest, slot)
    engine.forward([(slot, ids)])
    recorder.advance()
    preimage = recorder.finish(5, ids[5:10])
    engine.close(slot)
    assert preimage.trace_root() == plain_root(model, ids[:9], ids[5:10])


def test_without_output_every_root_is_empty(model: LoadedModel, engine: Engine) -> None:
    slot = engine.open(16)
    recorder = TraceRecorder(SUB_TRACE, SUB_OUTPUT, model.manifest, slot)
    engine.forward([(slot, ids_of(4))])
    recorder.advance()
    preimage = recorder.finish(9, [])
    engine.close(slot)
    empty = [[EMPTY, EMPTY]] * segment_count(model)
    assert preimage.trace_root() == record("otr-trace-v1", SUB_TRACE, 0, empty, EMPTY)


def segment_count(model: LoadedModel) -> int:
    return model.manifest.trace_layout().segment_count


def test_a_trace_of_rows_that_were_never_computed_is_a_bug(
    model: LoadedModel, engine: Engine
) -> None:
    slot = engine.open(16)
    recorder = TraceRecorder(SUB_TRACE, SUB_OUTPUT, model.manifest, slot)
    engine.forward([(slot, ids_of(4))])
    with pytest.raises(RuntimeError):
        recorder.finish(4, ids_of(3))
    engine.close(slot)
