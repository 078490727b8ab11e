"""What `dreamer bench` measures: an agent at work on made-up records, and real environments played by chance."""

import gc
import json
import subprocess
import sys
from collections.abc import Mapping
from dataclasses import replace
from functools import cached_property
from typing import Any

import numpy as np
import torch

from dreamer_cli import sections
from dreamer_cli.acting import AgentDriver, RandomDriver, latent_fields
from dreamer_cli.checks import validate
from dreamer_cli.collector import Collector
from dreamer_cli.commands.assemble import (
    build_agent,
    build_learner,
    build_replay,
    captures,
    choose_device,
    outline,
    runs_in_bf16,
)
from dreamer_cli.config import Config
from dreamer_cli.envs.make import EnvConfig, Vec
from dreamer_cli.envs.native import open_games, why_not
from dreamer_cli.envs.vector import VectorEnv
from dreamer_cli.measure import WARM_UP, count_flop, forget_peak, memory, synchronize
from dreamer_cli.registry import to_tree
from dreamer_cli.spaces import ActionPart, EnvSpec, ObsSpec
from dreamer_cli.structs import Records

# The spaces that parameters of presets are counted for: those of Atari, and of a walking robot.
SPECS = {
    "px": EnvSpec({"image": ObsSpec("image", (3, 64, 64))}, (ActionPart("action", "discrete", (18,)),)),
    "vec": EnvSpec(
        {"state": ObsSpec("vector", (24,))},
        (ActionPart("action", "continuous", size=6, low=(-1.0,) * 6, high=(1.0,) * 6, shape=(6,)),),
    ),
}
RECORDS = 4096  # in the replay: 50 MB of small images, more than caches hold
MANY = 16  # environments that act at once


def random_records(spec: EnvSpec, rows: int, rng: np.random.Generator, first: bool = False) -> Records:
    """One record of each of `rows` environments, with the dtypes of real ones."""
    obs: dict[str, np.ndarray] = {}
    for key, kind in spec.observation.items():
        if kind.kind == "image":
            obs[key] = rng.integers(256, size=(rows, *kind.shape), dtype=np.uint8)
        elif kind.kind == "discrete":
            obs[key] = rng.integers(kind.classes, size=(rows, *kind.shape)).astype(kind.dtype)
        else:
            obs[key] = rng.standard_normal((rows, *kind.shape), np.float32)
    nothing = np.zeros(rows, bool)
    return Records(obs, rng.standard_normal(rows, np.float32), np.full(rows, first), nothing, nothing)


class Workload:
    """One configuration, ready to be called: an agent with fresh weights, and a replay of made-up records.

    Args:
        cfg: its environment is not played.
        spec: what the agent sees and does.
    """

    def __init__(self, cfg: Config, spec: EnvSpec) -> None:
        self.cfg, self.spec = cfg, spec
        self.device = choose_device(cfg.run.device)
        self.bf16 = runs_in_bf16(cfg.run.precision, self.device)
        self._held = 0
        if self.device.type == "cuda":
            gc.collect()  # agents refer to themselves: those that were dropped may still hold memory
            self._held = torch.cuda.memory_allocated(self.device)
        self.rng = np.random.default_rng(0)
        self.heard: list[dict[str, float]] = []  # seconds by section, of every update that was listened to
        self.agent = build_agent(cfg, spec, self.device)
        self.learner = build_learner(cfg, self.agent)
        self._chance = RandomDriver(spec, latent_fields(self.agent), 0)
        everyone = cfg.run.num_envs
        self._rows = np.arange(everyone)
        # Made beforehand: what is timed is to store a record, not to make it up.
        self._fresh = [(random_records(spec, everyone, self.rng), *self._answer(everyone)) for _ in range(8)]
        self._inserted = 0

    def _answer(self, rows: int) -> tuple[np.ndarray, Mapping[str, np.ndarray]]:
        return self._chance(random_records(self.spec, rows, self.rng), None)[:2]

    @cached_property
    def replay(self) -> Any:
        """Filled once."""
        replay_cfg, envs = self.cfg.replay, self.cfg.run.num_envs
        per_env = max(2 * (replay_cfg.batch_length + 1), RECORDS // envs)
        cfg = replace(self.cfg, replay=replace(replay_cfg, capacity=per_env * envs))
        replay = build_replay(cfg, self.agent)
        replay.add(self._rows, random_records(self.spec, envs, self.rng, first=True), *self._answer(envs))
        for i in range(per_env - 1):
            replay.add(self._rows, *self._fresh[i % len(self._fresh)])
        return replay

    @cached_property
    def batch(self) -> Any:
        """As the replay gives it, on the device."""
        return self.replay.sample()[0].to(self.device)

    def update(self) -> None:
        """Learn from a batch, always the same one."""
        self.learner.update(self.batch)

    def listen(self) -> None:
        """The same, and remember where the time went."""
        self.heard.append(sections.profile(self.device, self.update))

    @property
    def by_section(self) -> dict[str, float]:
        """Seconds of one update by section: of the one that took the median time, so that they add up."""
        heard = sorted(self.heard[WARM_UP + 1 :], key=lambda seconds: sum(seconds.values()))
        return heard[(len(heard) - 1) // 2]

    def sample(self) -> None:
        """Take one batch out of the replay."""
        self.replay.sample()

    def insert(self) -> None:
        """Put one record of every environment into the replay."""
        self.replay.add(self._rows, *self._fresh[self._inserted % len(self._fresh)])
        self._inserted += 1

    def policy(self, envs: int) -> Any:
        """A function that decides once in each of `envs` environments."""
        driver = AgentDriver(self.agent, "sample", 0, self.bf16, capture=captures(self.cfg, self.device))
        now, carry = random_records(self.spec, envs, self.rng), driver.initial(envs)

        def act() -> None:
            nonlocal carry
            _, _, carry = driver(now, carry)

        return act

    def peak_on_gpu(self) -> int | None:
        """Bytes that this configuration holds on a GPU while it updates, at most; None on other devices."""
        if self.device.type != "cuda":
            return None
        self.update()  # after the first one there are moments of the optimiser, and compiled code
        torch.cuda.reset_peak_memory_stats(self.device)
        self.update()
        synchronize(self.device)
        return torch.cuda.max_memory_allocated(self.device) - self._held


def flop_of_update(cfg: Config, spec: EnvSpec) -> int:
    """Floating-point operations of one update. In fp32 and not compiled: they are the same, and quick to count."""
    return count_flop(Workload(replace(cfg, run=replace(cfg.run, compile=False, precision="fp32")), spec).update)


class Play:
    """Environments that are played by chance.

    Attributes:
        steps: environment steps of one call.
    """

    def __init__(self, cfg: EnvConfig, num_envs: int) -> None:
        self.envs = VectorEnv(cfg, num_envs, seed=0)
        self.steps = num_envs * self.envs.spec.repeat
        chance = RandomDriver(self.envs.spec, {}, 0)
        self._actions = [chance.actions(num_envs) for _ in range(64)]
        self._done = 0
        self.now = self.envs.reset()

    def step(self) -> None:
        """One decision in each; what has ended begins again."""
        if self.now.is_last.any():
            self.envs.reset(self.now.is_last)
        self.now = self.envs.step(self._actions[self._done % len(self._actions)])
        self._done += 1

    def close(self) -> None:
        """End the environments."""
        self.envs.close()


class Collection:
    """The same as a training does it while chance acts: every record goes to the replay, with room for a latent."""

    def __init__(self, cfg: Config, vec: Vec) -> None:
        envs = cfg.run.num_envs
        self.envs = VectorEnv(cfg.env, envs, seed=0, vec=vec)
        agent = outline(cfg, self.envs.spec)
        per_env = max(2 * (cfg.replay.batch_length + 1), RECORDS // envs)
        room = replace(cfg, replay=replace(cfg.replay, capacity=per_env * envs))
        self.collector = Collector(self.envs, build_replay(room, agent, torch.device("cpu")))
        self.chance = RandomDriver(self.envs.spec, latent_fields(agent), 0)

    def step(self) -> None:
        """One decision in each."""
        self.collector.step(self.chance)

    def close(self) -> None:
        """End the environments."""
        self.envs.close()


class Bare:
    """A suite's own vector of environments, with nothing of ours around it; actions are of no type of ours, either.

    `of` makes one, or None where there is none.
    """

    def __init__(self, games: Any, num_envs: int) -> None:
        self.games = games
        choices = np.random.default_rng(0).integers(games.single_action_space.n, size=(64, num_envs))
        self._actions = choices.astype(np.int64)
        self._done = 0
        games.reset(seed=0)

    @classmethod
    def of(cls, cfg: EnvConfig, num_envs: int) -> "Bare | None":
        """ALE's, stepped by as many threads as `env.workers` says."""
        return cls(open_games(cfg, num_envs, cfg.workers or 0), num_envs) if why_not(cfg) is None else None

    def step(self) -> None:
        """One decision in each; what has ended begins again by itself."""
        self.games.step(self._actions[self._done % len(self._actions)])
        self._done += 1

    def close(self) -> None:
        """End the environments."""
        self.games.close()


def peak_on_cpu(cfg: Config, spec: EnvSpec) -> int | None:
    """Bytes that updates of this configuration hold at most, weights, optimiser and batch included.

    In a process of its own, because a process gives memory back late or never. None if that fails.
    """
    told = json.dumps({"config": to_tree(cfg), "spec": spec.to_json()}).encode()
    # A session of its own, so that Ctrl-C ends this process, and this process ends that one.
    with subprocess.Popen(
        [sys.executable, "-m", "dreamer_cli.commands.workload"],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        start_new_session=True,
    ) as child:
        try:
            said, _ = child.communicate(told)
        except BaseException:
            child.kill()
            raise
    return int(said) if child.returncode == 0 and said.strip().isdigit() else None


def main() -> None:
    """The process of `peak_on_cpu`: a configuration on stdin, bytes on stdout."""
    told = json.load(sys.stdin)
    cfg, spec = validate(Config, told["config"]), EnvSpec.from_json(told["spec"])
    if cfg.run.threads:
        torch.set_num_threads(cfg.run.threads)
    before = memory()
    work = Workload(cfg, spec)
    work.batch  # noqa: B018  made now, so that the replay can go
    del work.replay
    forget_peak()
    for _ in range(WARM_UP):
        work.update()
    after = memory()
    if before and after:
        print(after[1] - before[0])


if __name__ == "__main__":
    main()
