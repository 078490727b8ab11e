"""What a run will be before it is one: spaces, model, budget, memory, disk, and how long it will take."""

import shutil
from pathlib import Path
from typing import Any

from dreamer_cli.commands.estimate import estimate
from dreamer_cli.commands.start import Start
from dreamer_cli.envs.native import require_native
from dreamer_cli.numbers import format_bytes, format_count, format_duration
from dreamer_cli.replay.ring import LIMITS
from dreamer_cli.report import Result
from dreamer_cli.spaces import EnvSpec
from dreamer_cli.table import table


def plan(start: Start) -> Result:
    """`dreamer train --plan`: nothing is written.

    Raises:
        ConfigError: the environments cannot be stepped as is asked for.
    """
    cfg, spec = start.cfg, start.spec
    if cfg.env.vec == "native":
        require_native(cfg.env)
    numbers = estimate(cfg, spec, start.device)
    document = {
        "env": {
            "id": cfg.env.id,
            **spec.to_json(),
            "left_out": start.left_out,
        },
        "preset": start.presets,
        "model": {"parameters": numbers.pop("parameters")},
        "device": str(start.device),
        **numbers,
    }
    return Result(document, _lines(document, spec, _free_disk(start.root)))


def _free_disk(path: Path) -> int:
    """Free bytes where a run would be, or where its nearest existing parent is."""
    path = path.absolute()
    while not path.exists():
        path = path.parent
    return shutil.disk_usage(path).free


def _lines(document: dict[str, Any], spec: EnvSpec, free: int) -> list[str]:
    env, budget, eta = document["env"], document["budget"], document["eta"]
    rows = [["env", f"{env['id']}" + (f", every action {spec.repeat} steps" if spec.repeat > 1 else "")]]
    for key, obs in spec.observation.items():
        name = "observation" if key == obs.kind else f"observation {key}"
        rows.append([name, f"{obs.kind} {'x'.join(map(str, obs.shape))}" + _classes(obs.classes)])
    if env["left_out"]:
        rows.append(["left out", ", ".join(f"{key} ({why})" for key, why in env["left_out"].items())])
    for part in spec.action:
        choices = f"discrete, {_several(part.classes)} choices"
        what = choices if part.classes else f"continuous, {part.size} number{'s' * (part.size > 1)}"
        rows.append(["action" if part.key == "action" else f"action {part.key}", what])
    counts = document["model"]["parameters"]
    parts = ", ".join(f"{name} {count:,}" for name, count in counts.items() if name != "total")
    replay, memory = document["replay"], document["memory"]
    limit = LIMITS[replay["limited_by"]]
    rows += [
        ["presets", ", ".join(document["preset"])],
        ["model", f"{counts['total']:,} parameters: {parts}"],
        ["budget", f"{budget['steps']:,} steps, {budget['decisions']:,} decisions, {budget['updates']:,} updates"],
        [
            "memory",
            f"model and optimiser {format_bytes(memory['model_bytes'])}, replay {format_bytes(memory['replay_bytes'])} "
            f"({format_count(replay['capacity'])} records, limited by {limit})",
        ],
        ["disk", f"up to {format_bytes(document['disk']['run_bytes'])}, {format_bytes(free)} free"],
        ["device", document["device"]],
        [
            "time",
            f"about {format_duration(round(eta['seconds']))}, at {eta['update_seconds']:.3g} s an update; "
            "what the environments take comes on top",
        ],
    ]
    return table(["", ""], rows)[1:]


def _classes(classes: tuple[int, ...]) -> str:
    return f" of {_several(classes)}" if classes else ""


def _several(numbers: tuple[int, ...]) -> str:
    """`2, 3`, `5 x 3`, or `2 to 11` where there are many."""
    if len(set(numbers)) == 1:
        return str(numbers[0]) if len(numbers) == 1 else f"{len(numbers)} x {numbers[0]}"
    return ", ".join(map(str, numbers)) if len(numbers) <= 6 else f"{min(numbers)} to {max(numbers)}"
