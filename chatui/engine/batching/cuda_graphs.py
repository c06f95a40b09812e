"""Decode steps on a GPU as CUDA graphs: recorded once for each padded shape, then replayed without Python."""

from collections.abc import Callable
from dataclasses import dataclass

import torch

from chatui.engine.batching.blocks import BLOCK
from chatui.engine.batching.forward import DecodeFunction, span_of

MIN_BLOCKS = 4

Replay = Callable[[], torch.Tensor]
"""Computes again from what the inputs hold now; the result is overwritten by the next call."""


@dataclass(frozen=True)
class _Recorded:
    """Inputs that stay where they are, and the graph that reads them."""

    ids: torch.Tensor
    tables: torch.Tensor
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
    """A decode step whose rows and blocks are padded to powers of two, so that few graphs serve all.

    Rows that pad write to block 0, which no sequence uses.
    """

    def __init__(self, step: DecodeFunction, record: Callable[[Callable[[], torch.Tensor]], Replay] = record) -> None:
        self._step, self._record = step, record
        self._recorded: dict[tuple[int, int], _Recorded] = {}

    def __call__(
        self,
        ids: torch.Tensor,
        tables: torch.Tensor,
        positions: torch.Tensor,
        span: torch.Tensor,  # noqa: ARG002 - the padded shape has its own
        tensors: list[torch.Tensor],
    ) -> torch.Tensor:
        """As DecodeStep.forward."""
        rows, blocks = tables.shape
        shape = _power(rows), max(MIN_BLOCKS, _power(blocks))
        if shape not in self._recorded:
            self._recorded[shape] = self._new(*shape, tensors)
        recorded = self._recorded[shape]
        recorded.ids[:rows], recorded.positions[:rows] = ids, positions
        recorded.tables.zero_()
        recorded.tables[:rows, :blocks] = tables
        recorded.positions[rows:] = 0
        return recorded.replay()[:rows].clone()

    def _new(self, rows: int, blocks: int, tensors: list[torch.Tensor]) -> _Recorded:
        device = tensors[0].device
        ids, positions = (torch.zeros(rows, dtype=torch.long, device=device) for _ in range(2))
        tables = torch.zeros(rows, blocks, dtype=torch.long, device=device)
        span = span_of(blocks * BLOCK, device)
        replay = self._record(lambda: self._step(ids, tables, positions, span, tensors))
        return _Recorded(ids, tables, positions, replay)


def _power(count: int) -> int:
    """The smallest power of two that is not below `count`."""
    return 1 << (count - 1).bit_length()
