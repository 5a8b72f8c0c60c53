"""The committed sampling vectors, by the engine's sampler and by the plain wording of the rules."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np

from conformance.vectors import make_vectors
from otr_numerics.sampling import sample
from otr_protocol.manifest import Formats
from otr_protocol.request import sampling_from_record
from support.plain_sampler import plain_sample


def test_both_samplers_reproduce_the_vectors() -> None:
    path = Path(make_vectors.__file__).parent / "sampling.json"
    document: dict[str, Any] = json.loads(path.read_text("utf-8"))
    table = np.array(document["exp2"], np.int32)
    formats = Formats(f_l=document["formats"]["F_l"], f_s=document["formats"]["F_s"])
    assert len(document["cases"]) == 110
    for case in document["cases"]:
        logits = document["logits"][case["logits"]]
        sampling = sampling_from_record(tuple(case["sampling"]))
        seed, position = bytes.fromhex(case["seed"]), case["position"]
        row = np.array(logits, np.int32)
        assert sample(row, sampling, seed, position, table, formats) == case["id"]
        assert plain_sample(logits, sampling, seed, position, document["exp2"]) == case["id"]
