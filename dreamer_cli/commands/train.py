"""Train an agent: collect, learn, evaluate, save. The story of a run; the steps are in `training.py`.

```
strict    decide · environments step · receive · learn      decide · environments step · receive · learn
overlap   decide · learn                       · receive    decide · learn                       · receive
                   environments step meanwhile                       environments step meanwhile
```
Between two decisions lie the same updates either way. What differs is what an update can see: see `rest_of_round`.
"""

import contextlib
from pathlib import Path
from typing import Any

from dreamer_cli.commands.plan import plan
from dreamer_cli.commands.start import Start, open_run
from dreamer_cli.commands.training import Training
from dreamer_cli.errors import DreamerError, EnvError, Interrupted, Preempted
from dreamer_cli.log import warnings_to
from dreamer_cli.report import Reporter, Result, shell_line
from dreamer_cli.requests import TrainRequest
from dreamer_cli.stop import StopSignal


def train(request: TrainRequest, reporter: Reporter) -> Result:
    """`dreamer train`: the run directory on stdout.

    Raises:
        DreamerError: as its exit code says; run.json has the status by then.
    """
    with StopSignal(request.max_time) as stop:
        start = open_run(request, reporter, stop)
        if request.plan:
            with stop.at_once():
                return plan(start)
        with start.claim(reporter), warnings_to(reporter.detail):
            try:
                with stop.at_once():  # times an update
                    start.warn_if_long(reporter)
                outcome = loop(start, reporter, stop)
            except (Preempted, Interrupted):
                # Before this process did anything: what an earlier one saved is as it was.
                if not start.continued:
                    raise
                outcome = _outcome(start, {"run_dir": str(start.run.path)}, stop)
            except BaseException as raised:
                start.ended(**_ending(raised))
                raise
            start.ended(**_ending(outcome.error))
            return outcome


def _ending(error: BaseException | None) -> dict[str, Any]:
    """What run.json says of how a run ended."""
    code = 0 if error is None else error.exit_code if isinstance(error, DreamerError) else 1
    status = {0: "finished", 7: "diverged", 75: "preempted", 130: "interrupted"}.get(code, "failed")
    return {"status": status, "exit_code": code}


def loop(start: Start, reporter: Reporter, stop: StopSignal) -> Result:
    """The algorithm: collect a little, learn what is owed, and now and then evaluate, film and save."""
    with Training(start, reporter, stop) as run:
        if run.complete:
            reporter.note(f"already complete at step {run.env_steps}; --steps M goes on")
        try:
            # A stop while environments, an evaluation or a film keep us waiting: the round is saved as it is.
            with contextlib.suppress(Preempted, Interrupted):
                rest_of_round(run)  # in the middle of which the run was stopped
                while not run.done and not stop.requested:
                    run.decide()
                    rest_of_round(run)
            run.finish()
        except EnvError:
            run.save_despite_failure()
            raise
        return _outcome(start, run.summary(), stop if not run.complete else None)


def rest_of_round(run: Training) -> None:
    """The updates that are due after a decision: after what follows from it, or meanwhile; then what is due besides.

    Meanwhile, the answers that are under way are not known yet. A record is stored once it was acted on, so only those
    are missing that end an episode in this very round; an update can sample them from the next round on, and what is
    due for them is due then, too.

    A stop leaves the rest undone. What is done is not due again, so another process goes on by coming here once more.
    """
    if run.overlap and run.under_way:
        run.learn()
    if run.under_way and not run.stop.requested:
        run.receive()
    if not run.under_way and (not run.overlap or run.done):  # nothing is owed at the end of a run
        run.learn()
    if not run.under_way and not run.stop.requested:
        run.tend()


def _outcome(start: Start, summary: dict[str, Any], stop: StopSignal | None) -> Result:
    """The run's directory, and if it was stopped, by what, and how it goes on."""
    path = start.run.path
    error = None if stop is None else stopped(path, stop)
    return Result(summary, [str(path)], error, _again(path) if error else "")


def stopped(path: Path, stop: StopSignal) -> DreamerError:
    """Why a run ended before its steps did, and how it goes on."""
    kind = Interrupted if stop.requested == "interrupted" else Preempted
    return kind(f"stopped by {stop.cause}; everything is saved", hint=f"Continue: {_again(path)}")


def _again(path: Path) -> str:
    return shell_line("dreamer", "train", "--run-dir", str(path))
