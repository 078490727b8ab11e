"""The middle of an episode in another process: from there on, everything is as it would have been."""

import json
from dataclasses import replace

import numpy as np
import pytest

from dreamer_cli.envs.make import EnvConfig, make_env
from dreamer_cli.envs.state import APART, Lost, Trail
from dreamer_cli.envs.vector import Job, VectorEnv, observation_digest
from dreamer_cli.envs.wrappers import DreamerEnv
from tests.toys import toy_config

# Snapshots come every APART decisions; the last but one must be reached, and episodes end in what follows.
PONG = EnvConfig(id="ALE/Pong-v5", max_episode_steps=2 * APART + 20)
GAMES = {
    "pong": PONG,
    "loose": replace(
        PONG, kwargs={"frameskip": (2, 5), "repeat_action_probability": 0.3}, repeat=2, max_episode_steps=4 * APART + 40
    ),
    "pixels": replace(PONG, pixels="both", kwargs={"obs_type": "ram"}),
}
PLAYED = {
    "cartpole": EnvConfig(id="CartPole-v1"),
    "pendulum": EnvConfig(id="Pendulum-v1", max_episode_steps=50),
    "toy": toy_config("Timeline", length=50),
    "random": EnvConfig(**vars(toy_config("Toy", length=55))),
}


class Player:
    """Plays by chance, and keeps what a resume needs."""

    def __init__(self, envs, seed=3):
        self.envs, self.rng = envs, np.random.default_rng(seed)
        self.past = [[] for _ in range(envs.num_envs)]
        self.now = None
        self.seen = []

    def step(self):
        if self.now is None or self.now.is_last.any():
            over = np.ones(self.envs.num_envs, bool) if self.now is None else self.now.is_last
            fresh = self.envs.reset(over)
            self.now = fresh if self.now is None else self.now.updated(fresh, over)
            for row in np.flatnonzero(over):
                self.past[row].clear()
        actions = self.rng.normal(size=(self.envs.num_envs, self.envs.spec.action_width)).astype(np.float32)
        self.now = self.envs.step(actions)
        for row, action in enumerate(actions):
            self.past[row].append(action)
        self.seen += [*self.now.obs.values(), *self.now[1:]]

    def jobs(self, states):
        return {
            row: Job(
                int(self.envs.episodes[row]) - 1,
                np.array(self.past[row], np.float32),
                states[row],
                observation_digest({key: value[row] for key, value in self.now.obs.items()}),
            )
            for row in np.flatnonzero(~self.now.is_last).tolist()
        }


def go_on_elsewhere(cfg, vec, steps=40, more=55, with_actions=True, num_envs=2):
    """What is seen after some steps: by going on, and in a new vector that was brought to the same place."""
    with VectorEnv(cfg, num_envs, 7, vec) as envs:
        straight = Player(envs)
        for _ in range(steps):
            straight.step()
        states, now = envs.states(), straight.now
        jobs, begun = straight.jobs(states), envs.episodes.copy()
        straight.seen.clear()
        rng = straight.rng.bit_generator.state
        for _ in range(more):
            straight.step()
    said = []
    with VectorEnv(cfg, num_envs, 7, vec, warn=said.append) as envs:
        envs.episodes[:] = begun
        jobs = jobs if with_actions else {row: job._replace(actions=job.actions[:0]) for row, job in jobs.items()}
        assert envs.resume(jobs) == {}
        np.testing.assert_array_equal(envs.episodes, begun)
        resumed = Player(envs)
        resumed.now, resumed.rng.bit_generator.state = now, rng
        for _ in range(more):
            resumed.step()
    assert not said
    assert len(straight.seen) == len(resumed.seen)
    for left, right in zip(straight.seen, resumed.seen, strict=True):
        np.testing.assert_array_equal(left, right)
    assert begun.sum() < resumed.envs.episodes.sum(), "no episode ended: this shows less than it should"
    return states


QUICK = [("cartpole", "sync"), ("toy", "async")]
OTHERS = [(name, vec) for name in PLAYED for vec in ("sync", "async") if (name, vec) not in QUICK]


@pytest.mark.parametrize(("name", "vec"), QUICK + [pytest.param(*case, marks=pytest.mark.extended) for case in OTHERS])
def test_played_again(name, vec):
    assert go_on_elsewhere(PLAYED[name], vec) == [None, None]


@pytest.mark.parametrize(
    ("name", "vec"),
    [("pong", "sync"), *(pytest.param(name, "async", marks=pytest.mark.extended) for name in GAMES)],
)
def test_from_a_snapshot(name, vec):
    states = go_on_elsewhere(
        GAMES[name], vec, steps=2 * APART + 3, more=50, with_actions=False, num_envs=1 + (vec == "async")
    )
    assert all(state is not None and len(state) < 40_000 for state in states)


@pytest.mark.extended
def test_a_state_that_keeps_the_emulator_busy_does_not_keep_the_trainer(monkeypatch):
    """Loaded in another process first; two in a hundred of random bytes do that, here the limit is what is odd."""
    monkeypatch.setattr("dreamer_cli.envs.pool.TRY_S", 1e-9)
    monkeypatch.setattr("dreamer_cli.envs.answers.POLL_S", 0.0)
    said = []
    with VectorEnv(PONG, 1, 7, "sync", warn=said.append) as envs:
        player = Player(envs)
        for _ in range(2 * APART + 3):
            player.step()
        jobs = player.jobs(envs.states())
    with VectorEnv(PONG, 1, 7, "sync", warn=said.append) as envs:
        assert envs.resume(jobs) == {}
    assert len(said) == 1
    assert "no answer for 1e-09 s" in said[0]


@pytest.mark.extended
def test_a_snapshot_that_leads_elsewhere_is_not_the_only_way():
    """ALE does not save all of Miniature Golf, so that its episodes are played again."""
    cfg, said = EnvConfig(id="ALE/MiniatureGolf-v5"), []
    with VectorEnv(cfg, 1, 7, "sync") as envs:
        player = Player(envs)
        for _ in range(70):
            player.step()
        jobs = player.jobs(envs.states())
    assert jobs[0].state is not None
    with VectorEnv(cfg, 1, 7, "sync", warn=said.append) as envs:
        assert envs.resume(jobs) == {}
        assert len(said) == 1
        assert "played again" in said[0]
        assert "cannot be used" in envs.resume({0: jobs[0]._replace(actions=jobs[0].actions[:0])})[0]


@pytest.mark.parametrize("vec", ["sync", "async"])
def test_what_cannot_be_brought_back_is_named_and_begins_the_next_episode(vec):
    cfg = toy_config("Timeline", length=4)
    with VectorEnv(cfg, 4, 0, vec) as envs:
        player = Player(envs)
        player.step()
        player.step()
        jobs = player.jobs(envs.states())
        first = player.now.obs["vector"][:, 1].tolist()
    jobs[0] = jobs[0]._replace(digest="0" * 64)
    jobs[1] = jobs[1]._replace(actions=np.zeros((6, 3), np.float32))
    jobs[2] = jobs[2]._replace(state=b"{}\nforged")
    del jobs[3]
    said = []
    with VectorEnv(cfg, 4, 0, vec, warn=said.append) as envs:
        failed = envs.resume(jobs)
        assert failed == {0: "it shows something else than it did", 1: "it ended early"}
        assert len(said) == 1  # row 2 has another way
        assert envs.episodes.tolist() == [1, 1, 1, 0]
        with pytest.raises(RuntimeError, match=r"\[0, 1, 3\]"):
            envs.step(np.zeros((4, 3), np.float32))
        fresh = envs.reset(np.array([True, True, False, True])).obs["vector"][:, 1].tolist()
        assert fresh[2:] == first[2:]  # row 3 begins its first episode
        assert (fresh[0], fresh[1]) != (first[0], first[1])
        assert envs.step(np.zeros((4, 3), np.float32)).obs["vector"][:, 0].tolist() == [1, 1, 3, 1]


def test_chance_without_a_seed_is_noticed():
    with VectorEnv(toy_config("Dicey", length=50), 1, 0, "sync") as envs:
        player = Player(envs)
        player.step()
        jobs = player.jobs(envs.states())
    with VectorEnv(toy_config("Dicey", length=50), 1, 0, "sync") as envs:
        assert envs.resume(jobs) == {0: "it shows something else than it did"}


def test_a_digest_is_of_names_types_shapes_and_values():
    row = {"a": np.zeros((2, 3), np.float32), "b": np.arange(4, dtype=np.int32)}
    same = {"b": row["b"].copy(), "a": row["a"].copy()}
    assert observation_digest(row) == observation_digest(same)
    others = [
        {"a": row["a"]},
        {"c": row["a"], "b": row["b"]},
        {"a": row["a"].reshape(3, 2), "b": row["b"]},
        {"a": row["a"].view(np.int32), "b": row["b"]},
        {"a": row["a"], "b": row["b"] + 1},
    ]
    assert len({observation_digest(other) for other in [row, *others]}) == 6


@pytest.fixture(scope="module")
def pong():
    """A game after 70 decisions, its trail, and its state."""
    env = make_env(PONG)
    trail = Trail.of(env)
    env.reset(seed=0)
    trail.began()
    action = np.eye(6, dtype=np.float32)
    for step in range(70):
        env.step(action[step % 6])
        trail.stepped(action[step % 6])
    return env, trail, trail.save()


def broken(state):
    """A saved state, in ways that a file can be wrong."""
    header, _, emulator = state.partition(b"\n")
    tree = json.loads(header)
    yield b""
    yield b"\n"
    yield state[: len(state) // 2]
    yield b"[" * 100_000 + b"\n" + emulator
    yield header + b"\n" + emulator * 100
    yield header + b"\n" + bytes(len(emulator))
    yield header + b"\n" + np.random.default_rng(0).bytes(len(emulator))
    yield header + b"\n" + emulator[:3000] + bytes(200) + emulator[3200:]  # of the random numbers
    yield header + b"\n" + emulator[:40] + b"x" + emulator[41:]  # another game
    for key, values in {
        "at": ["1", -1, 1.5, None, 10**400],
        "elapsed": [[], [1, 2], ["x"], 3, [None]],
        "generator": [None, {}, {"bit_generator": "MT19937"}, tree["generator"] | {"state": {"state": -1, "inc": 1}}],
        "actions": [[], [[1]], "x", [[None] * 6], [[1e999] * 6], [[1, 0, 0, 0, 0, 0], [1]], {}],
        "before": [[], [1], "x", [None] * 6, [1e999] * 6, {}],
        "now": ["0" * 64, None],
    }.items():
        yield json.dumps({k: v for k, v in tree.items() if k != key}).encode() + b"\n" + emulator
        for value in values:
            yield json.dumps(tree | {key: value}).encode() + b"\n" + emulator


def test_a_broken_state_is_refused_by_name(pong):
    env, trail, state = pong

    def take(action):
        if any(env.step(action)[2:4]):
            raise Lost

    for bad in broken(state):
        env.reset()
        with pytest.raises(ValueError, match=r"."):
            trail.load(bad, take)
    env.reset(seed=0)
    assert trail.load(state, take) == 70


def test_only_what_is_known_as_a_whole_has_a_trail(pong):
    assert Trail.of(pong[0]) is not None
    assert Trail.of(make_env(EnvConfig(id="CartPole-v1"))) is None
    inner = pong[0].env

    class Stacked(type(inner)):
        """As a wrapper that hides frames would."""

    pong[0].env.__class__, old = Stacked, type(inner)
    try:
        assert Trail.of(pong[0]) is None
    finally:
        inner.__class__ = old
    assert isinstance(pong[0], DreamerEnv)
