"""`dreamer envs check ID`: Gymnasium's checker, what a Dreamer needs, and what the encoder will see."""

import contextlib
import re
import sys
import time
import warnings
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from gymnasium.utils import env_checker

from dreamer_cli.config import resolve
from dreamer_cli.envs.make import EnvConfig, bare_env, make_env
from dreamer_cli.envs.wrappers import DreamerEnv
from dreamer_cli.errors import DreamerError, EnvError
from dreamer_cli.report import Reporter, Result
from dreamer_cli.spaces import action_from_indices, as_rgb
from dreamer_cli.table import table
from dreamer_cli.trees import parse_settings
from dreamer_cli.video import check_format, write_picture

PLAY_STEPS, PLAY_S, SAME_STEPS = 2000, 5.0, 30
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
    cfg = resolve(env=env_id, options=typed).config.env
    env = make_env(cfg, "rgb_array")
    play, error, frame, same = Play(), None, None, None
    try:
        random_play(env, play)
        frame = env.frame()
        same = repeats_itself(env)
    except EnvError as err:
        error = err
    finally:
        env.close()
    checker = gymnasium_checker(cfg)
    problems = [*_judge(env, play, frame, same), *(f"Gymnasium's checker: {said}" for said in checker)]
    spec = env.spec_dreamer
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
    text = _text(env_id, env, play, frame, same, problems)
    if result["picture"]:
        text.append(f"what the encoder sees: {out}")
    elif out is not None:
        report.warn(f"{env_id} shows no picture to the encoder, so {out} was not written")
    return Result(result, text, error=error)


def random_action(env: DreamerEnv, rng: np.random.Generator) -> np.ndarray:
    """One flat action, all classes equally likely, continuous numbers uniform."""
    parts = [
        action_from_indices(part, rng.integers(part.classes))
        if part.kind == "discrete"
        else rng.uniform(-1, 1, part.size).astype(np.float32)
        for part in env.spec_dreamer.action
    ]
    return np.concatenate(parts)


def random_play(env: DreamerEnv, play: Play) -> None:
    """Play until 2000 decisions or 5 seconds have gone by; what is seen is added to `play`, up to an error."""
    rng = np.random.default_rng(0)
    obs, total, began = env.reset(seed=0)[0], 0.0, time.perf_counter()
    while play.steps < PLAY_STEPS and play.seconds < PLAY_S:
        for key, value in obs.items():
            play.low[key] = min(play.low.get(key, np.inf), float(value.min()))
            play.high[key] = max(play.high.get(key, -np.inf), float(value.max()))
        if play.steps in STILLS:
            play.stills.append(obs)
        obs, reward, terminated, truncated, _ = env.step(random_action(env, rng))
        play.steps += 1
        play.seconds = time.perf_counter() - began
        play.rewards.append(reward)
        total += reward
        if terminated or truncated:
            play.terminated += terminated
            play.truncated += truncated and not terminated
            play.returns.append(total)
            obs, total = env.reset(seed=play.steps)[0], 0.0


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


def repeats_itself(env: DreamerEnv) -> bool:
    """Whether an episode depends on its seed and its actions alone, played twice in one environment."""
    return _digest(env) == _digest(env)


def _digest(env: DreamerEnv) -> list[bytes]:
    rng = np.random.default_rng(1)
    obs = env.reset(seed=7)[0]
    seen: list[bytes] = []
    for _ in range(SAME_STEPS):
        seen.extend(value.tobytes() for value in obs.values())
        obs, reward, terminated, truncated, _ = env.step(random_action(env, rng))
        seen.append(np.array([reward, terminated, truncated]).tobytes())
        if terminated or truncated:
            break
    return seen


def gymnasium_checker(cfg: EnvConfig) -> list[str]:
    """What Gymnasium's own checker says, each thing once."""
    env = bare_env(cfg).unwrapped
    said = []
    with warnings.catch_warnings(record=True) as caught, contextlib.redirect_stdout(sys.stderr):
        warnings.simplefilter("always")
        try:
            env_checker.check_env(env, skip_render_check=True)
        except DreamerError:
            raise
        except Exception as err:  # the checker asserts, and runs the environment's code with odd arguments
            said.append(str(err) or type(err).__name__)
    said += [re.sub(r"\x1b\[[0-9;]*m", "", str(warning.message)).removeprefix("WARN: ") for warning in caught]
    return list(dict.fromkeys(" ".join(text.split()) for text in said))


def _judge(env: DreamerEnv, play: Play, frame: np.ndarray | None, same: bool | None) -> list[str]:
    """What a Dreamer would stumble over without failing."""
    problems = [f"The observation {key!r} is left out: {why}." for key, why in env.spec_dreamer.left_out.items()]
    problems += [
        f"The observation {key!r} never changed from {play.low[key]:g}."
        for key in play.low
        if play.low[key] == play.high[key]
    ]
    largest = max(map(abs, play.rewards), default=0.0)
    if play.rewards and largest == 0.0:
        problems.append(f"{play.steps} random steps brought no reward: finding the first one may take long.")
    elif largest > LARGE_REWARD or 0 < largest < SMALL_REWARD:
        problems.append(f"Rewards reach {largest:g}: scale them to around 1.")
    if same is False:
        problems.append("The same seed and actions gave two different episodes: a resumed run cannot repeat itself.")
    if play.steps and not play.returns:
        problems.append(f"No episode ended within {play.steps} steps: is there a time limit (env.max_episode_steps)?")
    if play.steps and frame is None:
        problems.append("It shows no picture: no videos of it, and no --pixels.")
    return problems


def _text(
    env_id: str, env: DreamerEnv, play: Play, frame: np.ndarray | None, same: bool | None, problems: Sequence[str]
) -> list[str]:
    spec = env.spec_dreamer
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
