"""Passes over blocks give the logits of the model's own forward pass, whatever the attention and the order."""

from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from transformers import AttentionInterface

from chatui.engine.batching import attention
from chatui.engine.batching.blocks import BLOCK
from chatui.engine.batching.forward import TRIES, CheckedDecode, PromptChunk
from chatui.engine.batching.free_cores import FreeCores
from chatui.settings import KvDtype
from tests import models
from tests.examples import some_of

COUNT = 30
"""Tokens of a conversation: far more than the sliding windows of 8."""


def conversation(seed: int, count: int = COUNT) -> list[int]:
    ids: list[int] = torch.randint(0, 256, (count,), generator=torch.Generator().manual_seed(seed)).tolist()
    return ids


def plain(kind: str, ids: list[int]) -> torch.Tensor:
    """Logits [tokens, vocabulary] of the model as it comes."""
    with torch.inference_mode():
        logits: torch.Tensor = models.model(kind)(input_ids=torch.tensor([ids]), use_cache=False).logits
        return logits[0]


def close(found: torch.Tensor, wanted: torch.Tensor) -> bool:
    return torch.allclose(found, wanted, atol=1e-4 * max(1.0, float(wanted.abs().max())), rtol=1e-4)


@pytest.mark.parametrize("kind", models.PLAIN)
def test_a_prompt_in_pieces_and_then_tokens_one_by_one(kind: str) -> None:
    over_blocks, ids = models.over_blocks(kind), conversation(0)
    wanted, first = plain(kind, ids), 0
    for count in (1, 12, 3, 4):
        found = over_blocks.prefill([PromptChunk(models.table(2), first, ids[first : first + count])])
        first += count
        assert close(found[0], wanted[first - 1])
    for at in range(first, COUNT):
        assert close(over_blocks.decode([ids[at]], [models.table(2)], [at])[0], wanted[at])


@pytest.mark.parametrize("kv_dtype", ["auto", "int8"])
@pytest.mark.parametrize("kind", models.WINDOWED)
def test_blocks_before_the_window_may_be_any(kind: str, kv_dtype: KvDtype) -> None:
    over_blocks, ids = models.over_blocks(kind, 8, kv_dtype), conversation(0, 251)
    window = over_blocks.cache.window
    assert window is not None
    table = [3, 1, 4, 2, 6]
    over_blocks.prefill([PromptChunk(table, 0, ids[:200])])
    first = (200 - window + 1) // BLOCK
    holed = [*[0] * first, *table[first:]]
    whole, found = (over_blocks.prefill([PromptChunk(each, 200, ids[200:250])]) for each in (table, holed))
    assert torch.equal(found, whole)
    whole, found = (over_blocks.decode(ids[250:], [each], [250]) for each in (table, holed))
    assert torch.equal(found, whole)
    assert kv_dtype == "int8" or close(found[0], plain(kind, ids)[-1])


@pytest.mark.parametrize("kind", models.PLAIN)
def test_in_int8_it_does_not_matter_where_a_prompt_is_cut(kind: str) -> None:
    over_blocks, ids = models.over_blocks(kind, kv_dtype="int8"), conversation(0)
    [whole] = over_blocks.prefill([PromptChunk(models.table(0), 0, ids)])
    first = 0
    for count in (1, 12, 3, 14):
        [found] = over_blocks.prefill([PromptChunk(models.table(1), first, ids[first : first + count])])
        first += count
    assert close(found, whole)
    over_blocks.prefill([PromptChunk(models.table(2), 0, ids[:5])])
    for at in range(5, COUNT):
        [found] = over_blocks.decode([ids[at]], [models.table(2)], [at])
    assert close(found, whole)
    wanted = plain(kind, ids)[-1]
    assert 0 < (whole - wanted).norm() < 0.05 * wanted.norm(), "rounded, and not more"


@pytest.mark.parametrize("kind", models.PLAIN)
def test_rows_in_any_order_with_prompts_of_any_length(kind: str) -> None:
    over_blocks = models.over_blocks(kind)
    conversations = [conversation(seed) for seed in range(4)]
    wanted = [plain(kind, ids) for ids in conversations]

    @given(st.data())
    @settings(max_examples=some_of(6), deadline=None)
    def check(data: st.DataObject) -> None:
        at = data.draw(st.lists(st.integers(1, COUNT - 1), min_size=4, max_size=4))
        pieces = [PromptChunk(models.table(n), 0, conversations[n][:count]) for n, count in enumerate(at)]
        together = data.draw(st.integers(1, 4))
        for some in (pieces[:together], pieces[together:]):
            for piece, found in zip(some, over_blocks.prefill(some) if some else (), strict=True):
                assert close(found, wanted[pieces.index(piece)][len(piece.ids) - 1])
        for _ in range(6):
            rows = data.draw(st.lists(st.sampled_from(range(4)), min_size=1, unique=True))
            rows = [row for row in rows if at[row] < COUNT]
            if not rows:
                continue
            ids, positions = [conversations[row][at[row]] for row in rows], [at[row] for row in rows]
            found = over_blocks.decode(ids, [models.table(row) for row in rows], positions)
            for logits, row in zip(found, rows, strict=True):
                assert close(logits, wanted[row][at[row]])
                at[row] += 1

    check()


@pytest.mark.parametrize("kind", models.PLAIN)
def test_a_token_written_again_changes_nothing(kind: str) -> None:
    """What the batch counts on when a step failed and each row goes alone."""
    over_blocks, ids = models.over_blocks(kind), conversation(0)
    over_blocks.prefill([PromptChunk(models.table(0), 0, ids[:-1])])
    over_blocks.prefill([PromptChunk(models.table(1), 0, ids[:5])])
    both = over_blocks.decode([ids[-1], ids[5]], [models.table(0), models.table(1)], [COUNT - 1, 5])
    assert close(over_blocks.decode([ids[-1]], [models.table(0)], [COUNT - 1])[0], both[0])
    assert close(over_blocks.decode([ids[5]], [models.table(1)], [5])[0], both[1])


@pytest.mark.parametrize(
    ("kind", "option"),
    [
        *((kind, "sliding_window") for kind in ("mistral", "gemma2", "gemma3", "gemma3_deep", "gpt_oss")),
        ("gemma2", "softcap"),
        ("gpt_oss", "s_aux"),
    ],
)
def test_windows_softcaps_and_sinks_do_matter(kind: str, option: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Or the comparisons above would prove nothing about them."""
    over_blocks, ids = models.over_blocks(kind), conversation(0)
    attend = attention.attend
    swapped(monkeypatch, lambda *args, **options: attend(*args, **{**options, option: None}))
    assert not close(over_blocks.prefill([PromptChunk(models.table(0), 0, ids)])[0], plain(kind, ids)[-1])


def swapped(monkeypatch: pytest.MonkeyPatch, attend: Any) -> None:
    monkeypatch.setitem(AttentionInterface._global_mapping, attention.NAME, attend)


def test_passes_leave_threads_to_other_programs_and_one_to_the_compiler(monkeypatch: pytest.MonkeyPatch) -> None:
    over_blocks, threads, chosen = models.over_blocks(), [3], list[int]()

    def passes() -> list[int]:
        chosen.clear()
        over_blocks.prefill([PromptChunk(models.table(0), 0, [5, 6])])
        over_blocks.decode([7], [models.table(0)], [2])
        assert threads[-1] == threads[0]
        return chosen

    free = [9]
    monkeypatch.setattr(FreeCores, "threads", lambda _, limit: min(limit, free[0]))
    monkeypatch.setattr(torch, "get_num_threads", lambda: threads[-1])
    monkeypatch.setattr(torch, "set_num_threads", threads.append)
    hook = over_blocks.model.register_forward_pre_hook(lambda *_: chosen.append(threads[-1]))
    try:
        assert passes() == [3, 3]
        with over_blocks.beside_compiler():
            assert passes() == [2, 2]
        assert passes() == [3, 3]
        free[0] = 1
        assert passes() == [1, 1]
        threads[:] = [1]
        with over_blocks.beside_compiler():
            assert passes() == [1, 1]
    finally:
        hook.remove()


class TestOffer:
    def test_a_faster_way_that_computes_the_same_is_taken(self) -> None:
        over_blocks, calls = models.over_blocks(), list[tuple[Any, ...]]()

        def faster(*inputs: Any) -> torch.Tensor:
            calls.append(inputs)
            result: torch.Tensor = over_blocks.step(*inputs)
            return result

        over_blocks.offer(faster)
        assert not over_blocks.faster
        ids = conversation(0, 4)
        over_blocks.prefill([PromptChunk(models.table(0), 0, ids[:2])])
        over_blocks.decode(ids[2:3], [models.table(0)], [2])
        assert over_blocks.faster
        assert close(over_blocks.decode(ids[3:], [models.table(0)], [3])[0], plain("llama", ids)[-1])
        assert len(calls) == 3

    @pytest.mark.parametrize("wrong", [lambda *_: 1 / 0, lambda *_: torch.zeros(1, models.VOCABULARY)])
    def test_one_that_fails_or_differs_is_not(self, wrong: Any, caplog: pytest.LogCaptureFixture) -> None:
        over_blocks, ids = models.over_blocks(), conversation(0, 3)
        over_blocks.prefill([PromptChunk(models.table(0), 0, ids[:2])])
        over_blocks.offer(wrong)
        for _ in range(TRIES):
            assert close(over_blocks.decode(ids[2:], [models.table(0)], [2])[0], plain("llama", ids)[-1])
        assert not over_blocks.faster
        assert "not used" in caplog.text


class TestCheckedDecode:
    """What is computed is a tensor with one row of logits for each id, so that no model is needed."""

    @staticmethod
    def plain(ids: torch.Tensor, *_: Any) -> torch.Tensor:
        return ids[:, None].float() + torch.arange(4.0)

    def test_each_form_is_used_once_it_has_agreed(self) -> None:
        calls = list[int]()

        def plain(ids: torch.Tensor, *_: Any) -> torch.Tensor:
            calls.append(len(ids))
            return self.plain(ids)

        decode = CheckedDecode(plain, self.plain)
        for rows in (1, 1, 1, 3, 2, 1):
            assert torch.equal(decode(torch.arange(rows)), self.plain(torch.arange(rows)))
        assert calls == [1, 3]

    def test_a_form_that_never_agrees_is_given_up_and_the_other_goes_on(self) -> None:
        used = list[int]()

        def faster(ids: torch.Tensor, *_: Any) -> torch.Tensor:
            used.append(len(ids))
            return self.plain(ids) * (2 if len(ids) > 1 else 1)

        decode = CheckedDecode(self.plain, faster)
        for _ in range(TRIES + 3):
            for rows in (1, 2):
                assert torch.equal(decode(torch.arange(rows)), self.plain(torch.arange(rows)))
        assert (used.count(1), used.count(2)) == (TRIES + 3, TRIES)
        assert not decode.failed

    def test_after_an_error_the_plain_step_is_used(self) -> None:
        used = list[int]()

        def faster(ids: torch.Tensor, *_: Any) -> torch.Tensor:
            used.append(len(ids))
            if len(used) == 3:
                raise RuntimeError("the library is gone")
            return self.plain(ids)

        decode = CheckedDecode(self.plain, faster)
        for _ in range(6):
            assert torch.equal(decode(torch.arange(2)), self.plain(torch.arange(2)))
        assert len(used) == 3
        assert decode.failed
