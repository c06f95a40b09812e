"""Rows together: each reply is the one it would be alone, whatever the others do, and whatever becomes of them."""

import gc
import inspect
import weakref
from collections.abc import Callable, Sequence
from functools import cache
from itertools import islice
from statistics import median
from types import SimpleNamespace
from typing import Any

import psutil
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from chatui.engine.batching import block_digests, blocks
from chatui.engine.batching import scheduler as batches
from chatui.engine.batching.block_digests import chain_digest
from chatui.engine.batching.block_table import States
from chatui.engine.batching.blocks import BLOCK
from chatui.engine.batching.failures import to_generation_error
from chatui.engine.batching.forward import Forward, PromptChunk
from chatui.engine.batching.kv_cache import KVCache, KVLayout
from chatui.engine.batching.prompt_lookup import Draft
from chatui.engine.batching.scheduler import (
    GAP_SECONDS,
    MAX_STEP_SECONDS,
    MIN_READING_SHARE,
    PASS_SECONDS,
    TOKEN_SECONDS,
    Scheduler,
)
from chatui.engine.batching.sequence_state import SequenceState, SequenceUpdate
from chatui.engine.batching.token_budget import MAX_TOKENS, MIN_TOKENS, SHRINK, START_TOKENS, TokenBudget
from chatui.engine.runners.serial_runner import generate_ids
from chatui.engine.sampling.sampler import Sampler
from chatui.errors import GenerationError
from chatui.estimates import blocks_held
from chatui.generation_settings import GenerationSettings
from tests import models
from tests.drafts import EagerSpeculation, always_draft
from tests.examples import some_of

GREEDY = GenerationSettings(temperature=0.0)
SETTINGS = (
    GREEDY,
    GenerationSettings(temperature=0.0, repetition_penalty=1.5),
    GenerationSettings(temperature=1.0, top_k=5, top_p=1.0),
    GenerationSettings(temperature=1.5, top_p=0.8),
    GenerationSettings(temperature=0.8, top_p=1.0, min_p=0.1),
    GenerationSettings(temperature=2.0, top_k=50, top_p=0.9, min_p=0.02, repetition_penalty=1.2),
)
SHARED = [101, 32, 7, 45, 200, 201, 45, 7, 99, 12, 13, 140, 8, 8, 63, 64, 65, 66, 1, 90, 2, 3, 5, 7]
PROMPTS = (
    (*SHARED, 11),
    (*SHARED, 12, 13, 14),
    (*SHARED, *range(100, 130)),
    (*SHARED[:9], 77, 78),
    (5,),
    tuple(range(200, 150, -1)),
)
NEW = 8
LONG = 30


class FixedBudget(TokenBudget):
    """Passes of one size, whatever the time, so that steps can be counted."""

    def __init__(self, size: int) -> None:
        super().__init__(1.0)
        self.tokens = size

    def record(self, tokens: int, seconds: float) -> None:
        pass

    def within(self, seconds: float, rows: int = 0) -> int:
        return self.tokens


def fix_budget(batch: Scheduler, size: int) -> None:
    batch._budget = FixedBudget(size)


def batch_of(kind: str = "llama", rows: int = 4, blocks: int = 12, size: int = MAX_TOKENS) -> Scheduler:
    batch = Scheduler(models.over_blocks(kind, blocks, rows=rows), rows, BLOCK * blocks)
    fix_budget(batch, size)
    return batch


def join(batch: Scheduler, prompt: Sequence[int], choice: GenerationSettings = GREEDY, seed: int = 0) -> SequenceState:
    row = batch.add(tuple(prompt), Sampler(choice, seed))
    assert row is not None
    return row


def write(batch: Scheduler, *rows: SequenceState, count: int = NEW) -> list[SequenceUpdate]:
    """Steps until these rows have written `count` tokens each or failed."""
    events: list[SequenceUpdate] = []
    while any(len(row.output_ids) < count for row in rows if row in batch.rows):
        events += batch.step()
    return events


@cache
def lonely(kind: str) -> Scheduler:
    return batch_of(kind, 1)


@cache
def alone(kind: str, prompt: tuple[int, ...], choice: int, seed: int, count: int = NEW) -> list[int]:
    """What is written for this prompt where there was never anything else."""
    batch = lonely(kind)
    batch.pool.clear()
    row = join(batch, prompt, SETTINGS[choice], seed)
    write(batch, row, count=count)
    batch.finish(row)
    return row.output_ids


class TestReplies:
    @pytest.mark.parametrize("kind", models.PLAIN)
    def test_greedy_rows_write_what_generate_does(self, kind: str) -> None:
        batch = batch_of(kind)
        rows = [join(batch, prompt) for prompt in PROMPTS[:4]]
        write(batch, *rows)
        for row in rows:
            assert row.output_ids[:NEW] == models.generate(models.model(kind), row.prompt, NEW)
        assert len({tuple(row.output_ids[:NEW]) for row in rows}) == len(rows)

    @pytest.mark.parametrize("choice", range(len(SETTINGS)))
    def test_a_row_writes_what_the_serial_path_does(self, choice: int) -> None:
        steps = generate_ids(models.model(), PROMPTS[2], Sampler(SETTINGS[choice], 3))
        assert alone("llama", PROMPTS[2], choice, 3) == list(islice(steps, NEW))

    def test_settings_and_seeds_do_matter(self) -> None:
        """Or the schedules below would prove nothing about them."""
        written = {tuple(alone("llama", PROMPTS[0], choice, seed)) for choice in range(6) for seed in range(3)}
        assert len(written) == 2 + 4 * 3

    @pytest.mark.parametrize("kind", ["llama", "gemma3", "gpt_oss"])
    @pytest.mark.parametrize("prepare", [lambda *_: None, always_draft], ids=["plain", "drafts"])
    def test_whatever_comes_and_goes_beside_it(
        self, monkeypatch: pytest.MonkeyPatch, kind: str, prepare: Callable[..., None]
    ) -> None:
        batch = batch_of(kind, 3, size=20)
        asked: dict[SequenceState, tuple[Any, ...]] = {}
        prepare(monkeypatch, batch, lambda row: alone(kind, *asked[row]))
        comings = st.tuples(st.sampled_from(PROMPTS), st.integers(0, len(SETTINGS) - 1), st.integers(0, 2))

        @given(st.lists(st.one_of(comings, st.integers(0, 9), st.just("step")), max_size=50))
        @settings(max_examples=some_of(25), deadline=None)
        def check(doings: list[Any]) -> None:
            asked.clear()
            for doing in doings:
                if isinstance(doing, tuple):
                    prompt, choice, seed = doing
                    row = batch.add(prompt, Sampler(SETTINGS[choice], seed))
                    assert (row is None) == (len(batch.rows) == 3 and row not in batch.rows)
                    if row is not None:
                        asked[row] = doing
                elif doing == "step":
                    batch.step()
                elif batch.rows:
                    batch.finish(batch.rows[doing % len(batch.rows)])
                for row in [row for row in batch.rows if len(row.output_ids) == NEW]:
                    batch.finish(row)
            for row in list(batch.rows):
                batch.finish(row)
            for row, (prompt, choice, seed) in asked.items():
                assert row.output_ids == alone(kind, prompt, choice, seed)[: len(row.output_ids)]

        check()

    @pytest.mark.parametrize("choice", range(len(SETTINGS)))
    def test_right_drafts_save_passes(self, monkeypatch: pytest.MonkeyPatch, choice: int) -> None:
        written = alone("llama", PROMPTS[2], choice, 3)
        batch = batch_of()
        always_draft(monkeypatch, batch, lambda _: list(written))
        row = join(batch, PROMPTS[2], SETTINGS[choice], 3)
        decode, passes = batch.forward.decode, list[int]()

        def counted(ids: Sequence[int], *places: Any) -> torch.Tensor:
            passes.append(len(ids))
            return decode(ids, *places)

        monkeypatch.setattr(batch.forward, "decode", counted)
        tokens = [event for event in write(batch, row) if event.token is not None]
        assert row.output_ids == written
        assert len(passes) + sum(event.accepted for event in tokens) == NEW - 1
        assert sum(event.accepted for event in tokens) > 0
        assert max(passes) == 4
        # What is cached afterwards is what was written, not what was drafted.
        batch.finish(row)
        again = join(batch, (*PROMPTS[2], *written, 9))
        assert again.cached == len(PROMPTS[2]) + NEW - 1
        write(batch, again)
        assert again.output_ids == alone("llama", again.prompt, 0, 0)

    def test_drafts_end_with_the_context(self, monkeypatch: pytest.MonkeyPatch) -> None:
        batch = batch_of()
        limits = list[int]()
        batch.max_length = len(PROMPTS[0]) + 4
        batch.speculation = EagerSpeculation(batch.forward, 3)

        def draft(_: SequenceState, limit: int) -> Draft:
            limits.append(limit)
            return Draft()

        monkeypatch.setattr(batch, "_draft", draft)
        write(batch, join(batch, PROMPTS[0]), count=5)
        assert limits == [3, 2, 1, 0]

    @pytest.mark.parametrize("kind", models.PLAIN)
    def test_what_is_remembered_changes_nothing(self, kind: str) -> None:
        batch = batch_of(kind)
        first = join(batch, PROMPTS[0])
        write(batch, first)
        batch.finish(first)
        prompt = (*PROMPTS[0], *first.output_ids, 9, 8, 7)
        second = join(batch, prompt)
        assert second.cached == len(PROMPTS[0]) + len(first.output_ids) - 1
        third = join(batch, (*prompt[:30], 1, 2))
        assert third.cached == 30, "copied from a block in use"
        write(batch, second, third)
        assert second.output_ids[:NEW] == alone(kind, prompt, 0, 0)
        assert third.output_ids[:NEW] == alone(kind, (*prompt[:30], 1, 2), 0, 0)

    def test_events_tell_what_was_read_and_written(self) -> None:
        batch = batch_of()
        row = join(batch, PROMPTS[0])
        assert batch.step() == [SequenceUpdate(row, token=row.output_ids[0])]
        assert (row.cached, row.unread, row.table.length) == (0, 0, len(PROMPTS[0]))
        fix_budget(batch, 16)
        long = join(batch, tuple(range(255, 155, -1)))
        events: list[SequenceUpdate] = []
        while not long.output_ids:
            events += batch.step()
        assert [event.read for event in events if event.row is long] == [*range(16, 100, 16), None]
        assert long.table.length == len(long.prompt)
        assert events[-1] == SequenceUpdate(long, token=long.output_ids[0])

    def test_a_row_that_leaves_makes_room_at_once(self) -> None:
        batch = batch_of(rows=1)
        row = join(batch, PROMPTS[2])
        assert batch.add(PROMPTS[0], Sampler(GREEDY, 0)) is None
        batch.step()
        batch.finish(row)
        batch.finish(row)
        assert batch.can_admit(PROMPTS[0])
        assert batch.step() == []
        assert join(batch, PROMPTS[2]).cached == len(PROMPTS[2]) - 1


class TestRoom:
    """Rows may need more blocks than there are: the newest give theirs up, and read again what they had."""

    @pytest.mark.parametrize("kind", ["llama", "gemma3"])
    def test_replies_are_the_same_where_blocks_run_out(self, kind: str) -> None:
        comings = st.lists(
            st.tuples(st.sampled_from(PROMPTS), st.integers(0, len(SETTINGS) - 1), st.integers(0, 1)),
            min_size=2,
            max_size=5,
        )

        @given(comings, st.integers(2, 4))
        @settings(max_examples=some_of(12), deadline=None)
        def check(asked: list[tuple[tuple[int, ...], int, int]], blocks: int) -> None:
            batch, rows, coming = batch_of(kind, 3, blocks), list[SequenceState](), list(asked)
            while coming or batch.rows:
                while coming and (row := batch.add(coming[0][0], Sampler(SETTINGS[coming[0][1]], coming[0][2]))):
                    rows.append(row)
                    del coming[0]
                assert batch.rows, "whoever is first finds room"
                batch.step()
                for row in [row for row in batch.rows if len(row.output_ids) >= LONG]:
                    batch.finish(row)
            for row, (prompt, choice, seed) in zip(rows, asked, strict=True):
                assert row.output_ids == alone(kind, prompt, choice, seed, LONG)

        check()

    def test_the_newest_gives_up_its_blocks_and_nobody_joins_meanwhile(self) -> None:
        batch = batch_of(rows=3, blocks=3)
        first, second = join(batch, range(BLOCK - 2)), join(batch, range(100, 100 + BLOCK - 2))
        events = write(batch, first, count=5)
        assert second.waits
        assert not batch.can_admit([1])
        assert batch.add((1,), Sampler(GREEDY, 0)) is None
        assert [event.row for event in events].count(first) == 5
        written = list(second.output_ids)
        batch.finish(first)
        events = write(batch, second, count=5)
        assert second.output_ids[: len(written)] == written
        assert all(event.read is None for event in events), "of what is read again nobody is told"

    def test_what_waits_is_hashed_once(self, monkeypatch: pytest.MonkeyPatch) -> None:
        hashed = list[int]()

        def counted(before: bytes, tokens: Sequence[int]) -> bytes:
            hashed.append(len(tokens))
            return chain_digest(before, tokens)

        batch = batch_of(rows=3, blocks=4)
        for module in (blocks, block_digests):
            monkeypatch.setattr(module, "chain_digest", counted)
        asked, first = tuple(range(60, 60 + 3 * BLOCK)), join(batch, range(BLOCK - 2))
        for _ in range(5):
            assert not batch.can_admit(asked)
        assert hashed == [BLOCK], "a prompt"
        hashed.clear()
        second = join(batch, range(98, 96 + 2 * BLOCK))
        write(batch, first, count=5)
        assert second.waits
        assert hashed
        hashed.clear()
        write(batch, first, count=14)
        assert second.waits
        assert hashed == [], "a row"

    def test_one_alone_has_all_blocks(self) -> None:
        batch = batch_of(rows=3, blocks=2)
        row = join(batch, range(BLOCK))
        write(batch, row, count=BLOCK)
        assert row.output_ids == alone("llama", tuple(range(BLOCK)), 0, 0, BLOCK)
        batch.finish(row)
        assert join(batch, range(100, 100 + 2 * BLOCK - 1)).cached == 0

    def test_rows_that_wait_may_leave(self) -> None:
        batch = batch_of(rows=3, blocks=3)
        first, second = join(batch, range(BLOCK - 2)), join(batch, range(100, 100 + BLOCK - 2))
        write(batch, first, count=5)
        assert second.waits
        batch.finish(second)
        batch.finish(first)
        assert batch.rows == []
        assert batch.pool.free + batch.pool.cached == 3


class TestWindows:
    """Where all layers have a window, rows hold only the blocks that they still see."""

    PROMPTS = tuple(tuple((7 + 31 * at + 13 * (at // 50) * n) % 250 for at in range(500 - 60 * n)) for n in range(3))

    @pytest.mark.parametrize("kind", models.WINDOWED)
    def test_alone_together_and_from_the_cache_replies_are_those_of_generate(self, kind: str) -> None:
        held = blocks_held(10**6, models.over_blocks(kind, 1).cache.window)
        batch = batch_of(kind, 3, 3 * held + 2, size=100)
        rows = [join(batch, prompt) for prompt in self.PROMPTS]
        while any(len(row.output_ids) < NEW for row in rows):
            batch.step()
            assert all(len(row.table.blocks) - row.table.gone <= held for row in rows)
            assert not any(row.waits for row in rows)
        write(batch, *rows, count=16)
        for row in rows:
            assert row.table.gone >= 3
            batch.finish(row)
            assert row.output_ids[:16] == models.generate(models.model(kind), row.prompt, 16)
        assert len({tuple(row.output_ids[:NEW]) for row in rows}) == len(rows)
        lonely = batch_of(kind, 1, held, size=100)
        lonely.max_length = 2000
        row = join(lonely, self.PROMPTS[0])
        write(lonely, row, count=16)
        assert row.output_ids == rows[0].output_ids[:16]
        lonely.finish(row)
        again = join(lonely, (*row.ids, 5, 6, 7))
        assert again.cached == len(row.ids) - 1
        assert again.table.gone >= 3
        write(lonely, again)
        assert again.output_ids == models.generate(models.model(kind), again.prompt, NEW)

    def test_where_blocks_run_out_the_newest_reads_again(self) -> None:
        """Rows that share the blocks of a beginning give none of them back."""
        kind, shared = "mistral_100", self.PROMPTS[0][: 6 * BLOCK]
        asked = [(*shared, *prompt[-n:]) for n, prompt in zip((90, 300, 200), self.PROMPTS, strict=True)]

        expected = [models.generate(models.model(kind), prompt, NEW) for prompt in asked]

        @given(st.integers(7, 12), st.lists(st.integers(0, 2), min_size=2, max_size=4), st.sampled_from([40, 100]))
        @settings(max_examples=some_of(6), deadline=None)
        def check(blocks: int, order: list[int], size: int) -> None:
            batch, coming, rows = batch_of(kind, 3, blocks, size), list(order), list[SequenceState]()
            batch.max_length = 2000
            while coming or batch.rows:
                while coming and (row := batch.add(asked[coming[0]], Sampler(GREEDY, 0))):
                    rows.append(row)
                    del coming[0]
                assert batch.rows, "whoever is first finds room"
                batch.step()
                for row in [row for row in batch.rows if len(row.output_ids) >= NEW]:
                    batch.finish(row)
            for row, number in zip(rows, order, strict=True):
                assert row.output_ids == expected[number]

        check()

    def test_drafts_change_nothing(self, monkeypatch: pytest.MonkeyPatch) -> None:
        written = models.generate(models.model("starcoder2_65"), self.PROMPTS[2], 40)
        batch = batch_of("starcoder2_65", 1, 7)
        batch.max_length = 2000
        always_draft(monkeypatch, batch, lambda _: written)
        row = join(batch, self.PROMPTS[2])
        events = write(batch, row, count=40)
        assert row.output_ids == written
        assert sum(event.accepted for event in events) > 10


class TestMixed:
    """Where some layers have a window and others see all, those with one hold only what they still see."""

    PROMPTS = TestWindows.PROMPTS

    @pytest.mark.parametrize("kind", models.MIXED)
    def test_alone_together_and_from_the_cache_replies_are_those_of_generate(self, kind: str) -> None:
        batch = batch_of(kind, 3, 30, size=100)
        assert batch.pool.window_blocks is not None
        held = blocks_held(10**6, batch.pool.window_blocks.window)
        rows = [join(batch, prompt) for prompt in self.PROMPTS]
        while any(len(row.output_ids) < NEW for row in rows):
            batch.step()
            assert all(sum(block.place > 0 for block in row.table.blocks[row.table.gone :]) <= held for row in rows)
        assert batch.pool.window_blocks.count == 3 * held
        for row in rows:
            assert row.table.gone >= 3
            batch.finish(row)
            assert row.output_ids[:NEW] == models.generate(models.model(kind), row.prompt, NEW)
        assert len({tuple(row.output_ids[:NEW]) for row in rows}) == len(rows)
        lonely = batch_of(kind, 1, 12, size=100)
        row = join(lonely, self.PROMPTS[0])
        write(lonely, row)
        assert row.output_ids == rows[0].output_ids[:NEW]
        lonely.finish(row)
        again = join(lonely, (*row.ids, 5, 6, 7))
        assert again.cached == len(row.ids) - 1
        assert again.table.gone >= 3
        write(lonely, again)
        assert again.output_ids == models.generate(models.model(kind), again.prompt, NEW)

    def test_where_blocks_run_out_the_newest_reads_again(self) -> None:
        kind, shared = "gemma3_65", self.PROMPTS[0][: 4 * BLOCK]
        asked = [(*shared, *prompt[-n:]) for n, prompt in zip((60, 188, 60), self.PROMPTS, strict=True)]
        expected = [models.generate(models.model(kind), prompt, NEW) for prompt in asked]
        batch = batch_of(kind, 3, 9, size=100)
        coming, rows = list(asked), list[SequenceState]()
        waited = False
        while coming or batch.rows:
            while coming and (row := batch.add(coming[0], Sampler(GREEDY, 0))):
                rows.append(row)
                del coming[0]
            batch.step()
            waited = waited or any(row.waits for row in batch.rows)
            for row in [row for row in batch.rows if len(row.output_ids) >= NEW]:
                batch.finish(row)
        assert waited
        assert [row.output_ids for row in rows] == expected

    def test_drafts_change_nothing(self, monkeypatch: pytest.MonkeyPatch) -> None:
        written = models.generate(models.model("gpt_oss_64"), self.PROMPTS[2], 40)
        batch = batch_of("gpt_oss_64", 1, 8)
        always_draft(monkeypatch, batch, lambda _: written)
        row = join(batch, self.PROMPTS[2])
        events = write(batch, row, count=40)
        assert row.output_ids == written
        assert sum(event.accepted for event in events) > 10


NAN = float("nan")


def spoil(
    batch: Scheduler, monkeypatch: pytest.MonkeyPatch, row: SequenceState, spoiled: Callable[[torch.Tensor, int], None]
) -> None:
    """Let every step in which this row takes part go wrong: `spoiled` gets the logits and the row's place in them."""
    read, decoded = batch.forward.prefill, batch.forward.decode

    def reading(pieces: Sequence[PromptChunk]) -> torch.Tensor:
        logits = read(pieces).clone()
        tables = [list(piece.table) for piece in pieces]
        if row.table.numbers in tables and row in batch.rows:
            spoiled(logits, tables.index(row.table.numbers))
        return logits

    def decoding(
        ids: Sequence[int],
        tables: Sequence[Sequence[int]],
        positions: Sequence[int],
        states: Sequence[States | None] = (),
    ) -> torch.Tensor:
        logits = decoded(ids, tables, positions, states).clone()
        if row.table.numbers in tables and row in batch.rows:
            spoiled(logits, list(tables).index(row.table.numbers))
        return logits

    monkeypatch.setattr(batch.forward, "prefill", reading)
    monkeypatch.setattr(batch.forward, "decode", decoding)


def poisoned(batch: Scheduler, row: SequenceState) -> Callable[[torch.Tensor, int], None]:
    def nan(logits: torch.Tensor, at: int) -> None:
        logits[at, 7] = NAN
        for tensor in (*batch.forward.cache.keys, *batch.forward.cache.values):
            tensor[row.table.numbers[-1]] = NAN

    return nan


def raising(error: Exception) -> Callable[[torch.Tensor, int], None]:
    def raised(*_: object) -> None:
        raise error

    return raised


class TestFailures:
    @pytest.mark.parametrize("begun", [False, True], ids=["reading", "writing"])
    @pytest.mark.parametrize(
        ("error", "says"),
        [
            (None, "NaN"),
            (ZeroDivisionError(), "failed while writing (ZeroDivisionError)"),
            (MemoryError(), "not enough memory"),
            (torch.OutOfMemoryError("CUDA out of memory"), "not enough memory"),
            (RuntimeError("DefaultCPUAllocator: can't allocate memory"), "not enough memory"),
            (GenerationError("its own words"), "its own words"),
        ],
        ids=lambda value: type(value).__name__ if not isinstance(value, str) else "",
    )
    def test_a_row_fails_alone_and_leaves_its_blocks_clean(
        self, begun: bool, error: Exception | None, says: str, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        batch = batch_of(rows=3)
        others = [join(batch, PROMPTS[0], SETTINGS[3], 1), join(batch, PROMPTS[3])]
        victim = join(batch, PROMPTS[5])
        write(batch, *others, *([victim] if begun else []), count=2)
        spoil(batch, monkeypatch, victim, poisoned(batch, victim) if error is None else raising(error))
        failed = [event for event in write(batch, victim, *others) if event.error is not None]
        assert [event.row for event in failed] == [victim]
        assert isinstance(failed[0].error, GenerationError)
        assert says in str(failed[0].error)
        assert batch.rows == others
        assert victim.table.blocks == []
        assert all(tensor.isfinite().all() for tensor in (*batch.forward.cache.keys, *batch.forward.cache.values))
        assert others[0].output_ids[:NEW] == alone("llama", PROMPTS[0], 3, 1)
        assert others[1].output_ids[:NEW] == alone("llama", PROMPTS[3], 0, 0)
        following = join(batch, PROMPTS[2])
        write(batch, following)
        assert following.output_ids[:NEW] == alone("llama", PROMPTS[2], 0, 0)

    def test_two_that_fail_do_not_hide_one_another(self, monkeypatch: pytest.MonkeyPatch) -> None:
        batch = batch_of()
        rows = [join(batch, prompt) for prompt in PROMPTS[:4]]
        write(batch, *rows, count=1)
        spoil(batch, monkeypatch, rows[1], raising(KeyError()))
        spoil(batch, monkeypatch, rows[3], poisoned(batch, rows[3]))
        events = write(batch, rows[0], rows[2])
        assert {event.row for event in events if event.error} == {rows[1], rows[3]}
        assert rows[0].output_ids[:NEW] == alone("llama", PROMPTS[0], 0, 0)
        assert rows[2].output_ids[:NEW] == alone("llama", PROMPTS[2], 0, 0)

    def test_numbers_that_went_wrong_within_a_prompt_do_not_stay_for_the_next(self) -> None:
        """Where the one who asked leaves before the first token, which would have shown it."""
        batch = batch_of(rows=2, size=16)
        with torch.no_grad():
            embedding = batch.forward.model.get_input_embeddings()
            assert isinstance(embedding, torch.nn.Embedding)
            embedding.weight[250] = NAN
        writer = join(batch, PROMPTS[0])
        write(batch, writer, count=1)
        row = join(batch, (250, *range(100)))
        while not row.table.length and row in batch.rows:
            batch.step()
        batch.finish(row)
        following = join(batch, PROMPTS[4])
        assert all(tensor.isfinite().all() for tensor in (*batch.forward.cache.keys, *batch.forward.cache.values))
        write(batch, following, writer)
        assert following.output_ids[:NEW] == alone("llama", PROMPTS[4], 0, 0)

    def test_only_what_nobody_foresaw_is_logged(self, caplog: pytest.LogCaptureFixture) -> None:
        to_generation_error(IndexError("index 7"))
        assert "index 7" in caplog.text
        caplog.clear()
        to_generation_error(GenerationError("a"))
        to_generation_error(MemoryError())
        assert not caplog.text


class Clock:
    """Time that passes only when work is done."""

    def __init__(self) -> None:
        self.now = 100.0

    def __call__(self) -> float:
        return self.now


class ScriptedForward:
    """Reads and writes in a time that is told, and keeps account of it: a pass takes `fixed` seconds and, at `speed`,
    some for each token, half as much more for each thousand tokens before it. Where it is `mixing` it writes too.
    """

    def __init__(self, clock: Clock, speed: float, step: float, fixed: float = 0.0, mixing: bool = False) -> None:
        self.cache = KVCache.allocate(KVLayout(((1, 1, 1),), torch.float32), 10_000, torch.device("cpu"))
        self.states = None
        self.clock, self.speed, self.step, self.fixed = clock, speed, step, fixed
        self.longrope, self.mixing = None, mixing
        self.log: list[tuple[str, float]] = []
        self.pieces: list[int] = []

    def prefill(self, pieces: Sequence[PromptChunk]) -> torch.Tensor:
        self.pieces.append(sum(len(piece.ids) for piece in pieces))
        work = sum(len(piece.ids) * (1 + piece.first / 2000) for piece in pieces)
        return self._spend("read", self.fixed + work / self.speed, len(pieces))

    def mixes(self, rows: int) -> bool:
        return self.mixing

    def mixed(self, rows: Sequence[PromptChunk], pieces: Sequence[PromptChunk]) -> torch.Tensor:
        assert self.mixing
        self.pieces.append(sum(len(piece.ids) for piece in pieces))
        work = len(rows) + sum(len(piece.ids) * (1 + piece.first / 2000) for piece in pieces)
        return self._spend("mixed", self.fixed + work / self.speed, len(rows) + len(pieces))

    def decode(
        self,
        ids: Sequence[int],
        tables: Sequence[Sequence[int]],
        positions: Sequence[int],
        states: Sequence[States | None] = (),
    ) -> torch.Tensor:
        return self._spend("write", self.step, len(ids))

    def spent(self, what: str) -> float:
        return sum(seconds for done, seconds in self.log if done == what)

    def longest(self, what: str) -> float:
        return max(seconds for done, seconds in self.log if done == what)

    def _spend(self, what: str, seconds: float, rows: int) -> torch.Tensor:
        self.clock.now += seconds
        self.log.append((what, seconds))
        return torch.zeros(rows, 4)


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    clock = Clock()
    monkeypatch.setattr(batches, "time", SimpleNamespace(perf_counter=clock))
    return clock


def timed(
    clock: Clock, rows: int = 4, speed: float = 1000.0, step: float = 0.02, fixed: float = 0.0, mixing: bool = False
) -> tuple[Scheduler, ScriptedForward]:
    forward: Any = ScriptedForward(clock, speed, step, fixed, mixing)
    return Scheduler(forward, rows, forward.cache.blocks * BLOCK), forward


def prompt_of(count: int, start: int = 0) -> list[int]:
    return [start] * count


def read_alone(batch: Scheduler, count: int, start: int = 0) -> None:
    row = join(batch, prompt_of(count, start))
    write(batch, row, count=1)
    batch.finish(row)


def planned_beside(step: float) -> float:
    """Seconds of a pass that reads a long prompt between two steps."""
    longest = GAP_SECONDS - min(step, MAX_STEP_SECONDS)
    return min(longest, max(TOKEN_SECONDS - step, step * MIN_READING_SHARE / (1 - MIN_READING_SHARE)))


class TestTime:
    @pytest.mark.parametrize("speed", [100.0, 1000.0, 20_000.0])
    @pytest.mark.parametrize("step", [0.005, 0.03, 0.06, 0.5])
    def test_reading_does_not_stall_writing(self, clock: Clock, speed: float, step: float) -> None:
        batch, forward = timed(clock, speed=speed, step=step)
        writer = join(batch, [1])
        write(batch, writer, count=1)
        forward.log.clear()
        forward.pieces.clear()
        reader = join(batch, prompt_of(3000, 2))
        while not reader.output_ids:
            batch.step()
        assert sum(forward.pieces) == 3000
        assert max(forward.pieces) <= MAX_TOKENS
        fewest = START_TOKENS / speed * (1 + 3000 / 2000)
        reads = [seconds for done, seconds in forward.log if done == "read"]
        assert max(reads) <= 1.2 * max(GAP_SECONDS - min(step, MAX_STEP_SECONDS), fewest)
        assert median(reads) <= 1.1 * max(planned_beside(step), fewest)
        assert median(reads) >= 0.8 * planned_beside(step) or max(forward.pieces) == MAX_TOKENS
        names = "".join(done[0] for done, _ in forward.log)
        assert "rr" not in names, "between two pieces somebody writes"
        assert "ww" not in names, "nor the other way round"

    @pytest.mark.parametrize("speed", [100.0, 1000.0, 20_000.0])
    @pytest.mark.parametrize("rows", [1, 7])
    def test_where_passes_may_do_both_who_writes_gets_a_token_from_each(
        self, clock: Clock, speed: float, rows: int
    ) -> None:
        batch, forward = timed(clock, rows=8, speed=speed, mixing=True)
        writers = [join(batch, [1]) for _ in range(rows)]
        write(batch, *writers, count=1)
        forward.log.clear()
        forward.pieces.clear()
        before = [len(writer.output_ids) for writer in writers]
        reader = join(batch, prompt_of(3000, 2))
        while not reader.output_ids:
            batch.step()
        assert {done for done, _ in forward.log} == {"mixed"}
        assert sum(forward.pieces) == 3000
        assert [len(writer.output_ids) for writer in writers] == [count + len(forward.pieces) for count in before]
        fewest = (START_TOKENS + rows) / speed * (1 + 3000 / 2000)
        assert forward.longest("mixed") <= 1.2 * max(TOKEN_SECONDS, fewest)

    def test_where_a_pass_that_does_both_fails_each_goes_alone(
        self, clock: Clock, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        batch, forward = timed(clock, mixing=True)
        writer = join(batch, [1])
        write(batch, writer, count=1)

        def failed(*_: object) -> None:
            raise RuntimeError("no")

        monkeypatch.setattr(forward, "mixed", failed)
        reader = join(batch, prompt_of(10, 2))
        forward.log.clear()
        events = batch.step()
        assert sorted(done for done, _ in forward.log) == ["read", "write"]
        assert {event.row for event in events if event.token is not None} == {writer, reader}
        assert len(writer.output_ids) == 2

    @pytest.mark.parametrize("speed", [10.0, 40.0, 400.0, 2000.0])
    @pytest.mark.parametrize("fixed", [0.0, 0.02, 0.08, 0.6])
    def test_no_pass_takes_long_though_nobody_writes(self, clock: Clock, speed: float, fixed: float) -> None:
        """Whether the model is slow or fast, from the first prompt on: none but those that find out that it is slow."""
        batch, forward = timed(clock, speed=speed, fixed=fixed)
        for number, count in enumerate((300, 3000, 20, 4000, 5)):
            read_alone(batch, count, number)
        fewest = fixed + MIN_TOKENS / speed * (1 + 4000 / 2000)
        late = [seconds for _, seconds in forward.log if seconds > max(SHRINK * PASS_SECONDS, fewest) + 1e-9]
        assert len(late) <= 5
        assert max(late, default=0) <= 2 * max(SHRINK * PASS_SECONDS, fewest)

    def test_a_model_that_becomes_slow_takes_long_once(self, clock: Clock) -> None:
        batch, forward = timed(clock, speed=2000.0, fixed=0.01)
        read_alone(batch, 1000)
        forward.log.clear()
        forward.speed = 100.0
        read_alone(batch, 1000, 1)
        # Later tokens take longer, so that a size may be given up once more, when it takes a little too long.
        assert len([seconds for _, seconds in forward.log if seconds > 1.1 * SHRINK * PASS_SECONDS]) == 1
        assert len([seconds for _, seconds in forward.log if seconds > SHRINK * PASS_SECONDS]) <= 2

    def test_a_fast_model_reads_large_pieces_after_the_first(self, clock: Clock) -> None:
        batch, forward = timed(clock, speed=4000.0, fixed=0.01)
        read_alone(batch, 1000)
        assert forward.pieces == [START_TOKENS, 32, 64, 128, *[MAX_TOKENS] * 2, 248]
        forward.pieces.clear()
        read_alone(batch, 2, 1)
        read_alone(batch, 1000, 2)
        assert forward.pieces == [2, *[MAX_TOKENS] * 3, 1000 - 3 * MAX_TOKENS]

    def test_short_prompts_are_read_together_as_far_as_a_piece_goes(self, clock: Clock) -> None:
        batch, forward = timed(clock, rows=8, speed=2000.0)
        fix_budget(batch, MAX_TOKENS)
        rows = [join(batch, prompt_of(100 + n, n)) for n in range(4)]
        batch.step()
        assert [row.unread for row in rows] == [0, 0, 102 - 55, 103]
        assert [len(row.output_ids) for row in rows] == [1, 1, 0, 0]
        batch.step()
        assert forward.pieces == [256], "those who write come next"

    def test_eight_short_prompts_that_come_together_are_read_in_few_passes(self, clock: Clock) -> None:
        batch, forward = timed(clock, rows=8, speed=2000.0)
        fix_budget(batch, MAX_TOKENS)
        rows = [join(batch, prompt_of(50, n)) for n in range(8)]
        events = write(batch, *rows, count=1)
        assert forward.pieces == [250, 150]
        assert next(event.rows for event in events if event.token is not None and event.row is rows[0]) == 5, (
            "their first tokens are chosen together"
        )

    def test_no_crumbs_are_read(self, clock: Clock) -> None:
        batch, forward = timed(clock, rows=8)
        fix_budget(batch, MAX_TOKENS)
        rows = [join(batch, prompt_of(count, n)) for n, count in enumerate((MAX_TOKENS - 5, 300))]
        batch.step()
        assert [row.unread for row in rows] == [0, 300]
        assert forward.pieces == [MAX_TOKENS - 5]

    def test_a_short_prompt_is_read_before_the_rest_of_a_long_one(self, clock: Clock) -> None:
        batch, _ = timed(clock)
        fix_budget(batch, 100)
        long = join(batch, prompt_of(5000))
        batch.step()
        short = join(batch, prompt_of(50, 1))
        batch.step()
        assert short.output_ids
        assert not long.output_ids

    def test_a_long_prompt_does_not_starve_among_short_ones(self, clock: Clock) -> None:
        """New short ones come all the time, more than can ever be read."""
        batch, _ = timed(clock, speed=100.0)
        long = join(batch, prompt_of(1000))
        came = 0
        while not long.output_ids and clock.now < 1000:
            while len(batch.rows) < batch.max_rows:
                came += 1
                join(batch, prompt_of(90, came))
            batch.step()
            for row in batch.rows[1:]:
                if row.output_ids:
                    batch.finish(row)
        assert long.output_ids, "it is still being read"
        assert came > 5, "nor did the short ones"

    def test_prompts_of_one_length_are_read_one_after_another(self, clock: Clock) -> None:
        """Read in turns all would end together, at the very end."""
        batch, _ = timed(clock, rows=8, speed=2000.0)
        rows = [join(batch, prompt_of(2000, number)) for number in range(8)]
        began, ended = clock.now, dict[SequenceState, float]()
        while len(ended) < len(rows):
            batch.step()
            for row in rows:
                if row.output_ids and row not in ended:
                    ended[row] = clock.now
                    batch.finish(row)
        assert list(ended) == rows
        assert ended[rows[0]] - began < (ended[rows[-1]] - began) / 4


class TestNewcomers:
    """Short prompts that come while somebody writes. A pass takes 40 ms and 1 ms for each token."""

    def busy(self, clock: Clock, rows: int = 16) -> tuple[Scheduler, ScriptedForward, SequenceState]:
        """Somebody writes, and how long passes take is known."""
        batch, forward = timed(clock, rows, step=0.03, fixed=0.04)
        read_alone(batch, 1000)
        writer = join(batch, [1])
        write(batch, writer, count=1)
        forward.log.clear()
        forward.pieces.clear()
        return batch, forward, writer

    def test_those_who_come_together_are_read_in_large_passes_with_every_other_step(self, clock: Clock) -> None:
        batch, forward, _ = self.busy(clock)
        rows = [join(batch, prompt_of(50, n + 2)) for n in range(8)]
        write(batch, *rows, count=1)
        assert forward.pieces == [118, 128, 128, 26]
        assert "".join(done[0] for done, _ in forward.log) in ("rwrwrwr", "wrwrwrwr")
        assert forward.longest("read") + forward.step <= 0.25

    @pytest.mark.parametrize("fixed", [0.0, 0.02])
    @pytest.mark.parametrize("step", [0.02, 0.08, 0.5])
    def test_a_pass_and_a_step_together_take_no_longer_than_planned(
        self, clock: Clock, fixed: float, step: float
    ) -> None:
        """Passes that would do where nobody writes are cut for those who wait for a token."""
        batch, forward = timed(clock, 16, speed=600.0, step=step, fixed=fixed)
        batch._budget.tokens = 128
        writer = join(batch, [1])
        write(batch, writer, count=2)
        forward.log.clear()
        forward.pieces.clear()
        rows = [join(batch, prompt_of(50, n + 2)) for n in range(8)]
        write(batch, *rows, count=1)
        planned = GAP_SECONDS - min(step, MAX_STEP_SECONDS)
        [_, *reads] = [seconds for done, seconds in forward.log if done == "read"]
        assert forward.pieces[0] > 100, "this one tells how long they take"
        assert max(reads) <= planned + fixed / 2
        assert max(reads) >= 0.8 * planned, "nor are they shorter than need be"

    @pytest.mark.parametrize("long", [0, 1000])
    def test_a_flood_of_them_leaves_those_who_write_their_share(self, clock: Clock, long: int) -> None:
        batch, forward, writer = self.busy(clock)
        reader = batch.add(tuple(prompt_of(long, 2)), Sampler(GREEDY, 0), user="other") if long else None
        came, until = 0, clock.now + 60
        while clock.now < until:
            while not batch.full:
                came += 1
                join(batch, prompt_of(50 + came % 200, came))
            batch.step()
            for row in batch.rows:
                if row not in (writer, reader) and row.output_ids:
                    batch.finish(row)
        assert "rr" not in "".join(done[0] for done, _ in forward.log)
        assert forward.longest("read") + forward.step <= 1.2 * GAP_SECONDS
        assert reader is None or reader.output_ids, "they do not starve the long one of another"

    def test_anothers_long_prompts_do_not_delay_them(self, clock: Clock) -> None:
        batch, forward, _ = self.busy(clock)
        for number in range(12):
            assert batch.add(tuple(prompt_of(30_000, number + 2)), Sampler(GREEDY, 0), user="crowd")
        for _ in range(100):
            batch.step()
        newcomer = batch.add(tuple(prompt_of(60, 99)), Sampler(GREEDY, 0), user="new")
        assert newcomer is not None
        forward.log.clear()
        write(batch, newcomer, count=1)
        assert len(forward.log) <= 2, "it is read with the next pass, though the others had waited longer"


def cancelled(batch: Scheduler, count: int) -> weakref.WeakSet[SequenceState]:
    """So many requests, each given up at another moment; what is left of them."""
    rows: weakref.WeakSet[SequenceState] = weakref.WeakSet()
    for number in range(count):
        row = join(batch, (number % 200, number // 200 % 200, *PROMPTS[number % 6]), SETTINGS[number % 6], number)
        for _ in range(number % 4):
            batch.step()
        batch.finish(row)
        rows.add(row)
    del row
    gc.collect()
    return rows


def test_cancelled_requests_leave_nothing_behind() -> None:
    batch = batch_of()
    cancelled(batch, 50)
    before = len(gc.get_objects())
    assert not cancelled(batch, 150)
    assert len(gc.get_objects()) - before < 100  # fewer than one for each
    assert batch.rows == []
    assert batch.pool.free + batch.pool.cached == batch.pool.count


@pytest.mark.exhaustive
def test_memory_stays_flat() -> None:
    batch, process = batch_of(), psutil.Process()
    cancelled(batch, 1000)
    before = process.memory_info().rss
    cancelled(batch, 5000)
    assert process.memory_info().rss - before < 8_000_000


def test_the_scripted_forward_is_called_like_the_real_one() -> None:
    for name in ("prefill", "decode"):
        assert inspect.signature(getattr(ScriptedForward, name)) == inspect.signature(getattr(Forward, name))
