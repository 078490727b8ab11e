"""Runs in places with odd names, behind links, on read-only disks; and processes without home, terminal or streams."""

import builtins
import errno
import io
import json
import os
import shlex
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from dreamer_cli.checkpoint import Checkpoints
from dreamer_cli.commands.keeping import Keeper
from dreamer_cli.report import shell_line

GOLDEN = Path(__file__).parent.parent / "fixtures" / "golden_run"
TINY = ["-e", "CartPole-v1", "-p", "debug", "--vec", "sync"]
NAMES = {
    "everything": "-a  b'c\"d$HOME;é日本 *?",
    "spaces": " two  spaces ",
    "quotes": 'it\'s "quoted"',
    "dash": "-x",
    "options": "--help",
    "unicode": "ünïcode-日本-👩‍👩‍👧-\u00a0",
    "shell": "$(touch gone)`id`;&|<>",
    "backslash": "back\\slash\\n",
    "markup": "[red]{x}%s",
    "line feed": "two\nlines",
}
DEFAULT = ("everything",)


def odd(names: dict[str, str]) -> list:
    return [
        pytest.param(text, id=name, marks=[] if name in DEFAULT else pytest.mark.extended)
        for name, text in names.items()
    ]


def golden(path: Path) -> Path:
    """A copy of a run that is trained already."""
    return Path(shutil.copytree(GOLDEN, path))


def checkpoint(path: Path) -> str:
    return Checkpoints(path / "checkpoints").latest().name


@pytest.mark.parametrize("name", odd(NAMES))
def test_a_run_directory_of_any_name_is_trained_stopped_continued_and_read(name, call, tmp_path, monkeypatch):
    """Relative names, as people type them: a leading dash is a name, not an option."""
    monkeypatch.chdir(tmp_path)
    golden(Path(name))
    stopped = call("train", f"--run-dir={name}", "--steps", "1M", "--max-time", "1s")
    assert stopped.code == 75, stopped.err
    assert stopped.out == f"{name}\n"
    if name == NAMES["line feed"]:  # on one line, but in words of bash, which shlex does not know
        words = ["dreamer", "train", "--run-dir", name]
    else:
        words = shlex.split(stopped.err.splitlines()[-1])
    assert words == ["dreamer", "train", "--run-dir", name]
    again = call(*words[1:], "--steps", "60", "-q")
    assert again.code == 0, again.err
    assert int(checkpoint(Path(name))) >= 60
    for argv in (
        ["inspect", f"./{name}"],
        ["evaluate", str(tmp_path / name), "--episodes", "1"],
        ["export", f"./{name}", "--format", "safetensors"],
        ["runs", "list", "--runs-dir", "."],
    ):
        done = call(*argv, "--json")
        assert done.code == 0, done.err
    assert done.json["runs"][0]["name"] == name.strip("/")
    assert not (tmp_path / "gone").exists()


@pytest.mark.parametrize("name", NAMES.values(), ids=NAMES)
def test_a_command_is_one_line_that_a_shell_reads_back(name):
    line = shell_line("dreamer", "train", "--run-dir", name)
    assert len(line.splitlines()) == 1
    if shutil.which("bash"):
        script = f"dreamer() {{ printf '%s\\0' \"$@\"; }}; {line}"
        done = subprocess.run(["bash", "-c", script], capture_output=True, check=True)
        assert done.stdout.split(b"\0")[:-1] == [b"train", b"--run-dir", os.fsencode(name)]
    if name.isprintable():
        assert shlex.split(line)[-1] == name


def test_bytes_that_are_no_text_in_a_name_are_read_back_too():
    name = os.fsdecode(b"latin-\xe9\x1b[31m'x'\\")
    line = shell_line(name)
    assert line.isascii()
    assert "\x1b" not in line
    if shutil.which("bash"):
        done = subprocess.run(["bash", "-c", f"printf %s {line}"], capture_output=True, check=True)
        assert done.stdout == os.fsencode(name)


# ── links ───────────────────────────────────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize("linked", ["run", "checkpoints", "replay", "all"])
def test_a_run_behind_links(linked, call, tmp_path):
    """The run, or its large parts on another disk."""
    path, disk = golden(tmp_path / "run"), tmp_path / "disk"
    disk.mkdir()
    if linked == "run":
        path.rename(disk / "run")
        path.symlink_to(disk / "run")
    for part in ("checkpoints", "replay"):
        if linked in (part, "all"):
            (path / part).rename(disk / part)
            (path / part).symlink_to(disk / part)
    for argv in (["inspect", str(path)], ["evaluate", str(path), "--episodes", "1"]):
        assert call(*argv, "-q").code == 0
    if linked == "all":
        before = checkpoint(path)
        done = call("train", "--run-dir", str(path), "--steps", "60", "-q", "--keep", "1")
        assert done.code == 0, done.err
        assert (path / "checkpoints").is_symlink()
        assert [step > int(before) for step in Checkpoints(disk / "checkpoints").steps()][-1:] == [True]
        assert len(list((disk / "replay").iterdir())) > 1


# ── disks that cannot be written, or go away ────────────────────────────────────────────────────────────────────────


@pytest.fixture
def read_only(monkeypatch):
    """`read_only(path)`: from now on nothing below a directory can be changed, not even by root."""

    def freeze(root: Path) -> None:
        def below(path: object) -> bool:
            return isinstance(path, (str, os.PathLike)) and Path(path).resolve().is_relative_to(root.resolve())

        def refuse(original, writes):
            def guarded(path, *args, **kwargs):
                if below(path) and writes(*args, **kwargs):
                    raise OSError(errno.EROFS, os.strerror(errno.EROFS), str(path))
                return original(path, *args, **kwargs)

            return guarded

        writing = os.O_WRONLY | os.O_RDWR | os.O_CREAT
        monkeypatch.setattr(os, "open", refuse(os.open, lambda flags, *args, **kwargs: flags & writing))
        opened = refuse(io.open, lambda mode="r", *args, **kwargs: not {"w", "a", "x", "+"}.isdisjoint(mode))
        monkeypatch.setattr(builtins, "open", opened)
        monkeypatch.setattr(io, "open", opened)
        for name in ("mkdir", "replace", "rename", "unlink", "rmdir"):
            monkeypatch.setattr(os, name, refuse(getattr(os, name), lambda *args, **kwargs: True))

    return freeze


def test_a_run_on_a_read_only_disk_can_be_read(call, tmp_path, read_only):
    path = golden(tmp_path / "disk" / "run")
    read_only(tmp_path / "disk")
    with pytest.raises(OSError, match="Read-only"):
        (path / "x").write_text("x")
    for argv in (
        ["inspect", str(path)],
        ["evaluate", str(path), "--episodes", "1"],
        ["imagine", str(path), "-o", str(tmp_path / "dream.npz"), "--horizon", "2"],
        ["export", str(path), "-o", str(tmp_path / "export"), "--format", "safetensors"],
        ["runs", "list", "--runs-dir", str(path.parent)],
    ):
        done = call(*argv, "-q")
        assert done.code == 0, (argv, done.err)
    for argv in (["train", "--run-dir", str(path), "--steps", "60"], ["imagine", str(path), "--horizon", "2"]):
        done = call(*argv, "-q")
        assert done.code == 5, (argv, done.err)
        assert "read-only" in done.err.lower()


def test_a_run_that_is_removed_while_it_trains(call, tmp_path, monkeypatch):
    path = tmp_path / "runs" / "gone"
    save = Keeper.save

    def remove_first(self, *args, **kwargs):
        shutil.rmtree(path)
        return save(self, *args, **kwargs)

    monkeypatch.setattr(Keeper, "save", remove_first)
    done = call("train", *TINY, "--steps", "40", "--run-dir", str(path), "-q")
    assert done.code in (4, 5), done.err
    assert "Traceback" not in done.err
    assert "Unexpected" not in done.err
    assert str(path) in done.err
    assert not (path / "checkpoints").exists()


# ── processes without what is usually there ─────────────────────────────────────────────────────────────────────────


def test_without_home_and_terminal(call, tmp_path, monkeypatch):
    path = golden(tmp_path / "run")
    monkeypatch.delenv("HOME", raising=False)
    monkeypatch.setenv("TERM", "dumb")
    assert call("evaluate", str(path), "--episodes", "1").code == 0
    monkeypatch.delenv("TERM")
    assert call("inspect", str(path), "--json").json["ok"]
    assert call("train", "-e", "CartPole-v1", "-p", "~nobody-at-all/x.yaml", "--plan").code == 2


def shell(line: str, *argv: str, **environment: str) -> subprocess.CompletedProcess:
    """A line of bash in which `dreamer` is this one, with an empty environment."""
    function = f'dreamer() {{ {shlex.quote(sys.executable)} -m dreamer_cli "$@"; }}\nset -o pipefail\n{line}'
    root = Path(__file__).parent.parent.parent
    keep = {"PATH": os.environ["PATH"], "PYTHONPATH": str(root), "OMP_NUM_THREADS": "1"}
    return subprocess.run(
        ["bash", "-c", function, "bash", *argv], env={**keep, **environment}, capture_output=True, timeout=120
    )


@pytest.mark.extended
@pytest.mark.skipif(not shutil.which("bash"), reason="needs bash")
@pytest.mark.parametrize("streams", ["2>&-", "<&-", ">&-", "<&- >&- 2>&-", "| head -n 0", "2>/dev/full", "</dev/zero"])
@pytest.mark.parametrize("command", ["train --run-dir", "evaluate --episodes 1", "inspect", "inspect --json"])
def test_closed_streams(command, streams, tmp_path):
    """What cannot be said is not said; the work is done all the same, and the exit code is right."""
    path = golden(tmp_path / "run")
    more = "--steps 60" if command.startswith("train") else ""
    done = shell(f'dreamer {command} "$1" {more} {streams}', str(path))
    assert done.returncode == 0, (done.stdout, done.stderr)
    assert b"Traceback" not in done.stderr
    if more:
        assert int(checkpoint(path)) >= 60
        assert json.loads((path / "run.json").read_text())["status"] == "finished"
