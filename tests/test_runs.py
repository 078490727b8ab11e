import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from dreamer_cli import lock as lock_module
from dreamer_cli import migrate, runs
from dreamer_cli.errors import StateError, UsageError
from dreamer_cli.findrun import INDEX, all_runs, find_checkpoint, find_run, list_runs, register, runs_root
from dreamer_cli.lock import RunLock, is_locked
from dreamer_cli.runs import RunDir, continues, first_record, new_run_dir, short_id, slug


def make_run(path: Path, **changes: object) -> RunDir:
    run = RunDir(path)
    path.mkdir(parents=True)
    run.write({"status": "finished", "started": "2026-01-01T00:00:00+00:00", **changes})
    return run


@pytest.mark.parametrize(
    ("env_id", "name"),
    [
        ("CartPole-v1", "CartPole-v1"),
        ("ALE/Pong-v5", "ALE-Pong-v5"),
        ("dmc:walker-walk", "dmc-walker-walk"),
        ("./my env.py:Cläss", "my-env.py-Cl-ss"),
        ("..", "env"),
        ("../../etc", "etc"),
        ("", "env"),
    ],
)
def test_slug_is_one_plain_visible_name(env_id, name):
    assert slug(env_id) == name


def test_a_title_names_a_file_without_its_folder():
    assert short_id("/home/me/corridor.py:Corridor") == "corridor.py:Corridor"
    assert [short_id(name) for name in ("ALE/Pong-v5", "pkg.mod:Class", "dmc:walker-walk")] == [
        "ALE/Pong-v5",
        "pkg.mod:Class",
        "dmc:walker-walk",
    ]


def test_a_new_run_directory_is_named_as_documented_and_never_shared(tmp_path):
    first = new_run_dir(tmp_path, "ALE/Pong-v5", "dreamerv3", 7)
    second = new_run_dir(tmp_path, "ALE/Pong-v5", "dreamerv3", 7)
    assert first.path.parent == tmp_path / "ALE-Pong-v5"
    assert first.path.name.endswith("-dreamerv3-s7")
    assert first.path != second.path


@pytest.mark.parametrize("name", ["", "..", "a/b", ".hidden", "x" * 101, "a b", "\x1b[31m"])
def test_names_that_are_no_file_names_are_refused_and_nothing_is_made(tmp_path, name):
    with pytest.raises(UsageError):
        new_run_dir(tmp_path, "CartPole-v1", name, 0)
    assert not list(tmp_path.iterdir())


def test_run_json_keeps_what_was_written_and_is_never_half_written(tmp_path):
    run = make_run(tmp_path / "a", status="running", command=["dreamer", "train"])
    run.update(status="finished", exit_code=0)
    record = run.read()
    assert (record["schema"], record["status"], record["exit_code"]) == ("dreamer.run/1", "finished", 0)
    assert record["command"] == ["dreamer", "train"]
    assert [path.name for path in run.path.iterdir()] == ["run.json"], "no temporary file stays"


def test_the_first_record_says_who_runs_what_with_which_versions():
    record = first_record(["dreamer", "train"], env="CartPole-v1")
    assert record["status"] == "running"
    assert {"torch", "numpy", "gymnasium", "dreamer", "python"} <= record["versions"].keys()
    assert record["host"]
    assert record["env"] == "CartPole-v1"


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"[]",
        b"{",
        b"\xff\xfe",
        b'{"schema": "dreamer.run/2"}',
        b'{"schema": null}',
        b"[" * 100_000,
        b" " * 8_000_001,
        b'{"schema": "dreamer.run/1", "presets": 3}',
        b'{"schema": "dreamer.run/1", "versions": {"torch": [1]}}',
    ],
)
def test_a_damaged_run_json_is_a_state_error(tmp_path, content):
    run = RunDir(tmp_path)
    run.run_json.write_bytes(content)
    with pytest.raises(StateError):
        run.read()


def test_an_older_run_json_is_migrated_and_a_newer_one_refused(tmp_path, monkeypatch):
    """As if this were version 3, which calls the environment `env`, and version 2 called it `game`."""
    run = RunDir(tmp_path)
    run.write({"env_id": "CartPole-v1"})
    steps = {
        1: lambda tree: {"game": tree.pop("env_id"), **tree},
        2: lambda tree: {"env": tree.pop("game"), **tree},
    }
    monkeypatch.setattr(migrate, "RUN", steps)
    monkeypatch.setattr(runs, "RUN_VERSION", 3)
    assert run.read()["env"] == "CartPole-v1"
    run.update(status="finished")
    assert json.loads(run.run_json.read_text()) == {
        "schema": "dreamer.run/3",
        "env": "CartPole-v1",
        "status": "finished",
    }
    monkeypatch.setattr(runs, "RUN_VERSION", 2)
    with pytest.raises(StateError, match="newer version") as caught:
        run.read()
    assert "upgrade" in caught.value.hint


def test_a_pipe_in_place_of_run_json_does_not_block(tmp_path):
    os.mkfifo(tmp_path / "run.json")
    with pytest.raises(StateError):
        RunDir(tmp_path).read()


def test_running_without_a_held_lock_is_dead(tmp_path):
    run = make_run(tmp_path / "a", status="running")
    assert run.status() == "dead"
    with run.lock():
        assert run.status() == "running"
    assert run.status() == "dead"
    run.update(status="nonsense")
    assert run.status() == "unknown"


def test_the_lock_names_its_holder_and_is_free_again_after_release(tmp_path):
    path = tmp_path / ".lock"
    with RunLock(path):
        assert is_locked(path)
        with pytest.raises(StateError, match=f"process {os.getpid()} on "):
            RunLock(path)
    assert not is_locked(path)
    RunLock(path).release()


@pytest.mark.parametrize("content", [b"", b"{", b"[1]", b'{"pid": "x"}', b"\xff" * 9000])
def test_a_lock_file_with_nonsense_in_it_still_locks(tmp_path, content):
    path = tmp_path / ".lock"
    with RunLock(path):
        path.write_bytes(content)
        with pytest.raises(StateError, match="is in use"):
            RunLock(path)


def test_a_forked_worker_does_not_keep_the_lock(tmp_path):
    lock = RunLock(tmp_path / ".lock")
    from_child, to_parent = os.pipe()
    from_parent, to_child = os.pipe()
    child = os.fork()
    if child == 0:  # waits until the parent is gone, as far as the lock can tell
        os.close(to_child)
        os.write(to_parent, b"x")
        os.read(from_parent, 1)
        os._exit(0)
    try:
        os.read(from_child, 1)
        assert is_locked(lock.path)
        os.close(lock._descriptor)  # what the kernel does when the parent is killed
        assert not is_locked(lock.path)
    finally:
        lock_module._held.discard(lock._descriptor)
        for end in (from_child, to_parent, from_parent, to_child):
            os.close(end)
        os.waitpid(child, 0)


def test_kill_9_frees_the_lock(tmp_path):
    code = (
        "import sys, time, pathlib\nfrom dreamer_cli.lock import RunLock\nlock = RunLock(pathlib.Path(sys.argv[1]))\n"
    )
    code += "print('held', flush=True)\ntime.sleep(60)"
    path = tmp_path / ".lock"
    with subprocess.Popen([sys.executable, "-c", code, str(path)], stdout=subprocess.PIPE) as holder:
        assert holder.stdout is not None
        assert holder.stdout.readline() == b"held\n"
        assert is_locked(path)
        holder.kill()
    assert not is_locked(path)


def test_a_lock_that_is_a_link_is_not_followed(tmp_path):
    target = tmp_path / "precious"
    target.write_text("data")
    (tmp_path / ".lock").symlink_to(target)
    with pytest.raises(OSError, match="symbolic"):
        RunLock(tmp_path / ".lock")
    assert target.read_text() == "data"


@pytest.mark.parametrize(
    ("content", "resume", "outcome"),
    [
        ("run", "auto", True),
        ("run", "must", True),
        ("run", "never", StateError),
        ("absent", "auto", False),
        ("absent", "never", False),
        ("absent", "must", StateError),
        ("empty", "auto", False),
        ("empty", "must", StateError),
        ("lock only", "auto", False),
        ("killed start", "auto", False),
        ("config only", "auto", StateError),
        ("other", "auto", StateError),
        ("other", "never", StateError),
        ("other", "must", StateError),
        ("file", "auto", StateError),
    ],
)
def test_resume_rules(tmp_path, content, resume, outcome):
    path = tmp_path / "run"
    if content == "run":
        make_run(path)
    elif content == "file":
        path.write_text("x")
    elif content != "absent":
        path.mkdir()
        if content != "empty":
            names = {
                "lock only": [".lock"],
                "killed start": [".lock", "config.yaml", ".tmp-12"],
                "config only": ["config.yaml"],
            }
            for name in names.get(content, ["thesis.tex"]):
                (path / name).write_text("x")
    before = sorted(tmp_path.rglob("*"))
    if outcome is StateError:
        with pytest.raises(StateError):
            continues(path, resume)
    else:
        assert continues(path, resume) is outcome
    assert sorted(tmp_path.rglob("*")) == before, "nothing is touched"


def test_the_root_is_the_option_then_the_variable_then_here(monkeypatch):
    monkeypatch.delenv("DREAMER_RUNS", raising=False)
    assert runs_root() == Path("runs")
    monkeypatch.setenv("DREAMER_RUNS", "/data/runs")
    assert runs_root() == Path("/data/runs")
    assert runs_root(Path("here")) == Path("here")


@pytest.fixture
def root(tmp_path, monkeypatch) -> Path:
    """A root with two runs that share their name and seed, one with a name of its own, and rubbish beside them."""
    root = tmp_path / "runs"
    monkeypatch.setenv("DREAMER_RUNS", str(root))
    monkeypatch.chdir(tmp_path)
    make_run(root / "CartPole-v1" / "20260101-000000-dreamerv3-s0")
    make_run(root / "ALE-Pong-v5" / "20260102-000000-dreamerv3-s0")
    run = make_run(root / "ALE-Pong-v5" / "20260103-000000-mine-s3-2", started="2026-01-03T00:00:00+00:00")
    (run.checkpoints / "000400000").mkdir(parents=True)
    (root / "CartPole-v1" / "notes").mkdir()
    (root / "stray.txt").write_text("x")
    return root


@pytest.mark.parametrize(
    "text",
    [
        "runs/ALE-Pong-v5/20260103-000000-mine-s3-2",
        "runs/ALE-Pong-v5/20260103-000000-mine-s3-2/",
        "ALE-Pong-v5/20260103-000000-mine-s3-2",
        "20260103-000000-mine-s3-2",
        "mine-s3",
        "mine",
        "@last",
    ],
)
def test_a_run_is_found_by_directory_name_part_of_it_or_last(root, text):
    found = find_run(text)
    assert found.run.path.resolve() == root / "ALE-Pong-v5" / "20260103-000000-mine-s3-2"
    assert found.step is None


@pytest.mark.parametrize("prefix", ["runs/ALE-Pong-v5", "ALE-Pong-v5"])
def test_a_checkpoint_directory_names_its_run_and_its_step(root, prefix):
    text = f"{prefix}/20260103-000000-mine-s3-2/checkpoints/000400000"
    assert find_run(text).step == 400_000
    assert find_checkpoint(text)[1] == 400_000
    with pytest.raises(UsageError, match="checkpoint already"):
        find_checkpoint(text, checkpoint="last")


def test_the_checkpoint_is_the_best_unless_another_is_asked_for(root):
    assert find_checkpoint("mine")[1] == "best"
    assert find_checkpoint("mine", checkpoint="last")[1] == "last"
    assert find_checkpoint("mine", checkpoint=0)[1] == 0


def test_an_ambiguous_name_lists_the_candidates(root):
    with pytest.raises(StateError) as error:
        find_run("dreamerv3-s0")
    assert "CartPole-v1" in error.value.what
    assert "ALE-Pong-v5" in error.value.what


@pytest.mark.parametrize(
    "text",
    [
        "",
        ".",
        "..",
        "nothing",
        "runs",
        "runs/CartPole-v1",
        "x" * 5000,
        "a\0b",
        "../runs/../runs",
        "stray.txt",
        "@first",
    ],
)
def test_what_is_no_run_is_a_state_error(root, text):
    with pytest.raises(StateError):
        find_run(text)


def test_a_close_name_is_suggested(root):
    with pytest.raises(StateError) as error:
        find_run("20260103-000000-mine-s3")
    assert "20260103-000000-mine-s3-2" in error.value.hint


def test_names_do_not_lead_out_of_the_root(root, tmp_path):
    make_run(tmp_path / "outside" / "secret")
    with pytest.raises(StateError):
        find_run("../outside/secret", runs_dir=root)


def test_last_finds_a_run_outside_the_root_and_survives_a_torn_index(root, tmp_path):
    outside = make_run(tmp_path / "elsewhere")
    assert register(root, outside)
    with (root / INDEX).open("ab") as file:
        file.write(b'\xff\n[]\n{"path": 3}\n{"path": "/gone", "started": "9999"}\n{"path": "' + b"x" * 9000)
    assert find_run("@last").run.path.resolve() == outside.path
    assert outside.path in [run.path for run in all_runs(root)]


def test_a_resumed_run_is_the_last_one_again(root):
    register(root, RunDir(root / "ALE-Pong-v5" / "20260103-000000-mine-s3-2"))
    register(root, RunDir(root / "CartPole-v1" / "20260101-000000-dreamerv3-s0"))
    assert find_run("@last").run.path.parent.name == "CartPole-v1"


def test_a_damaged_run_hides_no_other(root):
    (root / "ALE-Pong-v5" / "20260102-000000-dreamerv3-s0" / "run.json").write_text("{")
    assert find_run("@last").run.path.name == "20260103-000000-mine-s3-2"
    assert len(list_runs(root)) == 3


def test_an_empty_root_has_no_last_run(tmp_path):
    with pytest.raises(StateError, match="No run was started"):
        find_run("@last", runs_dir=tmp_path / "nothing")


def test_a_root_that_cannot_be_written_stops_nothing(tmp_path):
    blocked = tmp_path / "file"
    blocked.write_text("x")
    assert not register(blocked, make_run(tmp_path / "run"))


def test_the_index_holds_one_line_a_start(tmp_path):
    run = make_run(tmp_path / "run")
    for _ in range(3):
        register(tmp_path / "root", run)
    lines = (tmp_path / "root" / INDEX).read_text().splitlines()
    assert len(lines) == 3
    assert all(json.loads(line)["path"] == str(run.path) for line in lines)
