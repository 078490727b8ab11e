"""Presets: find them, list them, merge them. No torch and no pydantic, so `dreamer presets list` is instant.

A preset is a YAML file with the keys of the configuration tree and, of its own,
`extends: NAME`, the preset that it builds on, and `about:`, which tells people what it is:

    kind          algorithm (what learns), size, suite (an environment family's protocol) or overlay (anything else)
    title, source, parameters
    sizes: false  for algorithms that the size presets do not fit
    envs          for suites: patterns of the ids that choose it
    pixels        for suites: whether it is chosen where pictures are asked for (true), or where they are not (false)

and `named:`, settings that count only where the preset is named with `-p`: a benchmark's size and train ratio. In there
`size: 12m` stands for the settings of that size.

Later layers win: base < algorithm < default size < suite < `-c` < `-p` < `--size` < options < `-s`.
Nothing here knows which keys exist; `config.py` does.
"""

import fnmatch
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from typing import Any

from dreamer_cli import yamlio
from dreamer_cli.errors import ConfigError, UsageError, closest
from dreamer_cli.migrate import migrate_config
from dreamer_cli.trees import Block, Tree, merge, nest, parse_settings

KINDS = ("algorithm", "size", "suite", "overlay")
DEFAULT_ALGORITHM = "dreamerv3"
MAX_CHAIN = 20


@dataclass(frozen=True)
class Preset:
    """One preset file. `name` as users type it, `tree` without `extends`, `about` and `named`."""

    name: str
    path: Path
    tree: Tree
    about: Tree
    extends: str | None = None
    named: Tree = field(default_factory=dict)

    @property
    def kind(self) -> str:
        """What sort it is; a file that does not say is what it extends."""
        if self.name == "base":
            return "base"
        stated = (preset.about["kind"] for preset in reversed(self.chain()) if "kind" in preset.about)
        kind = next(stated, "overlay")
        if kind not in KINDS:
            raise ConfigError(f"{self.path}: about.kind is {kind!r}.", hint=f"Known: {', '.join(KINDS)}.")
        return str(kind)

    @property
    def title(self) -> str:
        """What it is, in a line."""
        return str(self.about.get("title", ""))

    @property
    def origin(self) -> str:
        """What `inspect --origin` says of a key that it set."""
        if self.name == "base":
            return "base"
        return f"suite {self.name}" if self.about.get("kind") == "suite" else f"preset {self.name}"

    def parent(self) -> "Preset | None":
        """The preset that it extends; a file's name is relative to the file."""
        return None if self.extends is None else find(self.extends, beside=self.path.parent)

    def chain(self) -> "list[Preset]":
        """What it builds on, lowest first, and itself.

        Raises:
            ConfigError: the presets extend each other in a circle.
        """
        chain, preset = [self], self.parent()
        while preset is not None:
            if len(chain) > MAX_CHAIN or any(preset.path == other.path for other in chain):
                raise ConfigError(f"{self.path} extends itself: {' < '.join(p.name for p in [*chain, preset])}.")
            chain.append(preset)
            preset = preset.parent()
        return chain[::-1]


@dataclass(frozen=True)
class Merged:
    """A merged tree, not yet validated.

    Attributes:
        origins: dotted key of every leaf → which layer set it.
        notes: sentences on what was added without being asked for.
        algorithm, suite: names of the presets at work; None if a complete config stood for the algorithm.
        presets: names given with `-p`, in order.
        blocks: settings for single kinds, from all layers.
    """

    tree: Tree = field(default_factory=dict)
    origins: dict[str, str] = field(default_factory=dict)
    notes: list[str] = field(default_factory=list)
    algorithm: str | None = None
    suite: str | None = None
    presets: tuple[str, ...] = ()
    blocks: list[Block] = field(default_factory=list)

    def add(self, overlay: Tree, origin: str) -> None:
        """Lay `overlay` over the tree."""
        merge(self.tree, self.origins, overlay, origin, blocks=self.blocks)


@cache
def directory() -> Path:
    """Where the presets are: beside the package in a checkout, else inside it, where the wheel puts them.

    The checkout comes first, because an editable install may carry an older copy inside.
    """
    package = Path(__file__).resolve().parent
    checkout = package.parent
    # pyproject.toml too: site-packages may hold some other project's `presets` folder.
    if (checkout / "pyproject.toml").is_file() and (checkout / "presets" / "base.yaml").is_file():
        return checkout / "presets"
    return package / "presets_data"


def names(kind: str | None = None) -> list[str]:
    """Names of the presets that come with dreamer, `base` left out; sizes in order of size."""
    found = sorted((path.stem for path in directory().glob("*.yaml") if path.stem != "base"), key=_natural)
    return found if kind is None else [name for name in found if find(name).kind == kind]


def sizes() -> list[str]:
    """What `--size` takes, smallest first."""
    return [name.removeprefix("size") for name in names("size")]


def find(name: str, beside: Path | None = None) -> Preset:
    """A preset by name, or from a file if `name` has a slash or ends in .yaml.

    Raises:
        UsageError: no such preset. ConfigError: its file is no preset.
    """
    if name.endswith((".yaml", ".yml")) or "/" in name or os.sep in name:
        try:
            path = Path(name).expanduser()
        except RuntimeError as error:  # `~nobody`, or no home directory at all
            raise UsageError(f"There is no preset {name!r}: {error}") from error
        return _read(str(beside / path if beside is not None else path), name)
    path = directory() / f"{name}.yaml"
    if not name or not path.is_file():
        known = names()
        hint = "A file needs its ending or a slash: -p ./mine.yaml." if Path(name).is_file() else ""
        raise UsageError(
            f"There is no preset {name!r}.", hint=hint or closest(name, known) + f"Known: {', '.join(known)}."
        )
    # A name is looked up among our own files only, so what is read once stays.
    return _read_once(str(path), name)


def suite_for(env_id: str, pixels: bool = False) -> Preset | None:
    """The suite's preset that an environment id chooses, if there is one.

    pixels: whether pictures are asked for, instead of numbers or beside them.
    """
    for name in names("suite"):
        preset = find(name)
        fits = any(fnmatch.fnmatchcase(env_id, str(pattern)) for pattern in preset.about.get("envs", []))
        if fits and preset.about.get("pixels", pixels) == pixels:
            return preset
    return None


def resolve_tree(
    env: str | None = None,
    presets: Sequence[str] = (),
    config_file: Path | None = None,
    settings: Sequence[str] = (),
    size: str | None = None,
    options: Mapping[str, tuple[Any, str]] | None = None,
    has_pixels: bool | None = None,
) -> Merged:
    """Merge all layers, without validating the result.

    Args:
        env: what `--env` said.
        presets: what `-p` said, left to right. The last algorithm among them becomes the algorithm.
        config_file: what `-c` said. A file with `schema_version` was written by a run and is complete:
            it stands for base and algorithm too.
        settings: what `-s` said, as `KEY=VALUE`.
        size: what `--size` said.
        options: dotted key → (value, name of the option), for all other options.
        has_pixels: whether the agent will see images, which decides the default size; None leaves the algorithm's.

    Raises:
        UsageError: no such preset or size. ConfigError: a file or a setting cannot be read.
    """
    named = [find(name) for name in presets]
    typed = parse_settings(settings)
    config = None if config_file is None else _read(str(config_file), str(config_file))
    merged = Merged(presets=tuple(presets))
    for preset in (*named, *([config] if config is not None else [])):
        if preset.named and (preset is config or preset.kind == "algorithm"):
            raise ConfigError(
                f"{preset.path}: `named` counts only in suites and overlays that are named with -p.",
                hint="Write its settings beside it instead.",
            )

    if config is not None and "schema_version" in config.tree:
        algorithm, overlays = None, named
    else:
        algorithms = [preset for preset in named if preset.kind == "algorithm"]
        algorithm = algorithms[-1] if algorithms else find(DEFAULT_ALGORITHM)
        # After -c, -p keeps its place even for an algorithm: below it, -c would undo it.
        overlays = [preset for preset in named if preset.kind != "algorithm" or config is not None]
        for preset in algorithm.chain():
            merged.add(preset.tree, preset.origin)
        _add_default_size(merged, algorithm, has_pixels, asked=size is not None)

    chosen = typed.get("env", {}).get("id") if isinstance(typed.get("env"), dict) else None
    chains = [part for preset in named for part in preset.chain() if part.kind != "base"]
    wants = [_pixels_of(tree) for tree in (typed, *(part.tree for part in chains))]
    wants.append((options or {}).get("env.pixels", (None, ""))[0])
    pixels = any(want in ("only", "both") for want in wants)
    suite = _suite(chosen or env or _env_of(named), pixels) if config is None else None
    if suite is not None and all(part.name != suite.name for part in chains):
        merged.add(suite.tree, suite.origin)
        merged.notes.append(f"preset {suite.name} added for {chosen or env or _env_of(named)}")
    if config is not None:
        for preset in config.chain():
            if preset.kind != "base":
                merged.add(preset.tree, f"config {config.name}" if preset is config else preset.origin)
    _check_sizes_fit(algorithm, named, size)
    for preset in overlays:
        for part in preset.chain():
            if part.kind != "base":  # the bottom layer already; again, it would undo everything
                merged.add(part.tree, part.origin)
                _add_named(merged, part, algorithm)
        if preset.tree and preset.origin not in merged.origins.values():
            merged.notes.append(f"preset {preset.name} changes nothing here: its settings are for other kinds of parts")
    if size is not None:
        merged.add(_size(size).tree, f"--size {size}")
    if env is not None:
        merged.add({"env": {"id": env}}, "--env")
    for key, (value, origin) in (options or {}).items():
        merged.add(nest(key, value), origin)
    merged.add(typed, "--set")
    return Merged(
        merged.tree,
        merged.origins,
        merged.notes,
        algorithm=algorithm.name if algorithm is not None else None,
        suite=suite.name if suite is not None else None,
        presets=tuple(presets),
        blocks=merged.blocks,
    )


def _size(size: str) -> Preset:
    known = sizes()
    if size not in known:
        meant = size.lower() if size.lower() in known else ""
        hint = f"Did you mean {meant!r}? " if meant else closest(size, known)
        raise UsageError(f"--size is {size!r}, which is no known size.", hint=f"{hint}Known: {', '.join(known)}.")
    return find(f"size{size}")


def _check_sizes_fit(algorithm: Preset | None, named: list[Preset], size: str | None) -> None:
    """Refuse a size for an algorithm whose parts have no such widths."""
    wanted = f"--size {size}" if size is not None else next((f"-p {p.name}" for p in named if p.kind == "size"), None)
    if wanted is not None and algorithm is not None and not _takes_sizes(algorithm):
        raise UsageError(
            f"{wanted} does not fit {algorithm.name}, which comes in one size only.",
            hint="Leave it out, or set single widths with -s.",
        )


def _takes_sizes(algorithm: Preset) -> bool:
    return next((p.about["sizes"] for p in reversed(algorithm.chain()) if "sizes" in p.about), True) is not False


def _add_default_size(merged: Merged, algorithm: Preset, has_pixels: bool | None, asked: bool) -> None:
    """The size that nobody asked for: low in the order, so that any preset with widths of its own wins."""
    if has_pixels is None or asked or not _takes_sizes(algorithm):
        return
    size = "12m" if has_pixels else "1m"
    seen = "there are images" if has_pixels else "there are only vectors"
    merged.add(_size(size).tree, f"size {size}, because {seen}")


def _add_named(merged: Merged, preset: Preset, algorithm: Preset | None) -> None:
    """What a preset brings because it was named; its size only where the algorithm takes one."""
    named = dict(preset.named)
    size = named.pop("size", None)
    if size is not None and (algorithm is None or _takes_sizes(algorithm)):
        merged.add(_size(str(size)).tree, preset.origin)
    merged.add(named, preset.origin)


def _suite(env_id: object, pixels: bool) -> Preset | None:
    return suite_for(env_id, pixels) if isinstance(env_id, str) else None


def _pixels_of(tree: Tree) -> object:
    env = tree.get("env")
    return env.get("pixels") if isinstance(env, dict) else None


def _env_of(presets: list[Preset]) -> object:
    """The environment that the presets name, the last one first."""
    for preset in reversed(presets):
        env = preset.tree.get("env")
        if isinstance(env, dict) and env.get("id") is not None:
            return env["id"]
    return None


def _natural(name: str) -> tuple[str, int]:
    """Sorts size12m between size1m and size100m."""
    digits = "".join(c for c in name if c.isdigit())
    return (name.rstrip("m").rstrip("0123456789"), int(digits)) if name.startswith("size") else (name, 0)


def _read(path: str, name: str) -> Preset:
    tree = migrate_config(yamlio.load_file(Path(path)), path)
    about, extends, named = tree.pop("about", None) or {}, tree.pop("extends", None), tree.pop("named", None) or {}
    for key, value in (("about", about), ("named", named)):
        if not isinstance(value, dict):
            raise ConfigError(f"{path}: {key} is {yamlio.describe(value)}, but wants a mapping.")
    if extends is not None and not isinstance(extends, str):
        raise ConfigError(f"{path}: extends is {yamlio.describe(extends)}, but wants the name of one preset.")
    return Preset(name, Path(path), tree, about, extends, named)


@cache
def _read_once(path: str, name: str) -> Preset:
    return _read(path, name)
