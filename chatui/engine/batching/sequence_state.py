"""A reply as the scheduler advances it, and what a step did for it."""

from collections.abc import Mapping
from dataclasses import dataclass, field

import torch

from chatui.engine.batching.block_digests import BlockDigests
from chatui.engine.batching.block_table import BlockTable
from chatui.engine.batching.blocks import BLOCK
from chatui.engine.batching.disk_tier import Restoring
from chatui.engine.batching.prompt_lookup import PromptLookup
from chatui.engine.batching.token_budget import MAX_TOKENS
from chatui.engine.sampling.sampler import Sampler
from chatui.errors import ChatError


@dataclass
class ComputedDraft:
    """Drafted `tokens` whose keys and values are stored behind those of the table, if they come next.

    `logits` [tokens, vocabulary] are those behind each; `rows` were in that pass.
    """

    tokens: tuple[int, ...]
    logits: torch.Tensor
    rows: int

    def next(self) -> torch.Tensor:
        """The logits [1, vocabulary] behind the first token, which has come."""
        first, self.tokens, self.logits = self.logits[:1], self.tokens[1:], self.logits[1:]
        return first


@dataclass(eq=False)
class SequenceState:
    """One reply: its `prompt` and the `output_ids` so far; its table holds the keys and values of all but the last.

    `cached` tokens of the prompt were computed from the start, or came from disk, which goes on while it is
    `restoring`. A row whose blocks were given to others has an empty table: it waits until it can read all of that
    again, and has `digests` of all its tokens meanwhile. It is read as a sequence of `length` tokens: see longrope.py.
    `computed` is set while its first token is the last of `output_ids`.
    """

    prompt: tuple[int, ...]
    sampler: Sampler
    table: BlockTable
    cached: int
    length: int
    user: str = ""
    output_ids: list[int] = field(default_factory=list)
    lookup: PromptLookup | None = None
    computed: ComputedDraft | None = None
    restoring: Restoring | None = None
    digests: BlockDigests | None = None

    @property
    def ids(self) -> tuple[int, ...]:
        """All tokens so far."""
        return (*self.prompt, *self.output_ids) if self.output_ids else self.prompt

    @property
    def unread(self) -> int:
        """Tokens still to be read before the next one can be generated."""
        return max(0, len(self.prompt) + max(0, len(self.output_ids) - 1) - self.table.length)

    @property
    def is_short(self) -> bool:
        """Whether so little of the prompt had to be read from the start that it need not wait for long ones."""
        return len(self.prompt) - self.cached <= MAX_TOKENS

    @property
    def waits(self) -> bool:
        """Whether it has no blocks."""
        return not self.table.blocks


@dataclass(frozen=True)
class SequenceUpdate:
    """What a step of so many `rows` did for a row: wrote a token, read up to `read` tokens of the prompt, or failed.

    The last `restored` of those that were read came from disk. A token that was `accepted` needed no pass: one before
    had computed it behind a right draft.
    """

    row: SequenceState
    token: int | None = None
    read: int | None = None
    error: ChatError | None = None
    rows: int = 1
    accepted: bool = False
    restored: int = 0


def in_whole_blocks(counts: Mapping[SequenceState, int]) -> dict[SequenceState, int]:
    """How many tokens of which prompts are read where so many were planned: up to the end of a block where a model
    keeps states, or of the prompt, and of as few prompts as that takes.

    States are kept there. They are computed for one sequence at a time, and of fewer tokens it takes no less: PyTorch's
    linear attention works in chunks of 64.
    """
    chosen, left = dict[SequenceState, int](), sum(counts.values())
    for row, count in counts.items():
        if row.table.states is None:
            chosen[row] = count
        elif left > 0:
            first = row.table.length
            end = BLOCK * max((first + count) // BLOCK, first // BLOCK + 1)
            chosen[row] = min(end - first, row.unread)
            left -= chosen[row]
    return chosen
