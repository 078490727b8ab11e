"""`dreamer envs check ID`: Gymnasium's checker, what a Dreamer needs, and what the encoder will see."""

import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np

from dreamer_cli.config import resolve
from dreamer_cli.envs.probe import ask_findings
from dreamer_cli.envs.vector import VectorEnv, absolute
from dreamer_cli.errors import EnvError
from dreamer_cli.report import Reporter, Result
from dreamer_cli.spaces import EnvSpec, action_from_indices, as_rgb
from dreamer_cli.stop import StopSignal
from dreamer_cli.table import table
from dreamer_cli.trees import parse_settings
from dreamer_cli.video import check_format, write_picture

PLAY_STEPS, PLAY_S, SAME_STEPS = 2000, 5.0, 30
PATIENCE_S = 60.0  # for a constructor, a reset or a step; a training waits longer
LARGE_REWARD, SMALL_REWARD = 1e4, 1e-4
STILLS = (0, 1, 4, 16, 64, 256)  # decisions after which the picture shows what is seen
TALL, GAP = 192, 4  # pixels of a still, at least, and between two


@dataclass
class Play:
    """What random play has shown."""

    steps: int = 0
    seconds: float = 0.0
    returns: list[float] = field(default_factory=list)
    rewards: list[float] = field(default_factory=list)
    terminated: int = 0
    truncated: int = 0
    low: dict[str, float] = field(default_factory=dict)
    high: dict[str, float] = field(default_factory=dict)
    stills: list[dict[str, np.ndarray]] = field(default_factory=list)


def check_env(
    env_id: str,
    report: Reporter,
    env_kwarg: Sequence[str] = (),
    *,
    pixels: bool | None = None,
    image_size: tuple[int, int] | None = None,
    out: Path | None = None,
) -> Result:
    """Try an environment out as a training would play it; problems that would stop it end in exit code 3.

    Args:
        out: where a picture of what the encoder sees goes; None writes none.

    Raises:
        EnvError: it cannot be built, or shows or takes nothing that can be learnt.
        ConfigError: an `env_kwarg` is no NAME=VALUE.
        UsageError: `out` is no .png. ResourceError: it cannot be written.
    """
    if out is not None:
        check_format(out, (".png",))
    typed: dict[str, tuple[Any, str]] = {}
    if pixels:
        typed["env.pixels"] = ("only", "--pixels")
    if image_size is not None:
        typed["env.image_size"] = (image_size, "--image-size")
    if env_kwarg:
        typed["env.kwargs"] = (parse_settings(env_kwarg, "--env-kwarg"), "--env-kwarg")
    resolved = resolve(env=env_id, options=typed)
    for note in resolved.notes:
        report.note(note)
    cfg = resolved.config.env
    cfg = replace(cfg, timeout_s=min(cfg.timeout_s or PATIENCE_S, PATIENCE_S))
    play, error, frame, same, shows = Play(), None, None, None, ""
    with (
        StopSignal() as stop,
        VectorEnv(cfg, 1, seed=0, vec="sync", render_mode="rgb_array", check_stop=stop.check) as envs,
    ):
        spec = envs.spec
        try:
            with report.progress("playing", PLAY_STEPS) as task:

                def progress() -> None:
                    stop.check()
                    task.advance()

                random_play(envs, play, progress)
            same = repeats_itself(envs)
        except EnvError as err:
            error = EnvError(err.what, "" if "envs check" in err.hint else err.hint)
            error.__cause__ = err
        if error is None:
            frame, shows = _picture(envs)
        try:
            found = ask_findings(absolute(cfg), stop.check)
        except EnvError as err:  # it does what the play did not ask for
            found = [f"Gymnasium's checker: {err.what}"]
    problems = [*_judge(spec, play, same, whole=error is None), *([shows] if shows else []), *found]
    picture = contact_sheet(play.stills, [key for key, obs in spec.observation.items() if obs.kind == "image"])
    if out is not None and picture is not None:
        write_picture(out, picture)
    mean = float(np.mean(play.returns)) if play.returns else None
    result = {
        "env": env_id,
        "observation": [
            {"key": key, **asdict(obs), "min": play.low.get(key), "max": play.high.get(key)}
            for key, obs in spec.observation.items()
        ],
        "left_out": dict(spec.left_out),
        "action": [asdict(part) for part in spec.action],
        "repeat": spec.repeat,
        "played": {
            "steps": play.steps,
            "episodes": len(play.returns),
            "terminated": play.terminated,
            "truncated": play.truncated,
            "reward_min": min(play.rewards, default=None),
            "reward_max": max(play.rewards, default=None),
            "return_mean": mean,
        },
        "steps_per_second": play.steps * spec.repeat / play.seconds if play.seconds else None,
        "deterministic": same,
        "render": list(frame.shape[:2]) if frame is not None else None,
        "picture": str(out) if out is not None and picture is not None else None,
        "problems": problems,
    }
    text = _text(env_id, spec, play, frame, same, problems)
    if result["picture"]:
        text.append(f"what the encoder sees: {out}")
    elif out is not None:
        report.warn(f"{env_id} shows no picture to the encoder, so {out} was not written")
    return Result(result, text, error=error)


def random_action(spec: EnvSpec, rng: np.random.Generator) -> np.ndarray:
    """One flat action, 1 A, all classes equally likely, continuous numbers uniform."""
    parts = [
        action_from_indices(part, rng.integers(part.classes))
        if part.kind == "discrete"
        else rng.uniform(-1, 1, part.size).astype(np.float32)
        for part in spec.action
    ]
    return np.concatenate(parts)[None]


def random_play(envs: VectorEnv, play: Play, progress: Callable[[], object] = lambda: None) -> None:
    """Play until 2000 decisions or 5 seconds have gone by; what is seen is added to `play`, up to an error.

    Args:
        progress: called before every decision; may raise to stop.
    """
    rng = np.random.default_rng(0)
    now, total, began = envs.reset(), 0.0, time.perf_counter()
    while play.steps < PLAY_STEPS and play.seconds < PLAY_S:
        progress()
        for key, value in now.obs.items():
            play.low[key] = min(play.low.get(key, np.inf), float(value.min()))
            play.high[key] = max(play.high.get(key, -np.inf), float(value.max()))
        if play.steps in STILLS:
            play.stills.append({key: value[0].copy() for key, value in now.obs.items()})
        now = envs.step(random_action(envs.spec, rng))
        play.steps += 1
        play.seconds = time.perf_counter() - began
        reward = float(now.reward[0])
        play.rewards.append(reward)
        total += reward
        if now.is_last[0]:
            play.terminated += bool(now.is_terminal[0])
            play.truncated += not now.is_terminal[0]
            play.returns.append(total)
            now, total = envs.reset(), 0.0


def contact_sheet(stills: Sequence[dict[str, np.ndarray]], keys: Sequence[str]) -> np.ndarray | None:
    """uint8 (rows, columns, 3): a row for each key, what it showed from left to right; None where there is nothing."""
    if not stills or not keys:
        return None
    rows = []
    for key in keys:
        times = -(-TALL // stills[0][key].shape[1])  # whole pixels only, so that each can be told
        drawn = [np.kron(as_rgb(still[key]), np.ones((times, times, 1), np.uint8)) for still in stills]
        padded = [np.pad(one, ((0, GAP), (0, GAP), (0, 0)), constant_values=255) for one in drawn]
        rows.append(np.concatenate(padded, 1))
    wide = max(row.shape[1] for row in rows)
    return np.concatenate([np.pad(r, ((0, 0), (0, wide - r.shape[1]), (0, 0)), constant_values=255) for r in rows])


def repeats_itself(envs: VectorEnv) -> bool:
    """Whether an episode depends on its seed and its actions alone, played twice in one environment."""
    return _digest(envs) == _digest(envs)


def _digest(envs: VectorEnv) -> list[bytes]:
    rng = np.random.default_rng(1)
    envs.episodes[:] = 0  # and with it the seed
    now = envs.reset()
    seen: list[bytes] = []
    for _ in range(SAME_STEPS):
        seen.extend(value.tobytes() for value in now.obs.values())
        now = envs.step(random_action(envs.spec, rng))
        seen.append(np.array([now.reward[0], now.is_last[0], now.is_terminal[0]]).tobytes())
        if now.is_last[0]:
            break
    return seen


def _picture(envs: VectorEnv) -> tuple[np.ndarray | None, str]:
    """What it renders, and why nothing, if so. The last thing that is done: an error closes the environment."""
    nothing = "It shows no picture: no videos of it, and no --pixels"
    try:
        frames = envs.render()
    except EnvError as err:
        return None, f"{nothing}. {err.what}".rstrip(": ")
    return (frames[0], "") if frames else (None, f"{nothing}.")


def _judge(spec: EnvSpec, play: Play, same: bool | None, whole: bool) -> list[str]:
    """What a Dreamer would stumble over without failing. whole: the play was not cut short by an error."""
    problems = [f"The observation {key!r} is left out: {why}." for key, why in spec.left_out.items()]
    problems += [
        f"The observation {key!r} never changed from {play.low[key]:g}."
        for key in play.low
        if play.low[key] == play.high[key]
    ]
    largest = max(map(abs, play.rewards), default=0.0)
    if whole and largest == 0.0:
        problems.append(f"{play.steps} random steps brought no reward: finding the first one may take long.")
    elif largest > LARGE_REWARD or 0 < largest < SMALL_REWARD:
        problems.append(f"Rewards reach {largest:g}: scale them to around 1.")
    if same is False:
        problems.append("The same seed and actions gave two different episodes: a resumed run cannot repeat itself.")
    if whole and not play.returns:
        problems.append(f"No episode ended within {play.steps} steps: is there a time limit (env.max_episode_steps)?")
    return problems


def _text(
    env_id: str, spec: EnvSpec, play: Play, frame: np.ndarray | None, same: bool | None, problems: Sequence[str]
) -> list[str]:
    rows = [
        [key, obs.kind, "x".join(map(str, obs.shape)), _range(play.low.get(key), play.high.get(key))]
        for key, obs in spec.observation.items()
    ]
    lines = [env_id, "", *table(("observation", "kind", "shape", "seen"), rows), ""]
    takes = [[part.key, part.kind, _choices(part.classes, part.size), " ".join(part.names)] for part in spec.action]
    lines += [*table(("action", "kind", "choices", "names"), takes, give="names"), ""]
    if play.steps:
        speed = play.steps * spec.repeat / play.seconds
        lines.append(f"{play.steps} random decisions, {speed:,.0f} environment steps/s (repeat {spec.repeat})")
        mean = f", mean return {np.mean(play.returns):.4g}" if play.returns else ""
        lines.append(f"episodes {len(play.returns)}: {play.terminated} terminated, {play.truncated} truncated{mean}")
        lines.append(f"reward {_range(min(play.rewards), max(play.rewards))}")
    if same is not None:
        lines.append("deterministic under a seed" if same else "not deterministic under a seed")
    if frame is not None:
        lines.append(f"renders {frame.shape[0]}x{frame.shape[1]}")
    return [*lines, *(["", *(f"- {problem}" for problem in problems)] if problems else ["no problems found"])]


def _range(low: float | None, high: float | None) -> str:
    return "" if low is None else f"{low:.4g} to {high:.4g}"


def _choices(classes: tuple[int, ...], size: int) -> str:
    if not classes:
        return f"{size} in [-1, 1]"
    return " ".join(map(str, classes)) if len(set(classes)) > 1 or len(classes) < 4 else f"{len(classes)}x{classes[0]}"
