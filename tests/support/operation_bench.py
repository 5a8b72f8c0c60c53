"""One engine operation at a time, on rows of the caller's choosing.

`Bench` runs `kernels_step.run` over the arrays an engine would use, so that an operation can be fed
with values no model would give it, and what it wrote can be compared with the reference.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, Final

import numpy as np
import numpy.typing as npt

from otr_numerics.engine_arrays import CHUNK_ROWS, model_arrays, work_arrays
from otr_numerics.kernels_step import LAYER_OPS, run
from otr_numerics.kv_cache import SlotPool
from otr_numerics.reference import LAYER_OPERATIONS
from otr_numerics.weights import Weights
from otr_protocol.manifest import Formats, ModelShape, scalar_names

_run: Final[Callable[..., None]] = run

# No width is a multiple of 4 or 16: every kernel has to handle its edges.
ODD_SHAPE: Final = ModelShape(
    hidden=35,
    layers=1,
    heads=9,
    kv_heads=3,
    head_dim=10,
    ffn=27,
    vocab=53,
    context_length=67,
)


def operation_number(op_id: str, layers: int) -> int:
    """The place of an operation ("embed", "3.attn", "logits") in the order of execution."""
    if op_id == "embed":
        return 0
    if op_id in ("norm", "logits"):
        return layers * LAYER_OPS + 1 + ("norm", "logits").index(op_id)
    layer, name = op_id.split(".")
    return 1 + int(layer) * LAYER_OPS + LAYER_OPERATIONS.index(name)


def random_model(
    seed: int, *, shape: ModelShape = ODD_SHAPE, scalars: dict[str, int] | None = None
) -> Weights:
    """Weights that use the whole range of every tensor, extremes included; `scalars` override."""
    random = np.random.default_rng(seed)
    queries, keys = shape.heads * shape.head_dim, shape.kv_heads * shape.head_dim
    sizes = {
        "q": (queries, shape.hidden),
        "k": (keys, shape.hidden),
        "v": (keys, shape.hidden),
        "o": (shape.hidden, queries),
        "gate": (shape.ffn, shape.hidden),
        "up": (shape.ffn, shape.hidden),
        "down": (shape.hidden, shape.ffn),
    }
    matrices = {
        f"{layer}.{name}": size for layer in range(shape.layers) for name, size in sizes.items()
    }
    matrices["head"] = (shape.vocab, shape.hidden)
    tensors: dict[str, npt.NDArray[Any]] = {"emb": _int8(random, (shape.vocab, shape.hidden))}
    tensors["emb_c"] = _uint16(random, shape.vocab)
    for name, (outputs, inputs) in matrices.items():
        tensors[f"{name}.W"] = _int8(random, (outputs, inputs))
        tensors[f"{name}.c"] = _uint16(random, outputs)
    norms = [f"{layer}.{name}" for layer in range(shape.layers) for name in ("n1", "n2")]
    for name in (*norms, "nf"):
        g = random.integers(-(2**15), 2**15, shape.hidden)
        g[:4] = (-(2**15), 2**15 - 1, 0, 1)
        tensors[f"{name}.g"] = g.astype(np.int16)
    half = (shape.context_length, shape.head_dim // 2)
    for name in ("cos", "sin"):
        table = random.integers(-(2**14), 2**14 + 1, half)
        table[0] = 2**14
        table[1] = -(2**14)
        tensors[name] = table.astype(np.int16)
    formats = Formats()
    steps = np.arange(1 << formats.f_s)
    tensors["exp2"] = np.rint(2**15 * 2.0 ** (-steps / len(steps))).astype(np.int32)
    sigmoid = 2**15 / (1 + np.exp(-(np.arange(8192) - 4096) / 256))
    tensors["sig"] = np.rint(sigmoid).astype(np.int32)
    values = dict.fromkeys(scalar_names(shape.layers), 22)
    values |= dict.fromkeys(
        (name for name in scalar_names(shape.layers) if name.endswith(".G")), 14
    )
    values |= {"emb_S": 9, "eps_q": 168} | (scalars or {})
    return Weights.from_parts(shape, formats, values, tensors)


def _int8(random: np.random.Generator, size: tuple[int, int]) -> npt.NDArray[np.int8]:
    W = random.integers(-127, 128, size)
    W[0], W[1] = 127, -127
    return W.astype(np.int8)


def _uint16(random: np.random.Generator, count: int) -> npt.NDArray[np.uint16]:
    c = random.integers(0, 2**16, count)
    c[:3] = (2**16 - 1, 2**16 - 1, 0)
    return c.astype(np.uint16)


class Bench:
    """Arrays of one model for one row per slot, in one thread.

    Set `work` (and `cache`), `run` an operation, read `work`, `cache` and `logits`.
    """

    def __init__(self, weights: Weights, *, slots: int = CHUNK_ROWS) -> None:
        self.weights = weights
        self.layers = weights.shape.layers
        self.model = model_arrays(weights, self.layers)
        self.work = work_arrays(weights, weights.context, 1)
        self.cache = SlotPool(weights.shape, 1, slots, weights.context).arrays
        self.logits = np.zeros((CHUNK_ROWS, weights.vocab), np.int32)

    def rows(self, slots: Sequence[int], positions: Sequence[int]) -> None:
        """Say which sequence and position each row is; all rows get logits."""
        count = len(slots)
        self.work.slots[:count] = slots
        self.work.positions[:count] = positions
        self.work.chosen[:count] = np.arange(count)

    def run(self, op_id: str, count: int) -> None:
        """Execute one operation on the first `count` rows."""
        number = operation_number(op_id, self.layers)
        arrays = (self.model, self.cache, self.work)
        _run(*arrays, count, count, self.logits[:count], number, number + 1, 0, 1)
