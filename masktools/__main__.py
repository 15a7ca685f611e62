"""``python -m masktools``: the command line."""

from masktools.cli.app import main

main()
