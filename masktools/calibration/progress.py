"""A bar that shows which layer a calibration is at, and how long the others will take."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager

Step = Callable[[str], None]


@contextmanager
def bar(total: int) -> Iterator[Step]:
    """Show a bar on standard error, where that is a terminal; yield what to call after a layer.

    Parameters
    ----------
    total : int
        How many layers there are.
    """
    from rich.console import Console
    from rich.progress import (
        BarColumn,
        MofNCompleteColumn,
        Progress,
        TextColumn,
        TimeRemainingColumn,
    )

    console = Console(stderr=True)
    columns = (
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TimeRemainingColumn(),
    )
    quiet = not (console.is_terminal or console.is_jupyter)
    with Progress(*columns, console=console, disable=quiet, transient=True) as progress:
        task = progress.add_task("calibration", total=total)
        yield lambda layer: progress.update(task, advance=1, description=layer)
