"""Recording and replaying, without a GPU: a recording here runs its call again, on the recording's own memory."""

import contextlib
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from torch.utils._pytree import tree_map

from dreamer_cli.acting import AgentDriver
from dreamer_cli.graph import WARM_UP, Captured
from dreamer_cli.learner import Learner
from dreamer_cli.optim.laprop import LaPropConfig
from dreamer_cli.sections import Sections
from dreamer_cli.structs import Records
from tests.golden import LOSS_SCALES
from tests.small import make_agent, make_batch


class Again:
    """Outputs lie where the first replay put them, as a CUDA graph's do."""

    def __init__(self, call):
        self.call, self.outputs = call, None

    def replay(self):
        fresh = self.call()
        if self.outputs is None:
            self.outputs = tree_map(torch.clone, fresh)
        else:
            tree_map(lambda own, new: own.copy_(new), self.outputs, fresh)
        return self.outputs


def make() -> Learner:
    return Learner(make_agent(), LaPropConfig(lr=1e-3, warmup=0), LOSS_SCALES, bf16=False, seed=0)


def test_a_captured_learner_learns_the_same():
    """Through warm-up, recording and replays: weights, latents and metrics are bit for bit those of a plain one."""
    plain, captured = make(), make()
    captured.learn = Captured(captured.learn_as_is, pytest.fail, record=Again)
    kept = []
    for seed in range(WARM_UP + 3):
        batch = make_batch(plain.agent, seed=seed)
        (ours, metrics), (theirs, expected) = captured.update(batch), plain.update(batch)
        kept.append((metrics, expected))
        for name in theirs:
            assert torch.equal(ours[name], theirs[name])
    for metrics, expected in kept:
        assert metrics == expected, "metrics of an update outlive the next one"
    assert captured.learn.recording is not None
    for ours, theirs in zip(captured.params, plain.params, strict=True):
        assert torch.equal(ours, theirs)


def test_what_cannot_be_recorded_runs_as_it_is():
    heard = []

    def fail(call):
        raise RuntimeError("operation not permitted when stream is capturing\nand more")

    captured = Captured(lambda x: 2 * x, heard.append, record=fail)
    for i in range(WARM_UP + 3):
        assert captured(torch.tensor(float(i))) == 2 * i
    assert len(heard) == 1
    assert "not permitted" in heard[0]


def test_other_shapes_are_refused():
    captured = Captured(lambda x: 2 * x, pytest.fail, record=Again)
    for _ in range(WARM_UP + 2):
        captured(torch.ones(3))
    with pytest.raises(ValueError, match="other shapes"):
        captured(torch.ones(4))


def test_inputs_are_copied():
    """What was given may change once the call is over."""
    captured = Captured(lambda x: x + 1, pytest.fail, record=Again)
    for i in range(WARM_UP + 3):
        given = torch.full((2,), float(i))
        assert torch.equal(captured(given), torch.full((2,), i + 1.0))
        given.fill_(-1)


def test_someone_who_listens_to_sections_gets_a_plain_update():
    captured = make()
    captured.learn = lambda *_: pytest.fail("replayed, where no section can be heard")
    with Sections("cpu") as timer:
        captured.update(make_batch(captured.agent))
    assert {"encoder", "observe", "imagine", "actor_critic", "optimiser"} <= timer.seconds.keys()


def test_an_update_never_asks_for_a_number(monkeypatch):
    """On `meta` no tensor has values, and tensors of two devices do not mix: what runs there can be captured."""
    # A device without numbers has no generator of them either.
    monkeypatch.setattr(torch, "Generator", lambda device: SimpleNamespace(manual_seed=lambda seed: None))
    learner = Learner(make_agent().to("meta"), LaPropConfig(), LOSS_SCALES, bf16=False, seed=0)
    monkeypatch.undo()
    monkeypatch.setattr(learner, "autocast", contextlib.nullcontext)
    monkeypatch.setattr(torch, "is_autocast_enabled", lambda kind: False)
    batch = make_batch(make_agent()).to(torch.device("meta"))
    learner.generator = None
    latents, metrics = learner.update(batch)
    assert {x.device.type for x in (*latents.values(), *metrics.values())} == {"meta"}
    assert metrics["loss/total"].shape == ()


def test_a_decision_never_asks_for_a_number():
    agent = make_agent().to("meta")
    batch = make_batch(make_agent()).to(torch.device("meta"))
    obs = {key: value[:, 0] for key, value in batch.obs.items()}
    action, carry = agent.policy(obs, batch.is_first[:, 0], agent.initial(2), agent.noise(2))
    assert action.device.type == carry.state.deter.device.type == "meta"


def test_a_captured_policy_plays_the_same():
    """Its carry lies in the recording's own memory, and comes back as the next call's input."""
    agent = make_agent()
    batch = make_batch(agent)
    plain, captured = AgentDriver(agent, "sample", 0), AgentDriver(agent, "sample", 0)
    captured.decide = Captured(captured.decide_as_is, pytest.fail, record=Again)
    carries = [plain.initial(2), captured.initial(2)]
    for t in [0, 1, 2, 3] * 2:
        obs = {key: value[:, t].numpy() for key, value in batch.obs.items()}
        first = batch.is_first[:, t].numpy()
        records = Records(obs, np.zeros(2, np.float32), first, first, first)
        outs = [driver(records, carry) for driver, carry in zip((plain, captured), carries, strict=True)]
        carries = [out[2] for out in outs]
        np.testing.assert_array_equal(outs[0][0], outs[1][0])
        for name, latent in outs[0][1].items():
            np.testing.assert_array_equal(latent, outs[1][1][name])
    assert captured.decide.recording is not None
