"""How much a run will need: updates, memory, disk, time. What can be counted is counted, the rest is tried."""

import math
import time
from dataclasses import replace
from functools import partial
from typing import Any

import numpy as np
import torch

from dreamer_cli.acting import latent_fields
from dreamer_cli.agent import Agent
from dreamer_cli.commands.assemble import build_agent, build_learner, replay_plan
from dreamer_cli.config import Config
from dreamer_cli.spaces import EnvSpec
from dreamer_cli.structs import Batch, State

# A small batch is timed first. Only where that is quick is a larger one tried, which says more: nobody should have
# to wait for the answer that it will take long.
QUICK_S = 0.3


def random_batch(agent: Agent, batch: int, length: int) -> Batch:
    """A batch of the right shapes, on the agent's device; its content does not matter."""
    device = next(agent.parameters()).device
    obs = {
        key: torch.zeros(batch, length, *spec.shape, dtype=getattr(torch, spec.dtype), device=device)
        for key, spec in agent.spec.observation.items()
    }
    flags = torch.zeros(batch, length, dtype=torch.bool, device=device)
    state = agent.world.dynamics.initial(batch)
    start = State(state.deter, agent.world.dynamics.latent.pack(state.stoch))
    action = torch.zeros(batch, length + 1, agent.spec.action_width, device=device)
    return Batch(obs, action, torch.zeros(batch, length, device=device), flags, flags, flags, start)


def measure(cfg: Config, agent: Agent, device: torch.device) -> tuple[float, float]:
    """Seconds of an update and of a policy step, tried on `agent`, which learns nonsense from it."""
    # Not compiled: that takes a minute, longer than anybody waits for a plan.
    learner = build_learner(replace(cfg, run=replace(cfg.run, compile=False)), agent)
    size, length = cfg.replay.batch_size, cfg.replay.batch_length
    update_s = 0.0
    for trial in dict.fromkeys([(min(size, 2), min(length, 8)), (size, min(length, 8)), (size, length)]):
        trial_s = _seconds(partial(learner.update, random_batch(agent, *trial)), device)
        update_s = trial_s * (size * length) / (trial[0] * trial[1])
        if trial_s > QUICK_S:
            break
    now = random_batch(agent, cfg.run.num_envs, 1)
    obs = {key: value[:, 0] for key, value in now.obs.items()}

    @torch.no_grad()
    def act() -> None:
        agent.policy(obs, now.is_first[:, 0], agent.initial(cfg.run.num_envs), agent.noise(cfg.run.num_envs))

    return update_s, _seconds(act, device)


def _seconds(call: Any, device: torch.device) -> float:
    """The faster of two timed calls, after one that warms up."""
    times = []
    for _ in range(3):
        began = time.perf_counter()
        call()
        if device.type == "cuda":
            torch.cuda.synchronize(device)
        times.append(time.perf_counter() - began)
    return min(times[1:])


def estimate(cfg: Config, spec: EnvSpec, device: torch.device) -> dict[str, Any]:
    """Budget, memory, disk and time of a run, as `train --plan --json` has them.

    On disk: records once, in chunks; and in every checkpoint (those kept, the best, and the one being written) the
    weights, the optimiser's two moments, and the latent of every record.
    """
    agent = build_agent(cfg, spec, device)
    counts = agent.parameter_counts()
    decisions = -(-cfg.run.steps // (spec.repeat * cfg.run.num_envs)) * cfg.run.num_envs
    batch_records = cfg.replay.batch_size * cfg.replay.batch_length
    waiting = max(min(batch_records, cfg.run.min_records), cfg.run.prefill // spec.repeat)
    updates = int(max(0, decisions - waiting) * cfg.run.train_ratio / batch_records)
    update_s, policy_s = measure(cfg, agent, device)
    replay = replay_plan(cfg, agent)
    # Weights, gradients and two moments of the optimiser, in float32; the slow critic adds its own size.
    model_bytes = 4 * (4 * counts["total"] + counts["critic"])
    records = min(replay.capacity, decisions + decisions // 8)
    latent_bytes = sum(math.prod(shape) * np.dtype(dtype).itemsize for shape, dtype in latent_fields(agent).values())
    checkpoint_bytes = 4 * (3 * counts["total"] + counts["critic"]) + records * latent_bytes
    return {
        "parameters": counts,
        "budget": {"steps": cfg.run.steps, "decisions": decisions, "updates": updates},
        "memory": {"replay_bytes": replay.bytes, "model_bytes": model_bytes},
        "replay": {
            "capacity": replay.capacity,
            "bytes_per_record": replay.bytes_per_record,
            "limited_by": replay.limited_by,
        },
        "disk": {
            "run_bytes": records * (replay.bytes_per_record - latent_bytes) + (cfg.run.keep + 2) * checkpoint_bytes,
            "checkpoint_bytes": checkpoint_bytes,
        },
        "eta": {
            "seconds": updates * update_s + decisions / cfg.run.num_envs * policy_s,
            "update_seconds": update_s,
            "policy_seconds": policy_s,
        },
    }
