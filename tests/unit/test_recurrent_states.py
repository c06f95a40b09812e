"""Models that keep states beside keys and values: each reply is the one it would be alone, and prompts go on behind
what is known of them.
"""

import copy
from collections.abc import Sequence
from functools import cache
from typing import Any

import pytest
import torch

from chatui.engine.batching import attention_probe
from chatui.engine.batching.attention_probe import matches_own_attention, probe_layout
from chatui.engine.batching.blocks import BLOCK
from chatui.engine.batching.forward import PromptChunk
from chatui.engine.batching.recurrent_states import SequenceStates, StateLayout
from chatui.engine.batching.scheduler import Scheduler
from chatui.generation_settings import GenerationSettings
from tests import models
from tests.unit.test_scheduler import fix_budget, join, raising, spoil, write

NEW = 6
SAMPLED = GenerationSettings(temperature=1.3, top_p=0.9)
PROMPTS = tuple(tuple((start + 31 * at) % 250 for at in range(count)) for start, count in ((1, 150), (2, 64), (3, 7)))


def batch_of(kind: str, blocks: int = 16, size: int = 400, snapshots: int = 8, rows: int = 4) -> Scheduler:
    batch = Scheduler(models.over_blocks(kind, blocks), rows, BLOCK * blocks, max_snapshots=snapshots)
    fix_budget(batch, size)
    return batch


@cache
def greedy(kind: str, prompt: tuple[int, ...], count: int = NEW) -> list[int]:
    return models.generate(models.model(kind), prompt, count)


def written(batch: Scheduler, *prompts: Sequence[int], count: int = NEW) -> list[list[int]]:
    rows = [join(batch, prompt) for prompt in prompts]
    while batch.rows:
        batch.step()
        for row in [row for row in batch.rows if len(row.output_ids) >= count]:
            batch.finish(row)
    return [row.output_ids[:count] for row in rows]


@pytest.mark.parametrize("kind", models.RECURRENT)
def test_rows_write_together_what_generate_does_for_each(kind: str) -> None:
    expected = [greedy(kind, prompt) for prompt in PROMPTS]
    assert written(batch_of(kind), *PROMPTS) == expected
    assert written(batch_of(kind, size=20), *PROMPTS) == expected, "read in small pieces, beside those who write"
    assert len({tuple(ids) for ids in expected}) == len(PROMPTS)


def test_prompts_are_read_in_whole_blocks_of_few_of_them() -> None:
    batch = batch_of("lfm2", size=20)
    read = list[list[int]]()
    compute = batch.forward.prefill

    def noted(pieces: Sequence[PromptChunk]) -> torch.Tensor:
        read.append([len(piece.ids) for piece in pieces])
        return compute(pieces)

    batch.forward.prefill = noted  # type: ignore[method-assign]
    rows = [join(batch, prompt) for prompt in (PROMPTS[0], range(10, 160))]
    while any(row.unread for row in rows):
        batch.step()
    assert sorted(read) == sorted([[64]] * 4 + [[22]] * 2)


@pytest.mark.parametrize("kind", models.RECURRENT)
def test_a_sampled_reply_does_not_depend_on_others(kind: str) -> None:
    def reply(*others: Sequence[int]) -> list[int]:
        batch = batch_of(kind)
        rows = [join(batch, other) for other in others]
        row = join(batch, PROMPTS[2], SAMPLED, seed=5)
        write(batch, row, *rows)
        return row.output_ids[:NEW]

    assert reply() == reply(*PROMPTS[:2])


@pytest.mark.parametrize("kind", models.RECURRENT)
def test_the_next_turn_goes_on_where_the_last_ended(kind: str) -> None:
    batch = batch_of(kind)
    row = join(batch, PROMPTS[0])
    write(batch, row)
    batch.finish(row)
    prompt = (*PROMPTS[0], *row.output_ids, 9, 8, 7)
    second = join(batch, prompt)
    assert second.cached == len(PROMPTS[0]) + len(row.output_ids) - 1
    other = join(batch, (*PROMPTS[0][:140], 1, 2))
    assert other.cached == 2 * BLOCK, "states cannot go back: it begins where they were kept"
    write(batch, second, other)
    assert second.output_ids[:NEW] == greedy(kind, prompt)
    assert other.output_ids[:NEW] == greedy(kind, (*PROMPTS[0][:140], 1, 2))


@pytest.mark.parametrize("kind", ["qwen3_5", "mamba2"])
def test_states_that_are_not_kept_any_more_are_computed_anew(kind: str) -> None:
    batch = batch_of(kind, snapshots=1)
    for _ in range(2):
        assert written(batch, *PROMPTS[:2]) == [greedy(kind, prompt) for prompt in PROMPTS[:2]]
    first, second = (join(batch, prompt) for prompt in PROMPTS[:2])
    assert min(first.cached, second.cached) == 0


def test_long_texts_of_others_do_not_push_out_where_a_chat_goes_on() -> None:
    kind = "lfm2"
    batch = batch_of(kind, snapshots=5, size=BLOCK)
    row = join(batch, PROMPTS[0])
    write(batch, row)
    batch.finish(row)
    other = join(batch, range(10, 240))
    write(batch, other, count=2 * BLOCK)
    batch.finish(other)
    assert join(batch, (*PROMPTS[0], *row.output_ids, 9)).cached == len(PROMPTS[0]) + len(row.output_ids) - 1
    assert join(batch, (*range(10, 210), 9)).cached == 3 * BLOCK, "at the end of the prompt they stay"


def test_with_room_for_the_states_of_one_chat_its_next_turn_goes_on() -> None:
    kind = "mamba2"
    batch = batch_of(kind, snapshots=1)
    row = join(batch, PROMPTS[0])
    write(batch, row)
    batch.finish(row)
    prompt = (*PROMPTS[0], *row.output_ids, 9)
    again = join(batch, prompt)
    assert again.cached == len(prompt) - 2
    write(batch, again)
    assert again.output_ids[:NEW] == greedy(kind, prompt)


def test_what_is_computed_again_is_found_where_its_states_are() -> None:
    batch = batch_of("mamba2", snapshots=1)
    for prompt in PROMPTS[:2]:
        written(batch, prompt)
    row = join(batch, PROMPTS[0])
    assert row.cached == 0
    write(batch, row)
    found = batch.pool._lookup(row.table.digest, "")
    assert found is row.table.blocks[1], "the old blocks would go first, and the states with them"


@pytest.mark.parametrize("kind", ["falcon_h1", "lfm2"])
def test_replies_are_the_same_where_blocks_run_out(kind: str) -> None:
    prompts, count = [prompt[:60] for prompt in PROMPTS[:2]], 20
    expected = [greedy(kind, prompt, count) for prompt in prompts]
    assert written(batch_of(kind, blocks=3), *prompts, count=count) == expected


@pytest.mark.parametrize("kind", models.RECURRENT)
@pytest.mark.parametrize("begun", [False, True], ids=["reading", "writing"])
def test_a_pass_that_failed_changes_no_states(monkeypatch: pytest.MonkeyPatch, kind: str, begun: bool) -> None:
    batch = batch_of(kind)
    others = [join(batch, prompt) for prompt in PROMPTS[:2]]
    victim = join(batch, PROMPTS[2])
    if begun:
        write(batch, *others, victim, count=2)
    spoil(batch, monkeypatch, victim, raising(ZeroDivisionError()))
    write(batch, *others, victim)
    assert victim not in batch.rows
    assert [row.output_ids[:NEW] for row in others] == [greedy(kind, row.prompt) for row in others]


def test_the_layout_is_of_models_with_states_only() -> None:
    found = {kind: StateLayout.of(models.model(kind)) for kind in ("llama", "gpt2", *models.RECURRENT)}
    assert found["llama"] is found["gpt2"] is None
    assert found["lfm2"] == StateLayout((1, 0), frozenset({1}), "past_key_values")
    assert found["falcon_h1"] == StateLayout((1, 1), frozenset({0, 1}), "past_key_values")
    assert found["mamba2"] == StateLayout((1, 1), frozenset(), "cache_params")


def test_states_that_transformers_begins_anew_with_each_piece_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    own = copy.deepcopy(models.model("mamba"))
    assert probe_layout(own) is None
    monkeypatch.setattr(attention_probe, "RESTARTING", set())  # as one that nobody knows
    shape = probe_layout(own)
    assert shape is not None
    assert not matches_own_attention(own, shape)


def test_strong_forgetting_does_not_look_like_beginning_anew() -> None:
    own = copy.deepcopy(models.model("qwen3_5"))
    layer: Any = own.get_submodule("model.layers.0.linear_attn")
    with torch.no_grad():
        layer.A_log.fill_(3.0)  # exp(-20 * softplus(...)) of a state is left behind a token
    shape = probe_layout(own)
    assert shape is not None
    assert matches_own_attention(own, shape)


def test_keys_and_values_beside_states_may_be_in_int8() -> None:
    batch = Scheduler(models.over_blocks("falcon_h1", 8, "int8"), 4, BLOCK * 8, max_snapshots=4)
    assert batch.forward.cache.keys[0].dtype is torch.int8
    together = written(batch, *PROMPTS[1:])
    assert together == [written(batch, prompt)[0] for prompt in PROMPTS[1:]]


def test_a_sequence_shares_states_until_a_pass_writes_its_own() -> None:
    states = SequenceStates({(0, 0, "conv"): torch.ones(1, 2)})
    fork, copied = states.fork(), states.copy()
    states.propose({(0, 0, "conv"): torch.zeros(1, 2)})
    assert float(states.tensors[0, 0, "conv"].sum()) == 2, "not before the tokens are stored"
    states.commit()
    assert [float(each.tensors[0, 0, "conv"].sum()) for each in (states, fork, copied)] == [0, 2, 2]
    assert states.nbytes == 8
