"""Film what the agent dreams, next to what really happened."""

from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch

from dreamer_cli import draw, draw_tree
from dreamer_cli.acting import AgentDriver, RandomDriver
from dreamer_cli.agent import Agent
from dreamer_cli.checkpoint import Checkpoints
from dreamer_cli.commands.assemble import REPLAY, LoadedRun, acts_in_bf16, derive_seed
from dreamer_cli.draw_errors import plot
from dreamer_cli.dream import (
    DreamMode,
    Dreams,
    Stretch,
    Windows,
    dream,
    no_windows,
    repeat_window,
    require_decoder,
    stack_windows,
)
from dreamer_cli.dream_error import measure, summarize
from dreamer_cli.envs.vector import VectorEnv
from dreamer_cli.errors import UsageError
from dreamer_cli.files import disk_error, json_bytes, write_atomic
from dreamer_cli.reality import file_stretches, play_stretches, replay_stretches
from dreamer_cli.report import Reporter, Result
from dreamer_cli.requests import OVERLAYS, ImagineRequest
from dreamer_cli.runs import short_id
from dreamer_cli.spaces import EnvSpec
from dreamer_cli.steering import POLICY, Steering, decode, parse_branches, read_actions
from dreamer_cli.stop import StopSignal
from dreamer_cli.structs import Carry
from dreamer_cli.video import Film, check_format, write_arrays, write_film, write_picture

FPS, HORIZON, SAMPLES = 12, 45, 6
METRICS_SCHEMA = "dreamer.imagine.metrics/1"
NAMES = {
    "openloop": "open loop",
    "policy": "the agent's own actions",
    "actions": "actions of a file",
    "branches": "branches",
}


class Look(NamedTuple):
    """How dreams are drawn; as of `draw.frames`."""

    scale: int | None = None
    overlay: tuple[str, ...] = OVERLAYS
    layout: str = "grid"


PLAIN = Look()


def imagine(request: ImagineRequest, reporter: Reporter) -> Result:
    """`dreamer imagine`: the written paths on stdout."""
    check(request)
    with StopSignal() as stop:
        loaded = LoadedRun(request.run, request.runs_dir, request.checkpoint, request.device, reporter)
        require_decoder(loaded.agent)
        out = request.out or loaded.run.videos / f"dream-{loaded.step:09d}-{request.mode}.mp4"
        seed = loaded.cfg.run.seed if request.seed is None else request.seed
        request = replace(request, context=0) if request.source == "prior" else request
        samples, horizon, steering, names = steer(request, loaded.spec, seed, reporter)
        windows = find_windows(loaded, request, samples, horizon, seed, reporter, stop)
        windows = repeat_window(windows, len(names)) if names else windows
        steering = steering.repeated(len(windows.length)) if steering else None
        dreams = dream(
            loaded.agent,
            windows,
            request.mode,
            context=request.context,
            horizon=horizon,
            generator=torch.Generator(loaded.device).manual_seed(derive_seed(seed, "dream")),
            steering=steering,
            names=names,
        )
        if dreams.moments < request.context + horizon:
            reporter.note(_short(dreams, horizon))
        title = film_title(loaded.cfg.env.id, loaded.step, request.mode)
        with reporter.progress("drawing", dreams.moments) as task:

            def progress() -> None:
                stop.check()
                task.advance()

            look = Look(request.scale, request.overlay, request.layout)
            film = render(dreams, loaded.spec, out, title, look, fps=request.fps, progress=progress)
    rows = measure(dreams, loaded.spec.observation)
    head = {
        "run": str(loaded.run.path),
        "checkpoint_step": loaded.step,
        "mode": request.mode,
        "source": str(request.source),
        "context": request.context,
        "horizon": horizon,
        "dreamt": dreams.moments - dreams.context,
        "samples": dreams.samples,
        "seed": seed,
    }
    metrics = summarize(dreams, rows)
    branches = _branches(dreams, loaded.spec)
    if request.metrics:
        write_json(
            request.metrics,
            {"schema": METRICS_SCHEMA, **head, "mean": metrics, "branches": branches, "steps": rows},
        )
    if request.plot:
        write_picture(request.plot, plot(rows, title))
    written = [str(path) for path in (out, request.metrics, request.plot) if path]
    moving = out.suffix.lower() not in (".png", ".npz")
    json = {
        **head,
        "out": str(out),
        "frames": film.frames,
        "width": film.width or None,
        "height": film.height or None,
        "fps": (request.fps or FPS) if moving else None,
        "metrics": metrics,
        "branches": branches,
        "metrics_file": str(request.metrics) if request.metrics else None,
        "plot_file": str(request.plot) if request.plot else None,
    }
    return Result(json, written)


def _short(dreams: Dreams, horizon: int) -> str:
    """Why less was dreamt than was asked for."""
    steps = f"{dreams.moments - dreams.context} of {horizon} steps are dreamt"
    if dreams.mode == "openloop":
        return f"{steps}: the longest episode has {dreams.moments} records. A smaller --context leaves more of it."
    return f"{steps}: after that the model thinks every episode over."


def _branches(dreams: Dreams, spec: EnvSpec) -> list[dict[str, Any]]:
    """What each branch began with, and what it promises."""
    return [
        {
            "branch": name,
            "action": decode(spec, dreams.action[m, dreams.border]),
            "return": float(dreams.returns[m]) if np.isfinite(dreams.returns[m]) else None,
            "length": int(dreams.length[m]) - dreams.context,
        }
        for m, name in enumerate(dreams.names)
    ]


def check(request: ImagineRequest) -> None:
    """See that what is asked for makes sense, and that the files can be written, before anything is played.

    Raises:
        UsageError: it does not, or they cannot.
    """
    for path, suffix, name in ((request.metrics, ".json", "--metrics"), (request.plot, ".png", "--plot")):
        if path is not None and path.suffix != suffix:
            raise UsageError(f"{name} is {str(path)!r}.", hint=f"The name must end in {suffix}.")
    if request.out is not None:
        check_format(request.out)
    written = [path.resolve() for path in (request.out, request.metrics, request.plot) if path is not None]
    if len(set(written)) < len(written):
        raise UsageError("--out, --metrics and --plot need different names.")
    if request.actions is not None and request.actions.suffix not in (".json", ".npz"):
        raise UsageError(f"--actions is {str(request.actions)!r}.", hint="The name must end in .json or .npz.")
    mode = request.mode
    if (mode == "actions") != (request.actions is not None):
        raise UsageError("--mode actions and --actions FILE belong together.")
    if mode != "branches" and (request.branch or request.layout != "grid"):
        raise UsageError("--branch and --layout belong to --mode branches.")
    if mode == "branches" and request.samples is not None:
        raise UsageError("Branches grow from one moment, so --samples has no meaning.", hint="--branch policy,policy")
    if mode == "openloop" and request.source == "prior":
        raise UsageError(
            "A dream from the prior alone has no true actions.", hint="--mode policy, actions or branches."
        )


def steer(
    request: ImagineRequest, spec: EnvSpec, seed: int, reporter: Reporter
) -> tuple[int, int, Steering | None, tuple[str, ...]]:
    """How many contexts, the horizon; who acts, where it is neither the truth nor the agent; names of the dreams.

    Raises:
        UsageError: a word means nothing. StateError: the file of actions cannot be used.
    """
    samples, horizon = request.samples or SAMPLES, request.horizon or HORIZON
    if request.mode == "actions":
        assert request.actions is not None
        steering = read_actions(request.actions, spec)
        most = int(steering.until.max()) + (request.context == 0)
        if request.horizon is not None and request.horizon > most:
            reporter.note(f"{request.actions} has {steering.until.max()} actions, for {most} steps")
        return samples, min(request.horizon or most, most), steering, ()
    if request.mode == "branches":
        chance = RandomDriver(spec, {}, derive_seed(seed, "branches"))
        words = request.branch or (POLICY,) * 4
        moments = request.context + horizon - max(0, request.context - 1)
        steering, names = parse_branches(words, spec, moments, chance.actions)
        return 1, horizon, steering, tuple(names)
    return samples, horizon, None, ()


def film_title(env_id: str | None, step: int, mode: DreamMode) -> str:
    """What stands above a dream."""
    return f"{short_id(env_id or '')} · step {step:,} · {NAMES[mode]}"


def find_windows(
    loaded: LoadedRun,
    request: ImagineRequest,
    samples: int,
    horizon: int,
    seed: int,
    reporter: Reporter,
    stop: StopSignal,
) -> Windows:
    """Real records: the agent plays its environment, or the run's replay is read.

    Raises:
        StateError: no episode is long enough, or the checkpoint has no replay.
        EnvError: the environment cannot be played.
    """
    if request.source == "prior":
        return no_windows(loaded.agent, samples)
    rng = np.random.default_rng(derive_seed(seed, "windows"))
    need = request.context + (request.mode == "openloop")
    length = request.context + (horizon if request.mode == "openloop" else 0)
    if isinstance(request.source, Path):
        stretches = file_stretches(request.source, loaded.spec, samples, length)
        return _enough(stretches, need, "stretches of the file", reporter)
    if request.source == "replay":
        checkpoint = Checkpoints(loaded.run.checkpoints, warn=reporter.warn).load(loaded.path, only=[REPLAY])
        tree = checkpoint.trees[REPLAY]
        stretches = replay_stretches(loaded.run.replay, tree, loaded.spec, samples, length, need, rng, reporter.warn)
        if len(stretches) < samples:
            reporter.warn(f"the replay holds only {len(stretches)} stretches that do not overlap")
        return stack_windows(stretches)
    driver = AgentDriver(
        loaded.agent,
        loaded.cfg.run.eval_policy,
        derive_seed(seed, "playing"),
        acts_in_bf16(loaded.cfg, loaded.device),
    )
    seed = derive_seed(seed, "imagine")
    with VectorEnv(loaded.cfg.env, samples, seed, check_stop=stop.check, warn=reporter.warn) as envs:
        loaded.require_same_spaces(envs.spec, str(loaded.cfg.env.id))
        with reporter.progress("playing") as task:

            def progress() -> None:
                stop.check()
                task.advance(samples)

            stretches = play_stretches(envs, driver, length, progress)
    return _enough(stretches, need, "episodes", reporter)


def _enough(stretches: list[Stretch], need: int, what: str, reporter: Reporter) -> Windows:
    """One short episode must not spoil the film of the others; `dream` refuses if all are short."""
    enough = [stretch for stretch in stretches if len(stretch.reward) >= need]
    if enough and len(enough) < len(stretches):
        reporter.warn(f"{len(stretches) - len(enough)} {what} end within the context and are left out")
    return stack_windows(enough or stretches)


def render(
    dreams: Dreams,
    spec: EnvSpec,
    path: Path,
    title: str,
    look: Look = PLAIN,
    *,
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
        drawing = draw_tree.last if look.layout == "tree" else draw.strip
        return write_picture(path, drawing(dreams, spec, title, scale=look.scale, overlay=look.overlay))

    def drawn() -> Iterator[np.ndarray]:
        drawing = draw_tree.frames if look.layout == "tree" else draw.frames
        for frame in drawing(dreams, spec, title, scale=look.scale, overlay=look.overlay):
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
) -> tuple[Film, Dreams, dict[str, float | None]]:
    """Dream in open loop, draw and write, for a training that films itself; beside the film goes a .json of its errors.

    Returns the film, what was dreamt, and the mean errors.

    Args:
        windows, start: for example `batch_windows(agent, replay.sample()[0], samples=6)`.
        generator: on the agent's device.

    Raises:
        StateError: see `dream`. ResourceError: see `render`.
    """
    dreams = dream(agent, windows, "openloop", context=context, horizon=horizon, generator=generator, start=start)
    film = render(dreams, agent.spec, path, title)
    rows = measure(dreams, agent.spec.observation)
    means = summarize(dreams, rows)
    about = {"mode": dreams.mode, "context": context, "samples": dreams.samples}
    write_json(path.with_suffix(".json"), {"schema": METRICS_SCHEMA, **about, "mean": means, "steps": rows})
    return film, dreams, means


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
