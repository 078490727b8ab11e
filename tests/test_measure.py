"""Known answers: operations counted by hand, seconds of a clock that is moved by hand."""

import math
import mmap
from types import SimpleNamespace

import pytest
import torch

from dreamer_cli import measure
from dreamer_cli.measure import Probe, Product, count_flop, floor, forget_peak, in_turns, memory

CPU = torch.device("cpu")


def test_operations_of_a_linear_layer_and_a_convolution_forward_and_backward():
    layer, x = torch.nn.Linear(3, 4, bias=True), torch.randn(5, 3, requires_grad=True)
    # The product, and one of the same size for each of its two gradients.
    assert count_flop(lambda: layer(x).sum().backward()) == 3 * 2 * 5 * 3 * 4
    blocks, rows = torch.ones(2, 3, 4), torch.ones(2, 5, 3)
    assert count_flop(lambda: torch.ones(2, 5, 4).baddbmm_(rows, blocks)) == 2 * 2 * 5 * 3 * 4, "in place, too"
    assert count_flop(lambda: layer(x.detach()).sum().backward()) == 2 * 2 * 5 * 3 * 4
    picture, kernel = torch.randn(1, 2, 6, 6), torch.randn(3, 2, 3, 3)
    assert count_flop(lambda: torch.nn.functional.conv2d(picture, kernel)) == 2 * 3 * (4 * 4) * (2 * 3 * 3)


def test_the_floor_is_the_operations_at_the_rate_of_products():
    assert floor(3.0, 2_000_000_000, 1e9) == {"gflop": 2.0, "floor_seconds": 2.0, "floor_ratio": 1.5}
    assert math.isnan(floor(3.0, 0, 1e9)["floor_ratio"])


@pytest.fixture
def clock(monkeypatch):
    now = [0.0]
    monkeypatch.setattr(measure, "time", SimpleNamespace(perf_counter=lambda: now[0]))
    return now


def probe(clock, name, said, *seconds):
    """Takes these seconds, call by call; the last for ever."""
    left = list(seconds)

    def call():
        said.append(name)
        clock[0] += left.pop(0) if len(left) > 1 else left[0]

    return Probe(call, CPU)


def test_repetitions_are_taken_in_turns_and_first_calls_do_not_count(clock):
    said, steps = [], []
    slow = probe(clock, "slow", said, 60.0, 30.0, 1.0, 2.0, 9.0, 4.0)
    quick = probe(clock, "quick", said, 0.025)
    in_turns([slow, quick], repeats=3, progress=lambda: steps.append(len(said)))
    # Three calls to warm up, then one a round, or as many as make a tenth of a second.
    assert said == ["slow"] * 3 + ["quick"] * 3 + (["slow"] + ["quick"] * 4) * 3
    assert slow.spread == {"seconds": 4.0, "min": 2.0, "max": 9.0}
    assert quick.median == pytest.approx(0.025)
    assert len(steps) == 2 + 3 * 2


def test_the_rate_of_products(monkeypatch):
    monkeypatch.setattr(measure, "LARGEST_SIDE", {"cpu": 256})
    product = Product(CPU, torch.float32)
    assert product.side == 256
    product.probe.seconds = [0.25, 0.5, 0.125]
    assert product.flop_per_second == 2 * 256**3 / 0.25


def test_threads_are_set_for_each_probe():
    before = torch.get_num_threads()
    seen = []
    try:
        Probe(lambda: seen.append(torch.get_num_threads()), CPU, threads=1).repeat()
        Probe(lambda: seen.append(torch.get_num_threads()), CPU, threads=2).repeat()
    finally:
        torch.set_num_threads(before)
    assert seen == [1, 2]


@pytest.mark.skipif(memory() is None, reason="the system does not say")
def test_the_peak_of_memory_outlives_what_was_held():
    forget_peak()
    before, peak_before = memory()
    # Straight from the system: what malloc still has from before would not show.
    with mmap.mmap(-1, 2**26) as held:
        for page in range(0, 2**26, mmap.PAGESIZE):
            held[page] = 1
    _, peak = memory()
    assert before <= peak_before
    assert peak - before > 0.9 * 2**26


@pytest.mark.parametrize(
    ("machine", "has", "emulated"), [("x86_64", False, True), ("x86_64", True, False), ("arm64", False, False)]
)
def test_bf16_without_instructions_for_it(monkeypatch, machine, has, emulated):
    monkeypatch.setattr(measure.platform, "machine", lambda: machine)
    monkeypatch.setattr(torch.cpu, "_is_avx512_bf16_supported", lambda: has, raising=False)
    monkeypatch.setattr(torch.cpu, "_is_amx_tile_supported", lambda: False, raising=False)
    assert measure.emulates_bf16(CPU) == emulated
    assert not measure.emulates_bf16(torch.device("cuda"))
