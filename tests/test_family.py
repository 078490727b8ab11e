"""Every member of the family through every command; mixtures of parts; and what makes no sense is refused."""

import pytest
import torch

from dreamer_cli.cli import main
from dreamer_cli.commands.assemble import build_agent, build_learner
from dreamer_cli.config import Config, resolve
from dreamer_cli.errors import ConfigError
from dreamer_cli.presets import names
from dreamer_cli.spaces import ActionPart, EnvSpec, ObsSpec
from tests.commands.test_exact import train
from tests.round_trip import CATCH, WITHOUT_DECODER, round_trip
from tests.small import make_batch, unpacked

ALGORITHMS = names("algorithm")
DISCRETE = ActionPart("action", "discrete", (3,))
CONTINUOUS = ActionPart("action", "continuous", size=2)
SEEN = {"camera": ObsSpec("image", (1, 16, 16)), "speed": ObsSpec("vector", (3,))}
# What makes sense is one line away.
MIXTURES = {
    "V3 with LSTM": ["world.dynamics.core.kind=lstm"],
    "V3 with Gaussian latents and dynamics gradients": [
        "world.dynamics.latent.kind=gaussian",
        "behaviour.actor_gradient.kind=dynamics",
    ],
    "V3 with PlaNet's planner": ["behaviour.kind=cem"],
    "V3 with random shooting": ["behaviour.kind=random_shooting"],
    "V3 with a deterministic actor": [
        "behaviour.actor_gradient.kind=dynamics",
        "behaviour.actor.continuous.kind=deterministic",
    ],
    "V3 with V2's memory, critic and mixed gradients": [
        "world.dynamics.core.kind=gru_ln",
        "behaviour.slow_critic.kind=target",
        "behaviour.actor_gradient.kind=both",
    ],
    "V3 with a learned initial state and overshooting": ["world.dynamics.initial=learned", "world.overshooting=3"],
    "V3 with three Adams and action noise": ["optim.kind=adam", "behaviour.explorer.kind=action_noise"],
    "Plan2Explore": ["behaviour.intrinsic.kind=disagreement"],
    "R2-Dreamer with LSTM, Gaussian latents and a preview": [
        "world.objective.kind=decorrelate",
        "world.dynamics.core.kind=lstm",
        "world.dynamics.latent.kind=gaussian",
        "world.preview=true",
    ],
}


def settings(*texts: str, preset: str = "dreamerv3", size: str = "debug") -> Config:
    return resolve("CartPole-v1", [preset, size], settings=texts, has_pixels=False).config


def two_updates(cfg: Config, action: ActionPart) -> dict[str, float]:
    """Metrics of the second of two updates on a random batch."""
    agent = build_agent(cfg, EnvSpec(SEEN, (action,)), "cpu")
    learner = build_learner(cfg, agent)
    batch = make_batch(agent, 2, 8)
    learner.update(batch)
    return {name: float(value) for name, value in learner.update(batch)[1].items()}


@pytest.mark.parametrize("action", [DISCRETE, CONTINUOUS], ids=["discrete", "continuous"])
@pytest.mark.parametrize("preset", ALGORITHMS)
def test_every_member_learns_from_a_batch(preset, action):
    cfg = settings("optim.warmup=0", "world.free_nats=0", preset=preset)
    agent = build_agent(cfg, EnvSpec(SEEN, (action,)), "cpu")
    learner = build_learner(cfg, agent)
    before = {name: x.clone() for name, x in agent.named_parameters() if x.requires_grad}
    batch = make_batch(agent, 2, 8)
    for _ in range(2):
        _, metrics = learner.update(batch)
    assert all(torch.isfinite(x) for x in metrics.values()), metrics
    assert metrics["update/skipped"] == 0
    # Prototypes stay where they are for some thousand updates, as DreamerPro wants it.
    still = {name for name, x in agent.named_parameters() if name in before and torch.equal(x, before[name])}
    assert still <= {"world.objective.prototypes"}
    obs = {key: value[:, 0] for key, value in batch.obs.items()}
    noise = agent.noise(2, torch.Generator().manual_seed(0))
    for mode in ("explore", "sample", "mode"):
        chosen, carry = agent.policy(obs, batch.is_first[:, 0], agent.initial(2), noise, mode)
        assert chosen.shape == carry.action.shape == (2, action.width)
        assert chosen.isfinite().all()


@pytest.mark.parametrize("texts", MIXTURES.values(), ids=MIXTURES)
def test_mixtures(texts):
    metrics = two_updates(settings(*texts), CONTINUOUS)
    assert metrics["update/skipped"] == 0
    assert all(value == value for value in metrics.values()), metrics


@pytest.mark.parametrize(
    ("texts", "reason"),
    [
        (["behaviour.actor.continuous.kind=deterministic"], "no such density"),
        (["world.objective.kind=none"], "nothing would then make the state say what was seen"),
        (["loss_scales.objective=0"], "nothing makes the state say what was seen"),
        (["loss_scales.objective/camera=0", "loss_scales.objective/speed=0"], "losses of the objective weigh 0"),
        (["world.cont.kind=always"], "returns would have none"),
        (["world.preview=true"], "there is a decoder already"),
        (["behaviour.returns.kind=own_reward"], "one critic cannot learn both"),
        (["behaviour.returns.kind=own_reward", "behaviour.replay_loss=false", "behaviour.horizon=1"], "dreams of 2"),
        (["behaviour.kind=cem", "behaviour.bootstrap=true"], "no critic"),
        (["behaviour.kind=cem", "behaviour.elites=2000"], "elites is 2000"),
        (["behaviour.kind=cem", "behaviour.actor.units=8"], "Unknown key behaviour.actor"),
        (["world.dynamics.bricks=silu"], "bricks is 'silu'"),
    ],
)
def test_what_makes_no_sense_is_refused_with_a_reason(texts, reason):
    with pytest.raises(ConfigError, match=reason):
        two_updates(settings(*texts), CONTINUOUS)


def test_a_preview_changes_nothing():
    """The same weights, the same gradients, the same metrics: it only looks."""
    without, beside = (
        settings("optim.warmup=0", f"world.preview={preview}", preset="r2dreamer") for preview in ("false", "true")
    )
    found = []
    for cfg in (without, beside):
        agent = build_agent(cfg, EnvSpec(SEEN, (DISCRETE,)), "cpu")
        learner = build_learner(cfg, agent)
        metrics = [learner.update(make_batch(agent, 2, 8))[1] for _ in range(3)][-1]
        found.append((dict(agent.state_dict()), metrics))
    (weights, metrics), (more_weights, more_metrics) = found
    assert set(weights) < set(more_weights)
    assert all(torch.equal(x, more_weights[name]) for name, x in weights.items())
    same = set(metrics) - {"loss/total", "optim/grad_norm", "optim/clipped"}
    assert all(torch.equal(metrics[name], more_metrics[name]) for name in same)
    drawn = agent.world.decode(torch.zeros(1, agent.world.dynamics.feat_size))
    assert drawn is not None
    assert set(drawn) == set(SEEN)


def test_a_preview_changes_nothing_with_clipping_by_group_either():
    texts = ("optim.kind=adam", "optim.clip=0.01", "behaviour.intrinsic.kind=disagreement")
    agents = []
    for preview in ("false", "true"):
        cfg = settings(*texts, f"world.preview={preview}", preset="infonce")
        agent = build_agent(cfg, EnvSpec(SEEN, (DISCRETE,)), "cpu")
        learner = build_learner(cfg, agent)
        for _ in range(2):
            learner.update(make_batch(agent, 2, 8))
        agents.append(agent.state_dict())
    assert all(torch.equal(x, agents[1][name]) for name, x in agents[0].items())


def test_gradients_through_dreams_move_only_the_actor():
    """Backpropagation through the dynamics passes through world and critic, and leaves nothing there."""
    cfg = settings(preset="dreamerv1")
    agent = build_agent(cfg, EnvSpec(SEEN, (CONTINUOUS,)), "cpu")
    batch = unpacked(agent, make_batch(agent, 2, 8))
    noise = agent.update_noise(2, 8, torch.Generator().manual_seed(0))
    agent.losses(batch, noise).losses["actor"].mean().backward()
    moved = {name.split(".")[1] for name, p in agent.named_parameters() if p.grad is not None and p.grad.any()}
    assert moved == {"actor"}
    assert all(p.requires_grad for p in agent.world.parameters())


# ── through every command; from vectors in test_family_runs.py ──────────────────────────────────────────────────


@pytest.mark.extended
@pytest.mark.parametrize("preset", ["planet", "dreamerv1", "dreamerv2", "dreamerv3-2023", "r2dreamer", "dreamerpro"])
def test_round_trip_from_pixels(preset, tmp_path, capsys):
    # Exported once for each kind of convolution that V3 has not.
    round_trip(preset, CATCH, tmp_path, capsys, export=preset in ("dreamerv1", "dreamerv3-2023"))


@pytest.mark.extended
def test_what_learns_beside_may_come_and_go(tmp_path, capsys):
    """Explore by itself, then begin with those weights on the task; and begin to draw what could not be drawn."""
    first, task, drawn = (str(tmp_path / name) for name in ("first", "task", "drawn"))
    base = ["-e", CATCH, "-p", "r2dreamer", "-p", "debug", "--steps", "40", "-q"]
    assert main(["train", *base, "-p", "plan2explore", "--run-dir", first]) == 0
    assert main(["train", *base, "--init-from", first, "--run-dir", task]) == 0
    assert main(["train", *base, "-s", "world.preview=true", "--init-from", task, "--run-dir", drawn]) == 0
    assert main(["train", *base, "-s", "world.dynamics.core.kind=lstm", "--init-from", task, "--run-dir", "x"]) == 4
    assert "does not fit this model" in capsys.readouterr().err


@pytest.mark.extended
@pytest.mark.parametrize("preset", WITHOUT_DECODER)
def test_without_a_preview_nothing_can_be_shown(preset, tmp_path, capsys):
    run = tmp_path / "run"
    assert train(run, "-e", CATCH, "-p", preset, "-p", "debug", "-q", "--steps", "60", "--dream-every", "30") == 0
    capsys.readouterr()
    assert main(["imagine", str(run), "--context", "2", "--horizon", "3", "-q"]) == 4
    assert "world.preview=true" in capsys.readouterr().err
