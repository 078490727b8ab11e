"""Which way of stepping is the quickest here and now: tried out on the environments themselves."""

import time
from collections.abc import Callable, Mapping
from typing import NamedTuple

import numpy as np

from dreamer_cli.envs.answers import Check, Crashes
from dreamer_cli.envs.make import Vec
from dreamer_cli.envs.pool import Pool
from dreamer_cli.spaces import EnvSpec

STEPS, LIMIT_S = 200, 1.0  # decisions of each environment, and seconds at most for each way
WARM_UP = 5


class Choice(NamedTuple):
    """The way that won, its environments, and decisions per second of each way that was tried."""

    name: Vec
    pool: Pool
    rates: dict[Vec, float]


def quickest(ways: Mapping[Vec, Callable[[], Pool]], spec: EnvSpec, num_envs: int, check: Check) -> Choice:
    """Build the environments in each way, play at random, and keep those that took the least time.

    Raises:
        EnvError: an environment failed.
    """
    best: Choice | None = None
    rates: dict[Vec, float] = {}
    try:
        for name, build in ways.items():
            pool = build()
            try:
                rates[name] = rate(pool, spec, num_envs, check)
            except BaseException:
                pool.close()
                raise
            if best is not None and rates[name] <= rates[best.name]:
                pool.close()
                continue
            best, before = Choice(name, pool, rates), best
            if before is not None:
                before.pool.close()
    except BaseException:
        if best is not None:
            best.pool.close()
        raise
    assert best is not None, "there is always a way"
    return best


def rate(pool: Pool, spec: EnvSpec, num_envs: int, check: Check) -> float:
    """Decisions per second of all environments together, resets of ended episodes included."""
    rng, rows = np.random.default_rng(0), list(range(num_envs))
    _sound(pool.reset(rows, [0] * num_envs, rows, check))
    began, steps = time.perf_counter(), 0
    for step in range(WARM_UP + STEPS):
        if step == WARM_UP:
            began, steps = time.perf_counter(), 0
        pool.board.action[:] = rng.uniform(-1, 1, (num_envs, spec.action_width))
        pool.send(rows, check)
        _sound(pool.receive(check))
        ended = np.flatnonzero(pool.board.terminated | pool.board.truncated).tolist()
        if ended:
            _sound(pool.reset(ended, [step] * len(ended), [step] * len(ended), check))
        steps += num_envs
        if step > WARM_UP and time.perf_counter() - began > LIMIT_S:
            break
    return steps / (time.perf_counter() - began)


def _sound(crashes: Crashes) -> None:
    for crash in crashes.values():
        raise crash.error
