"""What an environment shows and takes, found out where it can do no harm."""

from typing import NamedTuple

from dreamer_cli.envs.answers import Answer, Check, Crashes, gather
from dreamer_cli.envs.board import Memory
from dreamer_cli.envs.make import EnvConfig
from dreamer_cli.envs.supervisor import Worker, end_all
from dreamer_cli.errors import EnvError
from dreamer_cli.spaces import EnvSpec


class Probe(NamedTuple):
    """A process that has built environment 0, before it is known how many there will be."""

    worker: Worker
    memory: Memory
    spec: EnvSpec
    step_s: float | None

    def close(self) -> None:
        """End it."""
        end_all([self.worker])
        self.memory.close()


def open_probe(cfg: EnvConfig, render_mode: str | None, measured: bool, check: Check) -> Probe:
    """Build one environment in a process of its own, and if wanted measure seconds per step.

    Raises:
        EnvError: as `make_env`; or the process died, or took longer than `env.timeout_s`.
    """
    memory = Memory()
    worker = None
    try:
        worker = Worker(cfg, render_mode, [0], memory)
        worker.ask("build", check, rows=[0])
        tree, _ = _only(gather([worker], cfg, check))
        seconds = None
        if measured:
            worker.ask("measure", check, row=0)
            seconds, _ = _only(gather([worker], cfg, check))
        try:
            spec = EnvSpec.from_json(tree)
        except (KeyError, TypeError, AttributeError, ValueError) as err:
            raise EnvError(f"{cfg.id}: its spaces cannot be used: {err}") from err
        return Probe(worker, memory, spec, seconds)
    except BaseException:
        if worker is not None and not worker.ended:
            end_all([worker])
        memory.close()
        raise


def ask_findings(cfg: EnvConfig, check: Check) -> list[str]:
    """What the environment does against its own word, see `compliance`, found out in a process of its own.

    Raises:
        EnvError: it cannot be built; or the process died, or took longer than `env.timeout_s`.
    """
    memory = Memory()
    worker = Worker(cfg, None, [0], memory)
    try:
        worker.ask("findings", check)
        value, _ = _only(gather([worker], cfg, check))
        return [str(said) for said in value]
    finally:
        if not worker.ended:
            end_all([worker])
        memory.close()


def _only(gathered: tuple[dict[Worker, Answer], Crashes]) -> Answer:
    answers, crashes = gathered
    for crash in crashes.values():
        raise crash.error
    return next(iter(answers.values()))
