"""`dreamer inspect`, `runs`, `presets`, `envs`, `doctor`: commands that only look."""

from pathlib import Path
from typing import Annotated, Any

import typer

from dreamer_cli.cli.env_ids import env_ids
from dreamer_cli.cli.options import (
    CheckpointOption,
    EnvKwarg,
    Run,
    RunsDir,
    complete_from,
    flag,
    option,
    parse_image_size,
    place,
    preset_names,
)
from dreamer_cli.cli.session import Session
from dreamer_cli.report import Result


def inspect(
    session: Session,
    run: Run,
    checkpoint: CheckpointOption = None,
    origin: Annotated[bool, flag("--origin", help="Show every setting and where it came from.")] = False,
    runs_dir: RunsDir = None,
) -> Result:
    """Show a run: parameters by module, spaces, steps, settings, integrity."""
    session.opens(run, runs_dir, checkpoint, "inspect")
    from dreamer_cli.commands import inspect as command

    return command.inspect(run, session.report, runs_dir=runs_dir, checkpoint=checkpoint, origin=origin)


def runs_list(
    session: Session,
    env: Annotated[str | None, option("--env", "-e", metavar="ID", help="Only runs on this environment.")] = None,
    status: Annotated[
        str | None, option("--status", metavar="STATUS", help="Only running, finished, dead, failed, ... runs.")
    ] = None,
    runs_dir: RunsDir = None,
) -> Result:
    """List runs: status, steps, last and best return."""
    from dreamer_cli.commands import listing as command

    return command.list_runs(session.report, runs_dir=runs_dir, env=env, status=status)


def presets_list(session: Session) -> Result:
    """List the presets with what they are for."""
    from dreamer_cli.commands import presets as command

    return command.list_presets(session.report)


def presets_show(
    session: Session,
    name: Annotated[
        str,
        typer.Argument(
            metavar="NAME", help="A preset.", autocompletion=complete_from(preset_names), show_default=False
        ),
    ],
) -> Result:
    """Print a preset, resolved, as YAML."""
    from dreamer_cli.commands import presets as command

    return command.show_preset(name, session.report)


def envs_list(
    session: Session,
    pattern: Annotated[
        str | None, typer.Argument(metavar="PATTERN", help="Part of an id, or a glob such as '*pong*'.")
    ] = None,
) -> Result:
    """List environments that can be trained on here."""
    from dreamer_cli.commands import envs as command

    return command.list_envs(session.report, pattern)


def envs_check(
    session: Session,
    env: Annotated[
        str,
        typer.Argument(
            metavar="ID", help="As for train --env.", autocompletion=complete_from(env_ids), show_default=False
        ),
    ],
    env_kwarg: EnvKwarg = None,
    pixels: Annotated[bool, flag("--pixels", help="As for train: render it, learn from the pixels.")] = False,
    image_size: Annotated[
        Any, option("--image-size", metavar="HxW", parser=parse_image_size, help="Size of images, as for train.")
    ] = None,
    out: Annotated[
        Path | None, place("--out", "-o", metavar="FILE", help="Write a .png of what the encoder will see.")
    ] = None,
) -> Result:
    """Check an environment: Gymnasium's checker, what Dreamer needs, what the encoder will see."""
    from dreamer_cli.commands import envs as command

    return command.check_env(
        env, session.report, env_kwarg=tuple(env_kwarg or ()), pixels=pixels, image_size=image_size, out=out
    )


def doctor(session: Session) -> Result:
    """Check this machine: install, device, rendering, ffmpeg, disk."""
    from dreamer_cli.commands import doctor as command

    return command.doctor(session.report)
