"""What a run will be before it is one: spaces, model, budget, memory, disk, and how long it will take."""

import shutil
import time
from functools import partial
from pathlib import Path
from typing import Any

import torch

from dreamer_cli.agent import Agent
from dreamer_cli.commands.assemble import build_agent, build_learner, replay_plan
from dreamer_cli.config import Config
from dreamer_cli.numbers import format_bytes, format_count, format_duration
from dreamer_cli.report import Result
from dreamer_cli.spaces import EnvSpec
from dreamer_cli.structs import Batch, State
from dreamer_cli.table import table

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
    learner = build_learner(cfg, agent)
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
    """Budget, memory, disk and time of a run, as `train --plan --json` has them."""
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
    return {
        "parameters": counts,
        "budget": {"steps": cfg.run.steps, "decisions": decisions, "updates": updates},
        "memory": {"replay_bytes": replay.bytes, "model_bytes": model_bytes},
        "replay": {
            "capacity": replay.capacity,
            "bytes_per_record": replay.bytes_per_record,
            "limited_by": replay.limited_by,
        },
        "disk": {"run_bytes": records * replay.bytes_per_record + (cfg.run.keep + 1) * 3 * 4 * counts["total"]},
        "eta": {
            "seconds": updates * update_s + decisions / cfg.run.num_envs * policy_s,
            "update_seconds": update_s,
            "policy_seconds": policy_s,
        },
    }


def plan(start: Any) -> Result:
    """`dreamer train --plan`: nothing is written."""
    cfg, spec = start.cfg, start.spec
    numbers = estimate(cfg, spec, start.device)
    document = {
        "env": {
            "id": cfg.env.id,
            **spec.to_json(),
            "left_out": start.left_out,
        },
        "preset": start.presets,
        "model": {"parameters": numbers.pop("parameters")},
        "device": str(start.device),
        **numbers,
    }
    return Result(document, _lines(document, spec, _free_disk(start.root)))


def _free_disk(path: Path) -> int:
    """Free bytes where a run would be, or where its nearest existing parent is."""
    path = path.absolute()
    while not path.exists():
        path = path.parent
    return shutil.disk_usage(path).free


def _lines(document: dict[str, Any], spec: EnvSpec, free: int) -> list[str]:
    env, budget, eta = document["env"], document["budget"], document["eta"]
    rows = [["env", f"{env['id']}" + (f", every action {spec.repeat} steps" if spec.repeat > 1 else "")]]
    for key, obs in spec.observation.items():
        rows.append([f"sees {key}", f"{obs.kind} {'x'.join(map(str, obs.shape))}" + _classes(obs.classes)])
    if env["left_out"]:
        rows.append(["left out", ", ".join(f"{key} ({why})" for key, why in env["left_out"].items())])
    for part in spec.action:
        what = f"one of {', '.join(map(str, part.classes))}" if part.classes else f"{part.size} numbers"
        rows.append([f"does {part.key}", what])
    counts = document["model"]["parameters"]
    parts = ", ".join(f"{name} {count:,}" for name, count in counts.items() if name != "total")
    replay, memory = document["replay"], document["memory"]
    limit = "what the run collects" if replay["limited_by"] == "capacity" else "memory (replay.max_bytes)"
    rows += [
        ["presets", ", ".join(document["preset"])],
        ["model", f"{counts['total']:,} parameters: {parts}"],
        ["budget", f"{budget['steps']:,} steps, {budget['decisions']:,} decisions, {budget['updates']:,} updates"],
        [
            "memory",
            f"model and optimiser {format_bytes(memory['model_bytes'])}, replay {format_bytes(memory['replay_bytes'])} "
            f"({format_count(replay['capacity'])} records, limited by {limit})",
        ],
        ["disk", f"up to {format_bytes(document['disk']['run_bytes'])}, {format_bytes(free)} free"],
        ["device", document["device"]],
        [
            "time",
            f"about {format_duration(round(eta['seconds']))} ({eta['update_seconds']:.3g} s an update), envs apart",
        ],
    ]
    return table(["", ""], rows)[1:]


def _classes(classes: tuple[int, ...]) -> str:
    return f" of {', '.join(map(str, classes))}" if classes else ""
