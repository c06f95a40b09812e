"""Drafts are computed where that is faster, and only where a row's logits do not depend on the rows beside it."""

from collections.abc import Callable, Sequence
from types import SimpleNamespace
from typing import Any

import pytest
import torch

from chatui.engine.batching import speculation
from chatui.engine.batching.block_table import States
from chatui.engine.batching.prompt_lookup import Draft
from chatui.engine.batching.speculation import CHECKS, OUTDATED_STEPS, DraftedRow, Speculation, StepTimes, heads_of

TABLE = (1, 2)
SURE = Draft((11, 12, 13, 14, 15, 16, 17), (1.0,) * 7)
UNLIKELY = Draft((11, 12, 13), (0.1, 0.01, 0.001))


class FakeForward:
    """Logits are a function of each row's token and position, and, if not `exact`, of the number of rows."""

    def __init__(self, seconds: Callable[[int], float], exact: bool = True) -> None:
        self.seconds, self.exact = seconds, exact
        self.decoder: object = "plain"
        self.settled = True
        self.states: object = None
        self.now = 0.0
        self.passes: list[int] = []

    def decode(
        self,
        ids: Sequence[int],
        tables: Sequence[Sequence[int]],
        positions: Sequence[int],
        states: Sequence[States | None] = (),
    ) -> torch.Tensor:
        assert len(ids) == len(tables) == len(positions)
        self.passes.append(len(ids))
        self.now += self.seconds(len(ids))
        logits = torch.tensor([[token, position] for token, position in zip(ids, positions, strict=True)])
        return logits.float() if self.exact else logits + 0.001 * len(ids)


def speculation_of(
    monkeypatch: pytest.MonkeyPatch, seconds: Callable[[int], float], *, exact: bool = True, max_tokens: int = 7
) -> tuple[Speculation, FakeForward]:
    forward: Any = FakeForward(seconds, exact)
    monkeypatch.setattr(speculation, "time", SimpleNamespace(perf_counter=lambda: forward.now))
    return Speculation(forward, max_tokens), forward


def run(made: Speculation, draft: Draft, steps: int = 40, rows: int = 1) -> list[int]:
    """How much of this draft each step computes for the first row."""
    lengths = []
    for _ in range(steps):
        assert made.is_enabled()
        row = DraftedRow(5, TABLE, 30, draft)
        logits, computed = made.decode([row] * rows)
        assert logits[0].tolist() == pytest.approx([5, 30], abs=0.1)
        assert len(logits) == rows + sum(computed)
        for depth in range(computed[0]):
            assert logits[1 + depth].tolist() == [draft.tokens[depth], 31 + depth]
        lengths.append(computed[0])
    return lengths


def test_sure_drafts_are_computed_whole_where_rows_cost_little(monkeypatch: pytest.MonkeyPatch) -> None:
    made, _ = speculation_of(monkeypatch, lambda rows: 1 + 0.1 * rows)
    assert run(made, SURE)[-5:] == [7] * 5


def test_few_tokens_are_computed_where_more_rows_cost_more(monkeypatch: pytest.MonkeyPatch) -> None:
    made, _ = speculation_of(monkeypatch, lambda rows: 1.0 if rows <= 4 else rows)
    assert run(made, SURE)[-5:] == [3] * 5


def test_no_draft_is_computed_where_each_row_costs_a_step(monkeypatch: pytest.MonkeyPatch) -> None:
    made, forward = speculation_of(monkeypatch, lambda rows: 1.0 * rows)
    lengths = run(made, SURE, 200)
    assert lengths[10:].count(0) >= 180
    warm_up, checks = 8, sum(1 + (1 + length) for length in (1, 3, 7))
    assert forward.now == 200 + sum(lengths) + warm_up + checks, "nothing is lost but the checks, once"


def test_unlikely_drafts_are_left(monkeypatch: pytest.MonkeyPatch) -> None:
    made, forward = speculation_of(monkeypatch, lambda rows: 1 + 0.2 * rows)
    assert set(run(made, UNLIKELY)) == {0}
    assert set(forward.passes) == {1}


def test_rows_together_share_the_pass(monkeypatch: pytest.MonkeyPatch) -> None:
    made, forward = speculation_of(monkeypatch, lambda rows: 1 + 0.01 * rows)
    assert run(made, SURE, rows=5)[-1] == 1
    assert max(forward.passes) == 10


def test_none_are_used_where_rows_depend_on_each_other(monkeypatch: pytest.MonkeyPatch) -> None:
    made, _ = speculation_of(monkeypatch, lambda rows: 1.0, exact=False)
    for _ in range(CHECKS):
        assert made.is_enabled()
        made.decode([DraftedRow(5, TABLE, 30)])
        assert made.decode([DraftedRow(5, TABLE, 30, SURE)])[1] == [0]
    assert not made.is_enabled()


def test_another_way_to_decode_is_checked_anew(monkeypatch: pytest.MonkeyPatch) -> None:
    made, forward = speculation_of(monkeypatch, lambda rows: 1.0, exact=False)
    run(made, UNLIKELY, 1)
    for _ in range(CHECKS):
        made.decode([DraftedRow(5, TABLE, 30, SURE)])
    assert not made.is_enabled()
    forward.decoder, forward.exact = "faster", True
    assert run(made, SURE)[-1] == 7
    forward.settled = False
    assert not made.is_enabled(), "while another way waits to be tried"


def test_it_can_be_switched_off(monkeypatch: pytest.MonkeyPatch) -> None:
    made, _ = speculation_of(monkeypatch, lambda rows: 1.0, max_tokens=0)
    assert not made.is_enabled()


def test_plain_steps_are_measured_again(monkeypatch: pytest.MonkeyPatch) -> None:
    made, _ = speculation_of(monkeypatch, lambda rows: 1.0)
    assert run(made, SURE, 3 * OUTDATED_STEPS)[OUTDATED_STEPS:].count(0) in (1, 2, 3)


def test_times_are_guessed_from_fewer_rows() -> None:
    times = StepTimes()
    times.record(2, 1.0)
    assert times.estimate(2) == 1.0
    assert 1.0 < times.estimate(4) < 2.0
    times.record(4, 3.0)
    assert times.estimate(4) == 3.0
    for _ in range(OUTDATED_STEPS):
        times.record(2, 1.0)
    assert times.is_outdated(4)
    assert times.estimate(4) < 2.0, "and tried again"


def test_heads() -> None:
    assert heads_of([0, 0, 0]) == [0, 1, 2]
    assert heads_of([2, 0, 3]) == [0, 3, 4]
