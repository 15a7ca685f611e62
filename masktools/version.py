"""The version, and the option --version of both command lines."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import typer

__version__ = "0.1.0"


def add_version(app: typer.Typer, program: str) -> None:
    """Give a command line the option --version, which prints one line and ends.

    Parameters
    ----------
    app : typer.Typer
        Gets the option.
    program : str
        Its name in that line.
    """
    import typer

    def show(wanted: bool) -> None:
        if wanted:
            print(f"{program} {__version__}")
            raise typer.Exit

    option = typer.Option(
        False, "--version", callback=show, is_eager=True, help="Show the version."
    )

    @app.callback()
    def options(version: bool = option) -> None:
        """Accept the options that stand before any command."""
