"""The package's shape: no rings, help needs no torch, nothing read from disk is executed.

That imports point only downwards is tested against the layout in the docs (`test_docs.py`).
"""

import ast
from collections.abc import Iterator
from graphlib import TopologicalSorter
from pathlib import Path

import pytest

PACKAGE = Path(__file__).parent.parent / "dreamer_cli"


def modules() -> dict[str, ast.Module]:
    """Name without the package's (`world.rssm`) → what is in it; a folder's `__init__` goes by the folder's name."""
    found = {}
    for path in sorted(PACKAGE.rglob("*.py")):
        parts = path.relative_to(PACKAGE).with_suffix("").parts
        name = ".".join(parts[:-1] if parts[-1] == "__init__" and len(parts) > 1 else parts)
        found[name] = ast.parse(path.read_text(), filename=str(path))
    return found


MODULES = modules()


def imported(tree: ast.AST) -> Iterator[str]:
    """Full names of all that is imported, in functions too; `from a import b` is `a.b`."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert not node.level, "imports are absolute"
            yield from (f"{node.module}.{alias.name}" for alias in node.names)


def ours(full: str) -> str | None:
    """The module of this package that an imported name belongs to."""
    if full.split(".")[0] != "dreamer_cli":
        return None
    name = full.removeprefix("dreamer_cli").removeprefix(".")
    while name not in MODULES:
        if "." not in name:
            return "__init__"
        name = name.rpartition(".")[0]
    return name


def graph() -> dict[str, set[str]]:
    """Module → modules of this package that it imports."""
    return {name: {other for full in imported(tree) if (other := ours(full))} for name, tree in MODULES.items()}


def test_there_are_no_rings():
    TopologicalSorter(graph()).prepare()  # raises CycleError, which names the ring


@pytest.mark.parametrize("folder", ["envs", "nets", "optim", "replay"])
def test_bricks_know_nothing_of_each_other(folder):
    others = {"envs", "nets", "optim", "replay"} - {folder}
    wrong = {
        f"{name} imports {other}"
        for name, imports in graph().items()
        for other in imports
        if name.split(".")[0] == folder and other.split(".")[0] in others
    }
    assert not wrong


def test_only_assembly_and_settings_know_agent_and_environments_and_replay():
    """Whoever else needs all three is handed them."""
    knowing = {
        name
        for name, imports in graph().items()
        if {"envs", "replay"} <= {other.split(".")[0] for other in imports} and imports & {"agent", "learner"}
    }
    assert knowing <= {"commands.assemble"}


def outside_functions(node: ast.AST) -> Iterator[ast.stmt]:
    """Imports that run when the module is imported."""
    for child in ast.iter_child_nodes(node):
        if isinstance(child, (ast.Import, ast.ImportFrom)):
            yield child
        elif not isinstance(child, (ast.FunctionDef, ast.AsyncFunctionDef)):
            yield from outside_functions(child)


def at_once(name: str) -> set[str]:
    """Everything that importing a module imports right away: its own files and other packages."""
    seen, todo = set(), [name]
    while todo:
        current = todo.pop()
        if current not in seen:
            seen.add(current)
            body = ast.Module(list(outside_functions(MODULES.get(current, ast.Module([], [])))), [])
            todo += [ours(full) or full.split(".")[0] for full in imported(body)]
    return seen


@pytest.mark.parametrize("name", ["cli", "presets", "runs", "findrun", "commands.listing"])
def test_help_and_listings_load_nothing_heavy(name):
    assert not at_once(name) & {"torch", "gymnasium", "imageio", "safetensors", "tensorboard"}


# ── nothing that is read is executed ────────────────────────────────────────────────────────────────────────

FORBIDDEN_MODULES = {"pickle", "_pickle", "cPickle", "cloudpickle", "dill", "joblib", "marshal", "shelve"}
FORBIDDEN_CALLS = {
    "torch.load", "torch.jit.load", "torch.hub.load", "eval", "exec", "compile", "__import__", "os.system", "os.popen",
    "yaml.load", "yaml.load_all", "yaml.full_load", "yaml.full_load_all", "yaml.unsafe_load", "yaml.unsafe_load_all",
}  # fmt: skip


def dangers(tree: ast.AST) -> list[str]:
    """Places that could run what a file or a user's text contains."""
    aliases, found = {}, []
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            aliases |= {alias.asname: alias.name for alias in node.names if alias.asname}
        elif isinstance(node, ast.ImportFrom):
            aliases |= {alias.asname or alias.name: f"{node.module}.{alias.name}" for alias in node.names}
    for full in imported(tree):
        if full.split(".")[0] in FORBIDDEN_MODULES:
            found.append(full)
    for node in ast.walk(tree):
        if not isinstance(node, ast.Call):
            continue
        head, _, rest = ast.unparse(node.func).partition(".")
        name = ".".join(part for part in (aliases.get(head, head), rest) if part)
        settings = {keyword.arg: ast.unparse(keyword.value) for keyword in node.keywords}
        if name in FORBIDDEN_CALLS:
            found.append(f"line {node.lineno}: {name}")
        elif name == "numpy.load" and settings.get("allow_pickle") != "False":
            found.append(f"line {node.lineno}: numpy.load without allow_pickle=False")
        elif "allow_pickle" in settings and settings["allow_pickle"] != "False":
            found.append(f"line {node.lineno}: {name} allows pickle")
        elif settings.get("shell", "False") != "False":
            found.append(f"line {node.lineno}: {name} through a shell")
    return found


def test_nothing_that_is_read_is_executed():
    templates = {path.name: ast.parse(path.read_text()) for path in PACKAGE.rglob("*.py.txt")}
    found = {name: dangers(tree) for name, tree in (MODULES | templates).items()}
    assert {name: places for name, places in found.items() if places} == {}


@pytest.mark.parametrize(
    "code",
    [
        "import pickle",
        "from pickle import loads",
        "import torch as t\nt.load('x')",
        "from torch import load\nload('x')",
        "import numpy as np\nnp.load('x')",
        "import numpy as np\nnp.load('x', allow_pickle=True)",
        "import numpy as np\nnp.savez('x', allow_pickle=True)",
        "import yaml\nyaml.load('x', yaml.Loader)",
        "def f():\n    import yaml\n    yaml.unsafe_load('x')",
        "eval('1')",
        "exec('1')",
        "import subprocess\nsubprocess.run('ls', shell=True)",
    ],
)
def test_the_search_finds(code):
    assert dangers(ast.parse(code))


@pytest.mark.parametrize(
    "code",
    [
        "model.eval()",
        "import re\nre.compile('x')",
        "import torch\ntorch.compile(f)",
        "import yaml\nyaml.safe_load('x')",
        "import numpy as np\nnp.load('x', allow_pickle=False)",
        "import subprocess\nsubprocess.run(['ls'])",
    ],
)
def test_the_search_does_not_cry_wolf(code):
    assert not dangers(ast.parse(code))
