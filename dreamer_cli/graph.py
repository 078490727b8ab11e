"""A function of tensors, recorded once and launched as a whole.

On a GPU a small model's update is thousands of launches, and launching them takes longer than running them. A CUDA
graph holds them all. It works on memory of its own: what comes in is copied there, what comes out lies there until the
next call. So nothing may be allocated anew by Python between calls (parameters, moments and running statistics are
changed in place), shapes may not change, and nothing may ask the device for a number.
"""

from collections.abc import Callable
from typing import Any, Protocol

import torch
from torch.utils import _pytree as pytree

WARM_UP = 3  # calls that run as they are: libraries choose their kernels, and allocate what they keep


class Recording(Protocol):
    """What was recorded. `replay` runs it on what its inputs hold now, and returns its outputs."""

    def replay(self) -> Any: ...


class CudaRecording:
    """A CUDA graph of one call.

    `thread_local`: another thread may go on calling CUDA meanwhile, the one that fetches batches does.
    """

    def __init__(self, call: Callable[[], Any]) -> None:
        self.graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(self.graph, capture_error_mode="thread_local"):
            self.outputs = call()

    def replay(self) -> Any:
        """Launch it."""
        self.graph.replay()
        return self.outputs


class Captured:
    """`function`, which is recorded at its fourth call and replayed from then on. The first calls count, too.

    Args:
        function: of tensors in any nesting of tuples and dicts; changes everything else in place.
        warn: told why, if recording fails; the function then goes on as it is.
        record: makes a recording of a call.

    Outputs of a replay are overwritten by the next one.
    """

    def __init__(
        self,
        function: Callable[..., Any],
        warn: Callable[[str], None],
        record: Callable[[Callable[[], Any]], Recording] = CudaRecording,
    ) -> None:
        self.function, self.warn, self.record = function, warn, record
        self.calls = 0
        self.recording: Recording | None = None
        self._inputs: list[Any] = []
        self._form: Any = None
        self._failed = False

    def __call__(self, *inputs: Any) -> Any:
        """What the function says.

        Raises:
            ValueError: shapes or nesting are not those that were recorded.
        """
        self.calls += 1
        if self._failed or self.calls <= WARM_UP:
            return self._aside(inputs)
        if self.recording is None and not self._record(inputs):
            return self.function(*inputs)
        assert self.recording is not None
        self._fill(inputs)
        return self.recording.replay()

    def _aside(self, inputs: Any) -> Any:
        """Run it as it is, beside the default stream, as recordings want it."""
        if self._failed or not torch.cuda.is_available():
            return self.function(*inputs)
        stream = torch.cuda.Stream()
        stream.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(stream):
            outputs = self.function(*inputs)
        torch.cuda.current_stream().wait_stream(stream)
        return outputs

    def _record(self, inputs: Any) -> bool:
        leaves, self._form = pytree.tree_flatten(inputs)
        self._inputs = [leaf.clone() for leaf in leaves]
        own = pytree.tree_unflatten(self._inputs, self._form)
        try:
            self.recording = self.record(lambda: self.function(*own))
        except RuntimeError as error:
            self._failed = True
            what = getattr(self.function, "__name__", "a call")
            self.warn(f"{what} could not be recorded as a CUDA graph, so it stays slower: {str(error).splitlines()[0]}")
        return self.recording is not None

    def _fill(self, inputs: Any) -> None:
        leaves, form = pytree.tree_flatten(inputs)
        if form != self._form or [x.shape for x in leaves] != [x.shape for x in self._inputs]:
            raise ValueError("a recorded function was called with other shapes than it was recorded with")
        for own, given in zip(self._inputs, leaves, strict=True):
            own.copy_(given, non_blocking=True)
