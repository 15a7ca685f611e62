"""A bar that shows which step a long computation is at, and how long the others will take."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager

Step = Callable[[str], None]


@contextmanager
def bar(total: int, title: str, *, done: int = 0, wanted: bool = True) -> Iterator[Step]:
    """Show a bar on standard error, where that is a terminal; yield what to call after a step.

    Parameters
    ----------
    total : int
        How many steps there are: layers, or trainings.
    title : str
        Stands beside the bar until the first step is done, whose name takes its place.
    done : int, default 0
        Steps that were done before.
    wanted : bool, default True
        False shows nothing.
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
    quiet = not wanted or not (console.is_terminal or console.is_jupyter)
    with Progress(*columns, console=console, disable=quiet, transient=True) as progress:
        task = progress.add_task(title, total=total, completed=done)
        yield lambda name: progress.update(task, advance=1, description=name)
