"""Train an agent: collect, learn, evaluate, save. The story of a run; the steps are in `training.py`."""

import shlex
from pathlib import Path

from dreamer_cli.commands.plan import plan
from dreamer_cli.commands.start import Start, open_run
from dreamer_cli.commands.training import Training
from dreamer_cli.errors import DreamerError, Interrupted, Preempted
from dreamer_cli.report import Reporter, Result
from dreamer_cli.requests import TrainRequest
from dreamer_cli.stop import StopSignal


def train(request: TrainRequest, reporter: Reporter) -> Result:
    """`dreamer train`: the run directory on stdout.

    Raises:
        DreamerError: as its exit code says; run.json has the status by then.
    """
    with StopSignal(request.max_time) as stop:
        start = open_run(request, reporter)
        if request.plan:
            return plan(start)
        with start.claim(reporter) as run:
            start.warn_if_long(reporter)
            try:
                outcome = loop(start, reporter, stop)
            except BaseException as error:
                code = error.exit_code if isinstance(error, DreamerError) else 1
                status = {7: "diverged", 75: "preempted", 130: "interrupted"}.get(code, "failed")
                run.update(status=status, exit_code=code)
                raise
            error = outcome.error
            status = {None: "finished", 75: "preempted", 130: "interrupted"}[error.exit_code if error else None]
            run.update(status=status, exit_code=error.exit_code if error else 0)
            return outcome


def loop(start: Start, reporter: Reporter, stop: StopSignal) -> Result:
    """The algorithm: collect a little, learn what is owed, and now and then evaluate, film and save."""
    with Training(start, reporter, stop) as run:
        while run.env_steps < run.cfg.run.steps and not stop.requested:
            run.collect()
            for _ in range(run.updates_due()):
                run.update()
                if stop.requested:
                    break
            if run.due("log"):
                run.write_metrics()
            if run.due("eval"):
                run.evaluate()
            if run.due("dream"):
                run.film_dream()
            if run.due("save"):
                run.save()
        run.finish()
        error = stopped(start.run.path, stop) if run.env_steps < run.cfg.run.steps else None
        return Result(
            run.summary(),
            [str(start.run.path)],
            error,
            command=f"dreamer train --run-dir {shlex.quote(str(start.run.path))}" if error else "",
        )


def stopped(path: Path, stop: StopSignal) -> DreamerError:
    """Why a run ended before its steps did, and how it goes on."""
    hint = f"dreamer train --run-dir {shlex.quote(str(path))}"
    kind = Interrupted if stop.requested == "interrupted" else Preempted
    return kind(f"stopped by {stop.cause}; everything is saved", hint=f"Continue: {hint}")
