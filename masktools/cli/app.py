"""The command line ``masktools``: one file for each of its commands."""

from __future__ import annotations

import typer

from masktools.cli.convert import convert_command
from masktools.cli.export import export_command
from masktools.cli.inspect import inspect_command
from masktools.cli.prune import prune_command
from masktools.version import add_version

app = typer.Typer(
    help="A mask from any pruning tool goes in; a network that is really faster comes out.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
)
add_version(app, "masktools")
app.command("inspect")(inspect_command)
app.command("prune")(prune_command)
app.command("convert")(convert_command)
app.command("export")(export_command)


def main() -> None:
    """Run the command line; the exit status is 0 done, 1 refused, 2 usage, 130 interrupted."""
    app(prog_name="masktools")
