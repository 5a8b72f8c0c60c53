#!/usr/bin/env python3
"""How long a relying party needs for one answer file, offline and warm; and one trace leaf.

One core, whole calls of `verify_answer` from bytes, keys of the trust roots parsed beforehand; the
answers are the synthetic ones of tests/support with every part present, by number of ids.
"""

from __future__ import annotations

import json
import statistics
import sys
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path

from otr_protocol.trace import LeafPrefixes, res_tag
from otr_protocol.verify_answer import verify_answer

CALLS = 1_000
WARM_CALLS = 50
LEAVES = 100_000
BATCHES = 9
SIZES = ((64, 64), (512, 256), (1_536, 512))


def latencies_ms(call: Callable[[], object]) -> tuple[list[float], list[float]]:
    """Wall and CPU times of each call, both sorted."""
    for _ in range(WARM_CALLS):
        call()
    wall, cpu = [], []
    for _ in range(CALLS):
        wall_start, cpu_start = time.perf_counter_ns(), time.process_time_ns()
        call()
        cpu.append((time.process_time_ns() - cpu_start) / 1e6)
        wall.append((time.perf_counter_ns() - wall_start) / 1e6)
    return sorted(wall), sorted(cpu)


def answer_lines() -> None:
    sys.path.insert(0, str(Path(__file__).resolve().parent.parent / "tests"))
    from support.answers import NOW_MS, World, blob_of, request_of, sealed_request

    world = World()
    roots = world.roots()
    for prompt, output in SIZES:
        for kind, request in (
            ("public", request_of(prompt, max_tokens=4_096)),
            ("sealed", sealed_request(prompt_count=prompt, max_tokens=4_096)),
        ):
            data = world.answer(blob_of(request, output_count=output)).encode()
            print(f"{kind}, {prompt} + {output} ids ...", file=sys.stderr)
            wall, cpu = latencies_ms(partial(verify_answer, data, roots, NOW_MS))
            line = {
                "name": "answer_verification",
                "kind": kind,
                "prompt_ids": prompt,
                "output_ids": output,
                "file_bytes": len(data),
                "calls": CALLS,
                "p50_ms": round(statistics.median(wall), 3),
                "p95_ms": round(wall[int(CALLS * 0.95)], 3),
                "p99_ms": round(wall[int(CALLS * 0.99)], 3),
                "cpu_p50_ms": round(statistics.median(cpu), 3),
                "cpu_p99_ms": round(cpu[int(CALLS * 0.99)], 3),
            }
            print(json.dumps(line))


def leaf_line() -> None:
    prefixes = LeafPrefixes(bytes(32), res_tag(0))
    batches = []
    for _ in range(BATCHES):
        start = time.process_time_ns()
        for index in range(LEAVES):
            prefixes(index)
        batches.append((time.process_time_ns() - start) / LEAVES / 1e3)
    line = {"name": "trace_leaf_prefix", "leaves": LEAVES * BATCHES}
    print(json.dumps(line | {"cpu_us": round(statistics.median(batches), 3)}))


def main() -> int:
    answer_lines()
    leaf_line()
    return 0


if __name__ == "__main__":
    sys.exit(main())
