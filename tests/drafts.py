"""Drafts that a test tells, for a scheduler that computes all of them."""

from collections.abc import Callable, Sequence

import pytest
import torch

from chatui.engine.batching.prompt_lookup import Draft
from chatui.engine.batching.scheduler import Scheduler
from chatui.engine.batching.sequence_state import SequenceState
from chatui.engine.batching.speculation import DraftedRow, Speculation


def always_draft(
    monkeypatch: pytest.MonkeyPatch, batch: Scheduler, written: Callable[[SequenceState], list[int]]
) -> None:
    """Let each step compute drafts of up to 3 tokens of what will be `written`, every other one with a wrong token."""

    def draft(row: SequenceState, limit: int) -> Draft:
        done = len(row.output_ids)
        tokens = written(row)[done : done + min(3, limit)]
        if tokens and done % 2:
            tokens[done % len(tokens)] = 0
        return Draft(tuple(tokens), (1.0,) * len(tokens))

    monkeypatch.setattr(batch, "_draft", draft)
    batch.speculation = EagerSpeculation(batch.forward, 3)


class EagerSpeculation(Speculation):
    """Computes all of each draft, without a check: in float32 rounding changes no token here."""

    def is_enabled(self) -> bool:
        return True

    def _lengths(self, drafts: Sequence[Draft]) -> list[int]:
        return [len(draft.tokens) for draft in drafts]

    def _checked(
        self,
        rows: Sequence[DraftedRow],
        lengths: list[int],
        drafted: int,
    ) -> tuple[torch.Tensor, list[int]]:
        return self._timed(rows, lengths), lengths
