"""Some environments of a vector, in whatever process they run, and their rows on the board."""

import contextlib
from collections.abc import Callable, Iterator

import numpy as np

from dreamer_cli.envs.board import Board
from dreamer_cli.envs.make import EnvConfig, make_env
from dreamer_cli.envs.state import Job, Lost, Trail, observation_digest
from dreamer_cli.envs.wrappers import DreamerEnv
from dreamer_cli.errors import EnvError
from dreamer_cli.spaces import EnvSpec


class Rows:
    """Environments by row; each method runs the code of one of them.

    Attributes:
        envs: row → environment.
        board: where results go; set once the spaces are known, and before the first reset.
    """

    def __init__(self, cfg: EnvConfig, render_mode: str | None) -> None:
        self._board: Board | None = None
        self.cfg, self.render_mode = cfg, render_mode
        self.envs: dict[int, DreamerEnv] = {}
        self._trails: dict[int, Trail | None] = {}

    @property
    def board(self) -> Board:
        """Where results go."""
        assert self._board is not None, "no board yet"
        return self._board

    @board.setter
    def board(self, board: Board) -> None:
        self._board = board

    def build(self, row: int, spec: EnvSpec | None) -> EnvSpec:
        """Build the environment of a row, in place of an older one.

        Args:
            spec: what its spaces must be; None: what they are is not known yet.

        Raises:
            EnvError: also if its spaces are others.
        """
        with self._turn(row):
            self.drop(row)
            env = make_env(self.cfg, self.render_mode)
        env.number = row
        self.envs[row], self._trails[row] = env, Trail.of(env)
        if spec is not None and env.spec_dreamer != spec:
            raise EnvError(
                f"{self.cfg.id} does not always have the same spaces.",
                hint="One agent needs one observation and one action space: fix them with --env-kwarg.",
            )
        return env.spec_dreamer

    def reset(self, row: int, episode: int, seed: int) -> None:
        """Begin an episode and write its first observation."""
        self.board.write(row, self._reset(row, episode, seed), 0.0, False, False)

    def step(self, row: int) -> None:
        """Apply the action that stands on the board, and write what follows."""
        self._step(row, self.board.action[row])

    def frame(self, row: int) -> np.ndarray | None:
        """A picture of now."""
        with self._turn(row):
            return self.envs[row].frame()

    def state(self, row: int) -> bytes | None:
        """A way back to now that is quicker than playing all again, if there is one."""
        trail = self._trails[row]
        return None if trail is None else trail.save()

    def resume(self, row: int, seed: int, job: Job, tick: Callable[[], None], say: Callable[[str], None]) -> str | None:
        """Go to the middle of an episode. Returns why that failed, or None.

        Args:
            tick: called at every step; may raise to stop.
            say: told of a saved state that is of no use, where there is another way.
        """
        trail, reason = self._trails[row], "it has no states any more"

        def take(action: np.ndarray) -> None:
            tick()
            if self._step(row, action):
                raise Lost("it ended early")

        if job.state is not None:
            try:
                self._reset(row, job.episode, seed)
                if trail is not None:
                    trail.load(job.state, take)
                    self._compare(row, job.digest)
                    return None
            except (ValueError, Lost, EnvError) as err:
                reason = str(err)
            reason = f"its saved state cannot be used: {reason}"
            if not len(job.actions):
                return reason
            say(f"{reason}; all its {len(job.actions)} actions were played again instead")
        try:
            self.reset(row, job.episode, seed)
            for action in job.actions:
                take(action)
            self._compare(row, job.digest)
        except (Lost, EnvError) as err:
            return str(err)
        return None

    def drop(self, row: int) -> None:
        """Close one; that it fails while it is put away can do no harm any more, and must not hide an error."""
        env = self.envs.pop(row, None)
        self._trails.pop(row, None)
        if env is not None:
            with contextlib.suppress(Exception):
                env.close()

    def close(self) -> None:
        """Close all."""
        for row in list(self.envs):
            self.drop(row)

    def _reset(self, row: int, episode: int, seed: int) -> dict[str, np.ndarray]:
        env, trail = self.envs[row], self._trails[row]
        env.episode = episode  # counted up by the reset; messages name it
        self.board.at[row] = episode + 1, 0
        with self._turn(row):
            obs, _ = env.reset(seed=seed)
        if trail is not None:
            trail.began()
        return obs

    def _step(self, row: int, action: np.ndarray) -> bool:
        """Returns whether the episode ended."""
        env, board, trail = self.envs[row], self.board, self._trails[row]
        board.at[row, 1] = env.steps + 1
        board.turn[row] += 1  # as `_turn` does, which takes longer
        try:
            obs, reward, terminated, truncated, _ = env.step(action)
        finally:
            board.turn[row] += 1
        board.write(row, obs, reward, terminated, truncated)
        board.told[row] = env.told
        if trail is not None:
            trail.stepped(action)
        return terminated or truncated

    def _compare(self, row: int, digest: str) -> None:
        if observation_digest({key: value[row] for key, value in self.board.obs.items()}) != digest:
            raise Lost("it shows something else than it did")

    @contextlib.contextmanager
    def _turn(self, row: int) -> Iterator[None]:
        """Shows whose code is running, to whoever waits for it."""
        turn = np.zeros(row + 1) if self._board is None else self._board.turn
        turn[row] += 1
        try:
            yield
        finally:
            turn[row] += 1
