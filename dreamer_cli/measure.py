"""How fast something runs: calls timed in turns, floating-point operations counted, memory at its peak.

A leaf that knows nothing of agents: what is measured is a function without arguments.
"""

import contextlib
import math
import platform
import statistics
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch.utils.flop_counter import FlopCounterMode

# A repetition lasts at least so long: clocks, and the start of a queue of work on a GPU, count for nothing then.
REPEAT_S = 0.1
MOST_CALLS = 10_000
WARM_UP = 2  # calls before anything is timed: the first compiles and allocates, the second fills what the first made
# Sides of the square matrices whose product is the floor: doubled until one product takes PRODUCT_S.
SMALLEST_SIDE, LARGEST_SIDE, PRODUCT_S = 256, {"cpu": 2048}, 0.05
LARGEST_SIDE_ELSEWHERE = 8192


@dataclass
class Probe:
    """One thing that is timed, in repetitions of `calls` calls each.

    Attributes:
        call: what is timed; may leave work in the device's queue, which is waited for at the end of a repetition.
        device: whose queue that is.
        threads: of torch on the CPU; None leaves them as they are.
        calls: calls of one repetition; settled by `warm_up`.
        seconds: of one call, by repetition.
    """

    call: Callable[[], Any]
    device: torch.device
    threads: int | None = None
    calls: int = 1
    seconds: list[float] = field(default_factory=list)

    def warm_up(self) -> None:
        """Call it until it runs as it will, and settle how many calls make a repetition."""
        took = [self._run(1) for _ in range(WARM_UP + 1)]
        # The fastest, because a busy machine may stop any one of them for a while.
        self.calls = min(MOST_CALLS, max(1, math.ceil(REPEAT_S / max(min(took[1:] or took), 1e-9))))

    def repeat(self) -> None:
        """One repetition."""
        self.seconds.append(self._run(self.calls) / self.calls)

    def _run(self, calls: int) -> float:
        if self.threads is not None and self.threads != torch.get_num_threads():
            torch.set_num_threads(self.threads)
        synchronize(self.device)
        began = time.perf_counter()
        for _ in range(calls):
            self.call()
        synchronize(self.device)
        return time.perf_counter() - began

    @property
    def median(self) -> float:
        """Seconds of one call, the median of all repetitions."""
        return statistics.median(self.seconds)

    @property
    def spread(self) -> dict[str, float]:
        """`seconds` of one call, the median; the fastest and the slowest repetition as `min` and `max`."""
        return {"seconds": self.median, "min": min(self.seconds), "max": max(self.seconds)}


def in_turns(probes: Sequence[Probe], repeats: int, progress: Callable[[], None] = lambda: None) -> None:
    """Warm all probes up, then take one repetition of each, round by round.

    In turns, because a machine's speed drifts (heat, other users): whatever slows a round slows everyone's.

    Args:
        progress: called after every warm-up and every repetition.
    """
    for probe in probes:
        probe.warm_up()
        progress()
    for _ in range(repeats):
        for probe in probes:
            probe.repeat()
            progress()


def synchronize(device: torch.device) -> None:
    """Wait until the device has done what it was given."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    elif device.type == "mps":
        torch.mps.synchronize()


def count_flop(call: Callable[[], Any]) -> int:
    """Floating-point operations of the matrix products and convolutions in one call, backward passes included.

    A product of (m, k) and (k, n) is 2·m·k·n. Everything else (norms, activations, the optimiser) is not counted.
    `call` must not be compiled: compiled kernels do not say what they compute.
    """
    # torch counts products, but not those that are added in place.
    with FlopCounterMode(display=False, custom_mapping={torch.ops.aten.baddbmm_: _block_products}) as counter:
        call()
    return int(counter.get_total_flops())


def _block_products(total: Any, left: Any, right: Any, out_shape: Any = None, **settings: Any) -> int:
    """Of (b, m, k) and (b, k, n), from their shapes."""
    return int(2 * math.prod(left) * right[-1])


class Product:
    """Square matrix products: the rate that nothing made of them can beat on this device, in this type.

    Attributes:
        side: of the matrices; as large as makes one product last 50 ms, within bounds.
    """

    def __init__(self, device: torch.device, dtype: torch.dtype, threads: int | None = None) -> None:
        self.side = SMALLEST_SIDE // 2
        largest = LARGEST_SIDE.get(device.type, LARGEST_SIDE_ELSEWHERE)
        while True:
            self.side *= 2
            left, right = (torch.randn(self.side, self.side, device=device).to(dtype) for _ in range(2))
            out = torch.empty_like(left)
            # Bound now: the loop's next matrices must not change what is called.
            self.probe = Probe(lambda a=left, b=right, c=out: torch.mm(a, b, out=c), device, threads)  # type: ignore[misc]
            if self.side >= largest or min(self.probe._run(1) for _ in range(3)) >= PRODUCT_S:
                break

    @property
    def flop_per_second(self) -> float:
        """The rate, after the probe was measured."""
        return 2 * self.side**3 / self.probe.median


def floor(seconds: float, flop: int, flop_per_second: float) -> dict[str, float]:
    """An update next to what its products alone would take: `gflop`, `floor_seconds`, and how many floors it takes."""
    least = flop / flop_per_second
    return {"gflop": flop / 1e9, "floor_seconds": least, "floor_ratio": seconds / least if least else math.nan}


def memory() -> tuple[int, int] | None:
    """What this process holds now, and the most that it has held so far, in bytes; None where nobody says.

    Not getrusage where it can be helped: its maximum outlives fork and exec, so a small child seems as large as its
    parent was.
    """
    try:
        with open("/proc/self/status", encoding="ascii", errors="replace") as status:
            fields = dict(line.split(":", 1) for line in status if line.startswith(("VmRSS:", "VmHWM:")))
        return int(fields["VmRSS"].split()[0]) * 1024, int(fields["VmHWM"].split()[0]) * 1024
    except (OSError, KeyError):
        pass
    try:
        import resource
    except ImportError:  # Windows
        return None
    most = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1 if platform.system() == "Darwin" else 1024)
    return most, most


def forget_peak() -> None:
    """From now on the most that this process has held is what it holds now, where the system can do that (Linux)."""
    with contextlib.suppress(OSError), open("/proc/self/clear_refs", "w", encoding="ascii") as file:
        file.write("5")


def emulates_bf16(device: torch.device) -> bool:
    """Whether bfloat16 products on this CPU are emulated, which is about 200 times slower than float32."""
    if device.type != "cpu" or platform.machine().lower() not in ("x86_64", "amd64"):
        return False
    # Private names: there are no public ones. Where they are missing nothing is said.
    asked = [getattr(torch.cpu, f"_is_{name}_supported", None) for name in ("avx512_bf16", "amx_tile")]
    return all(ask is not None and not ask() for ask in asked)


def device_name(device: torch.device) -> str:
    """What the device calls itself."""
    if device.type == "cuda":
        return torch.cuda.get_device_name(device)
    try:
        with open("/proc/cpuinfo", encoding="utf-8", errors="replace") as info:
            names = [line.partition(":")[2].strip() for line in info if line.startswith("model name")]
        if names:
            return names[0]
    except OSError:
        pass
    return platform.processor() or platform.machine()
