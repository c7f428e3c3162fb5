"""A loop of launches that comes again is one launch: a CUDA graph, replayed."""

from collections import OrderedDict
from collections.abc import Callable, Hashable
from threading import Lock

import torch

_KNOWN = 256  # loops that are remembered, the last ones
_KEPT = 16  # of these with a graph


class _Graph:
    """Launches in a CUDA graph, which run when it is replayed."""

    def __init__(self, launches: Callable[[], None]) -> None:
        self._graph, self._done = torch.cuda.CUDAGraph(), torch.cuda.Event()
        # As `torch.cuda.graph` does it, but without waiting for the device. Nothing runs on that
        # stream: launches are only recorded.
        with torch.cuda.stream(torch.cuda.Stream()):
            self._graph.capture_begin(capture_error_mode="thread_local")
            try:
                launches()
            finally:
                self._graph.capture_end()

    def replay(self) -> None:
        self._graph.replay()
        self._done.record()

    @property
    def is_done(self) -> bool:
        """Whether the device has run the last replay."""
        return self._done.query()


class Replays:
    """CUDA graphs of loops of launches, by all that a loop's launches are given.

    These are numbers, and addresses. Torch's allocator gives the tensors of a training step mostly
    the addresses of the step before, so that the same loop comes again: its second time it is
    captured, from then on replayed. Nothing is copied, and what lies at the addresses, keys of
    masks among it, is read anew each time.
    """

    def __init__(self) -> None:
        self._graphs: OrderedDict[Hashable, _Graph | None] = OrderedDict()
        self._lock = Lock()  # a backward pass runs in a thread of torch's

    def run(self, key: Hashable, launches: Callable[[], None]) -> None:
        """Launch a loop, by itself or as a graph.

        Args:
            key: All that its launches are given, their kernels among it.
            launches: Launches it on the current stream, and does nothing else.
        """
        if torch.cuda.is_current_stream_capturing():  # it becomes part of that graph
            launches()
            return
        with self._lock:
            if key in self._graphs:
                graph = self._graphs[key] or _Graph(launches)
                graph.replay()
                self._graphs[key] = graph
            else:
                launches()
                self._graphs[key] = None
            self._graphs.move_to_end(key)
            self._forget()

    def _forget(self) -> None:
        """Forget what has not come for longest, but no graph that may be running."""
        kept = [(key, graph) for key, graph in self._graphs.items() if graph is not None]
        for key, graph in kept[:-_KEPT]:
            if graph.is_done:
                self._graphs[key] = None
        oldest, graph = next(iter(self._graphs.items()))
        if len(self._graphs) > _KNOWN and (graph is None or graph.is_done):
            del self._graphs[oldest]
