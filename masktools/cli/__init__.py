"""The command line ``masktools``."""
