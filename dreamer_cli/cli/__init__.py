"""The command line: parse, call, print. Commands, and torch with them, load only when they run."""

from dreamer_cli.cli.entry import main

__all__ = ["main"]
