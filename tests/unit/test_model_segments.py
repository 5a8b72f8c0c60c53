"""The rule by which a converter chooses trace_segment_layers (PROTOCOL section 8)."""

from __future__ import annotations

import dataclasses

import pytest
from hypothesis import given
from hypothesis import strategies as st

from otr_numerics.convert.segments import (
    choose_segment_layers,
    hashed_bytes_per_token,
    unit_milliseconds,
    weight_bytes_per_token,
)
from otr_numerics.convert.source import Architecture

SMOLLM2 = Architecture(
    hidden=576, layers=30, heads=9, kv_heads=3, head_dim=64, ffn=1_536, vocab=49_152,
    context=8_192, rope_theta=100_000.0, rms_norm_eps=1e-5,
)  # fmt: skip
LLAMA_8B = Architecture(
    hidden=4_096, layers=32, heads=32, kv_heads=8, head_dim=128, ffn=14_336, vocab=128_256,
    context=8_192, rope_theta=500_000.0, rms_norm_eps=1e-5,
)  # fmt: skip
LLAMA_70B = Architecture(
    hidden=8_192, layers=80, heads=64, kv_heads=8, head_dim=128, ffn=28_672, vocab=128_256,
    context=8_192, rope_theta=500_000.0, rms_norm_eps=1e-5,
)  # fmt: skip
OTR_TINY = Architecture(
    hidden=192, layers=4, heads=3, kv_heads=1, head_dim=64, ffn=512, vocab=2_048,
    context=512, rope_theta=10_000.0, rms_norm_eps=1e-5,
)  # fmt: skip


@pytest.mark.parametrize(
    ("architecture", "layers"),
    [(SMOLLM2, 6), (LLAMA_8B, 2), (LLAMA_70B, 2), (OTR_TINY, 2)],
    ids=["SmolLM2", "8B", "70B", "otr-tiny"],
)
def test_known_models_get_the_segments_that_the_protocol_names(
    architecture: Architecture, layers: int
) -> None:
    assert choose_segment_layers(architecture) == layers


def test_the_byte_counts_are_those_of_the_protocols_examples() -> None:
    """PROTOCOL section 8 names 24 KB at s = 6 and 49 KB at s = 2 for SmolLM2."""
    assert 24_000 <= hashed_bytes_per_token(SMOLLM2, 6) <= 26_000
    assert 47_000 <= hashed_bytes_per_token(SMOLLM2, 2) <= 52_000
    assert 330_000 <= hashed_bytes_per_token(LLAMA_8B, 2) <= 350_000
    assert weight_bytes_per_token(SMOLLM2) == 134_479_872


@given(
    layers=st.integers(1, 200),
    hidden=st.sampled_from([64, 576, 2_048, 8_192]),
    ffn=st.sampled_from([64, 1_536, 28_672]),
    vocab=st.sampled_from([256, 49_152, 128_256]),
)
def test_the_choice_is_the_least_that_meets_the_budget(
    layers: int, hidden: int, ffn: int, vocab: int
) -> None:
    architecture = dataclasses.replace(SMOLLM2, layers=layers, hidden=hidden, ffn=ffn, vocab=vocab)
    chosen = choose_segment_layers(architecture)
    assert min(2, layers) <= chosen <= max(2, layers)
    assert chosen <= layers

    def share(segment_layers: int) -> float:
        hash_ns = hashed_bytes_per_token(architecture, segment_layers)
        return hash_ns / (weight_bytes_per_token(architecture) / 36)

    if share(chosen) < 0.007:
        assert all(share(s) >= 0.007 for s in range(2, chosen))
    else:
        assert all(share(s) >= 0.007 for s in range(2, layers + 1))
    assert unit_milliseconds(architecture, chosen) >= 1_000
