"""Orders and views of a walk: what each order does, and that nonsense does nothing."""

import json
from dataclasses import replace

import numpy as np
import pytest

from dreamer_cli.envs.make import EnvConfig, make_env
from dreamer_cli.envs.vector import VectorEnv
from dreamer_cli.play_term import Keys
from dreamer_cli.player import Player, likeliest
from dreamer_cli.steering import read_actions
from dreamer_cli.walk import Walk
from tests.small import make_agent
from tests.test_dream import make_stretch

CARTPOLE = EnvConfig(id="CartPole-v1")


@pytest.fixture
def player(tmp_path):
    agent = make_agent(make_env(CARTPOLE).spec_dreamer, awake=True)
    with VectorEnv(CARTPOLE, 1, 3, "sync", render_mode="rgb_array") as envs:
        walk = Walk(agent, envs, "mode", seed=5)
        walk.begin()

        def actions(document):
            (tmp_path / "a.json").write_text(json.dumps(document))
            return tmp_path / "a.json"

        def film(frames, fps):
            np.savez(tmp_path / "film.npz", frames=np.stack(list(frames)), fps=fps)
            return tmp_path / "film.npz"

        yield Player(walk, agent.spec, None, actions, film)


def orders(player, *all_of_them):
    for order in all_of_them:
        player.do(order)
    facts = player.view().facts
    json.dumps(facts, allow_nan=False)
    return facts


def test_a_view_says_where_one_stands(player):
    facts = orders(player)
    assert (facts["at"], facts["length"], facts["line"], facts["lines"]) == (0, 1, 0, 1)
    assert (facts["running"], facts["view"], facts["wheel"], facts["action"]) == (False, "both", "policy", None)
    assert facts["has_game"]
    assert facts["numbers"]["real_reward"] is None
    (vector,) = facts["vectors"]
    assert len(vector["truth"]) == len(vector["dream"]) == 4
    pictures = player.view().pictures
    assert pictures["game"].dtype == np.uint8
    assert max(pictures["game"].shape) <= 256
    layout = player.layout()
    assert [control["keys"] for control in layout["controls"]] == [("ArrowLeft",), ("ArrowRight",)]
    assert layout["can"] == {"game": True, "replayed": False}


def test_of_classes_the_likeliest_is_shown():
    chances = np.array([0.1, 0.7, 0.2, 0.4, 0.6], np.float32)
    assert likeliest(chances, (3, 2)).tolist() == [1, 1]
    toy = EnvConfig(id="FrozenLake-v1")
    with VectorEnv(toy, 1, 3, "sync") as envs:
        agent = make_agent(envs.spec, awake=True)
        walk = Walk(agent, envs, "mode", seed=5)
        walk.begin()
        (row,) = Player(walk, agent.spec, None, lambda document: None, lambda frames, fps: None).view().facts["vectors"]
    assert row["truth"] == [0]
    assert row["dream"][0] in range(16)


def test_the_clock_steps_while_it_runs(player):
    assert not player.tick()
    player.do({"do": "run", "on": True})
    assert all(player.tick() for _ in range(3))
    facts = orders(player)
    assert facts["at"] == 3
    assert facts["returns"]["game"] == 3.0
    assert facts["curves"]["real_reward"] == [None, 1.0, 1.0, 1.0]
    assert len(facts["curves"]["value"]) == 4


def test_a_person_steers(player):
    player.do({"do": "wheel", "who": "human"})
    player.do({"do": "run", "on": True})
    assert not player.tick()  # nothing is held, and this game knows no doing nothing
    player.do({"do": "hold", "action": 1})
    assert player.tick()
    assert orders(player)["action"] == 1
    player.do({"do": "hold", "action": None})
    assert not player.tick()
    facts = orders(player, {"do": "run", "on": False}, {"do": "hold", "action": 0})
    assert (facts["at"], facts["action"]) == (2, 0)  # while the clock stands, a key is a step
    assert "Hold a key" in orders(player, {"do": "hold", "action": None}, {"do": "step"})["said"]


def test_back_and_another_way(player):
    for action in (0, 1, 1):
        orders(player, {"do": "wheel", "who": "human"}, {"do": "hold", "action": action})
    facts = orders(player, {"do": "go", "at": 1}, {"do": "hold", "action": 0})
    assert (facts["at"], facts["line"], facts["lines"]) == (2, 1, 2)
    facts = orders(player, {"do": "line", "by": 1})
    assert (facts["at"], facts["line"], facts["length"]) == (2, 0, 4)
    assert orders(player, {"do": "go", "at": 99})["at"] == 3
    assert orders(player, {"do": "go", "at": -5})["at"] == 0
    assert orders(player, {"do": "go", "by": 1}, {"do": "go", "by": 1})["at"] == 2


def test_other_beginnings(player):
    orders(player, {"do": "step"}, {"do": "step"})
    facts = orders(player, {"do": "restart"})
    assert (facts["at"], facts["length"], facts["has_game"]) == (0, 1, True)
    facts = orders(player, {"do": "nothing"}, {"do": "step"})
    assert (facts["has_game"], facts["vectors"][0]["truth"]) == (False, None)
    assert "no replay" in orders(player, {"do": "replayed"})["said"]
    assert "no game" in orders(player, {"do": "wake"})["said"]


def test_a_recorded_moment_shows_what_was_there():
    agent = make_agent(awake=True)
    walk = Walk(agent, None, "mode", seed=5)
    walk.begin_from_nothing()
    stretch = make_stretch(4, 0)
    parts = tuple(replace(part, low=(-1.0,) * part.size, high=(1.0,) * part.size) for part in agent.spec.action)
    spec = replace(agent.spec, action=parts)
    player = Player(walk, spec, lambda: stretch, lambda document: None, lambda frames, fps: None)
    facts = orders(player, {"do": "replayed"})
    assert not facts["has_game"]
    np.testing.assert_array_equal(player.view().pictures["game"], stretch.obs["camera"][-1].transpose(1, 2, 0))
    orders(player, {"do": "step"})
    assert set(player.view().pictures) == {"dream"}
    assert player.layout()["sliders"] != []


def test_what_was_done_is_saved_and_can_be_dreamt_again(player, tmp_path):
    assert "Nothing was done" in orders(player, {"do": "save", "what": "actions"})["said"]
    for action in (0, 1, 1):
        orders(player, {"do": "wheel", "who": "human"}, {"do": "hold", "action": action})
    orders(player, {"do": "go", "at": 2}, {"do": "save", "what": "actions"})
    assert read_actions(tmp_path / "a.json", player.spec).given.argmax(-1).tolist() == [[0, 1]]
    assert "film.npz" in orders(player, {"do": "save", "what": "film"})["said"]
    with np.load(tmp_path / "film.npz") as film:
        assert film["frames"].shape[0] == 3
        assert film["frames"].shape[1] % 2 == film["frames"].shape[2] % 2 == 0


def test_a_film_is_blank_where_there_is_no_game(player, tmp_path):
    player.walk.step()
    player.walk.lost = "gone"
    player.walk.step()
    assert player.walk.now.picture is None
    assert "film.npz" in orders(player, {"do": "save", "what": "film"})["said"]
    with np.load(tmp_path / "film.npz") as film:
        assert [(frame == 40).mean() > 0.9 for frame in film["frames"]] == [False, False, True]


def test_there_is_an_end_to_what_is_kept(player, monkeypatch):
    player.walk.step()
    assert 0 < player.walk.bytes < 1 << 20
    monkeypatch.setattr("dreamer_cli.walk.MOST_BYTES", player.walk.bytes - 1)
    player.do({"do": "run", "on": True})
    assert player.tick()
    facts = orders(player)
    assert (facts["at"], facts["running"]) == (1, False)
    player.tick()
    assert "anew" in orders(player, {"do": "step"})["said"]
    assert orders(player, {"do": "restart"}, {"do": "step"})["at"] == 1


def test_the_end_stops_the_clock_and_is_said(player):
    orders(player, {"do": "wheel", "who": "human"}, {"do": "view", "name": "game"}, {"do": "run", "on": True})
    player.do({"do": "hold", "action": 1})
    for _ in range(30):
        player.tick()
    facts = orders(player)
    assert facts["over"]
    assert not facts["running"]
    assert "game is over" in facts["said"]


@pytest.mark.parametrize(
    "order",
    [
        {}, {"do": 3}, {"do": "dance"}, {"do": "run"}, {"do": "go", "at": "x"}, {"do": "go", "at": None},
        {"do": "go", "at": 1e400}, {"do": "view", "name": "all"}, {"do": "wheel", "who": ["human"]},
        {"do": "hold", "action": 7}, {"do": "hold", "action": {"a": 1}}, {"do": "hold", "action": [[]]},
        {"do": "speed", "fps": "fast"}, {"do": "line"}, {"do": "save"}, {"do": "hold"},
    ],
)  # fmt: skip
def test_nonsense_is_said_to_be_nonsense(player, order):
    before = orders(player, {"do": "step"})
    facts = orders(player, order)
    assert facts.pop("said")
    before.pop("said")
    assert facts == before


def test_speed_has_bounds(player):
    assert orders(player, {"do": "speed", "fps": 1000})["fps"] == 60
    assert orders(player, {"do": "speed", "fps": -3})["fps"] == 1


def test_what_a_terminal_sends_for_keys():
    keys = Keys()
    assert keys.feed("\x1b[A\x1bOCn ,") == ["ArrowUp", "ArrowRight", "N", "Space", ","]
    assert keys.feed("\x1b[5~\x1b[1;5C\x1bOP\x1bq\x1b[3~") == []  # nothing that ends it by mistake
    assert [keys.feed(piece) for piece in ("\x1b", "[", "D", "p")] == [[], [], ["ArrowLeft"], ["P"]]
