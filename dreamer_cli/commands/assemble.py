"""Config → agent, replay, learner, environments. All parts meet only here."""

import math
import os
import warnings
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from dreamer_cli.acting import latent_fields
from dreamer_cli.agent import Agent
from dreamer_cli.checkpoint import Checkpoints
from dreamer_cli.config import Config, load_config
from dreamer_cli.envs.state import LARGEST as LARGEST_STATE
from dreamer_cli.errors import ConfigError, ResourceError, StateError
from dreamer_cli.findrun import find_checkpoint
from dreamer_cli.learner import Learner
from dreamer_cli.memory import keep_freed_memory, total_memory
from dreamer_cli.numbers import format_bytes
from dreamer_cli.replay.ring import Plan, plan, record_fields
from dreamer_cli.replay.storage import MOST_RECORDS, Replay
from dreamer_cli.report import Reporter
from dreamer_cli.requests import Checkpoint
from dreamer_cli.runs import RunDir
from dreamer_cli.spaces import EnvSpec
from dreamer_cli.tensorfiles import load_into, most_bytes, require_fit, size_of

# Files of a checkpoint.
WEIGHTS, OPTIMIZER, LATENTS = "weights.safetensors", "optimizer.safetensors", "latents.safetensors"
ENVS = "envs.safetensors"
STATE, REPLAY = "state.json", "replay.json"


def derive_seed(seed: int, purpose: str) -> int:
    """A seed for one purpose, the same on every machine; purposes do not disturb each other."""
    return int(np.random.SeedSequence([seed, *purpose.encode()]).generate_state(1, np.uint64)[0] >> 1)


def choose_device(name: str) -> torch.device:
    """The device that `auto|cpu|cuda|cuda:1|mps` means here.

    Raises:
        ResourceError: it is not there.
    """
    if name == "auto":
        name = "cuda" if torch.cuda.is_available() else "cpu"
    device = torch.device(name)
    there = {"cpu": 1, "cuda": torch.cuda.device_count(), "mps": int(torch.backends.mps.is_available())}
    if (device.index or 0) >= there.get(device.type, 0):
        raise ResourceError(f"There is no device {name} here.", hint="Leave --device out, or use --device cpu.")
    if device.type == "cuda":
        torch.cuda.set_device(device)  # streams and recordings are of the current one
    return device


def runs_in_bf16(precision: str, device: torch.device) -> bool:
    """Whether networks run in bfloat16: on GPUs that have it, unless told otherwise; on a CPU only if told."""
    if precision == "auto":
        return device.type == "cuda" and torch.cuda.is_bf16_supported(including_emulation=False)
    return precision == "bf16"


def acts_in_bf16(cfg: Config, device: torch.device) -> bool:
    """Whether a trained agent runs in bfloat16 here: only on a GPU. Processors without instructions for it crawl."""
    return device.type == "cuda" and runs_in_bf16(cfg.run.precision, device)


def compiles(cfg: Config, device: torch.device) -> bool:
    """Whether what lies between products is compiled."""
    return device.type == "cuda" if cfg.run.compile is None else cfg.run.compile


def captures(cfg: Config, device: torch.device) -> bool:
    """Whether updates and decisions are recorded as CUDA graphs."""
    return cfg.run.cuda_graph and device.type == "cuda"


def prepare_torch(cfg: Config) -> None:
    """Settings of the process, which is ours: memory, threads, determinism, and matrix products on GPUs."""
    keep_freed_memory()
    if cfg.run.threads:
        torch.set_num_threads(cfg.run.threads)
    if cfg.run.deterministic:
        os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")
        torch.use_deterministic_algorithms(True)
    torch.backends.cudnn.benchmark = not cfg.run.deterministic


def outline(cfg: Config, spec: EnvSpec) -> Agent:
    """The agent without memory: its names, shapes and sizes, of whatever size it may be.

    Raises:
        ConfigError: its sizes are beyond all numbers.
    """
    try:
        with torch.device("meta"):
            return Agent(cfg.world, cfg.behaviour, spec)
    except (RuntimeError, OverflowError, MemoryError) as error:
        raise ConfigError(
            f"A model of these sizes cannot be built: {str(error).splitlines()[0]}.", hint="Choose a smaller --size."
        ) from error


def require_memory(agent: Agent) -> None:
    """See that this machine has memory for an agent (on the device `meta`) before it is made.

    Raises:
        ResourceError: it has not.
    """
    # What is free now says little: much of what is in use are files that the system lets go of.
    size, most = size_of(agent.state_dict()), total_memory()
    if size > most:
        raise ResourceError(
            f"The model takes {format_bytes(size)}, but this machine has {format_bytes(most)} of memory.",
            hint="Choose a smaller --size.",
        )


def checkpoint_limits(cfg: Config, agent: Agent) -> dict[str, int]:
    """How large the files of a run's checkpoints can be: `Checkpoints(..., limits=)`. The agent may be an outline."""
    weights = agent.state_dict()
    record = sum(math.prod(shape) * dtype.itemsize for shape, dtype in latent_fields(agent).values())
    # An environment: what it shows, what the policy carries and is about to store of it, and its own state.
    fields = {**record_fields(agent.spec), **latent_fields(agent)}
    shown = sum(math.prod(shape) * np.dtype(dtype).itemsize for shape, dtype in fields.values())
    carry = agent.initial(1)
    carried = sum(x.nbytes for x in (*carry.state, carry.action))
    return {
        ENVS: most_bytes({}) + cfg.run.num_envs * (8 * shown + carried + LARGEST_STATE),
        WEIGHTS: most_bytes(weights),
        OPTIMIZER: most_bytes(weights, copies=4),
        LATENTS: most_bytes({}) + record * (cfg.replay.capacity or MOST_RECORDS),
    }


def build_agent(cfg: Config, spec: EnvSpec, device: torch.device | str) -> Agent:
    """An agent with fresh weights, drawn from the run's seed and from nothing else.

    Raises:
        ConfigError, ResourceError: it is too large for numbers, or for the memory.
    """
    require_memory(outline(cfg, spec))
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(derive_seed(cfg.run.seed, "weights"))
        return Agent(cfg.world, cfg.behaviour, spec).to(device)


def build_learner(cfg: Config, agent: Agent, warn: Callable[[str], None] = warnings.warn) -> Learner:
    """What trains the agent. Left open, compiling and recording are for GPUs: there they take seconds and pay soon."""
    agent.check_loss_scales(cfg.loss_scales)
    device = next(agent.parameters()).device
    bf16 = runs_in_bf16(cfg.run.precision, device)
    seed = derive_seed(cfg.run.seed, "updates")
    compile, capture = compiles(cfg, device), captures(cfg, device)
    return Learner(agent, cfg.optim, cfg.loss_scales, bf16, seed, compile=compile, capture=capture, warn=warn)


def replay_limits(cfg: Config, spec: EnvSpec) -> tuple[int, int]:
    """Room for what the run collects, within its limits: records and bytes."""
    expected = cfg.run.steps // spec.repeat + 1
    # Every episode adds one record more than it has decisions; an eighth allows for episodes of eight.
    return cfg.replay.limits(expected + expected // 8, cfg.run.num_envs)


def replay_plan(cfg: Config, agent: Agent) -> Plan:
    """The sizes of the replay, without its memory."""
    capacity, max_bytes = replay_limits(cfg, agent.spec)
    return plan(agent.spec, cfg.run.num_envs, latent_fields(agent), capacity, max_bytes, cfg.replay.batch_length)


def build_replay(cfg: Config, agent: Agent, device: torch.device | None = None) -> Replay:
    """An empty replay.

    device: that learns from it; None: the agent's.
    """
    capacity, max_bytes = replay_limits(cfg, agent.spec)
    device = device or next(agent.parameters()).device
    sizes = plan(agent.spec, cfg.run.num_envs, latent_fields(agent), capacity, max_bytes, cfg.replay.batch_length)
    return Replay(
        agent.spec,
        cfg.run.num_envs,
        latent_fields(agent),
        capacity=capacity,
        max_bytes=max_bytes,
        batch_size=cfg.replay.batch_size,
        batch_length=cfg.replay.batch_length,
        online=cfg.replay.online,
        seed=derive_seed(cfg.run.seed, "replay"),
        storage=cfg.replay.place(sizes, device),
        device=device,
        pin_memory=device.type == "cuda",
    )


def saved_spec(run: RunDir) -> EnvSpec:
    """The spaces of a run, as run.json has them.

    Raises:
        StateError: they are missing or damaged.
    """
    try:
        return EnvSpec.from_json(run.read()["spec"])
    except (KeyError, TypeError, AttributeError, ValueError, OverflowError) as error:
        raise StateError(f"{run.run_json} does not describe the run's spaces.", hint="Use another run.") from error


def load_weights(agent: Agent, weights: Mapping[str, Tensor], what: str) -> None:
    """Copy saved weights into an agent, after names, shapes and dtypes were compared."""
    load_into(agent, weights, what)


class LoadedRun:
    """A trained run, opened for reading.

    Attributes:
        run: its directory; cfg: its settings; agent: with the checkpoint's weights, in fp32, ready to act;
        step: environment steps of the checkpoint; path: the checkpoint.
    """

    def __init__(
        self,
        text: str,
        runs_dir: Path | None,
        checkpoint: Checkpoint | None,
        device: str | None,
        reporter: Reporter,
    ) -> None:
        self.run, which = find_checkpoint(text, runs_dir, checkpoint)
        self.cfg = load_config(self.run.config)
        self.spec = saved_spec(self.run)
        self.device = choose_device(device or "auto")
        prepare_torch(self.cfg)
        # What is there is compared with what has to be there before memory is taken for either.
        model = outline(self.cfg, self.spec)
        limits = checkpoint_limits(self.cfg, model)
        checkpoints = Checkpoints(self.run.checkpoints, warn=reporter.warn, limits=limits)
        loaded = checkpoints.read(which, only=[WEIGHTS])
        self.step, self.path = loaded.step, loaded.path
        require_fit(model.state_dict(), loaded.tensors[WEIGHTS], str(self.path))
        self.agent = build_agent(self.cfg, self.spec, self.device)
        load_weights(self.agent, loaded.tensors[WEIGHTS], str(self.path))
        self.agent.eval().requires_grad_(False)

    def require_same_spaces(self, spec: EnvSpec, env: str) -> None:
        """An environment to act in must show and take what the run's does.

        Raises:
            StateError: it does not; both are named.
        """
        require_same_spaces(self.spec, spec, env)


def require_same_spaces(ours: EnvSpec, theirs: EnvSpec, env: str) -> None:
    """An environment must show and take what a run's does.

    Raises:
        StateError: it does not; both are named.
    """
    if _spaces(ours) != _spaces(theirs):
        raise StateError(
            f"{env} has other spaces than the run: {_spaces(theirs)} instead of {_spaces(ours)}.",
            hint="Choose an environment with the run's spaces, or leave --env out.",
        )


def _spaces(spec: EnvSpec) -> str:
    """Spaces in a line: what decides whether an agent fits."""
    shown: dict[str, Any] = {
        key: f"{obs.kind}{list(obs.shape)}" + (f" of {list(obs.classes)}" if obs.classes else "")
        for key, obs in sorted(spec.observation.items())
    }
    taken = {part.key: list(part.classes) or f"{part.size} numbers" for part in spec.action}
    return f"observation {shown}, action {taken}"
