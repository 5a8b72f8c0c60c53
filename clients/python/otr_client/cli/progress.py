"""A progress bar on stderr, fed by the callbacks that long work takes."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager

from rich.progress import BarColumn, Progress, TaskID, TextColumn, TimeElapsedColumn

from otr_client.cli.output import err


@contextmanager
def progress_callback() -> Iterator[Callable[[str, int, int], None]]:
    """Yield `report(step, done, total)`; each step gets a bar of its own."""
    bars: dict[str, TaskID] = {}
    with Progress(
        TextColumn("{task.description:24}"),
        BarColumn(),
        TextColumn("{task.percentage:3.0f}%"),
        TimeElapsedColumn(),
        console=err,
        transient=False,
    ) as progress:

        def report(step: str, done: int, total: int) -> None:
            if step not in bars:
                bars[step] = progress.add_task(step, total=max(1, total))
            progress.update(bars[step], completed=done, total=max(1, total))

        yield report
