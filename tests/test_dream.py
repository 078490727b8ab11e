"""Dreams against an RSSM stepped by hand; windows; seeds."""

import math

import numpy as np
import pytest
import torch

from dreamer_cli.agent import Agent
from dreamer_cli.behaviour.planners import CEMConfig
from dreamer_cli.dream import Stretch, Windows, batch_windows, dream, no_windows, repeat_window, stack_windows
from dreamer_cli.errors import StateError
from dreamer_cli.steering import Steering
from dreamer_cli.structs import Batch, Carry, State
from tests.small import EVERYTHING, make_agent

ENTRIES = (slice(0, 3), slice(3, 5), slice(5, 7))  # categorical entries of the action; two numbers follow


def make_stretch(length: int, seed: int, ends: bool = False) -> Stretch:
    """Random records of one episode, which dies with the last one if `ends`."""
    rng = np.random.default_rng(seed)
    terminal = np.zeros(length, bool)
    terminal[-1] = ends
    onehots = [np.eye(part.stop - part.start)[rng.integers(0, 2, length)] for part in ENTRIES]
    return Stretch(
        {
            "camera": rng.integers(0, 256, (length, 3, 8, 8), dtype=np.uint8),
            "speed": rng.normal(size=(length, 2)).astype(np.float32),
            "cards": rng.integers(0, 3, (length, 2)).astype(np.int32),
        },
        np.concatenate([*onehots, rng.normal(size=(length, 2))], 1).astype(np.float32),
        rng.normal(size=length).astype(np.float32),
        terminal,
    )


@pytest.fixture(scope="module")
def agent() -> Agent:
    return make_agent(awake=True)


@pytest.fixture
def windows() -> Windows:
    """Two windows of 12 records, and one whose episode ends after 8."""
    return stack_windows([make_stretch(12, 0), make_stretch(8, 1, ends=True), make_stretch(12, 2)])


def generator(seed: int = 3) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def by_hand(agent: Agent, windows: Windows, context: int, moments: int) -> dict[str, np.ndarray]:
    """Decode an RSSM that is stepped one record at a time, with the public step functions only."""
    random, rows = generator(), len(windows.length)
    state, action = agent.initial(rows)
    shown: list[dict[str, torch.Tensor]] = []
    with torch.no_grad():
        for t in range(moments):
            noise = agent.world.dynamics.latent.noise((rows,), state.deter, random)
            if t < context:
                obs = {key: torch.as_tensor(value[:, t]) for key, value in windows.obs.items()}
                first = torch.full((rows,), t == 0)
                state, _ = agent.world.dynamics.observe_step(state, action, agent.world.encoder(obs), first, noise)
            else:
                state = agent.world.dynamics.imagine_step(state, action, noise)
            action = torch.as_tensor(windows.action[:, t])
            decoded = agent.world.decode(agent.world.dynamics.feat(state))
            assert decoded is not None
            shown.append(decoded)
    return {key: torch.stack([step[key] for step in shown], 1).numpy() for key in shown[0]}


def test_open_loop_equals_an_rssm_stepped_by_hand(agent, windows):
    dreams = dream(agent, windows, "openloop", context=4, horizon=8, generator=generator())
    expected = by_hand(agent, windows, context=4, moments=12)
    for key in EVERYTHING.observation:
        np.testing.assert_allclose(dreams.model[key], expected[key], rtol=1e-4, atol=1e-5)
    assert np.ptp(dreams.model["camera"][:, 4:], axis=1).max() > 1e-3, "the dream stands still, so nothing was tested"


def test_context_is_the_posterior_and_nothing_later_is_seen(agent, windows):
    dreams = dream(agent, windows, "openloop", context=4, horizon=8, generator=generator())
    blind = windows._replace(obs={key: value.copy() for key, value in windows.obs.items()})
    for value in blind.obs.values():
        value[:, 4:] = 0
    again = dream(agent, blind, "openloop", context=4, horizon=8, generator=generator())
    np.testing.assert_array_equal(dreams.model["camera"], again.model["camera"])
    blind.obs["camera"][:, 3] = 255 - blind.obs["camera"][:, 3]
    other = dream(agent, blind, "openloop", context=4, horizon=8, generator=generator())
    np.testing.assert_array_equal(dreams.model["camera"][:, :3], other.model["camera"][:, :3])
    assert np.abs(dreams.model["camera"][:, 3] - other.model["camera"][:, 3]).max() > 1e-4


@pytest.mark.parametrize("mode", ["openloop", "policy"])
def test_seed_repeats_the_dream(agent, windows, mode):
    first, again, other = (
        dream(agent, windows, mode, context=4, horizon=8, generator=generator(seed)) for seed in (3, 3, 4)
    )
    for name, value in first.arrays().items():
        np.testing.assert_array_equal(value, again.arrays()[name])
    assert not np.array_equal(first.model["speed"], other.model["speed"])


def test_open_loop_stops_where_the_episode_does(agent, windows):
    dreams = dream(agent, windows, "openloop", context=4, horizon=100, generator=generator())
    assert dreams.moments == 12
    assert dreams.length.tolist() == dreams.known.tolist() == [12, 8, 12]
    np.testing.assert_array_equal(dreams.truth["camera"][1, 8:], dreams.truth["camera"][1, [7] * 4])


def test_policy_shares_the_context_and_then_acts_by_itself(agent, windows):
    real = dream(agent, windows, "openloop", context=4, horizon=8, generator=generator())
    own = dream(agent, windows, "policy", context=4, horizon=20, generator=generator())
    assert own.moments == 24
    assert own.known.tolist() == [4, 4, 4]
    np.testing.assert_array_equal(own.model["camera"][:, :4], real.model["camera"][:, :4])
    np.testing.assert_array_equal(own.action[:, :3], windows.action[:, :3])
    with torch.no_grad():  # the last real record is answered by the agent
        assert not np.array_equal(own.action[:, 3], windows.action[:, 3])
    for entry in ENTRIES:
        np.testing.assert_array_equal(own.action[..., entry].sum(-1), 1)
    # A dream ends with the first moment that the model itself holds for the end.
    for m, length in enumerate(own.length):
        over = np.flatnonzero(own.cont[m, 4:] < 0.5)
        assert length == (over[0] + 5 if over.size else 24)


def given_actions(rows: int, moments: int, seed: int = 5) -> np.ndarray:
    return np.stack([make_stretch(moments, seed + row).action for row in range(rows)])


def test_given_actions_act_exactly(agent, windows):
    """From the last record of the context on; as open loop, were they the true ones."""
    true = Steering(windows.action[:, 3:], np.zeros((3, 9), bool), np.full(3, 9))
    dreams = dream(agent, windows, "actions", context=4, horizon=4, generator=generator(), steering=true)
    real = dream(agent, windows, "openloop", context=4, horizon=8, generator=generator())
    assert dreams.known.tolist() == [4, 4, 4]
    for key, model in dreams.model.items():
        np.testing.assert_array_equal(model, real.model[key][:, : dreams.moments])
    other = given_actions(3, 6)
    led = dream(
        agent, windows, "actions", context=4, horizon=6, generator=generator(),
        steering=Steering(other, np.zeros((3, 6), bool), np.full(3, 6)),
    )  # fmt: skip
    np.testing.assert_array_equal(led.action[:, 3:9], other[:, : led.moments - 3])
    assert not led.action[:, 9:].any()  # nothing is known of what would come then
    np.testing.assert_array_equal(led.model["camera"][:, :4], real.model["camera"][:, :4])
    assert np.abs(led.model["camera"][:, 4] - real.model["camera"][:, 4]).max() > 1e-4


def test_a_dream_from_the_prior_alone_sees_nothing(agent):
    """Stepped by hand; and there is no observation that could have been seen."""
    actions = given_actions(2, 5)
    steering = Steering(actions, np.zeros((2, 5), bool), np.full(2, 5))
    dreams = dream(
        agent, no_windows(agent, 2), "actions", context=0, horizon=6, generator=generator(), steering=steering
    )
    random, dynamics = generator(), agent.world.dynamics
    state, action, shown = agent.initial(2).state, agent.initial(2).action, []
    with torch.no_grad():
        state = dynamics.blank(torch.ones(2, dtype=torch.bool), state)
        for t in range(dreams.moments):
            state = dynamics.imagine_step(state, action, dynamics.latent.noise((2,), state.deter, random))
            action = torch.as_tensor(actions[:, min(t, 4)])
            shown.append(agent.world.decode(dynamics.feat(state))["camera"])
    np.testing.assert_allclose(dreams.model["camera"], torch.stack(shown, 1).numpy(), rtol=1e-4, atol=1e-5)
    assert dreams.known.tolist() == [0, 0]
    assert np.isnan(dreams.kl).all()
    assert np.isfinite(dreams.value).all()


def test_branches_grow_from_one_state(agent, windows):
    own = np.ones((3, 9), bool)
    own[1] = False
    steering = Steering(given_actions(3, 9), own, np.full(3, 9))
    one = repeat_window(windows, 3)
    dreams = dream(
        agent, one, "branches", context=4, horizon=8, generator=generator(), steering=steering, names=("a", "b", "c")
    )
    for key in dreams.model:
        same = np.broadcast_to(dreams.model[key][:1, :4], dreams.model[key][:, :4].shape)
        np.testing.assert_allclose(dreams.model[key][:, :4], same, rtol=1e-5, atol=1e-6)
    assert np.abs(dreams.model["camera"][0, 4] - dreams.model["camera"][1, 4]).max() > 1e-4
    np.testing.assert_array_equal(dreams.action[1, 3 : dreams.moments], steering.given[1, : dreams.moments - 3])
    assert not np.array_equal(dreams.action[0, 3:], dreams.action[2, 3:])  # both decide for themselves
    assert dreams.names == ("a", "b", "c")


def test_what_is_said_of_a_moment_is_what_the_heads_say(agent, windows):
    dreams = dream(agent, windows, "openloop", context=4, horizon=8, generator=generator())
    random, rows, dynamics = generator(), 3, agent.world.dynamics
    state, action = agent.initial(rows)
    with torch.no_grad():
        embed = agent.world.encoder({key: torch.as_tensor(value) for key, value in windows.obs.items()})
        for t in range(12):
            noise = dynamics.latent.noise((rows,), state.deter, random)
            if t < 4:
                state, _ = dynamics.observe_step(state, action, embed[:, t], torch.full((rows,), t == 0), noise)
            else:
                state = dynamics.imagine_step(state, action, noise)
            action = torch.as_tensor(windows.action[:, t])
            feat, prior = dynamics.feat(state), dynamics.prior(state.deter)
            said = {
                "reward": agent.world.reward(feat).mean,
                "value": agent.behaviour.critic(feat).mean,
                "entropy": dynamics.latent.entropy(prior),
                "kl": dynamics.latent.kl(dynamics.post(state.deter, embed[:, t]), prior),
            }
            known = t < dreams.known
            for name, expected in said.items():
                found = getattr(dreams, name)[:, t]
                np.testing.assert_allclose(found[known], expected.numpy()[known], rtol=1e-4, atol=1e-5)
            assert np.isnan(dreams.kl[~known, t]).all()
    reward, cont = dreams.reward[1, 4:8].tolist(), dreams.cont[1, 4:8].tolist()
    promised = sum(r * math.prod(cont[:t]) for t, r in enumerate(reward))  # by the chance that it comes to that
    assert dreams.returns[1] == pytest.approx(promised, rel=1e-5)


def test_a_planner_can_lead_a_dream(windows):
    agent = make_agent(awake=True)
    agent.behaviour = CEMConfig(horizon=2, candidates=5, elites=2, iterations=1).build(agent.world, agent.spec.action)
    own, again = (dream(agent, windows, "policy", context=4, horizon=3, generator=generator()) for _ in range(2))
    real = dream(agent, windows, "openloop", context=4, horizon=3, generator=generator())
    np.testing.assert_array_equal(own.model["speed"][:, :4], real.model["speed"][:, :4])
    np.testing.assert_array_equal(own.action, again.action)
    assert not np.array_equal(own.action[:, 3], windows.action[:, 3])
    assert np.abs(own.action[:, 3:]).max() <= 1
    for entry in ENTRIES:
        np.testing.assert_array_equal(own.action[..., entry].sum(-1), 1)


def test_a_preview_can_draw_what_an_objective_cannot(windows):
    agent = make_agent(awake=True, objective={"kind": "contrast"}, preview=True)
    dreams = dream(agent, windows, "openloop", context=4, horizon=2, generator=generator())
    assert dreams.model.keys() == EVERYTHING.observation.keys()


def test_a_model_that_knows_no_end_dreams_on(windows):
    agent = make_agent(awake=True, cont={"kind": "always"})
    dreams = dream(agent, windows, "policy", context=4, horizon=5, generator=generator())
    assert dreams.cont.min() == 1
    assert dreams.length.tolist() == [9, 9, 9]


def test_continue_is_shown_without_the_discount(agent, windows):
    with torch.no_grad():
        bias = agent.world.cont.output.linear.bias.clone()
        agent.world.cont.output.linear.bias.fill_(50.0)
        dreams = dream(agent, windows, "openloop", context=4, horizon=2, generator=generator())
        agent.world.cont.output.linear.bias.copy_(bias)
    assert dreams.cont.min() == 1.0


def test_too_short_for_the_context(agent, windows):
    with pytest.raises(StateError, match="8 records") as error:
        dream(agent, windows, "openloop", context=8, horizon=4, generator=generator())
    assert "--context 11 or less" in error.value.hint


def test_without_decoder(agent, windows, monkeypatch):
    monkeypatch.setattr(agent.world, "decode", lambda feat: None)
    with pytest.raises(StateError, match="no decoder") as error:
        dream(agent, windows, "policy", context=2, horizon=2, generator=generator())
    assert error.value.exit_code == 4
    assert "dreamer train -s world.preview=true" in error.value.hint


def test_batch_windows_cut_where_an_episode_begins(agent):
    stretches = [make_stretch(6, seed) for seed in range(3)]
    first = torch.zeros(3, 6, dtype=torch.bool)
    first[0, 2] = first[1, 0] = first[2, 5] = True
    action = torch.stack([torch.as_tensor(s.action) for s in stretches])
    batch = Batch(
        obs={key: torch.stack([torch.as_tensor(s.obs[key]) for s in stretches]) for key in EVERYTHING.observation},
        action=torch.cat([torch.full((3, 1, 9), 7.0), action], 1),
        reward=torch.stack([torch.as_tensor(s.reward) for s in stretches]),
        is_first=first,
        is_last=torch.zeros(3, 6, dtype=torch.bool),
        is_terminal=torch.zeros(3, 6, dtype=torch.bool),
        start=State(torch.ones(3, 16), torch.ones(3, 3, 4)),
    )
    windows, start = batch_windows(agent, batch, samples=2)
    assert windows.length.tolist() == [6, 5]  # rows 1 and 2; row 0 stays in one episode for 2 records only
    np.testing.assert_array_equal(windows.action[0], stretches[1].action)
    np.testing.assert_array_equal(windows.obs["camera"][1, :5], stretches[2].obs["camera"][:5])
    packed = batch._replace(start=State(batch.start.deter, torch.full((3, 3), 2)))
    assert batch_windows(agent, packed, samples=2)[1].state.stoch.sum((0, 1)).tolist() == [0, 0, 3, 0]
    assert start.action.sum(1).tolist() == [0, 63]  # row 1 begins an episode: nothing came before
    assert start.state.deter.sum(1).tolist() == [0, 16]
    dream(agent, windows, "openloop", context=2, horizon=9, generator=generator(), start=start)


def test_start_is_where_the_dream_begins(agent, windows):
    """Splitting a context in two, and handing the state over, changes nothing."""
    whole = dream(agent, windows, "openloop", context=4, horizon=8, generator=generator())
    random = generator()
    state, action = agent.initial(3)
    with torch.no_grad():
        for t in range(2):
            obs = {key: torch.as_tensor(value[:, t]) for key, value in windows.obs.items()}
            noise = agent.world.dynamics.latent.noise((3,), state.deter, random)
            first = torch.full((3,), t == 0)
            state, _ = agent.world.dynamics.observe_step(state, action, agent.world.encoder(obs), first, noise)
            action = torch.as_tensor(windows.action[:, t])
    rest = Windows(
        {key: value[:, 2:] for key, value in windows.obs.items()},
        windows.action[:, 2:],
        windows.reward[:, 2:],
        windows.is_terminal[:, 2:],
        windows.length - 2,
    )
    later = dream(agent, rest, "openloop", context=2, horizon=8, generator=random, start=Carry(state, action))
    np.testing.assert_allclose(later.model["speed"], whole.model["speed"][:, 2:], rtol=1e-4, atol=1e-5)
