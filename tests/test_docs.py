"""Documentation that stays true: generated pages, links, command lines, code, and the list of files."""

import ast
import importlib.util
import re
import shlex
import sys
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType
from typing import Any, NamedTuple

import pytest
import torch
from typer.exceptions import TyperException

from dreamer_cli import config, world
from dreamer_cli.cli import main
from dreamer_cli.cli.app import app
from dreamer_cli.cli.session import Session
from dreamer_cli.commands.assemble import build_agent, build_learner
from dreamer_cli.commands.estimate import random_batch
from dreamer_cli.errors import DreamerError
from dreamer_cli.spaces import ActionPart, EnvSpec, ObsSpec
from dreamer_cli.world.cores import CORES

ROOT = Path(__file__).resolve().parent.parent
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").rglob("*.md"))]
FENCE = re.compile(r"^```(\w*)\n(.*?)^```$", re.MULTILINE | re.DOTALL)


def module(path: Path) -> ModuleType:
    """A file as a module, without a package."""
    spec = importlib.util.spec_from_file_location(path.stem, path)
    assert spec is not None
    assert spec.loader is not None
    loaded = importlib.util.module_from_spec(spec)
    sys.modules[path.stem] = loaded  # dataclasses look their module up
    spec.loader.exec_module(loaded)
    return loaded


def name(page: Path) -> str:
    """How a page is called in test ids."""
    return page.relative_to(ROOT).as_posix()


def blocks(page: Path, language: str) -> list[str]:
    """Fenced blocks of one language."""
    return [body for found, body in FENCE.findall(page.read_text(encoding="utf-8")) if found == language]


# ── generated pages ─────────────────────────────────────────────────────────────────────────────────────────

generate = module(ROOT / "docs" / "generate.py")


@pytest.mark.parametrize(("page", "text"), generate.pages().items(), ids=lambda value: value[:20])
def test_generated_pages_are_up_to_date(page, text):
    assert (ROOT / "docs" / "reference" / page).read_text(encoding="utf-8") == text, "run `make docs`"


def test_every_generated_page_says_so_and_no_other_does():
    marked = {page.name for page in PAGES if page.read_text(encoding="utf-8").startswith(generate.MARK)}
    assert marked == set(generate.pages())


# ── links ───────────────────────────────────────────────────────────────────────────────────────────────────


def links(page: Path) -> Iterator[tuple[str, str]]:
    """(text, target) of every relative link and picture."""
    prose = FENCE.sub("", page.read_text(encoding="utf-8"))
    found = re.findall(r"\[([^\]]*)\]\(([^)\s]+)\)", prose)
    found += [("", source) for source in re.findall(r'<img src="([^"]+)"', prose)]
    return ((text, target) for text, target in found if not target.startswith(("http://", "https://")))


def anchors(page: Path) -> set[str]:
    """Headings as GitHub makes addresses of them."""
    titles = re.findall(r"^#+ (.*)$", FENCE.sub("", page.read_text(encoding="utf-8")), re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", title.lower()).replace(" ", "-") for title in titles}


@pytest.mark.parametrize("page", PAGES, ids=name)
def test_links_lead_somewhere(page):
    for _, target in links(page):
        path, _, anchor = target.partition("#")
        place = (page.parent / path).resolve() if path else page
        assert place.exists(), f"{target} does not exist"
        assert place.is_relative_to(ROOT), f"{target} leaves the repository"
        assert not anchor or anchor in anchors(place), f"{target} is no heading there"


def test_linked_names_are_defined_in_the_file_that_they_link_to():
    checked = 0
    for page in PAGES:
        for text, target in links(page):
            symbol = re.fullmatch(r"`([A-Za-z_][\w.]*)`", text)
            if symbol and target.endswith(".py") and not text.endswith(".py`"):
                code = (page.parent / target).read_text(encoding="utf-8")
                for part in symbol[1].split("."):
                    assert re.search(rf"^ *(def|class) {part}\b|^{part}\b.* = ", code, re.MULTILINE), (text, target)
                checked += 1
    assert checked > 40


# ── command lines ───────────────────────────────────────────────────────────────────────────────────────────


class Line(NamedTuple):
    """One call of `dreamer`, and the page that it stands on."""

    page: str
    words: tuple[str, ...]


def calls() -> Iterator[Line]:
    """Every call of `dreamer` in a block of shell, without comments and redirections."""
    for page in PAGES:
        for block in blocks(page, "bash"):
            for line in block.replace("\\\n", " ").splitlines():
                words = shlex.split(line.strip(), comments=True)
                if "dreamer" in words:
                    words = words[words.index("dreamer") + 1 :]
                    end = next((i for i, word in enumerate(words) if re.match(r"2?>|[|&;<]", word)), len(words))
                    yield Line(name(page), tuple(words[:end]))


def parse(words: tuple[str, ...]) -> None:
    """Let the app parse a call, without running it."""
    verbs, command, context = list(words), app, None
    session = Session(words)
    while hasattr(command, "commands"):
        context = command.make_context("dreamer", [], parent=context, obj=session, resilient_parsing=True)
        assert verbs, "no command"
        verb = verbs.pop(0)
        assert verb in command.commands, f"no command {verb!r}"
        command = command.commands[verb]
    command.make_context(verb, verbs, parent=context)


@pytest.mark.parametrize("line", sorted(set(calls())), ids=lambda line: f"{line.page}: {' '.join(line.words)}"[:90])
def test_command_lines_parse(line):
    try:
        parse(line.words)
    except DreamerError as error:
        pytest.fail(error.what)


def test_the_parser_of_this_test_refuses_what_dreamer_refuses():
    for wrong in ("trian", "train --no-such", "train --steps 1m", "evaluate", "runs", "train --vec fast"):
        with pytest.raises((AssertionError, DreamerError, TyperException)):
            parse(tuple(wrong.split()))


@pytest.mark.parametrize("page", PAGES, ids=name)
def test_commands_and_options_in_prose_exist(page):
    prose = FENCE.sub("", page.read_text(encoding="utf-8"))
    known: dict[str, Any] = app.commands
    options = {option for command in [app, *known.values()] for option in every_option(command)}
    for code in re.findall(r"`(dreamer [^`]+)`", prose):
        words = [word.strip("[]'\"").partition("=")[0] for word in code.split()[1:]]
        assert words[0] in known or words[0].isupper() or words[0].startswith("-"), code
        # python -m pytest and pip have options of their own; here only dreamer's calls are looked at.
        for word in words:
            assert not word.startswith("--") or word in options, f"{code}: no option {word}"


def every_option(command: Any) -> set[str]:
    """Of a command and of those inside it."""
    own = {name for param in command.params for name in (*param.opts, *param.secondary_opts)}
    inner = [every_option(member) for member in getattr(command, "commands", {}).values()]
    return own.union({"--help", "--install-completion"}, *inner)


# ── code ────────────────────────────────────────────────────────────────────────────────────────────────────


def test_the_environment_of_the_guide_works(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    (code,) = blocks(ROOT / "docs" / "how-to" / "add-an-environment.md", "python")
    Path("corridor.py").write_text(code, encoding="utf-8")
    assert main(["envs", "check", "./corridor.py:Corridor", "--json"]) == 0
    assert '"ok": true' in capsys.readouterr().out


def test_the_core_of_the_guide_works(tmp_path, monkeypatch):
    """One file, one line, one preset, as the page has them."""
    page = ROOT / "docs" / "how-to" / "add-a-core.md"
    code, line = blocks(page, "python")
    (preset,) = blocks(page, "yaml")
    (tmp_path / "mgu.py").write_text(code, encoding="utf-8")
    (tmp_path / "mgu.yaml").write_text(preset, encoding="utf-8")
    monkeypatch.setattr(world, "__path__", [*world.__path__, str(tmp_path)])
    monkeypatch.setattr(CORES, "members", {**CORES.members, **ast.literal_eval(f"{{{line.strip()}}}")})
    cfg = config.resolve(presets=[str(tmp_path / "mgu.yaml"), "debug"]).config
    spec = EnvSpec({"x": ObsSpec("vector", (3,))}, (ActionPart("action", "discrete", (2,)),))
    agent = build_agent(cfg, spec, "cpu")
    assert type(agent.world.dynamics.core).__name__ == "MGU"
    latents, metrics = build_learner(cfg, agent).update(random_batch(agent, 2, 4))
    assert latents["deter"].shape == (2, 4, 32), "the preset of a size sets its width"
    assert torch.isfinite(metrics["loss/total"])
    assert f"`mgu.py` ({len(code.splitlines())} lines)" in page.read_text(encoding="utf-8")
    assert f"`mgu.yaml` ({len(preset.splitlines())})" in page.read_text(encoding="utf-8")


def test_the_preset_of_the_guide_works(tmp_path, capsys):
    first = blocks(ROOT / "docs" / "how-to" / "write-a-preset.md", "yaml")[0]
    path = tmp_path / "far-sighted.yaml"
    path.write_text(first, encoding="utf-8")
    cfg = config.resolve(presets=["cpu", str(path)]).config
    assert (cfg.behaviour.horizon, cfg.run.train_ratio) == (30, 64.0)


# ── the layout ──────────────────────────────────────────────────────────────────────────────────────────────


def layout() -> list[str]:
    """Files of the package in the order of the page on architecture: `world/rssm.py`."""
    text = (ROOT / "docs" / "explanation" / "architecture.md").read_text(encoding="utf-8")
    (block,) = [body for language, body in FENCE.findall(text) if not language]
    found, folders = [], []
    for line in block.splitlines():
        depth, entry = (len(line) - len(line.lstrip())) // 2, line.split()[0]
        folders = [*folders[:depth], entry] if entry.endswith("/") else folders[:depth]
        if not entry.endswith("/"):
            found.append("".join(folders) + entry)
    return found


def test_every_file_stands_in_the_layout():
    package = ROOT / "dreamer_cli"
    files = {path.relative_to(package).as_posix() for path in package.rglob("*.py") if path.name != "__init__.py"}
    assert sorted(layout()) == sorted(files)


def test_imports_point_downwards():
    place = {path: number for number, path in enumerate(layout())}
    for path, number in place.items():
        tree = ast.parse((ROOT / "dreamer_cli" / path).read_text(encoding="utf-8"))
        for node in ast.walk(tree):
            if isinstance(node, ast.ImportFrom) and (node.module or "").startswith("dreamer_cli"):
                base = (node.module or "").removeprefix("dreamer_cli").lstrip(".").replace(".", "/")
                for alias in node.names:
                    inner = f"{base}/{alias.name}.py".lstrip("/")
                    target = inner if inner in place else f"{base}.py"
                    # A package or the version string: their __init__ files are empty, or import from below themselves.
                    assert place.get(target, len(place)) > number, f"{path} imports {target}, which stands above it"
