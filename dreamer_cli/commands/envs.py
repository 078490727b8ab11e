"""`dreamer envs list`: what can be trained on here, and the pip line for what cannot yet."""

import fnmatch
import textwrap
from collections.abc import Sequence
from typing import Any

from dreamer_cli.commands.check import check_env
from dreamer_cli.envs.catalog import SUITES, Suite, ids_of, newest, register_suites
from dreamer_cli.report import Reporter, Result

__all__ = ["check_env", "list_envs"]

WIDTH = 80


def list_envs(report: Reporter, pattern: str | None = None) -> Result:
    """Environment ids by suite.

    Without a pattern the newest version of each is shown; a pattern (`*pong*`, or a part of the id or of the suite's
    name, case does not matter) that none of those fits is looked for among the older ones too.
    """
    for name, why in register_suites().items():
        report.warn(f"{name} is installed, but cannot be imported: {why}")
    every = {suite: ids_of(suite) for suite in (*SUITES, None)}
    named = [suite for suite in SUITES if _fits(suite.name, pattern)]
    shown = {
        suite: [i for i in newest(ids, suite) if suite in named or _fits(i, pattern)] for suite, ids in every.items()
    }
    if not named and not any(shown.values()):
        shown = {suite: [i for i in ids if _fits(i, pattern)] for suite, ids in every.items()}
    suites = [suite for suite in SUITES if shown[suite] or suite in named]
    if not suites and not shown[None]:
        report.note(f"No environment fits {pattern!r}.")
    return Result(
        {
            "suites": [_suite_json(suite, shown[suite]) for suite in suites],
            "envs": [
                {"id": i, "suite": suite.name if suite else None, "installed": suite is None or suite.installed}
                for suite, ids in shown.items()
                for i in ids
            ],
        },
        [line for suite in suites for line in _suite_text(suite, shown[suite])] + _other_text(shown[None]),
    )


def _fits(env_id: str, pattern: str | None) -> bool:
    if not pattern:
        return True
    name, wanted = env_id.lower(), pattern.lower()
    return wanted in name or fnmatch.fnmatchcase(name, wanted)


def _suite_json(suite: Suite, ids: Sequence[str]) -> dict[str, Any]:
    return {
        "name": suite.name,
        "title": suite.title,
        "installed": suite.installed,
        "install": None if suite.installed else suite.install,
        "ids": list(ids),
    }


def _suite_text(suite: Suite, ids: Sequence[str]) -> list[str]:
    head = f"{suite.name}: {suite.title}"
    if not suite.installed:
        missing = f"{head} (not installed: {suite.install})"
        return [
            *([missing] if len(missing) <= 100 else [f"{head} (not installed)", f"  {suite.install}"]),
            *_wrapped(ids),
        ]
    return [head, *_wrapped(ids)]


def _other_text(ids: Sequence[str]) -> list[str]:
    return ["other: registered by installed packages", *_wrapped(ids)] if ids else []


def _wrapped(ids: Sequence[str]) -> list[str]:
    return textwrap.wrap(
        "  ".join(ids),
        WIDTH,
        initial_indent="  ",
        subsequent_indent="  ",
        break_on_hyphens=False,
        break_long_words=False,
    )
