"""One forward pass of a model over its K/V blocks: pieces of prompts, one token for each of several rows, or both."""

import logging
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn
from transformers import PreTrainedModel

from chatui.engine.batching.attention import DecodeBatch, PrefillBatch, PrefillChunk
from chatui.engine.batching.block_table import States
from chatui.engine.batching.blocks import BLOCK
from chatui.engine.batching.free_cores import FreeCores, use_threads
from chatui.engine.batching.kv_cache import KVCache
from chatui.engine.batching.longrope import find_longrope, read_as
from chatui.engine.batching.recurrent_states import SequenceStates, StateLayout
from chatui.estimates import blocks_for

log = logging.getLogger(__name__)

# How far the two ways to compute the same logits may lie apart, relative to their size. Rounding in bfloat16 stays
# below a twentieth; a model whose attention is something else is off by its whole size.
TOLERANCE = 0.1
TRIES = 16

DecodeFunction = Callable[[torch.Tensor, torch.Tensor, torch.Tensor, torch.Tensor, list[torch.Tensor]], torch.Tensor]
"""(ids, tables, positions, span, tensors of a KVCache) -> logits [rows, vocabulary]: what is compiled of a step."""

PrefillFunction = Callable[[torch.Tensor, torch.Tensor, PrefillBatch, torch.Tensor, list[torch.Tensor]], torch.Tensor]
"""(ids, positions, batch, ends, tensors of a KVCache) -> logits [1, ends, vocabulary]: reads pieces of prompts."""


class DecodeStep(nn.Module):
    """A decode step as a function of tensors alone, as exporters and graphs want it."""

    def __init__(self, model: PreTrainedModel) -> None:
        super().__init__()
        self.model = model

    def forward(
        self,
        ids: torch.Tensor,
        tables: torch.Tensor,
        positions: torch.Tensor,
        span: torch.Tensor,
        tensors: list[torch.Tensor],
    ) -> torch.Tensor:
        """Logits [rows, vocabulary]; ids and positions [rows], tables [rows, blocks], span [blocks, BLOCK]; `tensors`
        are those of a KVCache.
        """
        attn_metadata = DecodeBatch(tables, positions, span, KVCache.of(tensors))
        with read_as(0):
            return model_logits(self.model, ids[:, None], positions[:, None], attn_metadata)[:, -1]


@dataclass(frozen=True)
class PromptChunk:
    """Tokens of a prompt that stand at position `first` and on in a sequence, which lies in the blocks of `table`.

    The sequence is read as one of `length` tokens, or of as many as are read so far: see longrope.py. `states` are
    those in front of these tokens, where the model keeps any.
    """

    table: Sequence[int]
    first: int
    ids: Sequence[int]
    length: int = 0
    states: States | None = None


class Forward:
    """Runs a model over its K/V blocks. A faster way to decode may be offered at any time, and from any thread."""

    def __init__(self, model: PreTrainedModel, cache: KVCache) -> None:
        self.model, self.cache = model, cache
        self.step = DecodeStep(model)
        self.longrope = find_longrope(model)
        self.states = StateLayout.of(model)
        self._decode: DecodeFunction = self.step
        self._faster_prefill: PrefillFunction | None = None
        self._mixing: DecodeFunction | None = None
        self._offered: DecodeFunction | None = None
        self._tries = 0
        self._compiling = False
        self._free_cores = FreeCores()
        self._tensors = cache.tensors

    @property
    def faster(self) -> bool:
        """Whether an offered way is in use."""
        return isinstance(self._decode, CheckedDecode) and not self._decode.failed

    @property
    def decoder(self) -> DecodeFunction:
        """The way to decode that is in use."""
        return self._decode

    @property
    def settled(self) -> bool:
        """Whether no other way to decode waits to be tried."""
        return self._offered is None

    def offer(self, decode: DecodeFunction) -> None:
        """From one of the next steps on, decode this way, if it gives the same logits as the plain step."""
        self._offered = decode

    def use_prefill(self, prefill: PrefillFunction, mixing: DecodeFunction | None = None) -> None:
        """Read prompts this way, which gives the same logits, for as long as it raises no error.

        Rows that it decodes beside prompts have the bits that `mixing` gives them, where that is told.
        """
        self._faster_prefill, self._mixing = prefill, mixing

    def mixes(self, rows: int) -> bool:
        """Whether so many rows can be decoded in a pass that reads prompts, with the bits that they have without."""
        mixing = None if self._faster_prefill is None or not self.settled else self._mixing
        return isinstance(self._decode, CheckedDecode) and self._decode.uses(mixing, rows)

    @contextmanager
    def beside_compiler(self) -> Iterator[None]:
        """While another process compiles, passes leave it one of the threads. At the end of each of its hundreds of
        products a step waits for its slowest thread: with two on two cores it took 173 ms on average beside the
        compiler, with one 70 ms.
        """
        self._compiling = True
        try:
            yield
        finally:
            self._compiling = False

    def _threads(self) -> AbstractContextManager[None]:
        """Inside, as many threads are used as have a core of their own."""
        limit = torch.get_num_threads()
        if self.model.device.type != "cpu" or limit == 1:
            return nullcontext()
        return use_threads(min(self._free_cores.threads(limit), limit - self._compiling))

    def prefill(self, pieces: Sequence[PromptChunk]) -> torch.Tensor:
        """Logits [pieces, vocabulary] after each piece of a prompt, read in one pass; no two are of one sequence."""
        if self.states is not None:  # which do not tell one sequence from another
            return torch.cat([self._prefill([piece], [len(piece.ids)]) for piece in pieces])
        return self._prefill(pieces, [len(piece.ids) for piece in pieces])

    def mixed(self, rows: Sequence[PromptChunk], pieces: Sequence[PromptChunk]) -> torch.Tensor:
        """Logits [rows + pieces, vocabulary] after the next token of each row, and after each piece of a prompt.

        Needs `mixes`. Raises what went wrong.
        """
        chunks = [*rows, *pieces]
        return self._prefill(chunks, [len(chunk.ids) for chunk in chunks], len(rows))

    def prefill_every_token(self, piece: PromptChunk) -> torch.Tensor:
        """Logits [tokens, vocabulary] after each token of a piece."""
        return self._prefill([piece], [1] * len(piece.ids))

    @torch.inference_mode()
    def _prefill(self, pieces: Sequence[PromptChunk], counts: Sequence[int], decoded: int = 0) -> torch.Tensor:
        """Logits after so many tokens, after so many more, and so on. So many of the pieces are decoded."""
        device = self.model.device
        runs = [
            PrefillChunk(
                torch.tensor(list(piece.table[: blocks_for(piece.first + len(piece.ids))]), device=device),
                piece.first,
                len(piece.ids),
            )
            for piece in pieces
        ]
        ids = torch.tensor([[token for piece in pieces for token in piece.ids]], device=device)
        positions = torch.cat([torch.arange(run.first, run.first + run.count, device=device) for run in runs])[None]
        ends = torch.tensor(list(counts), device=device).cumsum(0) - 1
        lengths = torch.tensor([[piece.length for piece in pieces for _ in piece.ids]], device=device)
        with read_as(lengths), self._threads():
            batch = PrefillBatch(runs, self.cache, decoded)
            if self.states is not None:
                return self._advance(self.states, [piece.states for piece in pieces], ids, positions, batch, ends)[0]
            if self._faster_prefill is not None:
                try:
                    return self._faster_prefill(ids, positions, batch, ends, self._tensors)[0]
                except Exception as error:
                    log.warning("the faster way to read prompts is not used any more: %s", error)
                    self._faster_prefill = None
                    if decoded:
                        raise
            return model_logits(self.model, ids, positions, batch, ends)[0]

    @torch.inference_mode()
    def decode(
        self,
        ids: Sequence[int],
        tables: Sequence[Sequence[int]],
        positions: Sequence[int],
        states: Sequence[States | None] = (),
    ) -> torch.Tensor:
        """Logits [rows, vocabulary] after one more token in each of the sequences that lie in these blocks, and have
        these states where the model keeps any.
        """
        device = self.model.device
        span = span_of(max(positions) + 1, device)
        inputs = (
            torch.tensor(list(ids), device=device),
            torch.tensor([_padded(table, span.shape[0]) for table in tables], device=device),
            torch.tensor(list(positions), device=device),
            span,
            self._tensors,
        )
        with self._threads():
            if self.states is not None:
                batch = DecodeBatch(*inputs[1:4], self.cache)
                return self._advance(self.states, states, inputs[0][:, None], inputs[2][:, None], batch)[:, -1]
            if self._offered is not None:
                self._try(self._offered, inputs)
            return self._decode(*inputs)

    def _advance(
        self,
        layout: StateLayout,
        states: Sequence[States | None],
        ids: torch.Tensor,
        positions: torch.Tensor,
        batch: DecodeBatch | PrefillBatch,
        ends: torch.Tensor | int = 1,
    ) -> torch.Tensor:
        """As model_logits; what becomes of the states of each row is proposed to them."""
        rows = [each or SequenceStates() for each in states]
        stack = layout.stack(rows)
        logits = model_logits(self.model, ids, positions, batch, ends, {layout.argument: stack})
        for row, tensors in zip(rows, stack.rows(len(rows)), strict=True):
            row.propose(tensors)
        return logits

    def _try(
        self,
        offered: DecodeFunction,
        inputs: tuple[torch.Tensor, torch.Tensor, torch.Tensor, torch.Tensor, list[torch.Tensor]],
    ) -> None:
        """Change over to `offered` once it computes a step as the present way does; give it up after some steps.

        Rounding alone can take single steps of a small bfloat16 model further apart; what is wrong never comes close.
        """
        self._tries += 1
        try:
            agrees = same(offered(*inputs), self.step(*inputs))
        except Exception as error:
            self._decide(None, str(error))
            return
        if agrees:
            self._decide(offered)
        elif self._tries == TRIES:
            self._decide(None, "its logits differ")

    def _decide(self, chosen: DecodeFunction | None, why_not: str = "") -> None:
        """Go over to what was tried, or not."""
        if chosen is None:
            log.warning("a faster step is not used: %s", why_not)
        else:
            self._decode = CheckedDecode(self.step, chosen)
            log.info("the faster step is in use")
        self._offered, self._tries = None, 0


def span_of(length: int, device: torch.device) -> torch.Tensor:
    """Positions for a step that looks at `length` of them: whole blocks, two at least, since compilers take a size of
    one for something special.
    """
    blocks = max(2, blocks_for(length))
    return torch.arange(blocks * BLOCK, device=device, dtype=torch.float32).view(blocks, BLOCK)


def _padded(table: Sequence[int], blocks: int) -> list[int]:
    """The table with so many entries; block 0 is nobody's."""
    return [*table[:blocks], *[0] * (blocks - len(table))]


def same(found: torch.Tensor, expected: torch.Tensor) -> bool:
    """Whether logits [rows, vocabulary] are the same but for rounding, row by row."""
    apart = (found.float() - expected.float()).norm(dim=-1)
    return bool((apart <= TOLERANCE * expected.float().norm(dim=-1)).all())


def model_logits(
    model: PreTrainedModel,
    ids: torch.Tensor,
    positions: torch.Tensor,
    attn_metadata: object,
    ends: torch.Tensor | int = 1,
    cache: Mapping[str, Any] | None = None,
) -> torch.Tensor:
    """Logits [rows, ends, vocabulary] behind the tokens at `ends`, or the last; ids and positions [rows, tokens].

    `cache` is the argument for states, where the model keeps any.
    """
    outputs: Any = model(
        input_ids=ids,
        position_ids=positions,
        use_cache=cache is not None,
        logits_to_keep=ends,
        attn_metadata=attn_metadata,
        **(cache or {}),
    )
    logits: torch.Tensor = outputs.logits
    return logits


class CheckedDecode:
    """A faster step that is used for one row, and for several, once it has computed as `plain` does for so many.

    Compiled steps have a form of their own for each. After an error the plain step is used for good.
    """

    def __init__(self, plain: DecodeFunction, faster: DecodeFunction) -> None:
        self._plain, self._faster = plain, faster
        self._agreed: set[bool] = set()
        self._tries: Counter[bool] = Counter()
        self.failed = False

    def uses(self, decode: DecodeFunction | None, rows: int) -> bool:
        """Whether it is this step that computes so many rows, without further checks."""
        return decode is self._faster and not self.failed and (rows > 1) in self._agreed

    def __call__(self, *inputs: Any) -> torch.Tensor:
        """As DecodeStep.forward."""
        several = inputs[0].shape[0] > 1
        if self.failed or self._tries[several] == TRIES:
            return self._plain(*inputs)
        try:
            found = self._faster(*inputs)
        except Exception as error:
            log.warning("the faster step is not used any more: %s", error)
            self.failed = True
            return self._plain(*inputs)  # which writes the same slots again
        if several in self._agreed:
            return found
        expected = self._plain(*inputs)
        if same(found, expected):
            self._agreed.add(several)
        else:
            self._tries[several] += 1
            if self._tries[several] == TRIES:
                log.warning(
                    "the faster step is not used for %s: its logits differ", "several rows" if several else "one"
                )
        return expected
