"""Build a model's manifest and write its directory, all of it or nothing.

The directory is written beside its place, synced, and renamed there: a crash leaves a `.partial`
directory that nobody reads, never half a model under the real name.
"""

from __future__ import annotations

import json
import os
import secrets
import shutil
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from otr_numerics import model_file
from otr_numerics.chat import ChatTemplate
from otr_numerics.convert.quantise import IntegerModel, quantise
from otr_numerics.convert.segments import choose_segment_layers, unit_milliseconds
from otr_numerics.convert.smooth import ActivationMaxima
from otr_numerics.convert.source import FloatModel
from otr_numerics.tensor_table import TensorTable, check_complete
from otr_numerics.tensor_tree import DTYPE_NAMES, dtype_name
from otr_numerics.tokenizer import ModelTokenizer, build_token_bytes
from otr_protocol.digest import H
from otr_protocol.errors import ConflictError, RejectedError
from otr_protocol.manifest import ModelManifest, ModelShape, scalar_names

# The library's own order of dtypes, of which an artefact uses these.
_RANK = {name: rank for rank, name in enumerate(("I32", "U16", "I16", "I8"))}


class ModelExistsError(ConflictError):
    """The target directory exists and was not to be replaced."""

    reason = "MODEL_EXISTS"


class UnlicensedModelError(RejectedError):
    """Neither the source nor the caller says under which licence the weights are."""

    reason = "MODEL_LICENCE_UNKNOWN"


@dataclass(frozen=True, slots=True)
class Artefact:
    """A converted model in memory: its manifest and the content of every file by name."""

    manifest: ModelManifest
    integers: IntegerModel
    files: Mapping[str, bytes]

    @property
    def model_id(self) -> bytes:
        """32 bytes."""
        return self.manifest.model_id()


def build(
    model: FloatModel,
    *,
    maxima: ActivationMaxima | None = None,
    licence: str | None = None,
    notes: Mapping[str, bytes] | None = None,
    segment_layers: int | None = None,
    advance: Callable[[int, int], None] = lambda done, total: None,
) -> Artefact:
    """Convert a float model and make everything its directory holds.

    `licence` is an SPDX expression and overrides the source's; `notes` are further files (LICENSE,
    PROVENANCE.md) that the manifest does not commit to; `segment_layers` overrides the rule of
    PROTOCOL section 8. Raises SourceMalformedError, UnsupportedModelError, UnlicensedModelError,
    and the refusals of tokenizer and template.
    """
    licence = licence or model.licence
    if licence == "unknown":
        raise UnlicensedModelError("name the licence of the weights", field="licence")
    tokenizer_json = model.tokenizer_json()
    token_bytes = build_token_bytes(tokenizer_json, vocab=model.architecture.vocab)
    template = model.chat_template()
    tokenizer = ModelTokenizer(
        tokenizer_json,
        token_bytes,
        chat_template=None if template is None else ChatTemplate(template),
    )
    integers = quantise(model, maxima=maxima, advance=advance)
    table = TensorTable.of(integers.tensors)
    architecture = model.architecture
    segments = segment_layers or choose_segment_layers(architecture)
    files = {
        model_file.TABLE_FILE: table.encode(),
        model_file.TOKENIZER_FILE: tokenizer_json,
        model_file.TOKEN_BYTES_FILE: token_bytes.encode(),
    }
    if template is not None:
        files[model_file.CHAT_TEMPLATE_FILE] = template.encode()
    manifest = ModelManifest(
        shape=ModelShape(
            hidden=architecture.hidden,
            layers=architecture.layers,
            heads=architecture.heads,
            kv_heads=architecture.kv_heads,
            head_dim=architecture.head_dim,
            ffn=architecture.ffn,
            vocab=architecture.vocab,
            context_length=integers.table_positions,
        ),
        formats=integers.formats,
        scalars=tuple(integers.scalars[name] for name in scalar_names(architecture.layers)),
        tokenizer_digest=H(tokenizer_json),
        token_bytes_digest=token_bytes.digest(),
        chat_template_digest=b"" if template is None else H(template.encode()),
        bos_ids=() if model.bos_id is None else (model.bos_id,),
        eos_ids=model.stop_ids,
        special_ids=tuple(sorted(tokenizer.control_tokens.values())),
        weights_root=table.root(),
        trace_segment_layers=segments,
        unit_ms=unit_milliseconds(architecture, segments),
        licence=licence,
    )
    check_complete(table, manifest)
    files[model_file.MANIFEST_FILE] = manifest.encode()
    return Artefact(manifest, integers, files | dict(notes or {}))


def write_safetensors(tensors: Mapping[str, npt.NDArray[Any]], path: Path) -> None:
    """Write a safetensors file: wider dtypes first, then by name, without metadata.

    The order is that of the `safetensors` library. Written here because the file's hash is pinned
    and must not change with the library's version.
    """
    little = {
        name: np.ascontiguousarray(tensor, DTYPE_NAMES[dtype_name(tensor.dtype)])
        for name, tensor in tensors.items()
    }
    names = sorted(little, key=lambda name: (_RANK[dtype_name(little[name].dtype)], name))
    header: dict[str, Any] = {}
    offset = 0
    for name in names:
        tensor = little[name]
        header[name] = {
            "dtype": dtype_name(tensor.dtype),
            "shape": list(tensor.shape),
            "data_offsets": [offset, offset + tensor.nbytes],
        }
        offset += tensor.nbytes
    encoded = json.dumps(header, ensure_ascii=False, separators=(",", ":")).encode()
    encoded += b" " * (-len(encoded) % 8)
    with path.open("wb") as file:
        file.write(len(encoded).to_bytes(8, "little"))
        file.write(encoded)
        for name in names:
            file.write(little[name].data.cast("B"))


def _sync(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def write(artefact: Artefact, target: Path, *, replace: bool = False) -> None:
    """Write the model directory `target` atomically; its parent is made if need be.

    Raises ModelExistsError when `target` exists, unless `replace` is set.
    """
    if target.exists() and not replace:
        raise ModelExistsError(f"{target} exists", field="target")
    target.parent.mkdir(parents=True, exist_ok=True)
    partial = target.with_name(f".{target.name}.{secrets.token_hex(8)}.partial")
    partial.mkdir()
    try:
        for name, data in artefact.files.items():
            (partial / name).write_bytes(data)
        write_safetensors(artefact.integers.tensors, partial / model_file.WEIGHTS_FILE)
        for path in partial.iterdir():
            path.chmod(0o644)
            _sync(path)
        _sync(partial)
        if target.exists():
            # A directory cannot be renamed over a full one; the gap is only seen by readers that
            # start in it, and they find no model rather than a mixture of two.
            old = partial.with_suffix(".old")
            target.rename(old)
            partial.rename(target)
            shutil.rmtree(old)
        else:
            partial.rename(target)
        _sync(target.parent)
    finally:
        shutil.rmtree(partial, ignore_errors=True)
