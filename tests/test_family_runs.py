"""Every member of the family through every command, from vectors. Extended tier."""

import pytest

from dreamer_cli.presets import names
from tests.round_trip import round_trip

pytestmark = pytest.mark.extended


@pytest.mark.parametrize("preset", names("algorithm"))
def test_round_trip(preset, tmp_path, capsys):
    round_trip(preset, "Pendulum-v1", tmp_path, capsys)
