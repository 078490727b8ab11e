"""Where the time goes, with a clock that only moves when it is told to; and that looking changes nothing."""

import subprocess
import sys
import time
import weakref

import pytest
import torch

from dreamer_cli import sections
from dreamer_cli.sections import SECTIONS, Sections, profile, section
from tests.small import make_agent, make_batch, make_learner


@pytest.fixture
def clock(monkeypatch):
    """Seconds that pass only in `Work`."""
    now = [0.0]
    monkeypatch.setattr(sections.time, "perf_counter", lambda: now[0])
    return now


class Work(torch.autograd.Function):
    """Doubles; takes its time forward and backward, and saves what it was given, as products do."""

    @staticmethod
    def forward(ctx, x, clock, forward_s, backward_s):
        ctx.save_for_backward(x)
        ctx.clock, ctx.seconds = clock, backward_s
        clock[0] += forward_s
        return 2 * x

    @staticmethod
    def backward(ctx, grad):
        _ = ctx.saved_tensors
        ctx.clock[0] += ctx.seconds
        return 2 * grad, None, None, None


def nothing_but(**seconds: float) -> dict[str, float]:
    return dict.fromkeys(SECTIONS, 0.0) | seconds


def test_forward_and_backward_are_told_apart_by_section(clock):
    x = torch.ones(3, requires_grad=True)
    with Sections("cpu") as timer:
        with section("encoder"):
            y = Work.apply(x, clock, 1.0, 20.0)
        with section("decoder"):
            y = Work.apply(y, clock, 2.0, 300.0)
        y.sum().backward()
        with section("optimiser"):
            clock[0] += 4000.0
        clock[0] += 50000.0
    assert timer.seconds == nothing_but(encoder=21.0, decoder=302.0, optimiser=4000.0, other=50000.0)
    assert torch.equal(x.grad, torch.full((3,), 4.0))


def test_the_innermost_section_counts_forward_and_backward(clock):
    x = torch.ones(3, requires_grad=True)
    with Sections("cpu") as timer:
        with section("observe"):
            y = Work.apply(x, clock, 1.0, 10.0)
            with section("mine"):
                y = Work.apply(y, clock, 2.0, 20.0)
            y = Work.apply(y, clock, 4.0, 40.0)
        y.sum().backward()
    assert timer.seconds == nothing_but(observe=55.0, mine=22.0)
    assert [*timer.seconds][: len(SECTIONS)] == [*SECTIONS]


def test_a_graph_that_is_walked_twice_is_counted_twice(clock):
    x = torch.ones(3, requires_grad=True)
    with Sections("cpu") as timer:
        with section("heads"):
            y = Work.apply(x, clock, 1.0, 10.0).sum()
        y.backward(retain_graph=True)
        y.backward()
    assert timer.seconds["heads"] == 21.0


def test_real_seconds():
    def call():
        with section("imagine"):
            time.sleep(0.02)
        time.sleep(0.002)

    began = time.perf_counter()
    seconds = profile("cpu", call)
    assert 0.022 <= sum(seconds.values()) <= time.perf_counter() - began
    assert seconds["imagine"] >= 0.02
    assert seconds["other"] >= 0.002


def test_listening_ends_with_its_block_even_if_that_fails(clock):
    quiet = section("encoder")
    inner, outer = Sections("cpu"), Sections("cpu")

    def fail():
        with outer:
            with inner, section("encoder"):
                clock[0] += 1.0
            clock[0] += 2.0
            raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        fail()
    assert section("encoder") is quiet, "nobody listens any more"
    assert inner.seconds["encoder"] == 1.0
    assert outer.seconds["other"] == 3.0
    saved = []
    with torch.autograd.graph.saved_tensors_hooks(saved.append, lambda x: x):
        torch.ones(2, requires_grad=True).exp()
    assert len(saved) == 1, "our hooks are gone, others work"


def test_what_autograd_saves_is_neither_copied_nor_kept_alive():
    x = torch.ones(3, requires_grad=True)
    with Sections("cpu"), section("encoder"):
        y = x.exp()  # saves its own result, which knows where it comes from: a ring, if that were kept as it is
        assert y.grad_fn._saved_result.data_ptr() == y.data_ptr()
        alive = weakref.ref(y)
        del y
    assert alive() is None


def test_an_update_is_the_same_to_the_last_bit():
    results = []
    for listens in (False, True):
        agent = make_agent(awake=True)
        learner, batch = make_learner(agent), make_batch(agent)
        metrics = {}

        def update(learner=learner, batch=batch, metrics=metrics):
            with section("encoder"):
                metrics |= learner.update(batch)[1]

        for _ in range(2):
            profile("cpu", update) if listens else update()
        results.append([*metrics.values(), *agent.parameters()])
    assert all(torch.equal(quiet, heard) for quiet, heard in zip(*results, strict=True))


COMPILED = """
import torch
from dreamer_cli.sections import profile, section

def compute(x):
    with section("encoder"):
        return torch.relu(x * 2)

compiled = torch.compile(compute, backend="eager", fullgraph=True)
compiled(torch.ones(2))

def call():
    with section("heads"):
        compiled(torch.ones(2))

with torch.compiler.set_stance("fail_on_recompile"):
    seconds = profile("cpu", call)
assert seconds["encoder"] == 0.0 < seconds["heads"], seconds
"""


@pytest.mark.extended
def test_inside_compiled_code_a_section_is_nothing_and_costs_no_second_compilation():
    """In a process of its own: the checks of shapes that tests run with cannot be compiled."""
    subprocess.run([sys.executable, "-c", COMPILED], check=True)
