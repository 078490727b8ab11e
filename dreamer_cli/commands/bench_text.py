"""The tables of `dreamer bench`: one for each part, one row for each configuration."""

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

from dreamer_cli.numbers import format_bytes, format_count
from dreamer_cli.table import shorten, table

Run = Mapping[str, Any]
ACROSS = 4  # configurations beside each other in the table of sections
TOGETHER = "together"


def lines(document: Mapping[str, Any]) -> list[str]:
    """Everything, from the document of `--json`."""
    runs = document["runs"]
    tables = (_updates(runs), _sections(runs), _policies(runs), _replays(runs), _envs(runs))
    found = [_circumstances(document)]
    for part in tables:
        found += ["", *part] if part else []
    return found


def _circumstances(document: Mapping[str, Any]) -> str:
    """A number without these is none; each only where it is the same for all."""
    runs = document["runs"]

    def common(say: Callable[[Run], str]) -> str:
        said = {say(run) for run in runs}
        return said.pop() if len(said) == 1 else ""

    words = [
        common(lambda run: f"{run['device']}: {run['device_name']}"),
        common(lambda run: f"{run['threads']} thread{'s' * (run['threads'] > 1)}"),
        common(lambda run: run["dtype"]),
        common(lambda run: "compiled" if run["compile"] else "not compiled"),
        common(lambda run: f"batch {run['batch_size']} x {run['batch_length']}"),
        common(lambda run: f"horizon {run['horizon']}"),
        f"median of {document['repeats']}",
    ]
    return "; ".join(word for word in words if word)


def _updates(runs: Sequence[Run]) -> list[str]:
    if runs[0]["update"] is None:
        return []
    header = ["update", "params", "seconds", "spread", "per s", "gflop", "floor s", "x floor"]
    with_memory = any(run["update"]["peak_bytes"] is not None for run in runs)
    rows = []
    for run in runs:
        update = run["update"]
        spread = f"{(update['max'] - update['min']) / update['seconds']:.0%}"
        numbers = [_digits(update[key]) for key in ("per_second", "gflop", "floor_seconds", "floor_ratio")]
        row = [run["label"], format_count(run["parameters"]["total"]), _digits(update["seconds"]), spread, *numbers]
        rows.append([*row, format_bytes(update["peak_bytes"] or 0)] if with_memory else row)
    header += ["memory"] if with_memory else []
    return table(header, rows, right=header[1:], give="update")


def _sections(runs: Sequence[Run]) -> list[str]:
    """Milliseconds and shares, sections as rows."""
    if runs[0]["sections"] is None:
        return []
    found: list[str] = []
    for begin in range(0, len(runs), ACROSS):
        some = runs[begin : begin + ACROSS]
        names = list(dict.fromkeys(name for run in some for name, seconds in run["sections"].items() if seconds))
        header = ["section ms", *(shorten(run["label"], 80 // ACROSS - 5) for run in some)]
        rows = [[name, *(_share(run["sections"], name) for run in some)] for name in [*names, TOGETHER]]
        if len(some) == 1:  # its label stands above already
            header[1] = "and share"
        found += [*([""] if found else []), *_aligned(header, rows)]
    return found


def _aligned(header: list[str], rows: list[list[str]]) -> list[str]:
    """Like `table`, but columns may bear the same name."""
    unique = [name + "\0" * i for i, name in enumerate(header)]
    return [line.replace("\0", "") for line in table(unique, rows, right=unique[1:])]


def _share(seconds: Mapping[str, float], name: str) -> str:
    total = sum(seconds.values())
    own = total if name == TOGETHER else seconds.get(name, 0.0)
    return f"{_digits(1e3 * own)}  {own / total if total else 0:>4.0%}"


def _policies(runs: Sequence[Run]) -> list[str]:
    if runs[0]["policy"] is None:
        return []
    batched = runs[0]["policy"]["batched"]["num_envs"]
    header = ["policy", "steps/s, 1 env", "ms", f"steps/s, {batched} envs", "ms "]
    rows = [[run["label"], *_acting(run["policy"]), *_acting(run["policy"]["batched"])] for run in runs]
    return table(header, rows, right=header[1:], give="policy")


def _acting(policy: Mapping[str, Any]) -> Iterator[str]:
    yield _digits(policy["steps_per_second"])
    yield _digits(1e3 * policy["seconds"])


def _replays(runs: Sequence[Run]) -> list[str]:
    if runs[0]["replay"] is None:
        return []
    header = ["replay", "sample ms", "insert ms", "records"]
    rows = []
    for run in runs:
        sample, insert = (_digits(run["replay"][key]) for key in ("sample_ms", "insert_ms"))
        rows.append([run["label"], sample, insert, str(run["replay"]["insert_records"])])
    return table(header, rows, right=header[1:], give="replay")


def _envs(runs: Sequence[Run]) -> list[str]:
    """Environments: configurations mostly share one."""
    played = [run["env"] for run in runs if run["env"] is not None]
    with_bare = any(env["bare_steps_per_second"] for env in played)
    rates = ["steps_per_second", "collected_steps_per_second", *(["bare_steps_per_second"] if with_bare else [])]
    found = {
        (env["id"], str(env["num_envs"]), env["vec"], *(_digits(env[rate] or math.nan) for rate in rates))
        for env in played
    }
    header = ["environment", "side by side", "", "steps/s", "collected", *(["bare"] if with_bare else [])]
    return table(header, sorted(found), right=(header[1], *header[3:]), give="environment") if found else []


def _digits(value: float) -> str:
    """Three digits, and no exponent."""
    if value != value:
        return "-"
    if abs(value) >= 100:
        return f"{value:,.0f}"
    return f"{value:#.3g}" if abs(value) >= 1e-4 else "0" if value == 0 else f"{value:.1e}"
