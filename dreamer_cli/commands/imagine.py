"""Film what the agent dreams, next to what really happened."""

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import torch

from dreamer_cli import draw
from dreamer_cli.acting import AgentDriver
from dreamer_cli.agent import Agent
from dreamer_cli.checkpoint import Checkpoints
from dreamer_cli.commands.assemble import REPLAY, LoadedRun, acts_in_bf16, derive_seed
from dreamer_cli.dream import DreamMode, Dreams, Windows, dream, require_decoder, stack_windows
from dreamer_cli.dream_error import measure, summarize
from dreamer_cli.envs.vector import VectorEnv
from dreamer_cli.errors import UsageError
from dreamer_cli.files import disk_error, json_bytes, write_atomic
from dreamer_cli.reality import play_stretches, replay_stretches
from dreamer_cli.report import Reporter, Result
from dreamer_cli.requests import ImagineRequest
from dreamer_cli.spaces import EnvSpec
from dreamer_cli.stop import StopSignal
from dreamer_cli.structs import Carry
from dreamer_cli.video import Film, check_format, write_arrays, write_film, write_picture

FPS = 12
METRICS_SCHEMA = "dreamer.imagine.metrics/1"
NAMES = {"openloop": "open loop", "policy": "the agent's own actions"}


def imagine(request: ImagineRequest, reporter: Reporter) -> Result:
    """`dreamer imagine`: the written paths on stdout."""
    check_paths(request)
    with StopSignal() as stop:
        loaded = LoadedRun(request.run, request.runs_dir, request.checkpoint, request.device, reporter)
        require_decoder(loaded.agent)
        out = request.out or loaded.run.videos / f"dream-{loaded.step:09d}-{request.mode}.mp4"
        seed = loaded.cfg.run.seed if request.seed is None else request.seed
        windows = find_windows(loaded, request, seed, reporter, stop)
        dreams = dream(
            loaded.agent,
            windows,
            request.mode,
            context=request.context,
            horizon=request.horizon,
            generator=torch.Generator(loaded.device).manual_seed(derive_seed(seed, "dream")),
        )
        if dreams.moments < request.context + request.horizon:
            reporter.note(
                f"episodes end early: {dreams.moments - dreams.context} of {request.horizon} steps are dreamt"
            )
        title = film_title(loaded.cfg.env.id, loaded.step, request.mode)
        with reporter.progress("drawing", dreams.moments) as task:

            def progress() -> None:
                stop.check()
                task.advance()

            film = render(dreams, loaded.spec, out, title, scale=request.scale, fps=request.fps, progress=progress)
    rows = measure(dreams, loaded.spec.observation)
    head = {
        "run": str(loaded.run.path),
        "checkpoint_step": loaded.step,
        "mode": request.mode,
        "source": request.source,
        "context": request.context,
        "horizon": request.horizon,
        "samples": dreams.samples,
        "seed": seed,
    }
    metrics = summarize(dreams, rows)
    if request.metrics:
        write_json(request.metrics, {"schema": METRICS_SCHEMA, **head, "mean": metrics, "steps": rows})
    written = [str(path) for path in (out, request.metrics) if path]
    moving = out.suffix.lower() not in (".png", ".npz")
    json = {
        **head,
        "out": str(out),
        "frames": film.frames,
        "width": film.width or None,
        "height": film.height or None,
        "fps": (request.fps or FPS) if moving else None,
        "metrics": metrics,
        "metrics_file": str(request.metrics) if request.metrics else None,
    }
    return Result(json, written)


def check_paths(request: ImagineRequest) -> None:
    """See that the files can be written in the formats that their names ask for, before anything is played.

    Raises:
        UsageError: they cannot.
    """
    if request.out is not None:
        check_format(request.out)
    if request.metrics is not None and request.metrics.suffix != ".json":
        raise UsageError(f"--metrics is {str(request.metrics)!r}.", hint="The name must end in .json.")


def film_title(env_id: str | None, step: int, mode: DreamMode) -> str:
    """What stands above a dream."""
    return f"{env_id} · step {step:,} · {NAMES[mode]}"


def find_windows(
    loaded: LoadedRun, request: ImagineRequest, seed: int, reporter: Reporter, stop: StopSignal
) -> Windows:
    """Real records: the agent plays its environment, or the run's replay is read.

    Raises:
        StateError: no episode is long enough, or the checkpoint has no replay.
        EnvError: the environment cannot be played.
    """
    rng = np.random.default_rng(derive_seed(seed, "windows"))
    need = request.context + (request.mode == "openloop")
    length = request.context + (request.horizon if request.mode == "openloop" else 0)
    if request.source == "replay":
        checkpoint = Checkpoints(loaded.run.checkpoints, warn=reporter.warn).load(loaded.path, only=[REPLAY])
        tree = checkpoint.trees[REPLAY]
        stretches = replay_stretches(
            loaded.run.replay, tree, loaded.spec, request.samples, length, need, rng, reporter.warn
        )
        if len(stretches) < request.samples:
            reporter.warn(f"the replay holds only {len(stretches)} stretches that do not overlap")
        return stack_windows(stretches)
    driver = AgentDriver(
        loaded.agent,
        loaded.cfg.run.eval_policy,
        derive_seed(seed, "playing"),
        acts_in_bf16(loaded.cfg, loaded.device),
    )
    seed = derive_seed(seed, "imagine")
    with VectorEnv(loaded.cfg.env, request.samples, seed, check_stop=stop.check, warn=reporter.warn) as envs:
        loaded.require_same_spaces(envs.spec, str(loaded.cfg.env.id))
        with reporter.progress("playing") as task:

            def progress() -> None:
                stop.check()
                task.advance(request.samples)

            stretches = play_stretches(envs, driver, length, progress)
    # One short episode must not spoil the film of the others; `dream` refuses if all are short.
    enough = [stretch for stretch in stretches if len(stretch.reward) >= need]
    if enough and len(enough) < len(stretches):
        reporter.warn(f"{len(stretches) - len(enough)} episodes ended within the context and are left out")
    return stack_windows(enough or stretches)


def render(
    dreams: Dreams,
    spec: EnvSpec,
    path: Path,
    title: str,
    *,
    scale: int | None = None,
    fps: int | None = None,
    progress: Callable[[], None] = lambda: None,
) -> Film:
    """Write dreams in the format that the suffix of `path` asks for: a film, a strip (.png), or the arrays (.npz).

    Args:
        progress: called for every picture; may raise to stop, then nothing is left behind.

    Raises:
        UsageError, ResourceError: as `video.write_film`.
    """
    suffix = check_format(path)
    if suffix == ".npz":
        write_arrays(path, dreams.arrays())
        return Film(dreams.moments, 0, 0)
    if suffix == ".png":
        return write_picture(path, draw.strip(dreams, spec, title, scale=scale))

    def drawn() -> Iterator[np.ndarray]:
        for frame in draw.frames(dreams, spec, title, scale=scale):
            progress()
            yield frame

    return write_film(path, drawn(), fps or FPS)


def dream_video(
    agent: Agent,
    windows: Windows,
    path: Path,
    *,
    title: str,
    generator: torch.Generator,
    context: int = 5,
    horizon: int = 45,
    start: Carry | None = None,
) -> tuple[Film, dict[str, float | None]]:
    """Dream in open loop, draw and write, for a training that films itself; returns the film and its mean errors.

    Args:
        windows, start: for example `batch_windows(agent, replay.sample()[0], samples=6)`.
        generator: on the agent's device.

    Raises:
        StateError: see `dream`. ResourceError: see `render`.
    """
    dreams = dream(agent, windows, "openloop", context=context, horizon=horizon, generator=generator, start=start)
    film = render(dreams, agent.spec, path, title)
    return film, summarize(dreams, measure(dreams, agent.spec.observation))


def write_json(path: Path, tree: dict[str, Any]) -> None:
    """Write JSON, whole or not at all.

    Raises:
        ResourceError: the place cannot be written.
    """
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise disk_error(error, path) from error
    write_atomic(path, [json_bytes(tree)])
