"""`dreamer envs list` and `dreamer envs check`."""

import json
import tomllib
from pathlib import Path

import pytest

from dreamer_cli.commands import envs as command
from dreamer_cli.envs import catalog
from dreamer_cli.errors import EnvError, UsageError
from dreamer_cli.report import Reporter
from tests.toys import toy


@pytest.fixture
def report(monkeypatch):
    monkeypatch.setattr("dreamer_cli.commands.check.PLAY_STEPS", 200)
    return Reporter(quiet=True)


def test_the_newest_of_everything_is_listed(report):
    result = command.list_envs(report)
    suites = {suite["name"]: suite for suite in result.json["suites"]}
    assert [suite.name for suite in catalog.SUITES] == list(suites)
    assert "CartPole-v1" in suites["classic"]["ids"]
    assert "CartPole-v0" not in suites["classic"]["ids"]
    assert "ALE/Pong-v5" in suites["atari"]["ids"]
    assert "MinAtar/Breakout-v1" in suites["minatar"]["ids"]
    assert {"id": "CartPole-v1", "suite": "classic", "installed": True} in result.json["envs"]
    assert all(len(line) <= 100 for line in result.text)
    assert len({env["id"] for env in result.json["envs"]}) == len(result.json["envs"])
    json.dumps(result.json)


@pytest.mark.parametrize(
    ("pattern", "ids"),
    [
        ("pong", ["ALE/Pong-v5"]),
        ("cart*", ["CartPole-v1"]),
        ("cartpole-v0", ["CartPole-v0"]),  # old, but asked for
        ("MinAtar/S*", ["MinAtar/Seaquest-v1", "MinAtar/SpaceInvaders-v1"]),
        ("no such thing", []),
    ],
)
def test_patterns(report, pattern, ids):
    assert [env["id"] for env in command.list_envs(report, pattern).json["envs"]] == ids


def test_what_is_missing_comes_with_its_pip_line(report, monkeypatch):
    monkeypatch.setattr(catalog.Suite, "installed", property(lambda suite: suite.name != "box2d"))
    result = command.list_envs(report, "lunarlander")
    assert result.json["suites"][0]["install"] == "pip install 'dreamer-cli[box2d]'"
    assert "pip install 'dreamer-cli[box2d]'" in result.text[0]


def test_check_shows_what_the_encoder_will_see(report):
    result = command.check_env(toy("Everything"), report)
    assert result.error is None
    keys = {row["key"]: row for row in result.json["observation"]}
    assert keys["camera"]["kind"] == "image"
    assert keys["camera"]["shape"] == (3, 16, 24)
    assert 0 <= keys["gear"]["min"] < keys["gear"]["max"] <= 3
    assert set(result.json["left_out"]) == {"mission", "path"}
    assert [part["key"] for part in result.json["action"]] == ["arm/grip", "arm/keys", "dial", "walk"]
    assert any("'mission' is left out" in problem for problem in result.json["problems"])
    text = "\n".join(result.text)
    assert "hand/fingers" in text
    assert "3x16x24" in text


def test_check_plays(report):
    played = command.check_env(toy("Timeline"), report, env_kwarg=["length=4", "ends=truncated"]).json["played"]
    assert played["truncated"] == played["episodes"] == played["steps"] // 4
    assert played["terminated"] == 0
    assert (played["reward_min"], played["reward_max"]) == (15, 47)


def test_check_collects_what_gymnasium_says(report):
    problems = command.check_env("MinAtar/Breakout-v1", report).json["problems"]
    assert any(problem.startswith("Gymnasium's checker: ") for problem in problems)
    assert "\x1b" not in "".join(problems)


def test_check_of_a_broken_environment_ends_in_its_error(report):
    result = command.check_env(toy("Faulty"), report, env_kwarg=["fault=nan", "at=3"])
    assert isinstance(result.error, EnvError)
    assert "step 3 of episode 1" in result.error.what
    assert result.json["played"]["steps"] == 2
    with pytest.raises(EnvError, match="no engine"):
        command.check_env(toy("Faulty"), report, env_kwarg=["fault=constructor"])


@pytest.mark.parametrize(("fault", "said"), [("dies", "exit code 17"), ("hangs", "no answer for 0.5 s")])
def test_an_environment_that_dies_or_hangs_takes_nothing_along(report, monkeypatch, fault, said):
    monkeypatch.setattr("dreamer_cli.commands.check.PATIENCE_S", 0.5 if fault == "hangs" else 60.0)
    result = command.check_env(toy("Faulty"), report, env_kwarg=[f"fault={fault}", "at=7"])
    assert isinstance(result.error, EnvError)
    assert said in result.error.what
    assert result.json["played"]["steps"] == 6
    # What could not be tried is not held against it.
    assert not any("no picture" in problem or "No episode ended" in problem for problem in result.json["problems"])


ODD = """
import gymnasium as gym
import numpy as np
class Odd(gym.Env):
    observation_space = gym.spaces.Dict({
        "far": gym.spaces.Box(-1, 1, (3,), np.float32), "wide": gym.spaces.Box(-1, 1, (3,), np.float32)})
    action_space = gym.spaces.Discrete(2)
    metadata = {"render_modes": ["rgb_array"]}
    def __init__(self, render_mode=None):
        self.render_mode = render_mode
    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed)
        self.t = 0
        return self.show(), {}
    def show(self):
        return {"far": np.full(3, 5, np.float32), "wide": np.full(3, self.t / 9)}
    def step(self, action):
        self.t += 1
        return self.show(), 1.0, self.t == 5, False, {}
"""


def test_check_names_what_is_observed_against_its_space_and_what_cannot_be_drawn(report, tmp_path):
    (tmp_path / "odd.py").write_text(ODD)
    result = command.check_env(f"{tmp_path}/odd.py:Odd", report)
    problems = " ".join(result.json["problems"])
    assert "far reached 5 and 5; its space goes from -1 to 1." in problems
    assert "wide is float64; its space says float32." in problems
    assert "shows no picture" in problems
    assert "render() raised NotImplementedError" in problems
    assert result.json["deterministic"] is True
    assert result.error is None


def test_suites_are_found_by_their_names(report, monkeypatch):
    assert {env["suite"] for env in command.list_envs(report, "atari").json["envs"]} == {"atari"}
    monkeypatch.setattr(catalog.Suite, "installed", property(lambda suite: suite.name != "crafter"))
    result = command.list_envs(report, "Crafter")
    assert [suite["install"] for suite in result.json["suites"]] == ["pip install 'dreamer-cli[crafter]'"]
    assert "dreamer-cli[crafter]" in " ".join(result.text)


def test_arguments_are_typed_as_for_train(report):
    with pytest.raises(UsageError, match="KEY=VALUE") as caught:
        command.check_env("CartPole-v1", report, env_kwarg=["novalue"])
    assert "--env-kwarg gravity=9.8" in caught.value.hint


def test_check_notices_what_is_not_repeated(report, tmp_path):
    (tmp_path / "moody.py").write_text(
        "import numpy as np\nfrom tests.toys import Toy\n"
        "class Moody(Toy):\n"
        "    episodes = 0\n"
        "    def reset(self, **kwargs):\n"
        "        self.episodes += 1\n"
        "        return super().reset(**kwargs)\n"
        "    def show(self):\n"
        "        return np.full(3, min(1, self.episodes / 9999), np.float32)\n"
        "    def reward(self, action):\n"
        "        return 0.0\n"
    )
    result = command.check_env(f"{tmp_path}/moody.py:Moody", report)
    assert result.json["deterministic"] is False
    problems = " ".join(result.json["problems"])
    assert "two different episodes" in problems
    assert "no reward" in problems


def test_every_pip_line_works():
    project = tomllib.loads((Path(__file__).parents[2] / "pyproject.toml").read_text())["project"]
    for suite in catalog.SUITES:
        assert not suite.extra or suite.extra in project["optional-dependencies"]
