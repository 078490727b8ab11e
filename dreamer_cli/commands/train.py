"""Train an agent: collect, learn, evaluate, save. The story of a run; the steps are in `training.py`.

```
strict    decide · environments step · receive · learn      decide · environments step · receive · learn
overlap   decide · learn                       · receive    decide · learn                       · receive
                   environments step meanwhile                       environments step meanwhile
```
Between two decisions lie the same updates either way. What differs is what an update can see: see `one_round`.
"""

import contextlib
import shlex
from pathlib import Path
from typing import Any

from dreamer_cli.commands.plan import plan
from dreamer_cli.commands.start import Start, open_run
from dreamer_cli.commands.training import Training
from dreamer_cli.errors import DreamerError, Interrupted, Preempted
from dreamer_cli.log import warnings_to
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
        with start.claim(reporter), warnings_to(reporter.detail):
            try:
                start.warn_if_long(reporter)
                outcome = loop(start, reporter, stop)
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
        # A stop while environments or an evaluation keep us waiting; what was collected until then is whole.
        with contextlib.suppress(Preempted, Interrupted):
            while not run.done and not stop.requested:
                one_round(run)
                if run.due("eval"):
                    run.evaluate()
                if run.due("dream"):
                    run.film_dream()
                if run.due("log"):
                    run.write_metrics()
                if run.due("save"):
                    run.save()
        run.finish()
        error = None if run.complete else stopped(start.run.path, stop)
        return Result(
            run.summary(),
            [str(start.run.path)],
            error,
            command=f"dreamer train --run-dir {shlex.quote(str(start.run.path))}" if error else "",
        )


def one_round(run: Training) -> None:
    """A decision in every environment, and the updates that are due: after what follows from it, or meanwhile.

    Meanwhile, the answers that are under way are not known yet. A record is stored once it was acted on, so only those
    are missing that end an episode in this very round; an update can sample them from the next round on, and what is
    due for them is due then, too.
    """
    run.decide()
    if run.overlap:
        run.learn()
    run.receive()
    if not run.overlap or run.done:  # nothing is owed at the end of a run
        run.learn()


def stopped(path: Path, stop: StopSignal) -> DreamerError:
    """Why a run ended before its steps did, and how it goes on."""
    hint = f"dreamer train --run-dir {shlex.quote(str(path))}"
    kind = Interrupted if stop.requested == "interrupted" else Preempted
    return kind(f"stopped by {stop.cause}; everything is saved", hint=f"Continue: {hint}")
