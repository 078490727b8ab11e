"""`dreamer bench`: how fast this machine updates, acts, replays and plays, next to what its arithmetic allows.

All configurations are measured in turns, round by round, so that what slows the machine for a while slows all of them.
"""

import contextlib
import itertools
import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch

from dreamer_cli.commands.assemble import captures, choose_device, compiles, prepare_torch, runs_in_bf16
from dreamer_cli.commands.bench_text import lines
from dreamer_cli.commands.workload import (
    MANY,
    SPECS,
    Bare,
    Collection,
    Play,
    Workload,
    flop_of_update,
    peak_on_cpu,
)
from dreamer_cli.config import Config, resolve
from dreamer_cli.envs.vector import cores, probe
from dreamer_cli.errors import Interrupted, UsageError
from dreamer_cli.measure import Probe, Product, device_name, emulates_bf16, floor, in_turns
from dreamer_cli.report import Reporter, Result
from dreamer_cli.requests import BenchRequest
from dreamer_cli.runs import versions
from dreamer_cli.spaces import EnvSpec
from dreamer_cli.trees import parse_settings

DEFAULT_ENV = "CartPole-v1"  # where none is named
CPU = torch.device("cpu")


@dataclass(frozen=True)
class Case:
    """One configuration.

    Attributes:
        label: what sets it apart from the others.
        threads: of torch on the CPU, as a training with these settings has.
        plays: the settings whose environment is played; those of `cfg`, or of the default one.
    """

    label: str
    presets: tuple[str, ...]
    cfg: Config
    spec: EnvSpec
    threads: int
    plays: Config

    @property
    def device(self) -> torch.device:
        """Where it runs."""
        return choose_device(self.cfg.run.device)

    @property
    def dtype(self) -> torch.dtype:
        """What its networks run in."""
        return torch.bfloat16 if runs_in_bf16(self.cfg.run.precision, self.device) else torch.float32


def bench(request: BenchRequest, reporter: Reporter) -> Result:
    """Measure what was asked for.

    Raises:
        UsageError, ConfigError, EnvError, ResourceError: as the contract says; Interrupted: Ctrl-C.
    """
    threads = torch.get_num_threads()
    try:
        cases = list(_cases(request, threads))
        _warn(cases, reporter)
        document = _measure(request, cases, reporter)
    except KeyboardInterrupt as error:
        raise Interrupted("Stopped by Ctrl-C.", hint="Fewer --repeats, or --only update, take less time.") from error
    finally:
        torch.set_num_threads(threads)
    return Result(document, lines(document))


# ── what to measure ─────────────────────────────────────────────────────────────────────────────────────────


def _cases(request: BenchRequest, threads: int) -> Iterator[Case]:
    """Every combination of sizes, precisions and swept values; all are settled before anything is built."""
    if request.env is not None and request.obs is not None:
        raise UsageError("--env brings its own observations, so --obs has no place.", hint="Leave one of them out.")
    axes = [[("size", value) for value in request.size], [("run.precision", value) for value in request.precision]]
    axes += [[(key, value) for value in values] for key, values in request.sweep]
    keys = [axis[0][0] for axis in axes if axis]
    if twice := {key for key in keys if keys.count(key) > 1}:
        raise UsageError(f"{twice.pop()} is varied twice.", hint="Name all its values once.")
    specs: dict[str, EnvSpec] = {}
    for point in itertools.product(*(axis for axis in axes if axis)):
        yield _case(request, dict(point), specs, threads)


def _case(request: BenchRequest, varied: dict[str, str], specs: dict[str, EnvSpec], threads: int) -> Case:
    options: dict[str, tuple[Any, str]] = {}
    for name in ("device", "threads", "compile"):
        if (value := getattr(request, name)) is not None:
            options[f"run.{name}"] = (value, f"--{name}")
    kwargs = parse_settings(request.env_kwarg, "--env-kwarg")
    options |= {f"env.kwargs.{key}": (value, "--env-kwarg") for key, value in kwargs.items()}
    label = " ".join(_say(key, value) for key, value in varied.items())
    size = varied.pop("size", None)
    settings = [*request.settings, *(f"{key}={value}" for key, value in varied.items())]

    def settle(env: str | None, has_pixels: bool | None) -> Any:
        return resolve(env, request.preset, None, settings, size, options, has_pixels)

    cfg = settle(request.env, None).config
    if cfg.env.id is None:
        spec = SPECS[request.obs or "vec"]
        plays = settle(DEFAULT_ENV, False).config
    else:
        spec, plays = _spec_of(cfg, specs), None
    resolved = settle(request.env, any(kind.kind == "image" for kind in spec.observation.values()))
    torch.set_num_threads(threads)
    prepare_torch(resolved.config)
    named = tuple(dict.fromkeys(name for name in (resolved.algorithm, resolved.suite, *resolved.presets) if name))
    return Case(
        label or " ".join(named), named, resolved.config, spec, torch.get_num_threads(), plays or resolved.config
    )


def _spec_of(cfg: Config, known: dict[str, EnvSpec]) -> EnvSpec:
    """The spaces of the environment, which is built once for all configurations that share it."""
    if (key := repr(cfg.env)) not in known:
        known[key] = probe(cfg.env)
    return known[key]


def _say(key: str, value: str) -> str:
    """A varied setting in a label: sizes and precisions speak for themselves."""
    return value if key in ("size", "run.precision") else f"{key.rpartition('.')[2]}={value}"


def _warn(cases: Sequence[Case], reporter: Reporter) -> None:
    """Say what spoils the numbers."""
    if any(case.dtype == torch.bfloat16 and emulates_bf16(case.device) for case in cases):
        reporter.warn("this CPU has no instructions for bf16: it is emulated, and about 200 times slower than fp32")
    load = os.getloadavg()[0] if hasattr(os, "getloadavg") else 0.0
    if load > 0.5 * cores():
        reporter.warn(f"the machine is busy: load {load:.1f} on {cores()} cores; the numbers will be too slow")


# ── measuring ───────────────────────────────────────────────────────────────────────────────────────────────


def _measure(request: BenchRequest, cases: Sequence[Case], reporter: Reporter) -> dict[str, Any]:
    """The document, from probes that are all taken in turns."""
    parts = set(request.only)
    with contextlib.ExitStack() as stack:
        peaks: list[int | None] = [None] * len(cases)
        if request.sweep and "update" in parts:
            with reporter.progress("memory", total=len(cases)) as task:
                for i, case in enumerate(cases):
                    peaks[i] = peak_on_cpu(case.cfg, case.spec) if case.device.type == "cpu" else None
                    task.advance()
        flop: dict[str, int] = {}
        measured = []
        with reporter.progress("preparing", total=len(cases)) as task:
            for case, peak in zip(cases, peaks, strict=True):
                measured.append(Measured(case, parts, request.sections, flop, peak))
                task.advance()
        products = {key: Product(*key) for key in {(m.case.device, m.case.dtype, m.case.threads) for m in measured}}
        plays: dict[str, Played] = {}
        for case in cases if "env" in parts else ():
            if (key := _play_key(case)) not in plays:
                plays[key] = Played(case.plays, stack)
        probes = [probe for m in measured for probe in m.probes.values()]
        probes += [product.probe for product in products.values()] if "update" in parts else []
        probes += [probe for played in plays.values() for probe in played.probes.values()]
        with reporter.progress("measuring", total=len(probes) * (request.repeats + 1)) as task:
            in_turns(probes, request.repeats, task.advance)
    runs = [m.document(products, plays) for m in measured]
    first = {key: value for key, value in runs[0].items() if key != "label"}
    return {**first, "repeats": request.repeats, "versions": versions(), "runs": runs}


def _play_key(case: Case) -> str:
    """What a rate of collection depends on: the environments, and what is stored of each record."""
    plays = case.plays
    return repr((plays.env, plays.run.num_envs, plays.world.dynamics, plays.replay))


class Played:
    """Environments with their probes: stepped, collected from, and without anything of ours where that can be had.

    Args:
        stack: closes them.
    """

    def __init__(self, cfg: Config, stack: contextlib.ExitStack) -> None:
        self.cfg, count = cfg, cfg.run.num_envs
        play = stack.enter_context(contextlib.closing(Play(cfg.env, count)))
        self.vec, self.steps = play.envs.vec, play.steps
        collection = stack.enter_context(contextlib.closing(Collection(cfg, self.vec)))
        self.probes = {"": Probe(play.step, CPU), "collected_": Probe(collection.step, CPU)}
        if (bare := Bare.of(cfg.env, count)) is not None:
            self.probes["bare_"] = Probe(stack.enter_context(contextlib.closing(bare)).step, CPU)

    def document(self) -> dict[str, Any]:
        """Environment steps per second of each, with their circumstances."""
        rates = {f"{name}steps_per_second": self.steps / probe.median for name, probe in self.probes.items()}
        also = {"id": self.cfg.env.id, "num_envs": self.cfg.run.num_envs, "vec": self.vec}
        return {"bare_steps_per_second": None, **rates, **also}


class Measured:
    """One configuration with its probes.

    Args:
        flop: operations of updates that were counted already.
        peak: bytes, where they were measured beforehand.
    """

    def __init__(self, case: Case, parts: set[str], sections: bool, flop: dict[str, int], peak: int | None) -> None:
        self.case, self.parts, self.probes, self.peak = case, parts, {}, peak
        self.work: Workload | None = None
        torch.set_num_threads(case.threads)
        if "update" in parts:
            same = repr(replace(case.cfg, run=replace(case.cfg.run, precision="fp32", compile=None, threads=None)))
            self.flop = flop.get(same) or flop.setdefault(same, flop_of_update(case.cfg, case.spec))
        if not parts & {"update", "policy", "replay"}:
            return
        work = self.work = Workload(case.cfg, case.spec)
        calls: dict[str, Any] = {}
        if "update" in parts:
            self.peak = work.peak_on_gpu() if peak is None else peak
            calls["update"] = work.update
            if sections:
                calls["sections"] = work.listen
        if "policy" in parts:
            calls |= {"policy": work.policy(1), "policies": work.policy(MANY)}
        if "replay" in parts:
            calls |= {"sample": work.sample, "insert": work.insert}
        self.probes = {name: Probe(call, work.device, case.threads) for name, call in calls.items()}

    def document(self, products: dict[Any, Product], plays: dict[str, Played]) -> dict[str, Any]:
        """What was measured, with its circumstances."""
        case, cfg = self.case, self.case.cfg
        update = self._update(products[case.device, case.dtype, case.threads]) if "update" in self.parts else None
        policy = None
        if "policy" in self.parts:
            one, many = self._acting("policy", 1), self._acting("policies", MANY)
            policy = {**one, "batched": many}
        replay = None
        if "replay" in self.parts:
            milliseconds = {name: 1e3 * self.probes[name].median for name in ("sample", "insert")}
            replay = {"sample_ms": milliseconds["sample"], "insert_ms": milliseconds["insert"]}
            replay["insert_records"] = cfg.run.num_envs
        return {
            "label": case.label,
            "update": update,
            "policy": policy,
            "replay": replay,
            "env": plays[_play_key(case)].document() if "env" in self.parts else None,
            "sections": self.work.by_section if self.work and "sections" in self.probes else None,
            "device": str(case.device),
            "device_name": device_name(case.device),
            "dtype": str(case.dtype).removeprefix("torch."),
            "threads": case.threads,
            "compile": compiles(cfg, case.device),
            "cuda_graph": captures(cfg, case.device),
            "preset": list(case.presets),
            "parameters": self.work.agent.parameter_counts() if self.work else None,
            "batch_size": cfg.replay.batch_size,
            "batch_length": cfg.replay.batch_length,
            "horizon": cfg.behaviour.horizon,
            "spaces": case.spec.to_json(),
        }

    def _update(self, product: Product) -> dict[str, Any]:
        spread = self.probes["update"].spread
        return {
            **spread,
            "per_second": 1 / spread["seconds"],
            **floor(spread["seconds"], self.flop, product.flop_per_second),
            "matmul_gflop_per_second": product.flop_per_second / 1e9,
            "matmul_side": product.side,
            "peak_bytes": self.peak,
        }

    def _acting(self, name: str, envs: int) -> dict[str, Any]:
        spread = self.probes[name].spread
        return {"steps_per_second": envs / spread["seconds"], "num_envs": envs, **spread}
