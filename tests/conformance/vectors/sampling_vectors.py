"""Vectors of the sampler (spec/numerics.md section 5), written by `make_vectors`.

The exponential table is given in full: a sampler that reproduces the cases needs nothing else.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from otr_numerics.sampling import sample
from otr_protocol.digest import H
from otr_protocol.manifest import Formats
from otr_protocol.request import GREEDY, NO_SEED, P16_ONE, TQ_LIMIT, Sampling, seeded

FORMATS = Formats()
# Steps of 2^(1/1024) in Q15. Where math libraries differ in the last bit of a power, no entry is
# near enough to a half for it to matter.
EXP2 = np.rint(2**15 * 2.0 ** (-np.arange(1 << FORMATS.f_s) / (1 << FORMATS.f_s))).astype(np.int32)
TEMPERATURE_ONE = 94_548
LARGEST = 2**31 - 1


def _logits() -> dict[str, list[int]]:
    """Rows of logits by name; the spread ones come from SHA-256."""
    stream = b"".join(H(b"otr sampling vectors", bytes([block])) for block in range(16))
    words = [int.from_bytes(stream[at : at + 4], "big") for at in range(0, len(stream), 4)]
    return {
        "one": [-5],
        "equal": [4_096] * 7,
        "tied": [0, 9_000, 9_000, -1, 9_000, 8_999, 0, 9_000],
        "spread": [word % 60_000 - 30_000 for word in words],
        "extreme": [LARGEST, -LARGEST, 0, LARGEST, LARGEST - 1, -LARGEST, 1, -1],
    }


def _samplings() -> list[Sampling]:
    return [
        GREEDY,
        seeded(TEMPERATURE_ONE),
        seeded(TEMPERATURE_ONE, top_k=1),
        seeded(TEMPERATURE_ONE, top_k=3),
        seeded(TEMPERATURE_ONE, top_k=50, p16=58_982),
        seeded(TEMPERATURE_ONE, p16=1),
        seeded(TEMPERATURE_ONE, p16=P16_ONE // 2),
        seeded(TEMPERATURE_ONE, p16=P16_ONE - 1),
        seeded(1),
        seeded(TQ_LIMIT - 1),
        seeded(TEMPERATURE_ONE // 4, top_k=2**32 - 1),
    ]


def sampling_vectors() -> dict[str, Any]:
    """The file: table, logits by name, cases."""
    rows = _logits()
    cases = []
    for name, logits in rows.items():
        for index, sampling in enumerate(_samplings()):
            for position in (1, 4_096 + index):
                seed = NO_SEED if sampling is GREEDY else H(b"seed", bytes([index]))
                row = np.array(logits, np.int32)
                cases.append(
                    {
                        "logits": name,
                        "sampling": list(sampling.record()),
                        "seed": seed.hex(),
                        "position": position,
                        "id": sample(row, sampling, seed, position, EXP2, FORMATS),
                    }
                )
    return {
        "about": "spec/numerics.md section 5: sampling",
        "formats": {"F_l": FORMATS.f_l, "F_s": FORMATS.f_s},
        "exp2": EXP2.tolist(),
        "logits": rows,
        "cases": cases,
    }
