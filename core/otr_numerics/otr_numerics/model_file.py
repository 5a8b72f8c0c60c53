"""A model directory: what is in it, and how it is read so that every byte is accounted for.

    manifest.cbor         the record whose hash is `model_id`; it commits to everything below
    tensors.cbor          the tensor table, under `weights_root`
    int8.safetensors      the tensors, each under its root in the table
    tokenizer.json        under `tokenizer_digest`
    token_bytes.cbor      under `token_bytes_digest`
    chat_template.jinja   under `chat_template_digest`, if the model has one
    LICENSE, PROVENANCE.md   for people; not read

Weights are read into private memory and hashed there. They are not memory mapped: the kernel may
drop a mapped page and read it again from a disk that, under a TEE, belongs to the host, after it
was verified.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import numpy.typing as npt
import safetensors

from otr_numerics import tensor_table
from otr_numerics.chat import MAX_TEMPLATE_BYTES, ChatTemplate
from otr_numerics.tensor_table import TensorRow, TensorTable, check_complete
from otr_numerics.tensor_tree import dtype_name, tensor_root
from otr_numerics.token_bytes import MAX_TABLE_BYTES as MAX_TOKEN_TABLE_BYTES
from otr_numerics.token_bytes import TokenBytes
from otr_numerics.tokenizer import MAX_TOKENIZER_BYTES, ModelTokenizer
from otr_numerics.weights import Weights
from otr_protocol.digest import H
from otr_protocol.errors import MalformedError, RejectedError, UnknownError
from otr_protocol.manifest import MAX_MANIFEST_BYTES, ModelManifest, open_manifest

MANIFEST_FILE: Final = "manifest.cbor"
TABLE_FILE: Final = "tensors.cbor"
WEIGHTS_FILE: Final = "int8.safetensors"
TOKENIZER_FILE: Final = "tokenizer.json"
TOKEN_BYTES_FILE: Final = "token_bytes.cbor"
CHAT_TEMPLATE_FILE: Final = "chat_template.jinja"
LICENCE_FILE: Final = "LICENSE"
PROVENANCE_FILE: Final = "PROVENANCE.md"


class ModelFileMissingError(UnknownError):
    """A file that every model directory has is not there."""

    reason = "MODEL_FILE_MISSING"


class ModelCorruptError(RejectedError):
    """A file or tensor is not the one that the manifest commits to; `field` names it."""

    reason = "MODEL_CORRUPT"


class ModelIdMismatchError(RejectedError):
    """A sound directory of another model than the one asked for."""

    reason = "MODEL_ID_MISMATCH"


@dataclass(frozen=True, slots=True)
class LoadedModel:
    """A model every byte of which has been checked against `model_id`.

    `name` is the directory's name and carries no authority; the registry names models.
    """

    name: str
    model_id: bytes
    manifest: ModelManifest
    weights: Weights
    tokenizer: ModelTokenizer


@dataclass(frozen=True, slots=True)
class ModelSummary:
    """What `inspect_model` tells: manifest and table, which fit each other; nothing was hashed."""

    name: str
    model_id: bytes
    manifest: ModelManifest
    table: TensorTable
    weights_bytes: int


@dataclass(frozen=True, slots=True)
class Verification:
    """What `verify_model` found: names of tensors and files that differ, in reading order."""

    model_id: bytes
    tensors_checked: int
    corrupt: tuple[str, ...]


def _read(directory: Path, name: str, most: int) -> bytes:
    path = directory / name
    try:
        with path.open("rb") as file:
            data = file.read(most + 1)
    except (FileNotFoundError, NotADirectoryError) as error:
        raise ModelFileMissingError(f"{path} does not exist", field=name) from error
    if len(data) > most:
        raise ModelCorruptError(f"{name} has more than {most} bytes", field=name)
    return data


def _read_manifest(directory: Path, expected_model_id: bytes | None) -> ModelManifest:
    data = _read(directory, MANIFEST_FILE, MAX_MANIFEST_BYTES)
    try:
        manifest = open_manifest(data)
    except MalformedError as error:
        raise ModelCorruptError(
            f"{MANIFEST_FILE} is damaged: {error}", field=MANIFEST_FILE
        ) from error
    # One value has one encoding, so this is also the hash of the file.
    model_id = manifest.model_id()
    if expected_model_id is not None and model_id != expected_model_id:
        raise ModelIdMismatchError(
            f"{directory} holds model {model_id.hex()}, not {expected_model_id.hex()}",
            field="model_id",
        )
    return manifest


def _read_table(directory: Path, manifest: ModelManifest) -> TensorTable:
    data = _read(directory, TABLE_FILE, tensor_table.MAX_TABLE_BYTES)
    try:
        table = TensorTable.decode(data)
        if table.root() != manifest.weights_root:
            raise ModelCorruptError(
                f"{TABLE_FILE} is not the table that the manifest commits to", field=TABLE_FILE
            )
        check_complete(table, manifest)
    except MalformedError as error:
        raise ModelCorruptError(f"{TABLE_FILE}: {error}", field=TABLE_FILE) from error
    return table


def _read_committed(directory: Path, name: str, most: int, digest: bytes) -> bytes:
    data = _read(directory, name, most)
    if H(data) != digest:
        raise ModelCorruptError(f"{name} is not the file that the manifest commits to", field=name)
    return data


def _tensors(
    directory: Path, table: TensorTable
) -> Iterator[tuple[TensorRow, npt.NDArray[Any] | None]]:
    """Each row with its tensor in private memory, read-only; None when the file's has another form.

    Raises ModelCorruptError when the file as a whole cannot be read or has other names.
    """
    path = directory / WEIGHTS_FILE
    if not path.is_file():
        raise ModelFileMissingError(f"{path} does not exist", field=WEIGHTS_FILE)
    try:
        with safetensors.safe_open(path, framework="np") as file:
            names = set(file.keys())
            for row in table.rows:
                if row.name not in names:
                    raise ModelCorruptError(
                        f"tensor {row.name} is missing from {WEIGHTS_FILE}", field=row.name
                    )
            if len(names) != len(table.rows):
                extra = min(names - {row.name for row in table.rows})
                raise ModelCorruptError(
                    f"{WEIGHTS_FILE} has a tensor {extra!r} that is not in the table",
                    field=WEIGHTS_FILE,
                )
            for row in table.rows:
                tensor = file.get_tensor(row.name)  # a copy
                tensor.flags.writeable = False
                same = _form(tensor) == (row.dtype, row.shape)
                yield row, tensor if same else None
    except (safetensors.SafetensorError, OSError, TypeError, ValueError) as error:
        raise ModelCorruptError(
            f"{WEIGHTS_FILE} cannot be read: {error}", field=WEIGHTS_FILE
        ) from error


def _form(tensor: npt.NDArray[Any]) -> tuple[str, tuple[int, ...]]:
    try:
        return dtype_name(tensor.dtype), tensor.shape
    except KeyError:
        return str(tensor.dtype), tensor.shape


def _is_sound(row: TensorRow, tensor: npt.NDArray[Any] | None) -> bool:
    return tensor is not None and tensor_root(tensor) == row.root


def _read_tokenizer(directory: Path, manifest: ModelManifest) -> ModelTokenizer:
    data = _read_committed(
        directory, TOKENIZER_FILE, MAX_TOKENIZER_BYTES, manifest.tokenizer_digest
    )
    table = _read_committed(
        directory, TOKEN_BYTES_FILE, MAX_TOKEN_TABLE_BYTES, manifest.token_bytes_digest
    )
    template = None
    if manifest.chat_template_digest:
        source = _read_committed(
            directory, CHAT_TEMPLATE_FILE, MAX_TEMPLATE_BYTES, manifest.chat_template_digest
        )
        template = ChatTemplate(source.decode("utf-8"))
    return ModelTokenizer(
        data,
        TokenBytes.decode(table, vocab=manifest.shape.vocab),
        chat_template=template,
        bos_id=manifest.bos_ids[0] if manifest.bos_ids else None,
        stop_ids=manifest.eos_ids,
    )


def load_tokenizer(directory: Path, expected_model_id: bytes | None = None) -> ModelTokenizer:
    """Only the tokenizer of a model, checked against the manifest; no weights are read.

    Raises as `load_model`.
    """
    directory = Path(directory)
    return _read_tokenizer(directory, _read_manifest(directory, expected_model_id))


def load_model(directory: Path, expected_model_id: bytes | None = None) -> LoadedModel:
    """Read a model directory and verify all of it: manifest, table, every tensor, tokenizer files.

    Without `expected_model_id` this proves that the directory is consistent with its own manifest,
    and the caller has to compare `model_id` with whoever vouches for it. Raises
    ModelFileMissingError, ModelIdMismatchError, or ModelCorruptError whose `field` is the tensor or
    the file at fault.
    """
    directory = Path(directory)
    manifest = _read_manifest(directory, expected_model_id)
    table = _read_table(directory, manifest)
    tokenizer = _read_tokenizer(directory, manifest)
    tensors: dict[str, npt.NDArray[Any]] = {}
    for row, tensor in _tensors(directory, table):
        if tensor is None or not _is_sound(row, tensor):
            raise ModelCorruptError(
                f"tensor {row.name} in {WEIGHTS_FILE} is not the one that the manifest commits to",
                field=row.name,
            )
        tensors[row.name] = tensor
    return LoadedModel(
        name=directory.resolve().name,
        model_id=manifest.model_id(),
        manifest=manifest,
        weights=Weights.from_tensors(manifest, tensors),
        tokenizer=tokenizer,
    )


def inspect_model(directory: Path) -> ModelSummary:
    """Read manifest and tensor table without hashing the weights. Raises as `load_model`."""
    directory = Path(directory)
    manifest = _read_manifest(directory, None)
    table = _read_table(directory, manifest)
    path = directory / WEIGHTS_FILE
    if not path.is_file():
        raise ModelFileMissingError(f"{path} does not exist", field=WEIGHTS_FILE)
    return ModelSummary(
        directory.resolve().name, manifest.model_id(), manifest, table, path.stat().st_size
    )


def verify_model(directory: Path, expected_model_id: bytes | None = None) -> Verification:
    """Check every file and tensor, and list all that differ rather than stop at the first.

    Raises as `load_model` when there is nothing to compare with: no manifest, another model, a
    damaged table, or a weights file whose header cannot be read.
    """
    directory = Path(directory)
    manifest = _read_manifest(directory, expected_model_id)
    table = _read_table(directory, manifest)
    corrupt = [row.name for row, tensor in _tensors(directory, table) if not _is_sound(row, tensor)]
    try:
        _read_tokenizer(directory, manifest)
    except (ModelCorruptError, ModelFileMissingError) as error:
        corrupt.append(error.field or TOKENIZER_FILE)
    return Verification(manifest.model_id(), len(table.rows), tuple(corrupt))
