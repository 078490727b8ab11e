"""The Typer app: which commands there are, and what stands around them."""

import os
import sys
from collections.abc import Callable
from typing import Annotated, Any

import typer
from typer.core import TyperCommand, TyperGroup
from typer.main import get_command

from dreamer_cli import __version__
from dreamer_cli.cli import looking, measuring, training, using
from dreamer_cli.cli.session import PANEL, Json, Quiet, Session, Verbose, command, takes_context
from dreamer_cli.report import Result, is_terminal

START = """Start with:

  dreamer train --env CartPole-v1 -p cpu
  dreamer evaluate @last
  dreamer imagine @last"""


class _Help:
    """Help in colour only where our own rules say so (Typer's also ask GITHUB_ACTIONS and others)."""

    def format_help(self, ctx: Any, formatter: Any) -> None:
        """Print the help text."""
        from typer import rich_utils

        rich_utils.FORCE_TERMINAL = bool(os.environ.get("FORCE_COLOR")) or is_terminal(sys.stdout)
        super().format_help(ctx, formatter)  # type: ignore[misc]

    def get_help_option(self, ctx: Any) -> Any:
        """`--help`, listed with the other options that every command has."""
        option = super().get_help_option(ctx)  # type: ignore[misc]
        if option is not None:
            option.rich_help_panel, option.metavar = PANEL, ""
        return option


class Command(_Help, TyperCommand):
    """One verb."""


class Group(_Help, TyperGroup):
    """`dreamer` itself, and commands with sub-verbs."""


def show_version(context: Any, wanted: bool) -> bool:
    """Print the version and end."""
    if wanted and not context.resilient_parsing:
        context.obj.result = Result({"version": __version__}, [f"dreamer {__version__}"])
        raise typer.Exit
    return wanted


def show_help(context: Any, quiet: Quiet = False, verbose: Verbose = False, json: Json = False) -> None:
    """Take in the flags that stand before a verb; without a verb, show the help."""
    session: Session = context.obj
    session.flags(quiet, verbose, json)
    if context.invoked_subcommand is None:
        typer.echo(context.get_help())


def root(
    context: Any,
    version: Annotated[
        bool, typer.Option("--version", help="Show the version.", metavar="", is_eager=True, callback=show_version)
    ] = False,
    quiet: Quiet = False,
    verbose: Verbose = False,
    json: Json = False,
) -> None:
    """Train world-model agents (Dreamer V3) and look into their dreams."""
    show_help(context, quiet, verbose, json)


def _group(help: str) -> typer.Typer:
    group = typer.Typer(cls=Group, help=help, invoke_without_command=True, subcommand_metavar="COMMAND ...")
    group.callback(cls=Group, invoke_without_command=True, help=help)(takes_context(show_help))
    return group


def build() -> typer.Typer:
    """All commands."""
    app = typer.Typer(
        cls=Group,
        invoke_without_command=True,
        pretty_exceptions_enable=False,
        rich_markup_mode="rich",
        subcommand_metavar="COMMAND ...",
        suggest_commands=False,
        context_settings={"help_option_names": ["--help", "-h"]},
        epilog=None,
    )
    app.callback(cls=Group, invoke_without_command=True, epilog=START)(takes_context(root))
    work, look = "Commands", "Looking around"
    for function in (training.train, using.evaluate, using.imagine, using.play, using.export):
        app.command(cls=Command, rich_help_panel=work)(command(function))
    app.command(cls=Command, rich_help_panel=look)(command(looking.inspect))
    groups: dict[str, tuple[str, dict[str, Callable[..., Result]]]] = {
        "runs": ("Runs on this disk.", {"list": looking.runs_list}),
        "presets": ("Settings that come with dreamer.", {"list": looking.presets_list, "show": looking.presets_show}),
        "envs": ("Environments to train on.", {"list": looking.envs_list, "check": looking.envs_check}),
    }
    for name, (help, members) in groups.items():
        group = _group(help)
        for verb, function in members.items():
            group.command(verb, cls=Command)(command(function))
        app.add_typer(group, name=name, rich_help_panel=look)
    app.command(cls=Command, rich_help_panel=look)(command(measuring.bench))
    app.command(cls=Command, rich_help_panel=look)(command(looking.doctor))
    return app


app = get_command(build())


def verbs() -> dict[str, Any]:
    """All commands by name, with their sub-verbs: `{"train": {}, "runs": {"list": {}}}`."""
    commands = getattr(app, "commands", {})
    return {name: {verb: {} for verb in getattr(member, "commands", {})} for name, member in commands.items()}
