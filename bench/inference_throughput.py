"""Attested throughput: tokens/s with attestation, trace and log on, against the bare engine.

One process builds the real inference service (engine, queue, trace, statement, durable store,
outbox) and talks to real attestation and commitment services beside it. Pairs alternate: the bare
engine decodes a prompt, then the service answers the same prompt; which goes first alternates too.
The bare loop does what any server must (forward pass, sampling, detokenising) and nothing of ours.
The attested time runs from the first step to the durable signed statement: sealing is inside.

    .venv/bin/python bench/inference_throughput.py [--pairs 15] [--tokens 256] [--model smollm2]

Prints one JSON line per model: median ratio of paired tokens per second with its 95 % bootstrap
interval and the pairs. Wall clock, since hashing may use the second core; pairs cancel the noise.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import json
import os
import random
import statistics
import sys
import tempfile
import time
from collections.abc import AsyncIterator
from pathlib import Path

from otr.inference.v1 import inference_pb2 as pb
from otr.inference.v1 import inference_pb2_grpc as rpc
from otr_client.models_at_hand import find_model
from otr_client.request import Ask
from otr_client.stack.directory import START_ORDER, StackDirectory, StackOptions
from otr_client.stack.supervisor import Supervisor, Unit
from otr_inference.main import Built, build
from otr_inference.settings import Settings
from otr_numerics.sampling import sample
from otr_protocol.request import GREEDY, NO_SEED
from otr_server import telemetry
from otr_server.channel import open_channel
from otr_server.settings import read_settings

BOOTSTRAP_SAMPLES = 10_000
WARM_PAIRS = 2
PROMPT = "Write a long story about a lighthouse keeper who counts the ships that pass."


def main() -> None:
    """Measure the models asked for."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n", 1)[0])
    parser.add_argument("--pairs", type=int, default=15, help="measured pairs, at least 15")
    parser.add_argument("--tokens", type=int, default=256, help="tokens of one answer")
    parser.add_argument("--model", action="append", help="default: smollm2, then otr-tiny")
    options = parser.parse_args()
    telemetry.configure("error", service="bench")
    for model in options.model or ("smollm2", "otr-tiny"):
        asyncio.run(measure(model, max(15, options.pairs), options.tokens))


async def measure(model: str, pairs: int, tokens: int) -> None:
    """Run the pairs for one model and print its line."""
    with tempfile.TemporaryDirectory(prefix="otr-bench-") as root:
        async with _service(model, Path(root)) as (built, stub):
            measured: list[tuple[float, float]] = []
            for number in range(WARM_PAIRS + pairs):
                if number % 2:
                    attested = await _attested(stub, built, tokens)
                    bare = await asyncio.to_thread(_bare, built, tokens)
                else:
                    bare = await asyncio.to_thread(_bare, built, tokens)
                    attested = await _attested(stub, built, tokens)
                if number >= WARM_PAIRS:
                    measured.append((attested, bare))
                    say(f"{model} {len(measured)}/{pairs}: {attested:.1f} against {bare:.1f} tok/s")
    ratios = [attested / bare for attested, bare in measured]
    low, high = _interval(ratios)
    line = {
        "name": "attested_throughput_ratio",
        "model": model,
        "value": round(statistics.median(ratios), 4),
        "unit": "ratio",
        "interval_95": [round(low, 4), round(high, 4)],
        "peer": "bare engine, same process",
        "ratio": round(statistics.median(ratios), 4),
        "attested_tokens_per_s": round(statistics.median(each for each, _ in measured), 1),
        "bare_tokens_per_s": round(statistics.median(each for _, each in measured), 1),
        "tokens": tokens,
        "pairs": [[round(attested, 2), round(bare, 2)] for attested, bare in measured],
    }
    print(json.dumps(line), flush=True)


def say(line: str) -> None:
    """Progress, on stderr."""
    sys.stderr.write(line + "\n")


@contextlib.asynccontextmanager
async def _service(
    model: str, root: Path
) -> AsyncIterator[tuple[Built, rpc.InferenceServiceAsyncStub]]:
    """The inference service in this process, the others as processes beside it."""
    directory = StackDirectory(root)
    directory.prepare(StackOptions(find_model(model)))
    others = Supervisor(
        [
            Unit(
                name,
                f"otr_{name}",
                directory.config_file(name),
                directory.log_file(name),
                directory.health_target(name),
            )
            for name in START_ORDER
            if name in ("commitment", "attestation")
        ]
    )
    await others.start()
    settings = read_settings(Settings, directory.config_file("inference"), os.environ)
    built = await build(settings)
    built.worker.start()
    await built.process.start()
    try:
        while not built.process.serving:  # noqa: ASYNC110 - once, before anything is measured
            await asyncio.sleep(0.01)
        tls = directory.client_tls()
        async with open_channel(directory.target("inference"), tls, "inference") as channel:
            yield built, rpc.InferenceServiceStub(channel)
    finally:
        await built.process.drain()
        await others.stop()


def _ask(built: Built, tokens: int) -> Ask:
    ids = built.model.loaded.tokenizer.encode_prompt(PROMPT)
    return Ask(prompt_ids=tuple(ids), max_tokens=tokens, ignore_eos=True)


def _bare(built: Built, tokens: int) -> float:
    """Tokens per second of the engine alone, from the first step to the last token."""
    loaded, engine = built.model.loaded, built.engine
    ids = loaded.tokenizer.encode_prompt(PROMPT)
    slot = engine.open(len(ids) + tokens)
    text = loaded.tokenizer.detokeniser()
    weights = loaded.weights
    try:
        started = time.monotonic_ns()
        feed = ids
        for index in range(tokens):
            (logits,) = engine.forward([(slot, feed)])
            token = sample(logits, GREEDY, NO_SEED, len(ids) + index, weights.exp2, weights.formats)
            text.push(token)
            feed = [token]
        return tokens / ((time.monotonic_ns() - started) / 1e9)
    finally:
        engine.close(slot)


async def _attested(stub: rpc.InferenceServiceAsyncStub, built: Built, tokens: int) -> float:
    """Tokens per second of a whole attested answer, from the first step to the statement."""
    complete: pb.GenerateComplete | None = None
    async for message in stub.Generate(_ask(built, tokens).message()):
        if message.WhichOneof("response") == "complete":
            complete = message.complete
    if complete is None or complete.completion_tokens != tokens:
        raise RuntimeError("the service did not give the whole answer")
    timings = complete.timings
    return tokens / ((timings.prefill_us + timings.decode_us + timings.seal_us) / 1e6)


def _interval(ratios: list[float]) -> tuple[float, float]:
    """The 95 % percentile bootstrap interval of the median; seeded, so that it can be redone."""
    draw = random.Random(2025)
    medians = sorted(
        statistics.median(draw.choices(ratios, k=len(ratios))) for _ in range(BOOTSTRAP_SAMPLES)
    )
    return medians[int(0.025 * BOOTSTRAP_SAMPLES)], medians[int(0.975 * BOOTSTRAP_SAMPLES) - 1]


if __name__ == "__main__":
    main()
