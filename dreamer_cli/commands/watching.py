"""What a training shows of itself now and then: episodes played for a score, and films of its dreams."""

from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch

from dreamer_cli.acting import AgentDriver
from dreamer_cli.commands.assemble import derive_seed
from dreamer_cli.commands.evaluate import Scores, play
from dreamer_cli.commands.imagine import dream_video, film_title
from dreamer_cli.config import Config
from dreamer_cli.dream import Dreams, batch_windows
from dreamer_cli.envs.make import Vec
from dreamer_cli.envs.vector import VectorEnv
from dreamer_cli.learner import Learner
from dreamer_cli.live import TrainDisplay
from dreamer_cli.live_dream import SmallDream, resized
from dreamer_cli.panels import as_picture
from dreamer_cli.stop import StopSignal
from dreamer_cli.structs import Batch

DREAM_SAMPLES = 4
LARGEST = 32  # pixels of a side of what a terminal shows


def play_evaluation(
    cfg: Config,
    learner: Learner,
    vec: Vec,
    display: TrainDisplay,
    stop: StopSignal,
    warn: Callable[[str], None],
) -> Scores:
    """Play the episodes of `run.eval_episodes`, the same ones at every evaluation.

    Args:
        vec: how the training's own environments are stepped, which has been measured already.
        warn: told of environments that were restarted.

    Raises:
        Preempted, Interrupted: a stop was requested.
        EnvError: the environment failed.
    """
    run, seed = cfg.run, derive_seed(cfg.run.seed, "evaluate")
    driver = AgentDriver(learner.agent, run.eval_policy, seed, learner.bf16)
    with (
        display.during("evaluating", run.eval_episodes) as show,
        VectorEnv(
            cfg.env, min(run.eval_episodes, run.num_envs, 8), seed, vec, check_stop=stop.check, warn=warn
        ) as envs,
    ):
        return play(envs, driver, run.eval_episodes, lambda done, ret: show(done), check=stop.check)


def film_replayed(cfg: Config, learner: Learner, batch: Batch, step: int, seed: int, path: Path) -> SmallDream | None:
    """Film open-loop dreams of replayed stretches, and write their errors beside the film; returns a small one to show.

    Raises:
        StateError: the model cannot draw, or no episode is long enough. ResourceError: the film cannot be written.
    """
    context = min(5, cfg.replay.batch_length // 2)
    windows, start = batch_windows(learner.agent, batch.to(learner.device), DREAM_SAMPLES, at_least=context + 1)
    generator = torch.Generator(learner.device).manual_seed(seed)
    title = film_title(cfg.env.id, step, "openloop")
    _, dreams, _ = dream_video(
        learner.agent, windows, path, title=title, generator=generator, context=context, start=start
    )
    return small(dreams)


def small(dreams: Dreams) -> SmallDream | None:
    """The longest of the dreams, as small pictures; None where nothing that is observed is one."""
    key = next((key for key, value in dreams.model.items() if value.ndim == 5), None)
    if key is None:
        return None
    m = int(dreams.length.argmax())
    shown = range(int(dreams.length[m]))
    truth, model = (np.stack([_shrunk(as_picture(x[key][m, t])) for t in shown]) for x in (dreams.truth, dreams.model))
    return SmallDream(truth, model, dreams.context)


def _shrunk(picture: np.ndarray) -> np.ndarray:
    tall, wide = picture.shape[:2]
    share = min(1.0, LARGEST / max(tall, wide))
    return resized(picture, (max(1, round(wide * share)), max(1, round(tall * share))))
