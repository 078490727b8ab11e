"""What workers answer, and what has become of those that do not."""

import math
import time
from collections.abc import Callable
from multiprocessing import connection
from typing import Any, NamedTuple

from dreamer_cli.envs.board import Board
from dreamer_cli.envs.channel import BadMessage, Gone
from dreamer_cli.envs.make import EnvConfig
from dreamer_cli.envs.supervisor import CLOSE_S, POLL_S, Patience, Worker
from dreamer_cli.errors import EnvError

HANGS = "env.timeout_s sets the limit; 0 waits for ever."
BABBLES = "Something in it writes where it should not."

Check = Callable[[], None]
Answer = tuple[Any, bytes]


class Crash(NamedTuple):
    """What happened to an environment; not `guilty` where it only shared its process with the one that did it."""

    error: EnvError
    guilty: bool = True


Crashes = dict[int, Crash]  # by row


def gather(
    asked: list[Worker], cfg: EnvConfig, check: Check, now: Board | None = None
) -> tuple[dict[Worker, Answer], Crashes]:
    """Answers of workers that were asked something, and what went wrong, by row.

    A worker that died, is silent for longer than `env.timeout_s`, or answers nonsense, is ended, with all that it has
    started. Where `env.on_crash` is `fail`, others are not waited for then.

    Args:
        now: the board, which shows whether and where a worker gets on.
    """
    answers: dict[Worker, Answer] = {}
    crashes: Crashes = {}
    waiting = {worker: Patience(cfg.timeout_s or math.inf) for worker in asked}
    while waiting and not (crashes and cfg.on_crash == "fail"):
        for worker in list(waiting):
            try:
                message = worker.poll()
                if message is None and not worker.process.is_alive():
                    message = worker.poll()  # it may have answered just before
                    if message is None:
                        raise Gone
                if message is None:
                    if waiting[worker].spent(None if now is None else now.turn[worker.rows].sum()):
                        crashes |= _fault(worker, cfg, now, check, f"no answer for {cfg.timeout_s:g} s.", HANGS)
                        del waiting[worker]
                    continue
                (value, failed), blob = _checked(message[0]), message[1]
            except Gone:
                crashes |= _fault(worker, cfg, now, check, "")
            except BadMessage as err:
                crashes |= _fault(worker, cfg, now, check, f"its process answered {err}.", BABBLES)
            else:
                answers[worker] = value, blob
                crashes |= failed
            waiting.pop(worker, None)
        if waiting:
            ends: list[Any] = [worker.channel for worker in waiting]
            connection.wait(ends + [worker.process.sentinel for worker in waiting], POLL_S)
            check()
    return answers, crashes


def _fault(worker: Worker, cfg: EnvConfig, now: Board | None, check: Check, what: str, hint: str = "") -> Crashes:
    """End a worker that is of no use any more; all its environments have crashed. `what` is empty where it died."""
    code = worker.end(0.0 if what else time.monotonic() + CLOSE_S)
    if not what:
        what = f"its process died with exit code {code}."
        hint = "Often memory ran out: try fewer --num-envs." if code == -9 else "-s env.on_crash=restart goes on."
        if code is not None and code < 0:
            # A scheduler that ends the whole job may reach the workers first; then this is no fault of the environment.
            time.sleep(0.1)
    check()
    running = [row for row in worker.rows if now is not None and now.turn[row] % 2]
    crashes: Crashes = {}
    for row in worker.rows:
        others = "" if row in running or not running else f" (with environment {running[0]}, in the same process)"
        error = EnvError(f"{cfg.id}, {_where(now, row)}environment {row}: {what}{others}", hint)
        crashes[row] = Crash(error, guilty=not others)
    return dict(sorted(crashes.items(), key=lambda item: not item[1].guilty))


def _where(now: Board | None, row: int) -> str:
    """In the words of `DreamerEnv`, which cannot speak any more."""
    episode, step = (0, 0) if now is None else now.at[row]
    return f"step {step} of episode {episode} in " if episode else ""


def _checked(message: Any) -> tuple[Any, Crashes]:
    """Value and failures of an answer; it comes from a process that runs foreign code."""
    try:
        crashes: Crashes = {}
        for row, (what, hint, trace) in message["failed"].items():
            error = EnvError(str(what), str(hint))
            error.add_note(f"In the worker of environment {row}:\n{trace}")
            crashes[int(row)] = Crash(error)
        return message["value"], crashes
    except (KeyError, TypeError, ValueError, AttributeError) as err:
        raise BadMessage("something else than was asked") from err
