"""A way through a dream beside the game: both as they would be by hand; rewinds, lines, ends."""

import numpy as np
import pytest
import torch

from dreamer_cli.agent import Agent
from dreamer_cli.envs.make import EnvConfig, make_env
from dreamer_cli.envs.vector import VectorEnv
from dreamer_cli.structs import State
from dreamer_cli.walk import Walk
from tests.small import make_agent
from tests.test_dream import make_stretch
from tests.toys import toy_config

LEFT, RIGHT = np.eye(2, dtype=np.float32)


@pytest.fixture(scope="module")
def agent() -> Agent:
    return make_agent(make_env(EnvConfig(id="CartPole-v1")).spec_dreamer, awake=True)


@pytest.fixture
def walk(agent):
    with VectorEnv(EnvConfig(id="CartPole-v1"), 1, 3, "sync", render_mode="rgb_array") as envs:
        found = Walk(agent, envs, "mode", seed=5)
        found.begin()
        yield found


def test_the_dream_is_an_rssm_stepped_by_hand_and_the_game_is_the_game(agent, walk):
    for action in (LEFT, RIGHT, RIGHT):
        walk.step(action)
    line = walk.lines[0]
    with VectorEnv(EnvConfig(id="CartPole-v1"), 1, 3, "sync") as envs, torch.no_grad():
        now = envs.reset()
        random, dynamics, world = torch.Generator().manual_seed(5), agent.world.dynamics, agent.world

        def noise():
            return dynamics.latent.noise((1,), agent.like, random)

        def see(state, action, first):
            embed = world.encoder({"vector": torch.as_tensor(now.obs["vector"])})
            return dynamics.observe_step(state, action, embed, torch.full((1,), first), noise())[0]

        carry = agent.initial(1)
        belief = dream = see(carry.state, carry.action, True)
        for t, action in enumerate((LEFT, RIGHT, RIGHT), 1):
            now = envs.step(action[None])
            taken = torch.as_tensor(action[None])
            belief = see(belief, taken, False)
            dream = dynamics.imagine_step(dream, taken, noise())
            np.testing.assert_array_equal(line[t].seen["vector"], now.obs["vector"][0])
            np.testing.assert_allclose(line[t].belief.deter, belief.deter, rtol=1e-5, atol=1e-6)
            np.testing.assert_allclose(line[t].dream.deter, dream.deter, rtol=1e-5, atol=1e-6)
            feat = dynamics.feat(dream)
            assert line[t].numbers["reward"] == pytest.approx(float(world.reward(feat).mean), rel=1e-4, abs=1e-5)
            assert line[t].numbers["value"] == pytest.approx(float(agent.behaviour.critic(feat).mean), rel=1e-4)
            np.testing.assert_allclose(line[t].shown["vector"], world.decode(feat)["vector"][0], rtol=1e-4, atol=1e-5)
            assert line[t].reward == 1
    assert line[0].picture.shape[2] == 3
    assert np.isnan(line[0].reward)


def test_a_step_from_the_past_begins_another_line_and_the_game_follows(walk):
    for action in (LEFT, RIGHT, RIGHT, LEFT):
        walk.step(action)
    walk.go(2)
    walk.step(LEFT)
    assert (walk.line, walk.at) == (1, 3)
    assert walk.lost == ""
    assert [len(line) for line in walk.lines] == [5, 4]
    assert walk.lines[0][:3] == walk.lines[1][:3]
    assert walk.actions().argmax(1).tolist() == [0, 1, 0]
    again = make_vector([LEFT, RIGHT, LEFT])
    np.testing.assert_array_equal(walk.now.seen["vector"], again)
    # Back to the first line, and on at its end: the game is there, too.
    walk.change_line(1)
    assert (walk.line, walk.at) == (0, 3)
    walk.go(99)
    walk.step(RIGHT)
    assert (walk.line, walk.at) == (0, 5)
    np.testing.assert_array_equal(walk.now.seen["vector"], make_vector([LEFT, RIGHT, RIGHT, LEFT, RIGHT]))


def make_vector(actions):
    with VectorEnv(EnvConfig(id="CartPole-v1"), 1, 3, "sync") as envs:
        now = envs.reset()
        for action in actions:
            now = envs.step(action[None])
        return now.obs["vector"][0]


def test_when_the_game_is_over_the_dream_goes_on_alone(walk):
    for _ in range(30):
        if walk.now.over:
            break
        walk.step(RIGHT)
    assert walk.now.over
    assert not walk.has_game
    end = walk.at
    walk.step(RIGHT)
    assert walk.at == end + 1
    assert walk.now.seen is None
    walk.go(2)
    assert walk.has_game
    walk.step(LEFT)
    assert walk.now.seen is not None


def test_awake_again_the_dream_goes_on_from_what_is_believed(walk):
    for action in (LEFT, RIGHT):
        walk.step(action)
    belief = walk.now.belief
    assert not torch.equal(walk.now.dream.deter, belief.deter)
    walk.wake()
    assert torch.equal(walk.now.dream.deter, belief.deter)
    assert walk.now.seen is not None
    walk.step(LEFT)
    assert len(walk.lines) == 1
    assert walk.now.promised == pytest.approx(sum(moment.numbers["reward"] for moment in walk.lines[0][1:]))
    assert walk.now.paid == 3


def test_waking_in_the_past_leaves_the_future_that_there_was(walk):
    for action in (LEFT, RIGHT, RIGHT, LEFT):
        walk.step(action)
    old = list(walk.lines[0])
    walk.go(2)
    walk.wake()
    assert (walk.line, walk.at) == (1, 2)
    assert [len(line) for line in walk.lines] == [5, 3]
    assert all(a is b for a, b in zip(walk.lines[0], old, strict=True))
    walk.step(RIGHT)
    np.testing.assert_array_equal(walk.now.seen["vector"], old[3].seen["vector"])


def test_the_agent_steers_by_what_it_dreams_or_by_what_it_sees(agent, walk):
    walk.step(LEFT)
    here = walk.now
    for awake, state in ((False, here.dream), (True, here.belief)):
        walk.go(1)
        moment = walk.step(awake=awake)
        with torch.no_grad():
            expected = agent.behaviour.decide(agent.world, state, torch.zeros(1, 2), "mode")
        np.testing.assert_array_equal(moment.action, expected[0])


def test_without_a_game(agent):
    walk = Walk(agent, None, "sample", seed=5)
    walk.begin_from_nothing()
    assert not walk.has_game
    walk.step()
    assert walk.now.seen is None
    other = make_agent(awake=True)
    walk = Walk(other, None, "mode", seed=5)
    walk.begin_from(make_stretch(4, 0))
    assert isinstance(walk.now.dream, State)
    assert not walk.has_game
    walk.step(np.zeros(other.spec.action_width, np.float32))
    assert walk.now.shown.keys() == {"camera", "speed", "cards"}


def test_a_game_that_does_not_repeat_itself_is_given_up_with_a_reason():
    cfg = toy_config("Dicey", length=50)
    agent = make_agent(make_env(cfg).spec_dreamer, awake=True)
    with VectorEnv(cfg, 1, 3, "sync") as envs:
        walk = Walk(agent, envs, "mode", seed=5)
        walk.begin()
        for _ in range(3):
            walk.step()
        walk.go(1)
        walk.step()
        assert "something else" in walk.lost
        assert walk.now.seen is None
        walk.begin()
        assert walk.lost == ""
