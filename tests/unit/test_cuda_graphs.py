"""Decode steps padded to few shapes; what a GPU records is recorded by hand here."""

import copy
from collections.abc import Callable

import pytest
import torch

from chatui.engine.batching import forward
from chatui.engine.batching.cuda_graphs import GraphedDecode, Replay
from tests import models

IDS = [101, 32, 7, 45, 200, 201, 45, 7, 99]
TABLES = [models.table(row) for row in range(4)]


class Recorder:
    """Stands for CUDA: replays by computing again, into the same tensor as a graph would."""

    def __init__(self) -> None:
        self.recorded = 0

    def __call__(self, compute: Callable[[], torch.Tensor]) -> Replay:
        self.recorded += 1
        result = compute()

        def replay() -> torch.Tensor:
            with torch.inference_mode():
                return result.copy_(compute())

        return replay


@pytest.fixture(params=["llama", "gemma2"])
def over_blocks(request: pytest.FixtureRequest) -> forward.Forward:
    model = copy.deepcopy(models.model(request.param))
    over_blocks = forward.Forward(model, models.cache_of(model, 8))
    for row in range(4):
        over_blocks.prefill([forward.PromptChunk(TABLES[row], 0, IDS[: 3 + row])])
    return over_blocks


@pytest.mark.parametrize("rows", [1, 2, 3, 4])
def test_padding_changes_nothing(over_blocks: forward.Forward, rows: int) -> None:
    arguments = [5, 6, 7, 8][:rows], TABLES[:rows], [3, 4, 5, 6][:rows]
    wanted = over_blocks.decode(*arguments)
    over_blocks.offer(GraphedDecode(over_blocks.step, record=Recorder()))
    found = over_blocks.decode(*arguments)
    again = over_blocks.decode(*arguments)
    torch.testing.assert_close(found, wanted)
    torch.testing.assert_close(again, wanted)


def test_few_graphs_serve_all_and_results_outlive_the_next_step(over_blocks: forward.Forward) -> None:
    recorder = Recorder()
    decode = GraphedDecode(over_blocks.step, record=recorder)
    over_blocks.offer(decode)
    first = over_blocks.decode([5, 6, 7], TABLES[:3], [3, 4, 5])
    kept = first.clone()
    over_blocks.decode([9, 9, 9, 9], TABLES, [3, 4, 5, 6])
    torch.testing.assert_close(first, kept)
    for step in range(8):
        over_blocks.decode([step], TABLES[:1], [4 + step])
    assert recorder.recorded == 2, "three and four rows share a shape, one row has its own"


def test_rows_that_pad_write_to_block_0_alone(over_blocks: forward.Forward) -> None:
    over_blocks.offer(GraphedDecode(over_blocks.step, record=Recorder()))
    before, _ = models.stored_in(over_blocks.cache, TABLES[3][:1])
    over_blocks.decode([5, 6, 7], TABLES[:3], [3, 4, 5])
    after, _ = models.stored_in(over_blocks.cache, TABLES[3][:1])
    torch.testing.assert_close(after, before)
