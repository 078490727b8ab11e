"""`dreamer doctor`: is everything here that training and filming need?

Every check is tried, whatever the others say; what fails exits 5 and says what to do.
"""

import importlib.util
import os
import shutil
import subprocess
import sys
import tempfile
import warnings
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Literal

from dreamer_cli.envs.make import headless
from dreamer_cli.errors import ResourceError
from dreamer_cli.findrun import runs_root
from dreamer_cli.numbers import format_bytes
from dreamer_cli.report import Reporter, Result
from dreamer_cli.runs import versions

MIN_DISK_BYTES, MIN_SHARED_BYTES = 2**31, 2**26
# Modules of the extras that bring no environments, and how they are installed; suites are in their own table.
EXTRAS = {
    "tensorboard": (("tensorboard",), "pip install 'dreamer-cli[tensorboard]'"),
    "onnx": (("onnx", "onnxscript", "onnxruntime"), "pip install 'dreamer-cli[onnx]'"),
    "wandb": (("wandb",), "pip install wandb"),
}

DRAW = """
import mujoco
model = mujoco.MjModel.from_xml_string("<mujoco><worldbody><geom size='1'/></worldbody></mujoco>")
renderer = mujoco.Renderer(model, 32, 32)
data = mujoco.MjData(model)
mujoco.mj_forward(model, data)
renderer.update_scene(data)
assert renderer.render().shape == (32, 32, 3)
"""
DRAW_HINT = "Bodies can be learnt from without pictures. For pictures: apt install libegl1 libegl-mesa0, or libosmesa6."


@dataclass(frozen=True)
class Check:
    """One line of the report. `absent` is an extra that is not installed, which is no problem."""

    name: str
    status: Literal["ok", "warning", "absent", "failed"]
    detail: str
    hint: str = ""


def doctor(report: Reporter) -> Result:
    """Check install, device, rendering, ffmpeg, disk and extras."""
    found: list[Check] = []
    checks: list[tuple[str, Callable[[], Iterator[Check]]]] = [
        ("install", install), ("device", device), ("memory", memory), ("rendering", rendering),
        ("mujoco", mujoco), ("atari", atari), ("ffmpeg", ffmpeg), ("disk", disk), ("extras", extras),
    ]  # fmt: skip
    with report.progress("doctor", total=len(checks)) as progress:
        for name, check in checks:
            try:
                found += check()
            except Exception as error:  # whatever breaks here is what the user came to see
                report.detail(f"{name}: {type(error).__name__}: {error}")
                text = " ".join(str(error).split()) or type(error).__name__
                found.append(Check(name, "failed", text, "--verbose, or: pip install --upgrade dreamer-cli"))
            progress.advance()
    failed = [check for check in found if check.status == "failed"]
    names = ", ".join(check.name for check in failed)
    problem = ResourceError(f"Not in order: {names}.", hint=failed[0].hint) if failed else None
    lines = [line for check in found for line in _lines(check)]
    return Result({"checks": [asdict(check) for check in found], "versions": versions()}, lines, problem)


def install() -> Iterator[Check]:
    """Versions, and whether torch can be imported at all."""
    import torch

    found = versions()
    main = {name: found[name] for name in ("dreamer", "python", "torch", "gymnasium", "numpy") if name in found}
    (torch.ones(2, 2) @ torch.ones(2, 2)).sum().item()
    yield Check("install", "ok", ", ".join(f"{name} {version}" for name, version in main.items()))


def device() -> Iterator[Check]:
    """What `--device auto` will take."""
    import torch

    from dreamer_cli.envs.vector import cores

    if torch.cuda.is_available():
        gpu = torch.cuda.get_device_properties(0)
        yield Check("device", "ok", f"cuda: {gpu.name}, {format_bytes(gpu.total_memory)}; {cores()} CPU cores")
    elif torch.backends.mps.is_available():
        yield Check("device", "ok", f"mps; {cores()} CPU cores")
    else:
        detail = f"cpu: {cores()} cores, {torch.get_num_threads()} threads"
        if shutil.which("nvidia-smi"):
            hint = "Install a build of torch that fits the driver: https://pytorch.org/get-started/locally"
            yield Check("device", "warning", f"{detail}; there is an NVIDIA driver, but torch cannot use it", hint)
        else:
            yield Check("device", "ok", f"{detail}; no GPU: -p cpu is made for this")


def memory() -> Iterator[Check]:
    """Free memory, and shared memory, through which env workers pass observations."""
    from dreamer_cli.memory import free_memory

    detail, shared = [f"{format_bytes(free_memory())} free"], Path("/dev/shm")
    small = shared.is_dir() and shutil.disk_usage(shared).free < MIN_SHARED_BYTES
    if shared.is_dir():
        detail.append(f"{format_bytes(shutil.disk_usage(shared).free)} shared")
    hint = "Env workers need shared memory: docker run --shm-size=1g, or --vec sync." if small else ""
    yield Check("memory", "warning" if small else "ok", ", ".join(detail), hint)


def rendering() -> Iterator[Check]:
    """Draw one frame without a screen."""
    import gymnasium

    if not os.environ.get("DISPLAY"):
        os.environ.setdefault("SDL_VIDEODRIVER", "dummy")
    env = gymnasium.make("CartPole-v1", render_mode="rgb_array")
    env.reset(seed=0)
    frame = env.render()
    env.close()
    rows, columns, _ = getattr(frame, "shape", (0, 0, 0))
    yield Check("rendering", "ok", f"CartPole-v1 drew {columns}x{rows} pixels")


def mujoco() -> Iterator[Check]:
    """Draw a body, in a process of its own: a driver that does not fit may end it."""
    if importlib.util.find_spec("mujoco") is None:
        return
    headless()
    backend = os.environ.get("MUJOCO_GL", "a screen")
    done = subprocess.run([sys.executable, "-c", DRAW], capture_output=True, text=True, timeout=60)
    if done.returncode == 0:
        yield Check("mujoco", "ok", f"draws with {backend}")
        return
    said = (done.stderr.strip().splitlines() or [f"it ended with {done.returncode}"])[-1]
    yield Check("mujoco", "warning", f"cannot draw with {backend}: {said}", DRAW_HINT)


def atari() -> Iterator[Check]:
    """Start one Atari game."""
    import ale_py
    import gymnasium

    ale_py.ALEInterface.setLoggerMode(ale_py.LoggerMode.Error)  # it greets on stderr
    gymnasium.register_envs(ale_py)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        env = gymnasium.make("ALE/Pong-v5")
        env.reset(seed=0)
        env.close()
    yield Check("atari", "ok", f"ale-py {ale_py.__version__} runs ALE/Pong-v5")


def ffmpeg() -> Iterator[Check]:
    """Write a second of H.264."""
    import imageio_ffmpeg
    import numpy as np

    from dreamer_cli.video import write_film

    frames = np.zeros((8, 32, 32, 3), np.uint8)
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "test.mp4"
        write_film(path, frames, fps=8)
        size = path.stat().st_size
    yield Check(
        "ffmpeg", "ok", f"ffmpeg {imageio_ffmpeg.get_ffmpeg_version().split('-')[0]} wrote H.264 ({format_bytes(size)})"
    )


def disk() -> Iterator[Check]:
    """Room and rights where runs are kept."""
    root = runs_root().absolute()
    place = next(path for path in (root, *root.parents) if path.is_dir())
    free = shutil.disk_usage(place).free
    detail = f"{format_bytes(free)} free in {place}"
    if not os.access(place, os.W_OK):
        hint = "Choose another place: export DREAMER_RUNS=DIR"
        yield Check("disk", "failed", f"{place} may not be written", hint)
    elif free < MIN_DISK_BYTES:
        hint = "A run of size 12m takes gigabytes with its replay; export DREAMER_RUNS=DIR"
        yield Check("disk", "warning", detail, hint)
    else:
        yield Check("disk", "ok", detail)


def extras() -> Iterator[Check]:
    """Optional packages, found without importing them."""
    from dreamer_cli.envs.catalog import SUITES

    suites = {suite.extra: (tuple(suite.needs.split()), suite.install) for suite in SUITES if suite.extra}
    for name, (modules, line) in {**EXTRAS, **suites}.items():
        missing = [module for module in modules if importlib.util.find_spec(module) is None]
        if missing:
            yield Check(name, "absent", "not installed", line)
        else:
            yield Check(name, "ok", "installed")


def _lines(check: Check) -> Iterator[str]:
    yield f"{check.status:<8} {check.name:<12} {check.detail}"
    if check.hint and check.status != "ok":
        yield f"{'':<21} {check.hint}"
