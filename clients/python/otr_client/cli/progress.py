"""A progress bar on stderr, fed by the callbacks that long work takes."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from rich.progress import BarColumn, TaskID, TextColumn, TimeElapsedColumn
from rich.progress import Progress as Bars

from otr_client.cli.output import err
from otr_numerics.fetch import Progress


@contextmanager
def progress_callback() -> Iterator[Progress]:
    """Yield `report(stage, done, total)`; each stage gets a bar of its own."""
    bars: dict[str, TaskID] = {}
    with Bars(
        TextColumn("{task.description:24}"),
        BarColumn(),
        TextColumn("{task.percentage:3.0f}%"),
        TimeElapsedColumn(),
        console=err,
        transient=False,
    ) as progress:

        def report(stage: str, done: int, total: int) -> None:
            if stage not in bars:
                bars[stage] = progress.add_task(stage, total=max(1, total))
            progress.update(bars[stage], completed=done, total=max(1, total))

        yield report
