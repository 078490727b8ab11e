"""Optimisers by name."""

from dreamer_cli.optim.laprop import LaPropConfig

OPTIMISERS = {"laprop": LaPropConfig}
