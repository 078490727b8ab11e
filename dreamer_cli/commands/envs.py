"""`dreamer envs list`: what can be trained on here, and the pip line for what cannot yet."""

import fnmatch
import re
import textwrap
from collections.abc import Sequence
from typing import Any

import gymnasium

from dreamer_cli.commands.check import check_env
from dreamer_cli.envs.catalog import SUITES, Suite, register_suites, suite_of
from dreamer_cli.report import Reporter, Result

__all__ = ["check_env", "list_envs"]

WIDTH = 80


def list_envs(report: Reporter, pattern: str | None = None) -> Result:
    """Environment ids by suite.

    Without a pattern the newest version of each is shown; a pattern (`*pong*`, or a part of the id, case does not
    matter) that none of those fits is looked for among the older ones too.
    """
    register_suites()
    every = {suite: _ids(suite) for suite in (*SUITES, None)}
    shown = {suite: [i for i in newest(ids, suite) if _fits(i, pattern)] for suite, ids in every.items()}
    if pattern and not any(shown.values()):
        shown = {suite: [i for i in ids if _fits(i, pattern)] for suite, ids in every.items()}
    if not any(shown.values()):
        report.note(f"No environment fits {pattern!r}.")
    suites = [suite for suite in SUITES if shown[suite] or not pattern]
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


def newest(ids: Sequence[str], suite: Suite | None = None) -> list[str]:
    """Of ids that differ in their version only, the highest; of a suite with a namespace, only what is in it."""
    best: dict[str, tuple[int, str]] = {}
    for env_id in ids:
        if suite is not None and suite.namespace and not env_id.startswith(f"{suite.namespace}/"):
            continue
        match = re.fullmatch(r"(.*)-v(\d+)", env_id)
        stem, version = (match[1], int(match[2])) if match else (env_id, 0)
        best[stem] = max(best.get(stem, (-1, "")), (version, env_id))
    return [env_id for _, env_id in best.values()]


def _ids(suite: Suite | None) -> list[str]:
    if suite is not None:
        return [env_id for env_id in gymnasium.registry if suite.owns(env_id)]
    return [
        env_id
        for env_id, spec in gymnasium.registry.items()
        if suite_of(env_id) is None and not _module(spec.entry_point).startswith(("gymnasium.", "shimmy."))
    ]


def _module(entry_point: Any) -> str:
    """Where an entry point leads; Gymnasium's own retired ids have functions that only raise."""
    return entry_point if isinstance(entry_point, str) else str(getattr(entry_point, "__module__", ""))


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
        head += f" (not installed: {suite.install})"
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
