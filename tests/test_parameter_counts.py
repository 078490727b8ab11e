"""Every size of the official network, module by module, from our presets; on the meta device, so in no time."""

import pytest
import torch

from dreamer_cli import config
from dreamer_cli.agent import Agent
from dreamer_cli.spaces import ActionPart, EnvSpec, ObsSpec
from tests.conftest import load_reference

BUTTONS, JOINTS = ActionPart("action", "discrete", (18,)), ActionPart("action", "continuous", size=6)
SPECS = {
    "img": EnvSpec({"image": ObsSpec("image", (3, 64, 64))}, (BUTTONS,)),
    "vec": EnvSpec({"state": ObsSpec("vector", (24,))}, (JOINTS,)),
    "img96g": EnvSpec({"image": ObsSpec("image", (1, 96, 96))}, (BUTTONS,)),
}
THEIRS = {
    "encoder": "enc",
    "rssm": "dyn",
    "decoder": "dec",
    "reward": "rew",
    "cont": "con",
    "actor": "pol",
    "critic": "val",
    "total": "total_trainable",
}
COUNTS = load_reference()["param_counts_v3"]["counts"]


def build(spec: str, size: str) -> Agent:
    cfg = config.resolve(presets=["dreamerv3", size]).config
    with torch.device("meta"):
        return Agent(cfg.world, cfg.behaviour, SPECS[spec])


@pytest.mark.parametrize("name", COUNTS)
def test_parameter_counts(name):
    agent = build(*name.split("/"))
    assert agent.parameter_counts() == {ours: COUNTS[name][theirs] for ours, theirs in THEIRS.items()}
    assert sum(p.numel() for p in agent.behaviour.slow_critic.parameters()) == COUNTS[name]["slowval"]


def test_all_sizes_are_counted():
    assert len(COUNTS) == 21
