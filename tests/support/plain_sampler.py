"""The sampler as the specification words it: one sort of everything, Python integers only."""

from __future__ import annotations

from collections.abc import Sequence
from hashlib import sha256

from otr_protocol.request import Sampling, SamplingMode


def plain_sample(
    logits: Sequence[int],
    sampling: Sampling,
    seed: bytes,
    position: int,
    exp2: Sequence[int],
    f_l: int = 12,
    f_s: int = 10,
) -> int:
    """Operation 13 on a list of logits (spec/numerics.md section 5)."""
    order = sorted(range(len(logits)), key=lambda token: (-logits[token], token))
    if sampling.mode is SamplingMode.GREEDY:
        return order[0]
    if sampling.top_k:
        order = order[: sampling.top_k]
    weights = []
    for token in order:
        product, shift = (logits[order[0]] - logits[token]) * sampling.tq, 16 + f_l - f_s
        y = (product + (1 << shift >> 1)) >> shift
        weights.append(exp2[y % (1 << f_s)] >> min(y >> f_s, 31))
    target = sampling.p16 * sum(weights) >> 16
    kept = next(n for n in range(1, len(order) + 1) if sum(weights[:n]) >= target)
    total = sum(weights[:kept])
    u64 = int.from_bytes(sha256(seed + position.to_bytes(8, "little")).digest()[:8], "little")
    pick = u64 * total >> 64
    return next(order[n] for n in range(kept) if sum(weights[: n + 1]) > pick)
