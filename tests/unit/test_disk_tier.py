"""Blocks on disk: after a restart a conversation goes on with the same bits, and only what is new is computed."""

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
import torch

from chatui.engine.batching import disk_tier
from chatui.engine.batching.block_digests import BlockDigests
from chatui.engine.batching.blocks import BLOCK
from chatui.engine.batching.kv_files import KVFiles
from chatui.engine.batching.scheduler import Scheduler
from chatui.engine.batching.sequence_state import SequenceState, SequenceUpdate
from chatui.engine.batching.token_budget import TokenBudget
from chatui.engine.sampling.sampler import Sampler
from chatui.errors import GenerationError
from chatui.generation_settings import GenerationSettings
from chatui.settings import KvDtype
from tests import models
from tests.drafts import always_draft
from tests.kv import flush

GREEDY = GenerationSettings(temperature=0.0)
PROMPT = tuple((7 + 31 * at) % 200 for at in range(2 * BLOCK + 20))
NEW = 8


@dataclass
class Engine:
    """A scheduler that notes which tokens are computed, and all logits."""

    batch: Scheduler
    files: KVFiles | None
    computed: list[int] = field(default_factory=list)
    logits: list[torch.Tensor] = field(default_factory=list)
    events: list[SequenceUpdate] = field(default_factory=list)

    def ask(self, prompt: Sequence[int], chat: str = "", count: int = NEW) -> SequenceState:
        """A whole reply."""
        row = self.join(prompt, chat)
        self.write(row, count=count)
        self.batch.finish(row)
        if self.files is not None:
            flush(self.files)
        return row

    def join(self, prompt: Sequence[int], chat: str = "") -> SequenceState:
        row = self.batch.add(tuple(prompt), Sampler(GREEDY, 0), chat)
        assert row is not None
        return row

    def write(self, *rows: SequenceState, count: int = NEW) -> None:
        while any(len(row.output_ids) < count for row in rows if row in self.batch.rows):
            self.events += self.batch.step()


def noting(engine: Engine) -> None:
    """Note what the model computes."""
    forward = engine.batch.forward
    prefill, decode = forward.prefill, forward.decode

    def prefilled(pieces: Any) -> torch.Tensor:
        engine.computed += [token for piece in pieces for token in piece.ids]
        engine.logits.append(prefill(pieces))
        return engine.logits[-1]

    def decoded(ids: Any, tables: Any, positions: Any, states: Any = ()) -> torch.Tensor:
        engine.logits.append(decode(ids, tables, positions))
        return engine.logits[-1]

    forward.prefill, forward.decode = prefilled, decoded  # type: ignore[method-assign]


def engine_of(
    folder: Path | None, kind: str = "llama", blocks: int = 12, rows: int = 4, kv_dtype: KvDtype = "auto"
) -> Engine:
    """A new one, as after a restart."""
    files = None if folder is None else KVFiles(folder, kind, 10**9)
    forward = models.over_blocks(kind, blocks, kv_dtype, rows)
    engine = Engine(Scheduler(forward, rows, BLOCK * blocks, files=files), files)
    budget = TokenBudget(1.0)
    budget.tokens = 64
    budget.record = lambda *_: None  # type: ignore[method-assign]
    engine.batch._budget = budget
    noting(engine)
    return engine


def next_turn(row: SequenceState) -> tuple[int, ...]:
    return (*row.ids, 5, 6, 7, 8, 9)


@pytest.mark.parametrize(
    ("kind", "kv_dtype"),
    [
        *((kind, "auto") for kind in ("llama", "gemma2", "gpt_oss", "cohere2_10", "deepseek_v3")),
        ("llama", "int8"),
        ("gemma2", "int8"),
    ],
)
def test_from_disk_a_reply_has_the_bits_that_it_has_from_memory(tmp_path: Path, kind: str, kv_dtype: KvDtype) -> None:
    before, staying = engine_of(tmp_path, kind, kv_dtype=kv_dtype), engine_of(None, kind, kv_dtype=kv_dtype)
    first = before.ask(PROMPT)
    assert staying.ask(PROMPT).output_ids == first.output_ids
    staying.logits.clear()
    staying.computed.clear()
    from_memory = staying.ask(next_turn(first))
    restarted = engine_of(tmp_path, kind, kv_dtype=kv_dtype)
    from_disk = restarted.ask(next_turn(first))
    assert from_disk.output_ids == from_memory.output_ids
    assert from_disk.cached == from_memory.cached == len(first.ids) - 1
    assert restarted.computed == staying.computed == [first.output_ids[-1], 5, 6, 7, 8, 9]
    for found, expected in zip(restarted.logits, staying.logits, strict=True):
        assert torch.equal(found, expected)
    alone = engine_of(None, kind, kv_dtype=kv_dtype).ask(next_turn(first))
    assert alone.output_ids == from_disk.output_ids


def test_beside_others_it_writes_the_same(tmp_path: Path) -> None:
    first = engine_of(tmp_path).ask(PROMPT)
    alone = engine_of(tmp_path).ask(next_turn(first))
    engine = engine_of(tmp_path)
    other = engine.join(range(100, 140))
    engine.write(other, count=2)
    row = engine.join(next_turn(first))
    again = engine.join(next_turn(first))
    engine.write(row, again, other)
    assert row.output_ids[:NEW] == again.output_ids[:NEW] == alone.output_ids
    assert row.cached == len(first.ids) - 1
    assert other.output_ids[:NEW] == engine_of(None).ask(range(100, 140)).output_ids


def test_drafted_tokens_are_on_disk_once_they_are_accepted(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    plain = engine_of(None).ask(PROMPT, count=60)
    engine = engine_of(tmp_path)
    always_draft(monkeypatch, engine.batch, lambda _: list(plain.output_ids))
    row = engine.ask(PROMPT, count=60)
    assert any(event.accepted for event in engine.events)
    assert row.output_ids == plain.output_ids
    restarted = engine_of(tmp_path)
    found = restarted.ask(next_turn(row))
    assert found.cached == len(row.ids) - 1
    assert found.output_ids == engine_of(None).ask(next_turn(plain)).output_ids


def test_the_same_question_again_is_not_read_again(tmp_path: Path) -> None:
    engine_of(tmp_path).ask(PROMPT)
    engine = engine_of(tmp_path)
    row = engine.ask(PROMPT)
    assert row.cached == 2 * BLOCK
    assert engine.computed == list(PROMPT[2 * BLOCK :])


def test_a_prompt_of_whole_blocks_is_read_but_for_its_last_token(tmp_path: Path) -> None:
    first = engine_of(tmp_path).ask(PROMPT[: 2 * BLOCK])
    engine = engine_of(tmp_path)
    again = engine.ask(PROMPT[: 2 * BLOCK])
    assert again.output_ids == first.output_ids
    assert again.cached == BLOCK
    engine = engine_of(tmp_path)
    assert engine.ask(PROMPT[: 2 * BLOCK + 1]).cached == 2 * BLOCK


def test_what_came_from_disk_is_told(tmp_path: Path) -> None:
    first = engine_of(tmp_path).ask(PROMPT)
    engine = engine_of(tmp_path)
    row = engine.join(next_turn(first))
    assert row.cached == 0
    engine.write(row)
    told = [event for event in engine.events if event.restored]
    assert sum(event.restored for event in told) == row.cached == told[-1].read == len(first.ids) - 1


def test_memory_comes_first_and_disk_behind_it(tmp_path: Path) -> None:
    first = engine_of(tmp_path).ask(PROMPT)
    engine = engine_of(tmp_path)
    engine.ask(PROMPT[:BLOCK] + PROMPT[BLOCK : BLOCK + 20])
    engine.computed.clear()
    row = engine.ask(next_turn(first))
    assert row.cached == len(first.ids) - 1
    assert sum(event.restored for event in engine.events) < row.cached
    assert row.output_ids == engine_of(None).ask(next_turn(first)).output_ids
    assert len(engine.computed) == 6


def test_what_had_to_leave_memory_comes_from_disk(tmp_path: Path) -> None:
    engine = engine_of(tmp_path, blocks=4, rows=1)
    first = engine.ask(PROMPT)
    engine.ask(range(50, 50 + 3 * BLOCK), count=2)
    engine.computed.clear()
    again = engine.ask(next_turn(first))
    assert len(engine.computed) == 6
    assert again.output_ids == engine_of(None).ask(next_turn(first)).output_ids


def test_a_row_that_gave_up_its_blocks_takes_them_from_disk(tmp_path: Path) -> None:
    engine = engine_of(tmp_path, blocks=5)
    older, newer = engine.join(PROMPT[:70]), engine.join(PROMPT[60:130])
    engine.write(older, newer, count=55)
    assert not any(row.waits for row in (older, newer))
    engine.computed.clear()
    engine.write(older, count=66)
    assert newer.waits
    engine.batch.finish(older)
    engine.write(newer, count=80)
    assert newer.output_ids == engine_of(None).ask(PROMPT[60:130], count=80).output_ids
    assert len(engine.computed) < BLOCK
    assert newer.cached == 0


def test_all_of_a_reply_is_on_disk_when_it_ends_or_is_stopped(tmp_path: Path) -> None:
    engine = engine_of(tmp_path)
    row = engine.join(PROMPT)
    engine.write(row, count=3)
    engine.batch.finish(row)
    flush(engine.files)
    restarted = engine_of(tmp_path)
    restarted.ask(next_turn(row))
    assert len(restarted.computed) == 6


def test_temporary_chats_leave_nothing_and_find_nothing(tmp_path: Path) -> None:
    engine = engine_of(tmp_path)
    engine.ask(PROMPT, chat="passing")
    assert not list(tmp_path.rglob("*.kv"))
    engine.ask(PROMPT)
    restarted = engine_of(tmp_path)
    files = {path: path.stat().st_mtime_ns for path in tmp_path.rglob("*.kv")}
    assert files
    row = restarted.ask(PROMPT, chat="passing")
    assert row.cached == 0
    assert {path: path.stat().st_mtime_ns for path in tmp_path.rglob("*.kv")} == files


def damage(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-1] + b"!")


@pytest.mark.parametrize(("which", "spoil"), [(0, damage), (1, Path.unlink), (2, damage), (3, damage)])
def test_what_is_damaged_or_gone_is_computed(tmp_path: Path, which: int, spoil: Callable[[Path], None]) -> None:
    prompt = PROMPT + PROMPT[:BLOCK]
    first = engine_of(tmp_path).ask(prompt)
    restarted = engine_of(tmp_path)
    assert restarted.files is not None
    table = restarted.batch.pool.open(BlockDigests(next_turn(first)))
    assert table is not None
    _, found = restarted.batch._disk._find(restarted.files, table, BlockDigests(next_turn(first)))
    assert [block.count for block in found] == [BLOCK, BLOCK, BLOCK, len(first.ids) - 1 - 3 * BLOCK]
    restarted.batch.pool.close(table)
    spoil(restarted.files._path(found[which].name))
    row = restarted.ask(next_turn(first))
    assert row.cached == which * BLOCK
    assert row.output_ids == engine_of(None).ask(next_turn(first)).output_ids
    whole = engine_of(tmp_path)
    assert whole.ask(next_turn(row)).cached == len(row.ids) - 1, "what was computed is written again"


class TestWindows:
    """Of 100 tokens: behind a full block two whole ones are seen."""

    PROMPT = tuple((7 + 31 * at) % 250 for at in range(7 * BLOCK + 5))

    def windowed(self, folder: Path | None) -> Engine:
        """With blocks for no more than a prompt takes at once."""
        engine = engine_of(folder, "mistral_100", blocks=7)
        engine.batch.max_length = 2000
        return engine

    def test_after_a_restart_only_the_window_is_read(self, tmp_path: Path) -> None:
        before, staying = self.windowed(tmp_path), self.windowed(None)
        first = before.ask(self.PROMPT)
        assert staying.ask(self.PROMPT).output_ids == first.output_ids
        staying.computed.clear()
        staying.logits.clear()
        from_memory = staying.ask(next_turn(first))
        restarted = self.windowed(tmp_path)
        from_disk = restarted.ask(next_turn(first))
        assert from_disk.output_ids == from_memory.output_ids
        assert from_disk.cached == from_memory.cached == len(first.ids) - 1
        assert restarted.computed == staying.computed == [first.output_ids[-1], 5, 6, 7, 8, 9]
        assert sum(event.restored for event in restarted.events) == len(first.ids) - 1 - 5 * BLOCK
        for found, expected in zip(restarted.logits, staying.logits, strict=True):
            assert torch.equal(found, expected)
        assert from_disk.output_ids == models.generate(models.model("mistral_100"), next_turn(first), NEW)

    @pytest.mark.parametrize("seen", [True, False])
    def test_what_is_gone_matters_only_in_the_window(self, tmp_path: Path, seen: bool) -> None:
        engine = self.windowed(tmp_path)
        first = engine.ask(self.PROMPT)
        files = self.windowed(tmp_path).files
        assert files is not None
        damage(files._path(BlockDigests(self.PROMPT).of(6 if seen else 5).hex()))
        restarted = self.windowed(tmp_path)
        row = restarted.ask(next_turn(first))
        assert row.output_ids == models.generate(models.model("mistral_100"), row.prompt, NEW)
        assert len(restarted.computed) == len(row.prompt) - (5 * BLOCK if seen else len(first.ids) - 1)

    def test_what_is_in_memory_goes_on_with_what_is_on_disk(self, tmp_path: Path) -> None:
        engine = self.windowed(tmp_path)
        first = engine.ask(self.PROMPT)
        restarted = self.windowed(tmp_path)
        restarted.ask(self.PROMPT[: 6 * BLOCK + 1], count=1)
        row = restarted.ask(next_turn(first))
        assert row.cached == len(first.ids) - 1
        assert row.output_ids == models.generate(models.model("mistral_100"), row.prompt, NEW)

    def test_what_was_given_back_before_it_could_be_written_is_not_written(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        engine, names = self.windowed(tmp_path), list[str]()
        assert engine.files is not None
        row = engine.join(self.PROMPT)
        with a_busy_disk(engine.files):
            engine.write(row, count=2)
        assert row.table.gone == 5
        monkeypatch.setattr(engine.files, "touch", names.extend)
        engine.batch.finish(row)
        flush(engine.files)
        assert names[:-1] == [BlockDigests(self.PROMPT).of(count).hex() for count in (6, 7)]
        assert sorted(path.stem for path in tmp_path.rglob("*.kv")) == sorted(names)
        assert self.windowed(tmp_path).ask(next_turn(row)).cached == len(row.ids) - 1

    def test_a_beginning_that_was_removed_is_not_missed(self, tmp_path: Path) -> None:
        first = self.windowed(tmp_path).ask(self.PROMPT)
        restarted = self.windowed(tmp_path)
        assert restarted.files is not None
        restarted.files.remove([BlockDigests(self.PROMPT).of(count).hex() for count in range(1, 6)])
        assert restarted.ask(next_turn(first)).cached == len(first.ids) - 1


class TestMixed:
    """Some layers see 100 tokens: behind a full block two whole ones. The others see all."""

    PROMPT = TestWindows.PROMPT

    def mixed(self, folder: Path | None, blocks: int = 12) -> Engine:
        return engine_of(folder, "gemma2_100", blocks, rows=1)

    def check(self, engine: Engine, first: SequenceState, computed: int) -> None:
        """The next turn, of which so many tokens are computed."""
        row = engine.ask(next_turn(first))
        assert row.output_ids == models.generate(models.model("gemma2_100"), row.prompt, NEW)
        assert len(engine.computed) == computed

    def test_after_a_restart_layers_with_a_window_read_only_that(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        before, staying = self.mixed(tmp_path), self.mixed(None)
        first = before.ask(self.PROMPT)
        staying.ask(self.PROMPT)
        staying.logits.clear()
        staying.ask(next_turn(first))
        restarted, names = self.mixed(tmp_path), list[str]()
        assert restarted.files is not None
        read = restarted.files.read

        def reading(name: str, size: int) -> Any:
            names.append(name)
            return read(name, size)

        monkeypatch.setattr(restarted.files, "read", reading)
        self.check(restarted, first, 6)
        digests = BlockDigests(first.ids)
        assert {name for name in names if name.endswith(disk_tier.WINDOWED)} == {
            names[-1],
            *(digests.of(count).hex() + disk_tier.WINDOWED for count in (6, 7)),
        }
        assert len(names) == 8 + 3
        for found, expected in zip(restarted.logits, staying.logits, strict=True):
            assert torch.equal(found, expected)

    @pytest.mark.parametrize(
        ("count", "windowed", "known"), [(6, True, 5), (5, True, None), (4, False, 3), (1, False, 0)]
    )
    def test_what_is_damaged_matters_where_it_is_seen(
        self, tmp_path: Path, count: int, windowed: bool, known: int | None
    ) -> None:
        """All blocks matter to layers that see all; so many are not computed, or what is new is."""
        first = self.mixed(tmp_path).ask(self.PROMPT)
        restarted = self.mixed(tmp_path)
        assert restarted.files is not None
        name = BlockDigests(self.PROMPT).of(count).hex() + (disk_tier.WINDOWED if windowed else "")
        damage(restarted.files._path(name))
        self.check(restarted, first, 6 if known is None else len(next_turn(first)) - known * BLOCK)

    def test_what_is_in_memory_goes_on_with_what_is_on_disk(self, tmp_path: Path) -> None:
        first = self.mixed(tmp_path).ask(self.PROMPT)
        restarted = self.mixed(tmp_path)
        restarted.ask(self.PROMPT[: 6 * BLOCK + 1], count=1)
        restarted.computed.clear()
        self.check(restarted, first, 6)

    def test_what_was_let_go_of_before_it_could_be_written_is_written_without_its_window(self, tmp_path: Path) -> None:
        engine = self.mixed(tmp_path, 20)
        assert engine.files is not None
        row = engine.join((*self.PROMPT, *self.PROMPT))
        with a_busy_disk(engine.files):
            engine.write(row, count=2)
        engine.batch.finish(row)
        flush(engine.files)
        stems = {path.stem for path in tmp_path.rglob("*.kv")}
        digests = BlockDigests(row.prompt)
        assert {digests.of(count).hex() for count in range(1, 15)} <= stems
        assert sum(stem.endswith(disk_tier.WINDOWED) for stem in stems) < len(stems) / 2
        self.check(self.mixed(tmp_path, 20), row, 6)


def test_nothing_of_a_row_that_failed_stays(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    engine = engine_of(tmp_path)
    row = engine.join(PROMPT)
    engine.write(row, count=1)

    def fail(*_: Any) -> torch.Tensor:
        raise RuntimeError("no")

    monkeypatch.setattr(engine.batch.forward, "decode", fail)
    [event] = engine.batch.step()
    assert isinstance(event.error, GenerationError)
    flush(engine.files)
    assert not list(tmp_path.rglob("*.kv"))
    assert engine_of(tmp_path).ask(PROMPT).cached == 0


def test_after_a_failure_of_the_engine_nothing_of_its_rows_stays(tmp_path: Path) -> None:
    engine = engine_of(tmp_path)
    row = engine.join(PROMPT)
    engine.write(row, count=1)
    engine.batch.reset()
    flush(engine.files)
    assert not list(tmp_path.rglob("*.kv"))
    assert not engine.batch.rows
    assert engine.batch.pool.free == engine.batch.pool.count


@contextmanager
def a_busy_disk(files: KVFiles) -> Iterator[None]:
    """Nothing more is written meanwhile."""
    files._queued += 2**40
    try:
        yield
    finally:
        files._queued -= 2**40


def test_where_the_disk_is_slow_later_blocks_are_written_later_or_not(tmp_path: Path) -> None:
    engine = engine_of(tmp_path)
    assert engine.files is not None
    row = engine.join(PROMPT)
    with a_busy_disk(engine.files):
        engine.write(row, count=2)
    engine.batch.step()
    flush(engine.files)
    assert len(list(tmp_path.rglob("*.kv"))) == 2
    with a_busy_disk(engine.files):
        engine.batch.finish(row)
    flush(engine.files)
    assert engine_of(tmp_path).ask(next_turn(row)).cached == 2 * BLOCK


def test_no_step_moves_more_than_some_blocks(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    first = engine_of(tmp_path, blocks=20).ask(PROMPT * 4)
    monkeypatch.setattr(disk_tier, "READ_AHEAD", 2)
    engine = engine_of(tmp_path, blocks=20)
    row = engine.join(next_turn(first))
    engine.write(row)
    moved = [event.restored for event in engine.events if event.restored]
    assert max(moved) <= 2 * BLOCK
    assert sum(moved) == row.cached == len(first.ids) - 1


def test_a_row_may_end_while_it_is_read_from_disk(tmp_path: Path) -> None:
    first = engine_of(tmp_path).ask(PROMPT)
    engine = engine_of(tmp_path)
    row = engine.join(next_turn(first))
    assert row.restoring is not None
    engine.batch.finish(row)
    assert engine.ask(next_turn(first)).cached == len(first.ids) - 1


def test_earlier_blocks_go_last(tmp_path: Path) -> None:
    engine = engine_of(tmp_path)
    row = engine.ask(PROMPT)
    by_age = sorted(tmp_path.rglob("*.kv"), key=lambda path: -path.stat().st_mtime_ns)
    restarted = engine_of(tmp_path)
    table = restarted.batch.pool.open(BlockDigests(next_turn(row)))
    assert table is not None
    assert restarted.files is not None
    _, found = restarted.batch._disk._find(restarted.files, table, BlockDigests(next_turn(row)))
    assert [path.stem for path in by_age] == [block.name for block in found]
