"""Walk in the agent's dream, beside the real game: on a page of this machine, or in the terminal."""

import asyncio
import webbrowser
from collections.abc import Callable, Iterable
from datetime import datetime
from pathlib import Path
from typing import Any

import numpy as np
from rich.text import Text

from dreamer_cli.checkpoint import Checkpoints
from dreamer_cli.commands.assemble import REPLAY, LoadedRun, derive_seed
from dreamer_cli.commands.evaluate import env_to_play
from dreamer_cli.commands.imagine import write_json
from dreamer_cli.dream import Stretch, require_decoder
from dreamer_cli.envs.vector import VectorEnv
from dreamer_cli.errors import EnvError, Interrupted, StateError
from dreamer_cli.player import Player
from dreamer_cli.reality import replay_stretches
from dreamer_cli.report import Reporter, Result
from dreamer_cli.requests import PlayRequest
from dreamer_cli.runs import RunDir, short_id
from dreamer_cli.stop import StopSignal
from dreamer_cli.video import write_film
from dreamer_cli.walk import Walk

SEEN, AT_ONCE = 5, 32  # records of a recorded moment, and how many are read in one go


def play(request: PlayRequest, reporter: Reporter) -> Result:
    """`dreamer play`: until Ctrl-C.

    Raises:
        StateError: the run cannot be opened, or has no decoder. EnvError: the environment failed, or an extra is
            missing. ResourceError: the port is taken. Interrupted, Preempted: it was ended.
    """
    open_server = _server() if request.ui == "web" else None
    with StopSignal() as stop:
        loaded = LoadedRun(request.run, request.runs_dir, request.checkpoint, request.device, reporter)
        require_decoder(loaded.agent)
        cfg = env_to_play(loaded.cfg.env, request.env, request.env_kwarg)
        seed = derive_seed(loaded.cfg.run.seed if request.seed is None else request.seed, "play")
        with VectorEnv(
            cfg, 1, seed, "sync", render_mode="rgb_array", check_stop=stop.check, warn=reporter.warn
        ) as envs:
            loaded.require_same_spaces(envs.spec, str(cfg.id))
            mode = request.policy or loaded.cfg.run.eval_policy
            walk = Walk(loaded.agent, envs, mode, derive_seed(seed, "dream"))
            walk.begin()
            about = {"env": cfg.id, "env_kwargs": cfg.kwargs, "checkpoint_step": loaded.step, "seed": seed}
            saves = _saves(loaded.run, about)
            player = Player(walk, loaded.spec, _replayed(loaded, seed, reporter), *saves, fps=request.fps)
            title = f"{short_id(cfg.id or '')} · step {loaded.step:,}"
            if open_server is None:
                from dreamer_cli.play_term import play_in_terminal

                play_in_terminal(player, title, stop)
            else:

                def ready(address: str) -> None:
                    reporter.say(Text(address))  # also with --quiet: without it nobody finds the page
                    reporter.note("the page is on this machine only; Ctrl-C ends it")
                    if request.open_browser:
                        webbrowser.open(address)

                asyncio.run(open_server(player, request.port, title, stop).serve(ready))
        if stop.requested == "interrupted":
            for path in player.kept:
                reporter.say(Text(str(path)))
            raise Interrupted("Ended by Ctrl-C.", hint="Only what was kept (K, V) is there.")
        stop.check()
    kept = [str(path) for path in player.kept]
    return Result({"run": str(loaded.run.path), "checkpoint_step": loaded.step, "env": cfg.id, "kept": kept}, kept)


def _server() -> Any:
    """The class of the page's server.

    Raises:
        EnvError: its library is missing.
    """
    try:
        from dreamer_cli.play_server import PlayServer
    except ModuleNotFoundError as err:
        raise EnvError(
            "The page needs aiohttp, which is not installed.", hint="pip install 'dreamer-cli[play]', or --ui term."
        ) from err
    return PlayServer


def _replayed(loaded: LoadedRun, seed: int, reporter: Reporter) -> Callable[[], Stretch] | None:
    """Gives another stretch of the run's replay at each call; None where the checkpoint has none."""
    try:
        checkpoint = Checkpoints(loaded.run.checkpoints, warn=reporter.warn).load(loaded.path, only=[REPLAY])
        tree = checkpoint.trees[REPLAY]
    except (StateError, KeyError):
        return None
    rng, ready = np.random.default_rng(derive_seed(seed, "replayed")), list[Stretch]()

    def another() -> Stretch:
        if not ready:
            ready.extend(replay_stretches(loaded.run.replay, tree, loaded.spec, AT_ONCE, SEEN, 1, rng, reporter.warn))
        return ready.pop()

    return another


def _saves(
    run: RunDir, about: dict[str, Any]
) -> tuple[Callable[[dict[str, Any]], Path], Callable[[Iterable[np.ndarray], int], Path]]:
    """What writes actions, and what writes films, into the run's `videos/`; each under the time of day."""

    def place(suffix: str) -> Path:
        names = (
            f"play-{datetime.now():%Y%m%d-%H%M%S}{more}{suffix}" for more in ("", *(f"-{k}" for k in range(2, 99)))
        )
        return next(path for path in map(run.videos.joinpath, names) if not path.exists())

    def actions(document: dict[str, Any]) -> Path:
        path = place(".json")
        write_json(path, {**document, **about})
        return path

    def film(frames: Iterable[np.ndarray], fps: int) -> Path:
        path = place(".mp4")
        write_film(path, frames, fps)
        return path

    return actions, film
