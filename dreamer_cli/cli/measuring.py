"""`dreamer bench`: its options, and nothing else."""

from collections.abc import Callable, Sequence
from typing import Annotated, Any

from dreamer_cli.cli.env_ids import env_ids
from dreamer_cli.cli.options import choice, complete_from, count, flag, option, preset_names
from dreamer_cli.cli.options import device as device_option
from dreamer_cli.cli.session import Session
from dreamer_cli.errors import UsageError, closest
from dreamer_cli.report import Result
from dreamer_cli.requests import BENCH_PARTS, SIZES, BenchRequest

WHAT, HOW, MACHINE = "What to measure", "How", "Machine"


def words(name: str, among: Sequence[str]) -> Callable[[str], list[str]]:
    """A parser of several words with commas between, each once, in the order typed."""

    def parse(text: str) -> list[str]:
        typed = [word.strip() for word in text.split(",")]
        for word in typed:
            if word not in among:
                known = f"Known: {', '.join(among)}."
                raise UsageError(f"{name} knows no {word!r}.", hint=closest(word, among) + known)
        return list(dict.fromkeys(typed))

    return parse


def parse_sweep(text: str) -> tuple[str, tuple[str, ...]]:
    """Key and values of `--sweep KEY=V1,V2`; commas inside brackets belong to a value.

    Raises:
        UsageError: no key, no value, or an empty one.
    """
    key, equals, rest = text.partition("=")
    values, depth = [""], 0
    for letter in rest:
        depth += (letter in "[{") - (letter in "]}")
        if letter == "," and depth == 0:
            values.append("")
        else:
            values[-1] += letter
    values = [value.strip() for value in values]
    if not equals or not key.strip() or not all(values):
        raise UsageError(f"--sweep is {text!r}.", hint="A key and its values: --sweep replay.batch_size=8,16,32")
    return key.strip(), tuple(dict.fromkeys(values))


def bench(
    session: Session,
    env: Annotated[
        str | None,
        option(
            "--env",
            "-e",
            metavar="ID",
            panel=WHAT,
            help="Its spaces, and its speed; without: made-up spaces.",
            autocompletion=complete_from(env_ids),
        ),
    ] = None,
    env_kwarg: Annotated[
        list[str] | None,
        option("--env-kwarg", metavar="K=V", panel=WHAT, help="Argument of the environment; repeatable."),
    ] = None,
    obs: Annotated[
        Any,
        choice("--obs", among=("px", "vec"), panel=WHAT, help="64x64x3 and 18 choices, or 24 numbers and 6 (vec)."),
    ] = None,
    preset: Annotated[
        list[str] | None,
        option(
            "--preset",
            "-p",
            metavar="NAME|FILE",
            panel=WHAT,
            help="A preset, repeatable, left to right: -p cpu",
            autocompletion=complete_from(preset_names),
        ),
    ] = None,
    size: Annotated[
        Any, option("--size", metavar="SIZES", panel=WHAT, parser=words("--size", SIZES), help="Several: 1m,12m,200m.")
    ] = None,
    settings: Annotated[
        list[str] | None,
        option("--set", "-s", metavar="KEY=VALUE", panel=WHAT, help="One setting, repeatable: -s optim.lr=1e-4"),
    ] = None,
    sweep: Annotated[
        list[str] | None,
        option(
            "--sweep",
            metavar="KEY=V1,V2",
            panel=WHAT,
            help="A setting with several values, repeatable: replay.batch_size=8,16. Adds peak memory.",
        ),
    ] = None,
    only: Annotated[
        Any,
        option(
            "--only",
            metavar="PARTS",
            panel=HOW,
            parser=words("--only", BENCH_PARTS),
            help="Some of: update,policy,replay,env.",
        ),
    ] = None,
    sections: Annotated[bool, flag("--sections", panel=HOW, help="Where the time of an update goes.")] = False,
    repeats: Annotated[
        int, count("--repeats", minimum=1, maximum=10_000, panel=HOW, help="Of which the median is told (5).")
    ] = 5,
    device: Annotated[str | None, device_option(panel=MACHINE, help="auto, cpu, cuda, cuda:1 or mps (auto).")] = None,
    precision: Annotated[
        Any,
        option(
            "--precision",
            metavar="NAMES",
            panel=MACHINE,
            parser=words("--precision", ("auto", "fp32", "bf16")),
            help="Of the networks, or both: fp32,bf16 (auto).",
        ),
    ] = None,
    threads: Annotated[
        int | None, count("--threads", minimum=1, maximum=4096, panel=MACHINE, help="Of torch (a training's).")
    ] = None,
    compile: Annotated[
        bool | None, flag("--compile/--no-compile", panel=MACHINE, help="Both: --sweep run.compile=true,false")
    ] = None,
) -> Result:
    """Measure updates, policy, replay and environments on this machine."""
    if sections and only and "update" not in only:
        raise UsageError("--sections takes an update apart, but --only leaves it out.", hint="--only update")
    swept = tuple(parse_sweep(text) for text in sweep or ())
    for key, values in swept:
        if key == "size":
            words("--sweep size", SIZES)(",".join(values))
    from dreamer_cli.commands import bench as command

    request = BenchRequest(
        preset=tuple(preset or ()),
        settings=tuple(settings or ()),
        size=tuple(size or ()),
        env=env,
        env_kwarg=tuple(env_kwarg or ()),
        obs=obs,
        device=device,
        precision=tuple(precision or ()),
        threads=threads,
        compile=compile,
        sweep=swept,
        repeats=repeats,
        only=tuple(only or BENCH_PARTS),
        sections=sections,
    )
    return command.bench(request, session.report)
