"""What verifiability adds to the model's own time, as the client sees it.

The whole stack runs as processes; one client asks again and again. Measured per answer: from the
last token's arrival to the statement's verification by the SDK (`provisional`), what of that the
server spent sealing (`seal`), and from there to the receipt (`receipt`).

    .venv/bin/python bench/provisional_finality.py [--answers 1000] [--model otr-tiny] [--tokens 64]
"""

from __future__ import annotations

import argparse
import asyncio
import json
import tempfile
import time
from pathlib import Path

from otr_client.client import Client, Completed
from otr_client.models_at_hand import find_model
from otr_client.request import Ask
from otr_client.stack.directory import StackDirectory, StackOptions
from otr_client.stack.local import LocalStack

WARM_ANSWERS = 20
LEAST_FOR_P99 = 1_000


def main() -> None:
    """Measure and print one JSON line per latency."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n", 1)[0])
    parser.add_argument("--answers", type=int, default=1000)
    parser.add_argument("--tokens", type=int, default=64)
    parser.add_argument("--model", default="otr-tiny")
    options = parser.parse_args()
    asyncio.run(measure(options.model, options.answers, options.tokens))


async def measure(model: str, answers: int, tokens: int) -> None:
    """Ask `answers` times and report the three latencies in milliseconds."""
    provisional: list[float] = []
    seal: list[float] = []
    receipt: list[float] = []
    with tempfile.TemporaryDirectory(prefix="otr-bench-") as root:
        directory = StackDirectory(Path(root))
        stack = LocalStack(directory, StackOptions(find_model(model)))
        async with stack:
            target, tls = directory.target("inference"), directory.client_tls()
            async with Client(target, tls, directory.roots()) as client:
                for number in range(WARM_ANSWERS + answers):
                    ask = Ask(f"Verse {number}", raw=True, max_tokens=tokens, ignore_eos=True)
                    completed = await _answer(client, ask)
                    waiting = time.monotonic()
                    _, registered = await client.receipt(ask)
                    if not registered:
                        raise RuntimeError("the log did not register an answer in 10 s")
                    if number >= WARM_ANSWERS:
                        provisional.append(completed.provisional_ms)
                        seal.append(completed.timings.seal_us / 1000)
                        receipt.append((time.monotonic() - waiting) * 1000)
    for name, values in (("provisional", provisional), ("seal", seal), ("receipt", receipt)):
        line = {"name": f"{name}_ms", "model": model, "answers": answers, "tokens": tokens}
        print(json.dumps(line | quantiles(sorted(values)) | {"unit": "ms"}))


def quantiles(values: list[float]) -> dict[str, float]:
    """p50 and p95; p99 too, where it is more than the largest but one. `value` is the last."""
    shares = (50, 95, 99) if len(values) >= LEAST_FOR_P99 else (50, 95)
    found = {f"p{share}_ms": round(values[len(values) * share // 100], 2) for share in shares}
    return found | {"value": found[f"p{shares[-1]}_ms"]}


async def _answer(client: Client, ask: Ask) -> Completed:
    async for event in client.generate(ask):
        if isinstance(event, Completed):
            return event
    raise RuntimeError("the stream ended without an answer")


if __name__ == "__main__":
    main()
