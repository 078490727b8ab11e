"""What a run holds, to compare two runs bit for bit: everything but times, memory and how chunks are cut."""

import csv
import json
from pathlib import Path
from typing import Any

import numpy as np

from dreamer_cli.log import read_metrics
from dreamer_cli.metrics import repeatable
from dreamer_cli.tensorfiles import read_tensors


def newest(run: Path) -> Path:
    """The newest checkpoint."""
    return max(path for path in (run / "checkpoints").iterdir() if path.is_dir() and path.name.isdecimal())


def contents(run: Path) -> dict[str, Any]:
    """Name → what a straight run and a continued one must agree on."""
    last = newest(run)
    found: dict[str, Any] = {}
    for name in ("weights", "optimizer", "latents", "envs"):
        for key, tensor in read_tensors(last / f"{name}.safetensors").items():
            found[f"{name}: {key}"] = (str(tensor.dtype), tuple(tensor.shape), tensor.numpy().tobytes())
    state = json.loads((last / "state.json").read_text())
    found |= {f"state: {key}": value for key, value in state.items()}
    replay = json.loads((last / "replay.json").read_text())
    found |= {f"replay: {key}": value for key, value in replay.items() if key != "chunks"}
    found |= _records(run, replay)
    found["metrics"] = [repeatable(record) for record in read_metrics(run / "metrics.jsonl")]
    with (run / "episodes.csv").open() as file:
        found["episodes"] = [{k: v for k, v in row.items() if k != "seconds"} for row in csv.DictReader(file)]
    found["evaluations"] = {path.name: path.read_text() for path in (run / "eval").glob("*.json")}
    best = run / "checkpoints" / "best.json"
    found["best"] = best.read_text() if best.exists() else None  # before the first episode's end there is none
    found["films"] = sorted(path.name for path in (run / "videos").glob("*"))
    return found


def _records(run: Path, replay: dict[str, Any]) -> dict[str, bytes]:
    """Every stored record of every environment, in order, wherever chunks begin and end."""
    parts: dict[tuple[str, int], list[tuple[int, np.ndarray]]] = {}
    for entry in replay["chunks"]:
        arrays = read_tensors(run / "replay" / entry["name"])
        at = 0
        for env, begin, end in entry["spans"]:
            first = max(begin, replay["next"][env] - replay["per_env"])  # a chunk may hold some that were evicted
            for name, tensor in arrays.items():
                parts.setdefault((name, env), []).append((first, tensor.numpy()[at + first - begin : at + end - begin]))
            at += end - begin
    return {
        f"records: {name} of {env}": np.concatenate([part for _, part in sorted(found, key=lambda x: x[0])]).tobytes()
        for (name, env), found in parts.items()
    }


def differing(a: dict[str, Any], b: dict[str, Any]) -> list[str]:
    """Names of what differs; short enough to read in a failed test."""
    return sorted(name for name in a.keys() | b.keys() if a.get(name) != b.get(name))
