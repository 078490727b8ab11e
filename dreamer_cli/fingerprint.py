"""What decides, beside the settings, which bits a computation gives: versions, processor, threads, device."""

import platform
from collections.abc import Mapping
from pathlib import Path

import torch

from dreamer_cli.runs import versions

PACKAGES = ("dreamer", "python", "torch", "numpy", "gymnasium", "ale-py")  # the others compute nothing


def fingerprint(device: torch.device) -> dict[str, str]:
    """Name → value. Equal fingerprints and settings give equal numbers on a CPU; a changed one may change the last bit.

    The processor's model counts beside its instructions: libraries choose their kernels by it.
    """
    found = {name: version for name, version in versions().items() if name in PACKAGES}
    found |= {"processor": _processor(), "instructions": torch.backends.cpu.get_cpu_capability()}
    found |= {"threads": str(torch.get_num_threads()), "device": device.type}
    if device.type == "cuda":
        found["device"] = torch.cuda.get_device_name(device)
        found["cuda"] = str(torch.version.cuda)
    return found


def differences(then: Mapping[str, str], now: Mapping[str, str]) -> list[str]:
    """What changed, in words: `threads 2 → 1`."""
    names = [*then, *(name for name in now if name not in then)]
    return [f"{n} {then.get(n, 'none')} → {now.get(n, 'none')}" for n in names if then.get(n) != now.get(n)]


def _processor() -> str:
    """The processor's model, as the system names it."""
    cpuinfo = Path("/proc/cpuinfo")
    lines = cpuinfo.read_text().splitlines() if cpuinfo.is_file() else []
    names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.processor() or platform.machine()
