"""Where the time of one update goes, forward and backward, without a profiler.

Code names its stretches; whoever wants to know listens:

    with section("encoder"):                 # in the model: costs nothing worth mentioning while nobody listens
        embed = self.encoder(obs)

    with Sections(device) as timer:
        learner.update(batch)
    timer.seconds                            # {"encoder": 0.012, ..., "other": 0.003}

One clock runs, and it is always in one section. Forward, `section` switches it. Backward runs inside autograd, where no
line of ours stands; but autograd asks for every tensor that the forward pass saved, right before the operation that
needs it. So each saved tensor is tagged with its section, and asking for it switches the clock back there. An operation
that saves nothing (an addition, a view) counts for the section whose backward ran before it.
"""

import contextlib
import time
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

# In the order of an update. Other names may be used; they come behind these.
SECTIONS = ("encoder", "observe", "decoder", "heads", "imagine", "actor_critic", "optimiser", "other")
OTHER = "other"

_NOTHING = contextlib.nullcontext()
_listener: "Sections | None" = None


def section(name: str) -> contextlib.AbstractContextManager[Any]:
    """A stretch of the update. They nest, and the innermost counts.

    Inside compiled code this is nothing: what is compiled counts for the section around it.
    """
    # is_compiling first: a compiled function must not be guarded on, and compiled again for, who listens.
    if torch.compiler.is_compiling() or _listener is None:
        return _NOTHING
    return _Stretch(_listener, name)


def listening() -> bool:
    """Whether somebody listens."""
    return _listener is not None


def profile(device: torch.device | str, call: Callable[[], Any]) -> dict[str, float]:
    """Seconds of one call by section; see `Sections.seconds`."""
    with Sections(device) as timer:
        call()
    return timer.seconds


class Sections:
    """Listens to the sections of everything that runs inside it, in this process.

    On a GPU the switches are events in its queue, which are read once, at the end: nothing waits in between. What is
    timed there is the GPU's own time line, the gaps in which it waits for Python included.

    Listening changes no result and keeps nothing alive: what autograd saves is the same memory, with a name beside it.
    Not for code that is being captured as a CUDA graph, whose replay runs none of these lines.

    Args:
        device: where the work is done.
    """

    def __init__(self, device: torch.device | str) -> None:
        self.device = torch.device(device)
        self.now = OTHER
        self.open: list[str] = [OTHER]
        self._marks: list[tuple[str, Any]] = []  # a section, and when the clock came into it
        self._hooks = torch.autograd.graph.saved_tensors_hooks(self._pack, self._unpack)
        self._outer: Sections | None = None

    def __enter__(self) -> "Sections":
        global _listener
        self._marks = [(OTHER, self._mark())]
        self._hooks.__enter__()
        self._outer, _listener = _listener, self
        return self

    def __exit__(self, *error: object) -> None:
        global _listener
        _listener = self._outer
        self._hooks.__exit__()
        self._marks.append(("", self._mark()))

    @property
    def seconds(self) -> dict[str, float]:
        """Seconds in each section, all of `SECTIONS` first; together they are the time from beginning to end."""
        if self.device.type == "cuda":
            torch.cuda.synchronize(self.device)
        total = dict.fromkeys(SECTIONS, 0.0)
        for (name, begin), (_, end) in zip(self._marks, self._marks[1:], strict=False):
            total[name] = total.get(name, 0.0) + self._between(begin, end)
        return total

    def switch(self, name: str) -> None:
        """Let the clock run in this section from now on."""
        if name != self.now:
            self.now = name
            self._marks.append((name, self._mark()))

    def _mark(self) -> Any:
        if self.device.type == "cuda":
            event = torch.cuda.Event(enable_timing=True)
            event.record(torch.cuda.current_stream(self.device))
            return event
        if self.device.type == "mps":
            torch.mps.synchronize()
        return time.perf_counter()

    def _between(self, begin: Any, end: Any) -> float:
        return begin.elapsed_time(end) / 1e3 if self.device.type == "cuda" else end - begin

    def _pack(self, saved: Tensor) -> tuple[str, Tensor]:
        # Detached: an operation that saves its own result would else hold on to itself. The memory is the same.
        return self.now, saved.detach()

    def _unpack(self, packed: tuple[str, Tensor]) -> Tensor:
        name, saved = packed
        self.switch(name)
        return saved


class _Stretch:
    """One `with section(name):` that somebody listens to; a class, because a generator costs three times as much."""

    __slots__ = ("_listener", "_name")

    def __init__(self, listener: Sections, name: str) -> None:
        self._listener, self._name = listener, name

    def __enter__(self) -> None:
        self._listener.open.append(self._name)
        self._listener.switch(self._name)

    def __exit__(self, *error: object) -> None:
        self._listener.open.pop()
        self._listener.switch(self._listener.open[-1])
