"""Model manifests: what a model id is the hash of (spec/model.md)."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import cbor2
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from otr_protocol.digest import H
from otr_protocol.errors import MalformedError
from otr_protocol.fields import FieldError
from otr_protocol.manifest import (
    Formats,
    ModelManifest,
    ModelShape,
    open_manifest,
    scalar_names,
)

SHAPE = ModelShape(
    hidden=192,
    layers=4,
    heads=3,
    kv_heads=1,
    head_dim=64,
    ffn=512,
    vocab=2048,
    context_length=512,
)
MANIFEST = ModelManifest(
    shape=SHAPE,
    formats=Formats(),
    scalars=tuple(168 if name == "eps_q" else 20 for name in scalar_names(4)),
    tokenizer_digest=H(b"tokenizer.json"),
    token_bytes_digest=H(b"token_bytes.cbor"),
    chat_template_digest=b"",
    bos_ids=(0,),
    eos_ids=(1,),
    special_ids=(0, 1, 2),
    weights_root=H(b"weights"),
    trace_segment_layers=2,
    unit_ms=50,
    licence="Apache-2.0",
)


def test_a_manifest_reads_back_and_its_hash_is_the_model_id() -> None:
    data = MANIFEST.encode()
    assert open_manifest(data) == MANIFEST
    assert MANIFEST.model_id() == H(data)


def test_a_manifest_is_the_record_an_independent_encoder_writes() -> None:
    record = cbor2.loads(MANIFEST.encode())
    assert record[:3] == ["otr-manifest-v1", "OTR-I8 v1", [192, 4, 3, 1, 64, 512, 2048, 512]]
    assert record[3] == [12, 14, 9, 9, 10, 12, 12, 12, 10, 16]
    assert record[-1] == "Apache-2.0"
    assert cbor2.dumps(record) == MANIFEST.encode()


def test_formats_have_the_names_of_the_numerics() -> None:
    names = ("res", "n", "q", "k", "v", "g", "h", "l", "s", "p")
    assert list(Formats().as_mapping()) == [f"F_{name}" for name in names]


def test_scalars_are_listed_layer_by_layer() -> None:
    names = scalar_names(2)
    assert names[:4] == ("emb_S", "eps_q", "0.q.S", "0.k.S")
    assert names[-2:] == ("nf.G", "head.S")
    assert len(names) == len(set(names)) == 4 + 2 * 9
    assert MANIFEST.scalar_mapping()["eps_q"] == 168


def test_the_trace_layout_follows_from_the_manifest() -> None:
    layout = MANIFEST.trace_layout()
    assert (layout.segment_count, layout.kv_heads) == (2, 1)


@pytest.mark.parametrize(
    "change",
    [
        {"hidden": 0},
        {"hidden": 65_537},
        {"layers": 0},
        {"kv_heads": 4},
        {"head_dim": 63},
        {"head_dim": 258},
        {"ffn": 65_537},
        {"vocab": 0},
        {"context_length": 0},
    ],
)
def test_a_shape_for_which_int64_is_not_proven_to_suffice_is_refused(
    change: dict[str, Any],
) -> None:
    with pytest.raises(FieldError):
        replace(SHAPE, **change)


@pytest.mark.parametrize(
    "change", [{"f_g": 7}, {"f_g": 8, "f_h": 17}, {"f_s": 24}, {"f_p": 15}, {"f_res": -1}]
)
def test_formats_with_a_negative_shift_are_refused(change: dict[str, Any]) -> None:
    with pytest.raises(FieldError):
        Formats(**change)


@pytest.mark.parametrize(
    "change",
    [
        {"scalars": MANIFEST.scalars[:-1]},
        {"scalars": (*MANIFEST.scalars, 20)},
        {"scalars": (20, 168, 16, *MANIFEST.scalars[3:])},  # S below 17 has no bit to round
        {"scalars": (63, *MANIFEST.scalars[1:])},
        {"tokenizer_digest": b""},
        {"chat_template_digest": bytes(31)},
        {"bos_ids": (0, 1)},
        {"eos_ids": ()},
        {"eos_ids": (2048,)},
        {"eos_ids": (2, 1)},
        {"special_ids": (1, 1)},
        {"trace_segment_layers": 0},
        {"trace_segment_layers": 5},
        {"unit_ms": 0},
        {"licence": ""},
    ],
)
def test_a_manifest_that_cannot_be_is_refused(change: dict[str, Any]) -> None:
    with pytest.raises(FieldError):
        replace(MANIFEST, **change)


@pytest.mark.parametrize("index", range(15))
def test_a_record_with_a_field_of_another_type_is_malformed(index: int) -> None:
    record = cbor2.loads(MANIFEST.encode())
    for wrong in (-1, b"x", [b""], ["x"]):
        record[index] = wrong
        with pytest.raises(MalformedError):
            open_manifest(cbor2.dumps(record))


@given(st.integers(0, 400), st.integers(1, 255))
@settings(max_examples=150)
def test_a_changed_byte_is_refused_or_makes_another_model(place: int, change: int) -> None:
    data = MANIFEST.encode()
    place %= len(data)
    changed = data[:place] + bytes([data[place] ^ change]) + data[place + 1 :]
    try:
        opened = open_manifest(changed)
    except MalformedError:
        return
    assert opened.encode() == changed
    assert opened.model_id() != MANIFEST.model_id()
