"""Optimisers by name."""

from dreamer_cli.optim.laprop import LaPropConfig
from dreamer_cli.registry import Registry

OPTIMISERS = Registry({"laprop": LaPropConfig, "adam": "dreamer_cli.optim.adam:AdamConfig"})
