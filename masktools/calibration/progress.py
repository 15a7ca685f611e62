"""A bar that shows which step a long computation is at, and how long the others will take."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager

Step = Callable[[str], None]


@contextmanager
def bar(total: int, title: str = "calibration") -> Iterator[Step]:
    """Show a bar on standard error, where that is a terminal; yield what to call after a step.

    Parameters
    ----------
    total : int
        How many steps there are: of a calibration, layers.
    title : str
        Stands beside the bar until the first step is done, whose name takes its place.
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
        task = progress.add_task(title, total=total)
        yield lambda name: progress.update(task, advance=1, description=name)


@contextmanager
def shown(total: int, title: str, wanted: bool) -> Iterator[Step]:
    """Show a bar as `bar` does, or nothing where none is wanted."""
    if not wanted:
        yield lambda name: None
        return
    with bar(total, title) as step:
        yield step
