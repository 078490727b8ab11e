"""Kill a training at random moments, again and again; in the end it is, bit for bit, the one that was never killed.

    python -m tests.kill_soak --kills 50

Prints a line for each kill, and fails at the first difference. `tests/commands/test_exact.py` runs a short one.
"""

import argparse
import contextlib
import os
import random
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from tests.commands.same import contents, differing, newest

TINY = ["-e", "CartPole-v1", "-p", "debug", "-q", "-s", "run.log_every=70", "--save-every", "60", "--eval-every", "700"]


def start(run: Path, *argv: str) -> subprocess.Popen:
    """A training in a process of its own, which leads a group of its own."""
    command = [sys.executable, "-m", "dreamer_cli", "train", "--run-dir", str(run), *argv]
    return subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True)


def train(run: Path, *argv: str) -> None:
    """To the end."""
    process = start(run, *argv)
    _, err = process.communicate()
    assert process.returncode == 0, err


def kill_at_random(run: Path, argv: list[str], kills: int, seed: int, longest_s: float = 8.0) -> int:
    """Begin a run, and kill it up to `kills` times; then let it come to its end. Returns how often it was killed."""
    chance = random.Random(seed)
    killed = 0
    while killed < kills:
        process = start(run, *(["-q"] if (run / "run.json").exists() else argv))
        delay = chance.uniform(0.5, longest_s)
        with contextlib.suppress(subprocess.TimeoutExpired):
            _, err = process.communicate(timeout=delay)
            assert process.returncode == 0, err
            return killed  # it came to its end before
        process.send_signal(signal.SIGKILL)
        process.communicate()
        killed += 1
        at = newest(run).name if any((run / "checkpoints").glob("0*")) else "no checkpoint"
        size = sum(path.stat().st_size for path in run.rglob("*") if path.is_file()) if run.exists() else 0
        print(f"kill {killed:3d} after {delay:4.1f} s: {at}, {size / 1e6:.2f} MB", flush=True)
    train(run, *(["-q"] if (run / "run.json").exists() else argv))
    return killed


def main() -> None:
    """Straight, then with kills; then compare."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--kills", type=int, default=50)
    parser.add_argument("--steps", type=int, default=20_000)
    parser.add_argument("--seed", type=int, default=0, help="of the moments")
    args, more = parser.parse_known_args()
    root = Path(tempfile.mkdtemp(prefix="kill-soak-"))
    os.environ["DREAMER_RUNS"] = str(root / "runs")
    argv = [*TINY, "--steps", str(args.steps), *more]
    began = time.monotonic()
    train(root / "straight", *argv)
    print(f"straight: {args.steps} steps in {time.monotonic() - began:.0f} s")
    killed = kill_at_random(root / "killed", argv, args.kills, args.seed)
    differences = differing(contents(root / "straight"), contents(root / "killed"))
    print(f"{killed} kills, {len(contents(root / 'straight'))} things compared, {len(differences)} differ")
    sys.exit(f"these differ: {differences}" if differences else 0)


if __name__ == "__main__":
    main()
