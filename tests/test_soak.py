"""Nothing grows: memory, descriptors, threads and directories of a run that goes on and on. By hand: five minutes."""

import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pytest
import torch

from dreamer_cli.checkpoint import Checkpoints
from dreamer_cli.replay.storage import Replay
from tests.replay.toy import fill, make_replay

pytestmark = pytest.mark.slow

WARM_UP_S, WATCHED_S, EVERY_S = 90, 180, 1.0
MOST_MB_PER_MINUTE = 1.0


class Look(NamedTuple):
    """What a process holds: seconds since it was started, resident megabytes, open descriptors, threads."""

    seconds: float
    mb: float
    descriptors: int
    threads: int


def watch(process: subprocess.Popen, seconds: float) -> Iterator[Look]:
    """Looks at a process, every second."""
    place, began = Path("/proc") / str(process.pid), time.monotonic()
    while (passed := time.monotonic() - began) < seconds:
        assert process.poll() is None, "it has ended"
        mb = int((place / "statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE") / 1e6
        yield Look(passed, mb, len(os.listdir(place / "fd")), len(os.listdir(place / "task")))
        time.sleep(EVERY_S)


def slope_per_minute(looks: list[Look]) -> float:
    """Megabytes a minute: the line through the lowest look of every ten seconds, between a save's or a film's peaks."""
    low: dict[int, Look] = {}
    for look in looks:
        part = int(look.seconds // 10)
        low[part] = min(low.get(part, look), look, key=lambda x: x.mb)
    return 60 * float(np.polyfit([x.seconds for x in low.values()], [x.mb for x in low.values()], 1)[0])


@pytest.mark.skipif(sys.platform != "linux", reason="looks into /proc")
@pytest.mark.parametrize("vec", ["sync", "async"])
def test_a_run_that_goes_on_does_not_grow(tmp_path, vec):
    """It saves, evaluates and films all the time; its replay is full when the watch begins."""
    argv = ["-e", "CartPole-v1", "-p", "debug", "--vec", vec, "--run-dir", str(tmp_path / "run"), "--steps", "10M"]
    argv += ["--save-every", "300", "--eval-every", "700", "--dream-every", "900", "-s", "replay.capacity=1000"]
    process = subprocess.Popen(
        [sys.executable, "-m", "dreamer_cli", "train", *argv],
        cwd=Path(__file__).parent.parent,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    try:
        looks = [look for look in watch(process, WARM_UP_S + WATCHED_S) if look.seconds > WARM_UP_S]
        process.send_signal(signal.SIGTERM)
        assert process.wait(60) == 75
    finally:
        process.kill()
        process.wait()
    slope = slope_per_minute(looks)
    half = len(looks) // 2
    halves = looks[:half], looks[half:]
    print(f"{slope:.2f} MB a minute; {looks[0].mb:.0f} MB, then {looks[-1].mb:.0f} MB; (median, most) of each half:")
    for name in ("descriptors", "threads"):
        early, late = ([getattr(look, name) for look in part] for part in halves)
        print(name, [(float(np.median(x)), max(x)) for x in (early, late)])
        assert np.median(late) <= np.median(early), name
        assert min(late) <= min(early), name
    assert slope < MOST_MB_PER_MINUTE
    steps = [path for path in (tmp_path / "run" / "checkpoints").iterdir() if path.is_dir()]
    assert len(steps) <= 4, "the newest three and the best"


def size_of(directory: Path) -> tuple[int, int]:
    """Files and bytes below a directory."""
    files = [path for path in directory.rglob("*") if path.is_file()]
    return len(files), sum(path.stat().st_size for path in files)


def test_two_hundred_saves_and_loads_leave_as_much_as_a_few(tmp_path):
    """A full replay that goes on being filled, saved, and loaded into a new one."""
    checkpoints, chunks = Checkpoints(tmp_path / "checkpoints"), tmp_path / "replay"
    replay, weight = make_replay(per_env=100), torch.randn(1000)
    sizes: list[tuple[int, int]] = []
    for cycle in range(200):
        fill(replay, 20)
        latents, tree = replay.save(chunks)
        files = {"weights.safetensors": {"w": weight}, "latents.safetensors": latents}
        checkpoints.save(20 * cycle, files, {"r.json": tree})
        replay.prune(chunks, checkpoints.trees("r.json"))
        path = checkpoints.latest()
        assert path is not None
        loaded = checkpoints.load(path)
        again: Replay = make_replay(per_env=100)
        assert again.load(chunks, loaded.tensors["latents.safetensors"], loaded.trees["r.json"]) == []
        assert again.records == replay.records
        replay = again
        sizes.append(size_of(tmp_path))
    early, late = sizes[20:60], sizes[-40:]
    assert max(late)[0] <= max(early)[0], "files"
    assert max(size for _, size in late) <= 1.05 * max(size for _, size in early), "bytes"
