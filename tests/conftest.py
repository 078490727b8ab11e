"""Shared fixtures."""

import json
from pathlib import Path

import pytest


@pytest.fixture(scope="session")
def reference() -> dict:
    """Known answers, computed with independent float64 code (see `tests/fixtures/README.md`)."""
    return json.loads((Path(__file__).parent / "fixtures" / "reference.json").read_text())
