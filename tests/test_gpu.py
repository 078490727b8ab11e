"""What only a GPU can show. Skips itself without one."""

import pytest
import torch

from dreamer_cli.learner import Learner
from dreamer_cli.optim.laprop import LaPropConfig
from tests.golden import LOSS_SCALES
from tests.small import make_agent, make_batch

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
        return type(drawn)(*(x.to(device) for x in drawn))

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
