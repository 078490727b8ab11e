"""Many Atari games at once, stepped by ALE in C++ (`ale_py.AtariVectorEnv`): `env.vec=native`.

ALE resets a game by itself in the step after its end, unless it was reset before: here it always is, with a seed of the
episode's own, so that an episode can be played again alone. ALE loads a game anew to seed it, which takes 0.1 to 0.2 s.
A row's pictures do not depend on the other rows.
"""

import importlib
import sys
from collections.abc import Callable, Sequence
from typing import Any

import gymnasium
import numpy as np

from dreamer_cli.envs.answers import Check, Crashes
from dreamer_cli.envs.board import board, board_bytes
from dreamer_cli.envs.catalog import built_in
from dreamer_cli.envs.make import EnvConfig
from dreamer_cli.envs.state import Job, observation_digest
from dreamer_cli.envs.suites.atari import USUAL_SIZE, protocol, shows_screen
from dreamer_cli.errors import ConfigError
from dreamer_cli.spaces import EnvSpec, as_rgb

SCREEN = 210, 160  # rows and columns of most games


def why_not(cfg: EnvConfig) -> str | None:
    """Why ALE's own vector of games cannot be used, if that is so."""
    if not (cfg.id or "").startswith("ALE/") or not built_in(cfg.id or ""):
        return "only the games of ALE/* have one"
    if cfg.repeat != 1 or cfg.pixels != "off":
        return "env.repeat and env.pixels work on single environments; --env-kwarg frameskip=N holds actions"
    asked, left = protocol(cfg.kwargs)
    if not isinstance(asked.frameskip, int) or left or not shows_screen(cfg.kwargs):
        odd = [*left, *(["frameskip"] if not isinstance(asked.frameskip, int) else [])]
        return f"it does not know {', '.join(odd)} as set here"
    rows, columns = cfg.image_size or USUAL_SIZE
    if rows > SCREEN[0] or columns > SCREEN[1]:
        return f"it enlarges pictures in another way, and these are larger than {SCREEN[0]}x{SCREEN[1]}"
    if asked.noop_max > 1 and sys.platform != "linux":
        return "it draws idle frames in another way on this system"
    return None


def require_native(cfg: EnvConfig) -> None:
    """Check that ALE's own vector of games can be used.

    Raises:
        ConfigError: why not.
    """
    reason = why_not(cfg)
    if reason is not None:
        raise ConfigError(f"env.vec=native does not fit: {reason}.", hint="--vec auto chooses what does.")


def open_games(cfg: EnvConfig, num_envs: int, threads: int = 0) -> Any:
    """ALE's vector of games, as the settings want them played; `why_not` must have had no objection."""
    asked, _ = protocol(cfg.kwargs, cfg.max_episode_steps)
    rows, columns = cfg.image_size or USUAL_SIZE
    vector: Any = importlib.import_module("ale_py.vector_env").AtariVectorEnv
    return vector(
        gymnasium.spec(cfg.id or "").kwargs["game"],
        num_envs,
        num_threads=threads,
        img_height=rows,
        img_width=columns,
        stack_num=1,
        reward_clipping=False,
        use_fire_reset=False,
        **asked._asdict(),
    )


class Native:
    """A `Pool` of Atari games.

    Args:
        threads: that step games at once; 0: one a core.

    Raises:
        ConfigError: it cannot play like this.
    """

    def __init__(self, cfg: EnvConfig, num_envs: int, spec: EnvSpec, threads: int = 0) -> None:
        require_native(cfg)
        self.games: Any = open_games(cfg, num_envs, threads)
        self.spec, self.num_envs = spec, num_envs
        (choice,) = spec.action
        self.first = choice.start[0]
        (self.key,) = spec.observation
        self.board = board(spec, num_envs, bytearray(board_bytes(spec, num_envs)))
        self.began = False

    def reset(self, rows: Sequence[int], episodes: Sequence[int], seeds: Sequence[int], check: Check) -> Crashes:
        """Begin episodes in some rows."""
        self._reset(rows, seeds)
        return {}

    def _reset(self, rows: Sequence[int], seeds: Sequence[int]) -> None:
        if not self.began:  # of a part only after all
            self.games.reset(seed=np.zeros(self.num_envs, np.int64))
            self.began = True
        mask = np.zeros(self.num_envs, bool)
        mask[list(rows)] = True
        given = np.array([seed for _, seed in sorted(zip(rows, seeds, strict=True))], np.int64)
        screens, _ = self.games.reset(seed=given, options={"reset_mask": mask})
        index = np.flatnonzero(mask)
        self.board.obs[self.key][index] = self._pictures(screens)[index]
        self.board.reward[index] = 0
        self.board.terminated[index] = self.board.truncated[index] = False

    def send(self, rows: Sequence[int], check: Check) -> None:
        """Hand out the board's actions; the games go on in threads of their own."""
        self.games.send(self.board.action.argmax(1).astype(np.int32) + self.first)  # as ActionCodec, all at once

    def receive(self, check: Check) -> Crashes:
        """Wait until all of them were applied."""
        screens, reward, terminated, truncated, _ = self.games.recv()
        now = self.board
        now.obs[self.key][:] = self._pictures(screens)
        now.reward[:], now.terminated[:], now.truncated[:] = reward, terminated, truncated
        return {}

    def _pictures(self, screens: np.ndarray) -> np.ndarray:
        """N 1 Y X (C) → N C Y X."""
        return screens if screens.ndim == 4 else np.moveaxis(screens[:, 0], -1, 1)

    def frames(self, rows: Sequence[int], check: Check) -> list[np.ndarray | None]:
        """What was seen; ALE's vector does not render."""
        return [as_rgb(self.board.obs[self.key][row]) for row in rows]

    def states(self, rows: Sequence[int], check: Check) -> list[bytes | None]:
        """There are none: episodes are played again."""
        return [None] * len(rows)

    def resume(
        self, jobs: dict[int, tuple[int, Job]], check: Check, say: Callable[[int, str], None]
    ) -> tuple[dict[int, str], Crashes]:
        """Go to the middle of episodes, all at once: those with fewer decisions begin later, and all end together."""
        failed = {row: "this way of stepping has no saved states" for row, (_, job) in jobs.items() if _only_state(job)}
        jobs = {row: told for row, told in jobs.items() if row not in failed}
        longest = max((len(job.actions) for _, job in jobs.values()), default=0)
        for step in range(longest + 1):
            check()
            now = [row for row, (_, job) in jobs.items() if len(job.actions) == longest - step]
            if now:
                self._reset(now, [jobs[row][0] for row in now])
            if step == longest:
                break
            self.board.action[:] = 0
            for row, (_, job) in jobs.items():
                at = step - (longest - len(job.actions))
                if at >= 0:
                    self.board.action[row] = job.actions[at]
            self.send(range(self.num_envs), check)
            self.receive(check)
            for row in np.flatnonzero(self.board.terminated | self.board.truncated).tolist():
                if row in jobs and step >= longest - len(jobs[row][1].actions):
                    failed[row] = "it ended early"
        for row, (_, job) in jobs.items():
            if row not in failed and observation_digest({self.key: self.board.obs[self.key][row]}) != job.digest:
                failed[row] = "it shows something else than it did"
        return failed, {}

    def mend(self, rows: Sequence[int], check: Check) -> Crashes:
        """Nothing crashes alone here."""
        return {}

    def close(self) -> None:
        """End them, and the threads that step them."""
        if self.games is not None:
            self.games.close()
        self.games = None  # which stops the threads


def _only_state(job: Job) -> bool:
    return job.state is not None and not len(job.actions)
