"""dreamer: train world-model agents from the shell."""

__version__ = "0.1.0"
