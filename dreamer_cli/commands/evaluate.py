"""Play episodes, score them, film them."""

import csv
import io
import math
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from dreamer_cli.acting import AgentDriver, RandomDriver
from dreamer_cli.collector import Driver
from dreamer_cli.commands.assemble import LoadedRun, acts_in_bf16, derive_seed
from dreamer_cli.dream_gap import DreamGap, Gap
from dreamer_cli.envs.catalog import suite_of
from dreamer_cli.envs.make import EnvConfig
from dreamer_cli.envs.vector import VectorEnv, absolute
from dreamer_cli.errors import GateError, UsageError
from dreamer_cli.files import disk_error, json_bytes, write_atomic
from dreamer_cli.planning import planner
from dreamer_cli.report import Reporter, Result
from dreamer_cli.requests import EvaluateRequest
from dreamer_cli.scores import extra_scores
from dreamer_cli.stop import StopSignal
from dreamer_cli.table import table
from dreamer_cli.trees import parse_settings
from dreamer_cli.video import FILMS, check_format, write_film

FILM_FRAMES = 3000  # a film of more would not be watched, and has to be held in memory


class Scores(NamedTuple):
    """Returns and lengths of whole episodes, in the order of their seeds; frames of the first (may be empty).

    told: what environments tell of their episodes, by name: the mean over all. gap: if it was asked for.
    """

    returns: list[float]
    lengths: list[int]
    frames: list[np.ndarray]
    told: dict[str, float]
    gap: Gap | None = None

    @property
    def mean(self) -> float:
        """Mean return."""
        return float(np.mean(self.returns))

    @property
    def std(self) -> float:
        """Standard deviation of the returns (n - 1; 0 for a single episode)."""
        return spread(self.returns)


def spread(values: list[Any]) -> float:
    """Sample standard deviation; 0 for one value."""
    return float(np.std(values, ddof=1)) if len(values) > 1 else 0.0


def summarise(values: list[Any]) -> dict[str, Any]:
    """Mean, deviation, 95 % interval of the mean (normal approximation), median and range."""
    mean, half = float(np.mean(values)), 1.96 * spread(values) / math.sqrt(len(values))
    return {
        "mean": mean,
        "std": spread(values),
        "ci95": [mean - half, mean + half],
        "median": float(np.median(values)),
        "min": float(min(values)),
        "max": float(max(values)),
    }


def play(
    envs: VectorEnv,
    driver: Driver,
    episodes: int,
    progress: Callable[[int, float], None] = lambda done, ret: None,
    film: bool = False,
    check: Callable[[], None] = lambda: None,
    gap: DreamGap | None = None,
) -> Scores:
    """Play exactly `episodes` episodes from the beginning to the end.

    Environment i plays episodes i, i + N, i + 2N, ...: which episodes count is settled before any is played, so
    short ones (which finish first) are not preferred.

    Args:
        progress: told the number of finished episodes and the latest return.
        film: keep pictures of the first episode.
        check: called before every decision; may raise to stop.
        gap: shown every decision, and what came of it.
    """
    count = envs.num_envs
    returns: dict[int, float] = {}
    lengths: dict[int, int] = {}
    told: list[dict[str, float]] = []
    playing = np.arange(count)  # the episode each environment is in
    score, length = np.zeros(count), np.zeros(count, int)
    frames: list[np.ndarray] = []
    now, carry = envs.reset(), driver.initial(count)
    while len(returns) < episodes:
        check()
        if film and 0 not in returns and len(frames) < FILM_FRAMES:
            frames += envs.render([0]) or []
        action, _, carry = driver(now, carry)
        if gap is not None:
            gap.decided(carry)
        now = envs.step(action)
        if gap is not None:
            gap.followed(now, (playing < episodes) & ~envs.crashed)
        score += now.reward
        length += 1
        for env in np.flatnonzero(now.is_last):
            if envs.crashed[env]:  # and was restarted: what was cut off is no episode, another takes its place
                frames = [] if film and playing[env] == 0 else frames
            else:
                if playing[env] < episodes:
                    returns[int(playing[env])], lengths[int(playing[env])] = float(score[env]), int(length[env])
                    told.append(envs.told(int(env)))
                    progress(len(returns), float(score[env]))
                playing[env] += count
            score[env], length[env] = 0.0, 0
        if now.is_last.any() and len(returns) < episodes:
            if film and now.is_last[0] and playing[0] == count:
                frames += envs.render([0]) or []
            now = envs.reset(now.is_last)
    repeat = envs.spec.repeat
    order = range(episodes)
    names = dict.fromkeys(name for one in told for name in one)
    means = {name: float(np.mean([one[name] for one in told if name in one])) for name in names}
    return Scores(
        [returns[i] for i in order],
        [lengths[i] * repeat for i in order],
        frames,
        means,
        gap.measure() if gap is not None else None,
    )


def evaluate(request: EvaluateRequest, reporter: Reporter) -> Result:
    """`dreamer evaluate`: the table on stdout, and the files that were asked for."""
    check_paths(request)
    with StopSignal() as stop:
        loaded = LoadedRun(request.run, request.runs_dir, request.checkpoint, request.device, reporter)
        cfg = loaded.cfg
        env_cfg = env_to_play(cfg.env, request.env, request.env_kwarg)
        seed = derive_seed(cfg.run.seed if request.seed is None else request.seed, "evaluate")
        policy = request.policy or cfg.run.eval_policy
        rows = [policy] + ([request.versus] if request.versus else [])
        drivers = {name: _driver(loaded, name, seed, request) for name in rows}
        scores = {
            name: _scores(loaded, env_cfg, name, driver, seed, request, reporter, stop, film=name == policy)
            for name, driver in drivers.items()
        }
    video = _film(request, scores[policy], env_cfg, reporter)
    result = _document(loaded, env_cfg, policy, request, scores, video)
    if request.output:
        _write_output(request.output, result, scores[policy])
    error = None
    if result["gate"] and not result["gate"]["passed"]:
        error = GateError(
            f"The mean return {scores[policy].mean:.6g} is below --min-return {request.min_return:g}.",
            hint=f"Train for longer: dreamer train --run-dir {loaded.run.path} --steps N",
        )
    return Result(result, [*_table(scores), *_extra(result)], error)


def check_paths(request: EvaluateRequest) -> None:
    """See that files can be written, in the formats that their names ask for, and options fit each other.

    Raises:
        UsageError: no such format, or options of a policy that does not play.
        ResourceError: folders cannot be made.
    """
    if request.video is not None:
        check_format(request.video, FILMS)
    if request.plan and "plan" not in (request.policy, request.versus):
        raise UsageError(
            f"--plan {request.plan[0]} sets the policy plan, which does not play.", hint="Add --policy plan."
        )
    if request.output is not None and request.output.suffix not in (".json", ".csv"):
        raise UsageError(f"--output is {str(request.output)!r}.", hint="The name must end in .json or .csv.")
    for path in filter(None, (request.video, request.output)):
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise disk_error(error, path) from error


def env_to_play(own: EnvConfig, env: str | None, env_kwarg: tuple[str, ...]) -> EnvConfig:
    """The run's environment, or another one; it shares the arguments within a suite whose protocol they are."""
    typed = parse_settings(env_kwarg, "--env-kwarg")
    if env:
        other = absolute(replace(own, id=env, kwargs=typed))
        if other.id != absolute(own).id and not _one_suite(str(own.id), str(other.id)):
            return other
        own = replace(own, id=other.id)
    return replace(own, kwargs={**own.kwargs, **typed})


def _one_suite(first: str, second: str) -> bool:
    suite = suite_of(first)
    return suite is not None and suite.adapts(first) and suite.adapts(second)


def _scores(
    loaded: LoadedRun,
    env_cfg: EnvConfig,
    policy: str,
    driver: Driver,
    seed: int,
    request: EvaluateRequest,
    reporter: Reporter,
    stop: StopSignal,
    film: bool,
) -> Scores:
    """All episodes of one policy. The environments' seeds are the same for every policy."""
    num_envs = min(request.num_envs or min(8, loaded.cfg.run.num_envs), request.episodes)
    film = film and request.video is not None
    mode = "rgb_array" if film else None
    with VectorEnv(env_cfg, num_envs, seed, render_mode=mode, check_stop=stop.check, warn=reporter.warn) as envs:
        loaded.require_same_spaces(envs.spec, str(env_cfg.id))
        with reporter.progress(f"evaluating {policy}", request.episodes) as task:

            def progress(done: int, ret: float) -> None:
                task.advance(1, **{"return": ret})

            gap = None
            # Planners search anew at every step of a dream, which takes too long; chance has no dreams.
            if (
                isinstance(driver, AgentDriver)
                and driver.behaviour is None
                and hasattr(loaded.agent.behaviour, "actor")
            ):
                gap = DreamGap(loaded.agent, driver.mode, derive_seed(seed, "gap"), num_envs)
            return play(envs, driver, request.episodes, progress, film, stop.check, gap)


def _driver(loaded: LoadedRun, policy: str, seed: int, request: EvaluateRequest) -> Driver:
    if policy == "random":
        return RandomDriver(loaded.spec, {}, seed)
    bf16 = acts_in_bf16(loaded.cfg, loaded.device)
    if policy == "plan":
        behaviour = planner(loaded.cfg.behaviour, loaded.agent, request.plan)
        return AgentDriver(loaded.agent, "mode", seed, bf16, behaviour=behaviour.to(loaded.device))
    return AgentDriver(loaded.agent, policy, seed, bf16)  # type: ignore[arg-type]


def _document(
    loaded: LoadedRun,
    env_cfg: EnvConfig,
    policy: str,
    request: EvaluateRequest,
    scores: dict[str, Scores],
    video: Path | None,
) -> dict[str, Any]:
    mine = scores[policy]
    gate = None
    if request.min_return is not None:
        gate = {"min_return": request.min_return, "passed": mine.mean >= request.min_return}
    document = {
        "run": str(loaded.run.path),
        "checkpoint_step": loaded.step,
        "env": env_cfg.id,
        "episodes": len(mine.returns),
        "policy": policy,
        "seed": loaded.cfg.run.seed if request.seed is None else request.seed,
        "return": summarise(mine.returns),
        "length": summarise(mine.lengths),
        "returns": mine.returns,
        "lengths": mine.lengths,
        "told": mine.told,
        "scores": extra_scores(str(env_cfg.id), mine.returns, mine.told),
        "dream_gap": mine.gap._asdict() if mine.gap else None,
        "gate": gate,
        "video": str(video) if video else None,
    }
    if request.versus:
        other = scores[request.versus]
        document["versus"] = {"policy": request.versus, "return": summarise(other.returns), "returns": other.returns}
    return document


def _table(scores: dict[str, Scores]) -> list[str]:
    header = ["policy", "episodes", "mean", "± 95 %", "std", "median", "min", "max", "length"]
    rows = []
    for name, score in scores.items():
        s = summarise(score.returns)
        numbers = [s["mean"], (s["ci95"][1] - s["ci95"][0]) / 2, s["std"], s["median"], s["min"], s["max"]]
        rows.append([name, str(len(score.returns)), *(f"{x:.1f}" for x in numbers), f"{np.mean(score.lengths):.1f}"])
    return table(header, rows, right=header[1:])


def _extra(document: dict[str, Any]) -> list[str]:
    """A line for each other score, and for what environments tell."""
    units = {"human_normalised": " % of the way from chance to human", "crafter_score": " % (geometric mean)"}
    lines = []
    if gap := document["dream_gap"]:
        over = f"imagined minus real return over {gap['horizon']} decisions, {gap['states']} states"
        lines.append(f"dream gap  {gap['mean']:+.3g} ± {gap['std']:.3g} ({over})")
    lines += [f"{name.replace('_', ' ')}  {value:.1f}{units[name]}" for name, value in document["scores"].items()]
    return lines + [f"{name}  {value:.3g}" for name, value in document["told"].items()]


def _film(request: EvaluateRequest, scores: Scores, env_cfg: EnvConfig, reporter: Reporter) -> Path | None:
    if request.video is None:
        return None
    if not scores.frames:
        reporter.warn(f"{env_cfg.id} cannot be drawn, so there is no film")
        return None
    write_film(request.video, scores.frames, fps=30)
    reporter.note(f"filmed the first episode: {request.video}")
    return request.video


def _write_output(path: Path, document: dict[str, Any], scores: Scores) -> None:
    """Every episode's return: the whole document as .json, or one row an episode as .csv."""
    if path.suffix == ".json":
        write_atomic(path, [json_bytes(document)])
        return
    text = io.StringIO()
    writer = csv.writer(text)
    writer.writerow(["episode", "return", "length"])
    writer.writerows(zip(range(len(scores.returns)), scores.returns, scores.lengths, strict=True))
    write_atomic(path, [text.getvalue().encode()])
