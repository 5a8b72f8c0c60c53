"""Choosing the next id from integer logits (spec/numerics.md section 5, operation `sample`).

No sort over the vocabulary: weights of 0 take part in no sum and are never picked, so only the ids
that have a weight are ordered, and of those only the `top_k` first.
"""

from __future__ import annotations

from hashlib import sha256
from typing import Final

import numpy as np
import numpy.typing as npt

from otr_protocol.manifest import Formats
from otr_protocol.request import P16_ONE, Sampling, SamplingMode

MAX_SHIFT: Final = 31


def sample(
    logits: npt.NDArray[np.int32],
    sampling: Sampling,
    seed: bytes,
    position: int,
    exp2: npt.NDArray[np.int32],
    formats: Formats,
) -> int:
    """The id that a request's sampling picks from one row of logits.

    `logits` int32 [V] in format F_l, `seed` 32 bytes, `position` the sampler position (prompt_count
    + index of the output), `exp2` the model's table int32 [2^F_s]. Deterministic.
    """
    if sampling.mode is SamplingMode.GREEDY:
        return int(np.argmax(logits))  # the first of equal maxima: the smallest id
    ids = _candidates(logits, sampling.top_k)
    chosen = logits[ids].astype(np.int64)
    shift = 16 + formats.f_l - formats.f_s
    distance = (int(chosen.max()) - chosen) * np.int64(sampling.tq)
    y = (distance + (np.int64(1) << np.int64(shift - 1)) if shift else distance) >> np.int64(shift)
    fraction = y & np.int64((1 << formats.f_s) - 1)
    weights = exp2[fraction].astype(np.int64) >> np.minimum(y >> np.int64(formats.f_s), MAX_SHIFT)
    heavy = weights > 0
    ids, chosen, weights = ids[heavy], chosen[heavy], weights[heavy]
    order = np.lexsort((ids, -chosen))
    sums = np.cumsum(weights[order])
    kept = len(sums)
    if sampling.p16 < P16_ONE:
        target = (sampling.p16 * int(sums[-1])) >> 16
        kept = int(np.searchsorted(sums, target, side="left")) + 1
    total = int(sums[kept - 1])
    pick = (_uniform(seed, position) * total) >> 64
    return int(ids[order[int(np.searchsorted(sums[:kept], pick, side="right"))]])


def _candidates(logits: npt.NDArray[np.int32], top_k: int) -> npt.NDArray[np.int64]:
    """The ids of the `top_k` first by (-logit, id), in no particular order; 0 keeps all."""
    if not 0 < top_k < len(logits):
        return np.arange(len(logits), dtype=np.int64)
    cut = np.partition(logits, len(logits) - top_k)[len(logits) - top_k]
    above = np.flatnonzero(logits > cut)
    level = np.flatnonzero(logits == cut)[: top_k - len(above)]
    return np.concatenate((above, level)).astype(np.int64)


def _uniform(seed: bytes, position: int) -> int:
    """64 uniform bits of (seed, position): the sampler's counter-based generator."""
    return int.from_bytes(sha256(seed + position.to_bytes(8, "little")).digest()[:8], "little")
