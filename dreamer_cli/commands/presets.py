"""`dreamer presets list` and `presets show`: what there is, and what it sets. No torch, no pydantic."""

from typing import Any

from dreamer_cli import presets, yamlio
from dreamer_cli.numbers import format_count
from dreamer_cli.report import Reporter, Result


def list_presets(reporter: Reporter | None = None) -> Result:
    """All presets by kind, with the parameters that were counted for vectors and for pixels."""
    found = records()
    wide = max(len(record["name"]) for record in found)
    lines = [f"{'NAME':<{wide}}  {'KIND':<9}  {'VECTOR':>6} {'PIXELS':>6}  parameters, and what it is"]
    for record in found:
        counted = record["parameters"]
        size = f"{format_count(counted['vector']):>6} {format_count(counted['pixels']):>6}" if counted else " " * 13
        lines.append(f"{record['name']:<{wide}}  {record['kind']:<9}  {size}  {record['title']}")
    return Result({"presets": found}, lines)


def show_preset(name: str, reporter: Reporter | None = None) -> Result:
    """The settings that `-p NAME` leads to, as YAML.

    Raises:
        UsageError: no such preset. ConfigError: the file is no preset.
    """
    preset = presets.find(name)
    # No size is added: which one depends on an environment that nobody named.
    merged = presets.resolve_tree(presets=[] if preset.kind == "base" else [name])
    tree = preset.tree if preset.kind == "base" else merged.tree
    text = yamlio.dump(tree)
    return Result({**record(preset), "config": tree}, text.splitlines())


def records() -> list[dict[str, Any]]:
    """One plain record for each preset: algorithms first, then sizes, suites and overlays."""
    found = [record(presets.find(name)) for name in presets.names()]
    return sorted(found, key=lambda item: presets.KINDS.index(item["kind"]))


def record(preset: presets.Preset) -> dict[str, Any]:
    """What there is to say about a preset: name, kind, title, source, and parameters for vectors and pixels."""
    counted = preset.about.get("parameters")
    return {
        "name": preset.name,
        "kind": preset.kind,
        "title": preset.title,
        "source": preset.about.get("source"),
        "parameters": {key: counted.get(key) for key in ("vector", "pixels")} if counted else None,
        "path": str(preset.path),
    }
