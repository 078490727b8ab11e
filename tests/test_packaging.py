"""What pip makes of the project: extras, pinned versions, and a wheel that carries its presets."""

import re
import subprocess
import sys
import tomllib
from collections.abc import Iterator
from importlib import metadata
from pathlib import Path

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

from dreamer_cli import presets
from dreamer_cli.commands.doctor import EXTRAS
from dreamer_cli.envs.catalog import SUITES

ROOT = Path(__file__).resolve().parent.parent
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
OPTIONAL = PROJECT["optional-dependencies"]


# ── extras ──────────────────────────────────────────────────────────────────────────────────────────────────


def test_every_extra_that_a_hint_names_exists():
    sources = "".join(path.read_text(encoding="utf-8") for path in (ROOT / "dreamer_cli").rglob("*.py"))
    named = set(re.findall(r"dreamer-cli\[(\w+)\]", sources)) | {suite.extra for suite in SUITES if suite.extra}
    assert {"onnx", "tensorboard", "box2d", "mujoco", "minatar"} <= named
    assert named <= set(OPTIONAL)


def test_doctor_looks_for_what_the_extras_bring():
    for extra, (_, line) in EXTRAS.items():
        assert extra in OPTIONAL or "dreamer-cli" not in line


def test_all_is_everything_that_users_may_want():
    (inner,) = OPTIONAL["all"]
    assert Requirement(inner).extras == set(OPTIONAL) - {"all", "dev"}


# ── pinned versions ─────────────────────────────────────────────────────────────────────────────────────────


def pins() -> dict[str, str]:
    """Distribution → version, as constraints.txt has them."""
    lines = (ROOT / "constraints.txt").read_text(encoding="utf-8").splitlines()
    pairs = [line.split("==") for line in lines if line and not line.startswith("#")]
    return {canonicalize_name(name): version for name, version in pairs}


def required(distribution: str, extras: frozenset[str], seen: set[tuple[str, frozenset[str]]]) -> Iterator[str]:
    """All that is installed because of a distribution and some of its extras."""
    if (distribution, extras) in seen:
        return
    seen.add((distribution, extras))
    for text in metadata.requires(distribution) or []:
        wanted = Requirement(text)
        if wanted.marker and not any(wanted.marker.evaluate({"extra": extra}) for extra in ("", *extras)):
            continue
        name = canonicalize_name(wanted.name)
        yield name
        yield from required(name, frozenset(wanted.extras), seen)


def test_everything_that_is_installed_for_development_is_pinned():
    needed = set(required("dreamer-cli", frozenset({"dev"}), set())) - {"dreamer-cli"}
    assert needed - set(pins()) == set()


def test_pins_name_no_build_of_a_version():
    # torch 2.13.0+cpu cannot be had from the usual index.
    assert not [version for version in pins().values() if "+" in version]


def test_pinned_versions_are_the_installed_ones():
    for name in ("torch", "gymnasium", "typer", "pydantic", "numpy"):
        assert metadata.version(name).split("+")[0] == pins()[name]


# ── presets ─────────────────────────────────────────────────────────────────────────────────────────────────


def test_presets_are_found_beside_the_package_and_inside_it(tmp_path, monkeypatch):
    package = tmp_path / "dreamer_cli"
    (package / "presets_data").mkdir(parents=True)
    (tmp_path / "presets").mkdir()
    (tmp_path / "presets" / "base.yaml").write_text("{}")
    monkeypatch.setattr(presets, "__file__", str(package / "presets.py"))
    find = presets.directory.__wrapped__  # what is found once is kept for the process
    # A folder called presets in site-packages is somebody else's.
    assert find() == package / "presets_data"
    (tmp_path / "pyproject.toml").write_text("")
    assert find() == tmp_path / "presets"


@pytest.mark.extended
def test_the_wheel_lists_its_presets_without_torch_and_numpy(tmp_path):
    """Installed without its dependencies into an empty environment, outside the repository."""

    def run(*command: str | Path) -> str:
        done = subprocess.run([*map(str, command)], cwd=tmp_path, capture_output=True, text=True, timeout=600)
        assert done.returncode == 0, done.stderr
        return done.stdout

    python = tmp_path / "venv" / "bin" / "python"
    pip = (python, "-m", "pip", "--disable-pip-version-check", "-q", "install")
    run(sys.executable, "-m", "build", "--wheel", "--no-isolation", "--outdir", tmp_path, ROOT)
    (wheel,) = tmp_path.glob("*.whl")
    run(sys.executable, "-m", "venv", python.parent.parent)
    run(*pip, "-c", ROOT / "constraints.txt", "typer", "rich", "pyyaml")
    run(*pip, "--no-deps", wheel)
    # Typer brings pydantic for itself; that presets do without is tested in test_presets.py.
    for heavy in ("torch", "numpy", "gymnasium"):
        run(python, "-c", f"import importlib.util as u, sys; sys.exit(u.find_spec({heavy!r}) is not None)")
    listed = run(python.parent / "dreamer", "presets", "list")
    assert [line.split()[0] for line in listed.splitlines()[1:]]
    assert all(name in listed for name in presets.names())
    assert "units: 512" in run(python.parent / "dreamer", "presets", "show", "size1m")
