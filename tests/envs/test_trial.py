"""Which way of stepping is taken, and that nothing stays open."""

import numpy as np
import pytest

from dreamer_cli.envs import trial
from dreamer_cli.envs.pool import Local
from dreamer_cli.envs.vector import probe
from dreamer_cli.errors import EnvError
from tests.toys import toy_config

CFG = toy_config("Timeline", length=4)


class Watched(Local):
    """Says when it is closed."""

    def __init__(self, log, name, fails=False):
        super().__init__(CFG, None, 2, probe(CFG))
        self.log, self.name, self.fails = log, name, fails

    def receive(self, check):
        if self.fails:
            raise EnvError("it broke")
        return super().receive(check)

    def close(self):
        self.log.append(self.name)
        super().close()


def test_the_quickest_is_kept_and_the_others_are_closed(monkeypatch):
    rates = iter([10.0, 30.0, 20.0])
    monkeypatch.setattr(trial, "rate", lambda *_: next(rates))
    closed = []
    ways = {name: (lambda name=name: Watched(closed, name)) for name in ("sync", "async", "native")}
    choice = trial.quickest(ways, probe(CFG), 2, lambda: None)
    assert (choice.name, choice.rates) == ("async", {"sync": 10, "async": 30, "native": 20})
    assert closed == ["sync", "native"]
    choice.pool.close()


def test_decisions_are_counted_over_ends_of_episodes(monkeypatch):
    monkeypatch.setattr(trial, "STEPS", 20)
    pool = Watched([], "sync")
    assert trial.rate(pool, probe(CFG), 2, lambda: None) > 0
    assert np.isfinite(pool.board.reward).all()
    pool.close()


@pytest.mark.parametrize("where", ["building", "playing"])
def test_nothing_stays_open_where_one_way_fails(where, monkeypatch):
    monkeypatch.setattr(trial, "STEPS", 5)
    closed = []

    def second():
        if where == "building":
            raise EnvError("it broke")
        return Watched(closed, "async", fails=True)

    with pytest.raises(EnvError, match="it broke"):
        trial.quickest({"sync": lambda: Watched(closed, "sync"), "async": second}, probe(CFG), 2, lambda: None)
    assert set(closed) == ({"sync"} if where == "building" else {"sync", "async"})
