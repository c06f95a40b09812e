"""Decode steps padded to few shapes; what a GPU records is recorded by hand here."""

import copy
from collections.abc import Callable

import pytest
import torch

from chatui.engine.batching import forward
from chatui.engine.batching.cuda_graphs import GraphedDecode, Replay
from chatui.engine.batching.slots import Slots
from tests import models

IDS = [101, 32, 7, 45, 200, 201, 45, 7, 99]


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


@pytest.fixture
def over_slots() -> forward.Forward:
    model = copy.deepcopy(models.model("llama"))
    shape = forward.probe_layout(model)
    assert shape is not None
    over_slots = forward.Forward(model, Slots(shape, 4, 64, model.device, spare=True))
    for slot in range(4):
        over_slots.prefill([forward.PromptChunk(slot, 0, IDS[: 3 + slot])])
    return over_slots


@pytest.mark.parametrize("rows", [1, 2, 3, 4])
def test_padding_changes_nothing(over_slots: forward.Forward, rows: int) -> None:
    arguments = [5, 6, 7, 8][:rows], list(range(rows)), [3, 4, 5, 6][:rows]
    wanted = over_slots.decode(*arguments)
    over_slots.offer(GraphedDecode(over_slots.step, spare=4, record=Recorder()))
    found = over_slots.decode(*arguments)
    again = over_slots.decode(*arguments)
    torch.testing.assert_close(found, wanted)
    torch.testing.assert_close(again, wanted)


def test_few_graphs_serve_all_and_results_outlive_the_next_step(over_slots: forward.Forward) -> None:
    recorder = Recorder()
    decode = GraphedDecode(over_slots.step, spare=4, record=recorder)
    over_slots.offer(decode)
    first = over_slots.decode([5, 6, 7], [0, 1, 2], [3, 4, 5])
    kept = first.clone()
    over_slots.decode([9, 9, 9, 9], [0, 1, 2, 3], [3, 4, 5, 6])
    torch.testing.assert_close(first, kept)
    for step in range(8):
        over_slots.decode([step], [0], [4 + step])
    assert recorder.recorded == 2, "three and four rows share a shape, one row has its own"


def test_rows_that_pad_write_to_the_spare_slot_alone(over_slots: forward.Forward) -> None:
    over_slots.offer(GraphedDecode(over_slots.step, spare=4, record=Recorder()))
    before = [tensor[3].clone() for tensor in over_slots.slots.storage.keys]
    over_slots.decode([5, 6, 7], [0, 1, 2], [3, 4, 5])
    for tensor, held in zip(over_slots.slots.storage.keys, before, strict=True):
        torch.testing.assert_close(tensor[3], held)
