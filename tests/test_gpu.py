"""What only a GPU can show. Skips itself without one."""

import numpy as np
import pytest
import torch
from torch.utils._pytree import tree_map

from dreamer_cli.acting import AgentDriver
from dreamer_cli.commands.assemble import build_agent
from dreamer_cli.graph import Captured
from dreamer_cli.learner import Learner
from dreamer_cli.optim.laprop import LaPropConfig
from dreamer_cli.spaces import EnvSpec
from dreamer_cli.structs import Records
from tests.golden import LOSS_SCALES
from tests.small import make_agent, make_batch
from tests.test_family import ALGORITHMS, CONTINUOUS, DISCRETE, SEEN, settings

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="there is no CUDA device"),
]


def make(device: str, bf16: bool = False, compile: bool = False) -> Learner:
    agent = make_agent().to(device)
    return Learner(agent, LaPropConfig(lr=1e-3, warmup=0), LOSS_SCALES, bf16=bf16, seed=0, compile=compile)


def same_noise(learner: Learner, source: Learner, monkeypatch: pytest.MonkeyPatch) -> None:
    """Both draw the numbers that the CPU draws."""
    device = learner.device
    draw = source.agent.update_noise

    def noise(batch: int, length: int, generator: torch.Generator):
        drawn = draw(batch, length, torch.Generator().manual_seed(1))
        return tree_map(lambda x: x.to(device), drawn)

    monkeypatch.setattr(learner.agent, "update_noise", noise)


@pytest.mark.parametrize(
    ("bf16", "compile", "tolerance"), [(False, False, 1e-4), (False, True, 1e-4), (True, False, 0.05)]
)
def test_an_update_equals_the_cpus(monkeypatch, bf16, compile, tolerance):
    torch.backends.cuda.matmul.allow_tf32 = torch.backends.cudnn.allow_tf32 = False
    plain, learner = make("cpu"), make("cuda", bf16, compile)
    batch = make_batch(plain.agent)
    reference = make("cpu")
    same_noise(learner, reference, monkeypatch)
    same_noise(plain, reference, monkeypatch)
    _, theirs = plain.update(batch)
    _, ours = learner.update(batch.to(learner.device))
    for name in ("loss/total", "loss/dyn", "loss/reward", "loss/critic"):
        torch.testing.assert_close(ours[name].cpu().float(), theirs[name], rtol=tolerance, atol=tolerance)


def test_an_update_never_waits_for_the_device():
    learner = make("cuda")
    batch = make_batch(make_agent()).to(learner.device)
    learner.update(batch)
    torch.cuda.set_sync_debug_mode("error")
    try:
        learner.update(batch)
    finally:
        torch.cuda.set_sync_debug_mode("default")


def test_fifty_recorded_updates_equal_fifty_launched_ones():
    """One CUDA graph against single launches, from the same state, with the same random numbers."""
    plain, recorded = make("cuda"), make("cuda")
    recorded.learn = Captured(recorded.learn_as_is, pytest.fail)
    for seed in range(50):
        batch = make_batch(make_agent(), seed=seed).to(plain.device)
        (_, theirs), (_, ours) = plain.update(batch), recorded.update(batch)
    assert recorded.learn.recording is not None
    torch.testing.assert_close(ours["loss/total"], theirs["loss/total"], rtol=1e-4, atol=1e-4)
    for one, other in zip(recorded.params, plain.params, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-3, atol=1e-4)


def test_a_recorded_decision_equals_a_launched_one():
    agent = make_agent().to("cuda")
    obs = {key: value[:, 0].numpy() for key, value in make_batch(make_agent()).obs.items()}
    flags = np.zeros(2, bool)
    records = Records(obs, np.zeros(2, np.float32), flags, flags, flags)
    plain, recorded = AgentDriver(agent, "mode", 0), AgentDriver(agent, "mode", 0, capture=True)
    carries = [plain.initial(2), recorded.initial(2)]
    for _ in range(6):
        outs = [driver(records, carry) for driver, carry in zip((plain, recorded), carries, strict=True)]
        carries = [out[2] for out in outs]
        np.testing.assert_allclose(outs[0][0], outs[1][0], rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("action", [DISCRETE, CONTINUOUS], ids=["discrete", "continuous"])
@pytest.mark.parametrize("preset", ALGORITHMS)
def test_recorded_updates_of_every_member_equal_launched_ones(preset, action):
    cfg = settings("optim.warmup=0", "world.overshooting=3", preset=preset)
    agents = [build_agent(cfg, EnvSpec(SEEN, (action,)), "cuda") for _ in range(2)]
    plain, recorded = (Learner(agent, cfg.optim, cfg.loss_scales, bf16=False, seed=0) for agent in agents)
    recorded.learn = Captured(recorded.learn_as_is, pytest.fail)
    sample = build_agent(cfg, EnvSpec(SEEN, (action,)), "cpu")
    for seed in range(8):
        batch = make_batch(sample, 2, 8, seed=seed).to(plain.device)
        plain.update(batch)
        recorded.update(batch)
    assert recorded.learn.recording is not None
    for (name, one), (_, other) in zip(agents[0].state_dict().items(), agents[1].state_dict().items(), strict=True):
        torch.testing.assert_close(one, other, rtol=1e-3, atol=1e-4, msg=name)
