"""Several replies that advance together, one step at a time. Knows no threads, no text, no HTTP."""

import logging
import time
from collections.abc import Mapping, Sequence
from dataclasses import replace

import torch

from chatui.engine.batching.block_digests import BlockDigests
from chatui.engine.batching.disk_tier import DiskTier
from chatui.engine.batching.failures import to_generation_error
from chatui.engine.batching.forward import Forward, PromptChunk
from chatui.engine.batching.kv_files import KVFiles
from chatui.engine.batching.prompt_lookup import NO_DRAFT, Draft, PromptLookup
from chatui.engine.batching.reading_order import ReadingOrder
from chatui.engine.batching.recurrent_states import SequenceStates
from chatui.engine.batching.sequence_state import ComputedDraft, SequenceState, SequenceUpdate, in_whole_blocks
from chatui.engine.batching.speculation import DraftedRow, Speculation, heads_of
from chatui.engine.batching.state_snapshots import StateSnapshots
from chatui.engine.batching.token_budget import TokenBudget
from chatui.engine.sampling.sampler import Sampler, choose_each, invalid_logits

log = logging.getLogger(__name__)

# How long a pass that reads prompts is planned to take, so that neither Stop nor a newcomer waits.
PASS_SECONDS = 0.2
# While prompts are read, who writes gets a token in so many seconds: some 250 words a minute, where people read 238
# (https://doi.org/10.1016/j.jml.2019.104047). Where writing would take too much of them, reading keeps this share.
TOKEN_SECONDS, MIN_READING_SHARE = 0.18, 0.42
# For short prompts a token takes so many seconds, so that newcomers do not wait. Where it is written in a step of its
# own only so much of a longer one counts.
GAP_SECONDS, MAX_STEP_SECONDS = 0.24, 0.1
# How long a step waits for the disk where no row has anything else to do.
DISK_SECONDS = 0.05


class Scheduler:
    """Rows that are added and finished between steps."""

    def __init__(
        self,
        forward: Forward,
        max_rows: int,
        max_length: int,
        prompt_lookup_num_tokens: int = 0,
        files: KVFiles | None = None,
        max_snapshots: int = 0,
    ) -> None:
        """At most so many rows at once, of so many tokens; and of each row so many drafted tokens in a step.

        Where there are `files`, what is computed is kept there too. Of states that the model keeps beside keys and
        values there are so many copies at most, for later prompts to go on from.
        """
        self.forward, self.max_rows = forward, max_rows
        self.max_length = max_length
        self.speculation = Speculation(forward, prompt_lookup_num_tokens)
        snapshots = None if forward.states is None else StateSnapshots(max_snapshots, SequenceStates())
        self.pool = forward.cache.new_pool(snapshots)
        self._disk = DiskTier(self.pool, forward.cache, files)
        self.rows: list[SequenceState] = []
        self._budget = TokenBudget(PASS_SECONDS)
        self._order = ReadingOrder()
        self._waiting: BlockDigests | None = None  # of the prompt that was last asked about
        self._has_read = False  # in the last step, and nothing else
        self._step_seconds = 0.0  # which the last step of those who write took

    @property
    def full(self) -> bool:
        """Whether no other row may be added, whatever its prompt."""
        return len(self.rows) >= self.max_rows or any(row.waits for row in self.rows)

    def can_admit(self, prompt: Sequence[int], chat: str = "") -> bool:
        """Whether a row for this prompt may be added. Each row may need one more block soon."""
        return not self.full and self.pool.fits(self._digests_of(prompt), chat, len(self.rows))

    def add(self, prompt: tuple[int, ...], sampler: Sampler, chat: str = "", user: str = "") -> SequenceState | None:
        """A new row of this `user`, or None if it does not fit. All blocks together must hold the prompt and the reply.

        What it stores is forgotten with the `chat`, where that has a name.
        """
        digests = self._digests_of(prompt)
        table = None if self.full else self.pool.open(digests, chat, len(self.rows))
        if table is None:
            return None
        restoring = self._disk.restore(table, digests)
        row = SequenceState(prompt, sampler, table, table.length, len(prompt), user, restoring=restoring)
        self.rows.append(row)
        return row

    def finish(self, row: SequenceState) -> None:
        """The row has ended, for whatever reason; what was computed stays cached."""
        if row in self.rows:
            self.rows.remove(row)
            if row.unread:
                self._order.forget(row)
            self._disk.finish(row.table)
            self.pool.close(row.table)

    def reset(self) -> None:
        """No row is left, and nothing that they may have used."""
        for row in self.rows:
            self._disk.remove(row.table)
            self.pool.discard(row.table)
        self.rows.clear()
        self.pool.clear()
        self._order = ReadingOrder()

    def step(self) -> list[SequenceUpdate]:
        """Read pieces of some prompts, and write one token for every row whose prompt is read: in one pass where those
        have the same bits then, or else one in this step and the other in the next.

        Where drafts were right, only those rows write, which takes no pass. Beside that, what comes from disk is put
        into the tables of other rows.
        """
        self._reread()
        self._resume()
        restored = self._restore()
        if computed := [row for row in self.rows if row.computed is not None]:
            return restored + self._choose_computed(computed)
        reading = [row for row in self.rows if row.unread and not row.waits and row.restoring is None]
        writing = [row for row in self.rows if not row.unread]
        mixes = bool(reading and writing) and self.forward.mixes(len(writing))
        if reading and (mixes or not writing or not self._has_read):
            self._has_read = not mixes
            return restored + self._read(reading, writing if mixes else [], self._tokens(reading, writing, mixes))
        started = time.perf_counter()
        events = self._decode(list(self._with_blocks(dict.fromkeys(writing, 1))))
        self._step_seconds = time.perf_counter() - started
        self._has_read = False
        return restored + events

    def _tokens(self, reading: Sequence[SequenceState], writing: Sequence[SequenceState], mixes: bool) -> int:
        """How many tokens of prompts are read next."""
        if not writing:
            return self._budget.tokens
        some_short = any(row.is_short for row in reading)
        if mixes:
            return self._budget.within(GAP_SECONDS if some_short else TOKEN_SECONDS, len(writing))
        step = self._step_seconds
        longest = GAP_SECONDS - min(step, MAX_STEP_SECONDS)
        least = step * MIN_READING_SHARE / (1 - MIN_READING_SHARE)
        return self._budget.within(longest if some_short else min(longest, max(TOKEN_SECONDS - step, least)))

    def _read(
        self, reading: Sequence[SequenceState], writing: Sequence[SequenceState], tokens: int
    ) -> list[SequenceUpdate]:
        """Read so many tokens of some prompts, and write one in each of these rows in the same pass."""
        counts = in_whole_blocks(self._order.plan(reading, tokens))
        planned = self._with_blocks({**dict.fromkeys(writing, 1), **counts})
        rows = [row for row in writing if row in planned]
        counts = {row: count for row, count in counts.items() if row in planned}
        started = time.perf_counter()
        events = self._prefill({row: _chunk(row, count) for row, count in counts.items()}, rows)
        self._budget.measure(sum(counts.values()), time.perf_counter() - started, len(rows))
        self._order.record(counts)
        return events

    def _digests_of(self, prompt: Sequence[int]) -> BlockDigests:
        """Those of a prompt that waits for room, the same ones at every step."""
        if self._waiting is None or self._waiting.ids is not prompt:
            self._waiting = self._digests(prompt, len(prompt))
        return self._waiting

    def _digests(self, ids: Sequence[int], length: int) -> BlockDigests:
        """Sequences that are read as so many tokens have other keys than longer ones where that matters."""
        longrope = self.forward.longrope
        return BlockDigests(ids, b"long" if longrope is not None and length > longrope.limit else b"")

    def _reread(self) -> None:
        """Rows that are now too long for the way they were read wait to be read anew, where `generate()` does that."""
        longrope = self.forward.longrope
        if longrope is None or not longrope.rereads:
            return
        for row in self.rows:
            if row.length <= longrope.limit < len(row.ids):
                row.length = len(row.ids)
                self._give_up_blocks(row)

    def _resume(self) -> None:
        """Give blocks to rows that wait for them, the oldest first."""
        for row in [row for row in self.rows if row.waits]:
            running = sum(not other.waits for other in self.rows)
            row.digests = row.digests or self._digests(row.ids, row.length)
            table = self.pool.open(row.digests, row.table.chat, running)
            if table is None:
                return
            row.table, row.restoring, row.digests = table, self._disk.restore(table, row.digests), None

    def _restore(self) -> list[SequenceUpdate]:
        """Put what has been read from disk into tables, and wait a little for it where no row can do anything else."""
        rows = [row for row in self.rows if row.restoring is not None]
        if rows and all(row.waits or row.restoring is not None for row in self.rows):
            self._disk.wait([row.restoring for row in rows if row.restoring is not None], DISK_SECONDS)
        events = list[SequenceUpdate]()
        for row in rows:
            if row.restoring is None:
                continue
            count = self._disk.advance(row.table, row.ids, row.restoring)
            if row.restoring.done:
                row.restoring = None
                if not self.pool.is_whole(row.table):  # a block is gone or damaged: all is looked for again
                    row.cached = row.cached if row.output_ids else 0
                    self._give_up_blocks(row)
                    continue
            if count and not row.output_ids:
                row.cached += count
                events.append(SequenceUpdate(row, read=row.table.length, restored=count))
        return events

    def _give_up_blocks(self, row: SequenceState) -> None:
        """Let others have the blocks of this row, which waits until it can read all of that again."""
        self._disk.save(row.table)
        self._order.forget(row)
        row.restoring = row.computed = None
        self.pool.close(row.table)

    def _with_blocks(self, rows: Mapping[SequenceState, int]) -> dict[SequenceState, int]:
        """Those with blocks for so many next tokens. The newest row gives up its own, so that the oldest advances."""
        for row, count in rows.items():
            while not row.waits and not self.pool.grow(row.table, count):
                self._give_up_blocks(next(other for other in reversed(self.rows) if not other.waits))
        return {row: count for row, count in rows.items() if not row.waits}

    def _prefill(
        self, pieces: Mapping[SequenceState, PromptChunk], writing: Sequence[SequenceState] = ()
    ) -> list[SequenceUpdate]:
        """Read these pieces, and write a token in each of those rows in the same pass."""
        if not pieces:
            return self._decode(writing)
        chunks, started = {**{row: _last_token(row) for row in writing}, **pieces}, time.perf_counter()
        try:
            tokens, read = [chunks[row] for row in writing], list(pieces.values())
            logits = self.forward.mixed(tokens, read) if writing else self.forward.prefill(read)
            # Asked now, since a row may end before it writes, and what is no number must not stay in its blocks.
            invalid = torch.isnan(logits).any(-1).tolist()
        except Exception as error:
            if len(chunks) == 1:
                return [self._failed(row, error) for row in pieces]
            log.debug("a pass of %d sequences failed, each goes alone", len(chunks), exc_info=error)
            alone = [event for row, piece in pieces.items() for event in self._prefill({row: piece})]
            return self._decode(writing) + alone
        self._budget.record(sum(len(chunk.ids) for chunk in chunks.values()), time.perf_counter() - started)
        events, completed = list[SequenceUpdate](), dict[SequenceState, int]()
        for at, (row, chunk) in enumerate(chunks.items()):
            self.pool.fill(row.table, chunk.ids)
            self._disk.save(row.table)
            if at < len(writing) or (not row.unread and not row.output_ids):
                completed[row] = at
            elif invalid[at]:
                events.append(self._failed(row, invalid_logits()))
            elif not row.output_ids:
                events.append(SequenceUpdate(row, read=row.table.length))
        if completed:
            events += self._choose(list(completed), logits[list(completed.values())])
        return events

    def _decode(self, rows: Sequence[SequenceState]) -> list[SequenceUpdate]:
        if not rows:
            return []
        try:
            drafts = self._drafts(rows) if self.speculation.is_enabled() else [NO_DRAFT] * len(rows)
            logits, lengths = self.speculation.decode(
                [
                    DraftedRow(row.output_ids[-1], row.table.numbers, row.table.length, draft, row.table.states)
                    for row, draft in zip(rows, drafts, strict=True)
                ]
            )
        except Exception as error:
            if len(rows) == 1:
                return [self._failed(rows[0], error)]
            # Which of them it was shows when each goes alone: a step writes the same slots again.
            log.debug("a step of %d rows failed, each goes alone", len(rows), exc_info=error)
            return [event for row in rows for event in self._decode([row])]
        heads = heads_of(lengths)
        for row, draft, length, head in zip(rows, drafts, lengths, heads, strict=True):
            self.pool.fill(row.table, row.output_ids[-1:])
            self._disk.save(row.table)
            if length:
                behind = logits[head + 1 : head + 1 + length]
                row.computed = ComputedDraft(draft.tokens[:length], behind, len(rows))
        return self._choose(rows, logits if len(logits) == len(rows) else logits[heads])

    def _drafts(self, rows: Sequence[SequenceState]) -> list[Draft]:
        """What may come next in each row, as far as there is room for it."""
        drafts = list[Draft]()
        for row in rows:
            draft = self._draft(row, min(self.speculation.max_tokens, self.max_length - row.table.length - 1))
            drafts.append(draft if self.pool.grow(row.table, 1 + len(draft.tokens)) else NO_DRAFT)
        return drafts

    def _draft(self, row: SequenceState, limit: int) -> Draft:
        row.lookup = row.lookup or PromptLookup(row.prompt)
        row.lookup.update(row.output_ids)
        return row.lookup.draft(limit)

    def _choose_computed(self, rows: Sequence[SequenceState]) -> list[SequenceUpdate]:
        """The next token of rows whose last one was drafted."""
        for row in rows:
            self.pool.fill(row.table, row.output_ids[-1:])
            self._disk.save(row.table)
        drafts = {row: row.computed for row in rows if row.computed is not None}
        events = self._choose(rows, torch.cat([draft.next() for draft in drafts.values()]))
        return [replace(event, rows=drafts[event.row].rows, accepted=event.token is not None) for event in events]

    def _choose(self, rows: Sequence[SequenceState], logits: torch.Tensor) -> list[SequenceUpdate]:
        """The next token of each row; `logits` has shape [rows, vocabulary]."""
        ids = [
            torch.tensor([[*row.prompt, *row.output_ids]], device=logits.device) if row.sampler.looks_back else None
            for row in rows
        ]
        try:
            chosen = choose_each([row.sampler for row in rows], ids, logits)
        except Exception as error:
            if len(rows) == 1:
                return [self._failed(rows[0], error)]
            return [event for at, row in enumerate(rows) for event in self._choose([row], logits[at : at + 1])]
        events = []
        for row, token in zip(rows, chosen, strict=True):
            if isinstance(token, int):
                row.output_ids.append(token)
                if row.computed is not None and row.computed.tokens[:1] != (token,):
                    row.computed = None
                events.append(SequenceUpdate(row, token=token, rows=len(rows)))
            else:
                events.append(self._failed(row, token))
        return events

    def _failed(self, row: SequenceState, error: Exception) -> SequenceUpdate:
        """The row is out, and nothing of it stays: what it left in its blocks may be the cause."""
        self.rows.remove(row)
        self._disk.remove(row.table)
        self.pool.discard(row.table)
        self._order.forget(row)
        return SequenceUpdate(row, error=to_generation_error(error))


def _chunk(row: SequenceState, count: int) -> PromptChunk:
    """The next so many tokens of a row's prompt."""
    first = row.table.length
    return PromptChunk(row.table.numbers, first, row.ids[first : first + count], row.length, row.table.states)


def _last_token(row: SequenceState) -> PromptChunk:
    """The token that a row has written last, which nothing has been computed of."""
    return PromptChunk(row.table.numbers, row.table.length, row.output_ids[-1:])
