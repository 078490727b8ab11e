"""What an environment does against its own word: Gymnasium's checker, and observations outside their space."""

import contextlib
import re
import sys
import warnings
from collections.abc import Iterator
from typing import Any

import numpy as np
from gymnasium import spaces
from gymnasium.utils import env_checker

from dreamer_cli.envs.make import EnvConfig, bare_env

STEPS = 100


def findings(cfg: EnvConfig) -> list[str]:
    """Sentences, each once. The environment is run, so this belongs into a process of its own.

    Raises:
        EnvError: it cannot be built.
    """
    return [*observed(cfg), *(f"Gymnasium's checker: {said}" for said in gymnasium_says(cfg))]


def gymnasium_says(cfg: EnvConfig) -> list[str]:
    """Errors and warnings of Gymnasium's own checker."""
    env = bare_env(cfg).unwrapped
    said = []
    with warnings.catch_warnings(record=True) as caught, contextlib.redirect_stdout(sys.stderr):
        warnings.simplefilter("always")
        try:
            env_checker.check_env(env, skip_render_check=True)
        except Exception as err:  # the checker asserts, and runs the environment's code with odd arguments
            said.append(str(err) or type(err).__name__)
    said += [re.sub(r"\x1b\[[0-9;]*m", "", str(warning.message)).removeprefix("WARN: ") for warning in caught]
    return list(dict.fromkeys(" ".join(text.split()) for text in said))


def observed(cfg: EnvConfig) -> list[str]:
    """What was observed, in random play, of another type than the space declares, or beyond its bounds."""
    env = bare_env(cfg).unwrapped
    found: dict[str, str] = {}
    # What fails here fails in the play that is watched, too, and is told there with its place.
    with contextlib.suppress(Exception), contextlib.redirect_stdout(sys.stderr), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        env.action_space.seed(0)
        obs, over = env.reset(seed=0)[0], False
        for _ in range(STEPS):
            for key, said in _against_its_word("", env.observation_space, obs):
                found.setdefault(f"{key} {said.split()[0]}", f"{key or 'The observation'} {said}")
            if over:
                obs, over = env.reset()[0], False
            else:
                obs, _, terminated, truncated, _ = env.step(env.action_space.sample())
                over = bool(terminated or truncated)
    return list(found.values())


def _against_its_word(key: str, space: spaces.Space, value: Any) -> Iterator[tuple[str, str]]:
    if isinstance(space, (spaces.Dict, spaces.Tuple)):
        parts = space.spaces.items() if isinstance(space, spaces.Dict) else enumerate(space.spaces)
        for name, part in parts:
            yield from _against_its_word(f"{key}/{name}".strip("/"), part, value[name])
        return
    if not isinstance(space, spaces.Box):
        if not space.contains(value):
            yield key, f"was {value!r:.40}, which is not in {space}."
        return
    array = np.asarray(value)
    if array.shape != space.shape:
        yield key, f"had shape {array.shape}; its space says {space.shape}."
    elif array.dtype != space.dtype:
        yield key, f"is {array.dtype}; its space says {space.dtype}."
    elif ((array < space.low) | (array > space.high)).any():
        low, high = space.low.min(), space.high.max()
        yield key, f"reached {array.min():g} and {array.max():g}; its space goes from {low:g} to {high:g}."
