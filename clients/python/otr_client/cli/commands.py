"""The command line: `otr up | generate | verify | inspect | demo | model | operator | attest`."""

from __future__ import annotations

from typing import Annotated

import typer

from otr_client.cli import attest, demo, generate, inspect, model, operator, up, verify

app = typer.Typer(
    name="otr",
    help="Verifiable LLM inference: ask, verify offline, inspect, run the whole stack.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode="markdown",
)
app.command()(up.up)
app.command()(generate.generate)
app.command()(verify.verify)
app.command()(inspect.inspect)
app.command()(demo.demo)
app.add_typer(model.app, name="model")
app.add_typer(operator.app, name="operator")
app.add_typer(attest.app, name="attest")


def _version(wanted: bool) -> None:
    if wanted:
        from importlib.metadata import version

        typer.echo(version("otr-client"))
        raise typer.Exit


@app.callback()
def _root(
    version: Annotated[
        bool, typer.Option("--version", callback=_version, is_eager=True, help="Print the version.")
    ] = False,
) -> None:
    """Verifiable LLM inference."""
