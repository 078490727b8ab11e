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


R2 = load_reference()["param_counts_r2dreamer"]["counts"]
PRESETS = {"dreamer": "dreamerv3", "r2dreamer": "r2dreamer", "infonce": "infonce", "dreamerpro": "dreamerpro"}


@pytest.mark.parametrize("name", R2)
def test_without_a_decoder(name):
    size, seen, objective = name.split(":")
    cfg = config.resolve(presets=[PRESETS[objective], size.lower()]).config
    with torch.device("meta"):
        ours = Agent(cfg.world, cfg.behaviour, SPECS[seen]).parameter_counts()
    theirs = R2[name]
    assert ours["total"] == theirs["trainable_total"]
    for module in ("encoder", "rssm", "reward", "cont", "actor"):
        assert ours[module] == theirs[module]
    assert ours["critic"] == theirs["value"]
    assert ours["decoder"] == theirs.get("decoder", 0)


# Worked out from the official code: PlaNet and V1 with 6 numbers of action; V2 on Atari grey, with 18 classes, and on
# control suites.
OLDER = {
    "planet": ("img", JOINTS, {"encoder": 690_144, "rssm": 557_320, "decoder": 3_795_555, "reward": 250_201}),
    "dreamerv1": (
        "img",
        JOINTS,
        {"encoder": 690_144, "rssm": 557_920, "decoder": 3_795_555, "reward": 253_201, "cont": 413_601,
         "actor": 578_412, "critic": 413_601},
    ),
    "dreamerv2-atari": (
        "grey",
        BUTTONS,
        {"encoder": 1_549_776, "rssm": 5_664_848, "decoder": 10_497_553, "reward": 1_131_601, "cont": 1_131_601,
         "actor": 1_138_418, "critic": 1_131_601},
    ),
    "dreamerv2": (
        "img",
        JOINTS,
        {"encoder": 1_551_312, "rssm": 1_247_248, "decoder": 9_886_611, "reward": 971_601, "actor": 976_012,
         "critic": 971_601},
    ),
}  # fmt: skip


@pytest.mark.parametrize("preset", OLDER)
def test_older_members(preset):
    seen, action, expected = OLDER[preset]
    channels = 1 if seen == "grey" else 3
    cfg = config.resolve(presets=[preset]).config
    with torch.device("meta"):
        agent = Agent(cfg.world, cfg.behaviour, EnvSpec({"image": ObsSpec("image", (channels, 64, 64))}, (action,)))
    counts = agent.parameter_counts()
    assert {name: counts[name] for name in expected} == expected
