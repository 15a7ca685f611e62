"""Commands of masktools, called in this process."""

from __future__ import annotations

from typer.testing import CliRunner

from masktools.cli import app


def invoke(*arguments, status=0):
    done = CliRunner().invoke(app.app, ["export", *map(str, arguments)])
    assert done.exit_code == status, (done.output, done.stderr)
    return done.stdout, done.stderr
