"""Scores that suites are reported by."""

import math

from dreamer_cli.scores import anchors, crafter_score, extra_scores, human_normalised


def near(a, b):
    return math.isclose(a, b, rel_tol=1e-12)


def test_the_way_from_chance_to_human():
    """Boxing: chance 0.1, human 12.1; Pong: -20.7 and 14.6."""
    assert near(human_normalised("ALE/Boxing-v5", 6.1), 50.0)
    assert near(human_normalised("ALE/Pong-v5", -20.7), 0.0)
    assert near(human_normalised("ALE/MsPacman-v5", 6951.6), 100.0)
    assert human_normalised("ALE/Tetris-v5", 1.0) is None
    assert human_normalised("CartPole-v1", 500.0) is None
    assert len(anchors()) == 57


def test_every_game_of_the_table_has_an_id():
    from dreamer_cli.envs.catalog import register_suites

    register_suites()
    import gymnasium

    stems = {env_id.removeprefix("ALE/").rpartition("-v")[0].lower() for env_id in gymnasium.registry}
    assert {game.replace("_", "") for game in anchors()} - stems == set()


def test_the_score_of_crafter():
    """Two of four achieved always and half the time: exp of the mean of ln 101, ln 51, 0, 0, minus 1."""
    told = {"achievement_a": 1.0, "achievement_b": 0.5, "achievement_c": 0.0, "achievement_d": 0.0, "other": 9.0}
    assert near(crafter_score(told), (101 * 51) ** 0.25 - 1)
    assert crafter_score({"other": 1.0}) is None
    assert extra_scores("crafter/reward", [1.0], told) == {"crafter_score": crafter_score(told)}
