"""Decode steps on a GPU as CUDA graphs: recorded once for each padded shape, then replayed without Python."""

from collections.abc import Callable
from dataclasses import dataclass

import torch

from chatui.engine.batching.forward import DecodeFunction, span_of
from chatui.estimates import ATTENTION_BLOCK

MIN_BLOCKS = 4

Replay = Callable[[], torch.Tensor]
"""Computes again from what the inputs hold now; the result is overwritten by the next call."""


@dataclass(frozen=True)
class _Recorded:
    """Inputs that stay where they are, and the graph that reads them."""

    ids: torch.Tensor
    slots: torch.Tensor
    positions: torch.Tensor
    replay: Replay


def record(compute: Callable[[], torch.Tensor]) -> Replay:
    """A CUDA graph of `compute`. It is run before, as CUDA asks for: https://pytorch.org/docs/stable/notes/cuda.html."""
    stream = torch.cuda.Stream()
    stream.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(stream):
        for _ in range(2):
            compute()
    torch.cuda.current_stream().wait_stream(stream)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        result = compute()

    def replay() -> torch.Tensor:
        graph.replay()
        return result

    return replay


class GraphedDecode:
    """A decode step whose rows and span are padded to powers of two, so that few graphs serve all.

    Rows that pad write to `spare`, a slot that no conversation uses.
    """

    def __init__(
        self, step: DecodeFunction, spare: int, record: Callable[[Callable[[], torch.Tensor]], Replay] = record
    ) -> None:
        self._step, self._spare, self._record = step, spare, record
        self._recorded: dict[tuple[int, int], _Recorded] = {}

    def __call__(
        self,
        ids: torch.Tensor,
        slots: torch.Tensor,
        positions: torch.Tensor,
        span: torch.Tensor,
        storage: list[torch.Tensor],
    ) -> torch.Tensor:
        """As Step.forward."""
        rows, most = ids.shape[0], storage[0].shape[-1] // ATTENTION_BLOCK
        shape = (_power(rows), min(most, max(MIN_BLOCKS, _power(span.shape[0]))))
        if shape not in self._recorded:
            self._recorded[shape] = self._new(*shape, storage)
        recorded = self._recorded[shape]
        recorded.ids[:rows], recorded.slots[:rows], recorded.positions[:rows] = ids, slots, positions
        recorded.slots[rows:], recorded.positions[rows:] = self._spare, 0
        return recorded.replay()[:rows].clone()

    def _new(self, rows: int, blocks: int, storage: list[torch.Tensor]) -> _Recorded:
        device = storage[0].device
        ids, positions = (torch.zeros(rows, dtype=torch.long, device=device) for _ in range(2))
        slots = torch.full_like(ids, self._spare)
        span = span_of(blocks * ATTENTION_BLOCK, device)
        return _Recorded(ids, slots, positions, self._record(lambda: self._step(ids, slots, positions, span, storage)))


def _power(count: int) -> int:
    """The smallest power of two that is not below `count`."""
    return 1 << (count - 1).bit_length()
