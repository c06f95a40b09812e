"""One forward pass of a model over its slots: reading a piece of a prompt, or one token for each of several rows."""

import logging
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn
from transformers import PreTrainedModel

from chatui.engine.batching import attention
from chatui.engine.batching.attention import DecodeBatch, KVCache, LayerProbe, PrefillBatch, PrefillChunk
from chatui.engine.batching.slots import KVLayout, Slots
from chatui.estimates import ATTENTION_BLOCK

log = logging.getLogger(__name__)

ATTENTION_KINDS = {"full_attention", "sliding_attention"}
# How far the two ways to compute the same logits may lie apart, relative to their size. Rounding in bfloat16 stays
# below a twentieth; a model whose attention is something else is off by its whole size.
TOLERANCE = 0.1
CHECKED_TOKENS = 12
TRIES = 16

DecodeFunction = Callable[[torch.Tensor, torch.Tensor, torch.Tensor, torch.Tensor, list[torch.Tensor]], torch.Tensor]
"""(ids, slots, positions, span, keys and values) -> logits [rows, vocabulary]: the part of a step that is compiled."""


class DecodeStep(nn.Module):
    """A decode step as a function of tensors alone, as exporters and graphs want it."""

    def __init__(self, model: PreTrainedModel) -> None:
        super().__init__()
        self.model = model

    def forward(
        self,
        ids: torch.Tensor,
        slots: torch.Tensor,
        positions: torch.Tensor,
        span: torch.Tensor,
        storage: list[torch.Tensor],
    ) -> torch.Tensor:
        """Logits [rows, vocabulary]; ids, slots and positions [rows]; `storage` is keys, then values, of all layers."""
        half = len(storage) // 2
        place = DecodeBatch(slots, positions, span, KVCache(storage[:half], storage[half:]))
        return _logits(self.model, ids[:, None], positions[:, None], place)[:, -1]


@dataclass(frozen=True)
class PromptChunk:
    """Tokens of a prompt that stand at position `first` and on in a slot."""

    slot: int
    first: int
    ids: Sequence[int]


class Forward:
    """Runs a model over `slots`. A faster way to decode may be offered at any time, and from any thread."""

    def __init__(self, model: PreTrainedModel, slots: Slots) -> None:
        self.model, self.slots = model, slots
        self.step = DecodeStep(model)
        self._decode: DecodeFunction = self.step
        self._offered: DecodeFunction | None = None
        self._tries = 0
        self._storage = [*slots.storage.keys, *slots.storage.values]

    @property
    def faster(self) -> bool:
        """Whether an offered way is in use."""
        return isinstance(self._decode, CheckedDecode) and not self._decode.failed

    def offer(self, decode: DecodeFunction) -> None:
        """From the next step on, decode this way, if it then gives the same logits as the one before."""
        self._offered, self._tries = decode, 0

    @torch.inference_mode()
    def prefill(self, pieces: Sequence[PromptChunk]) -> torch.Tensor:
        """Logits [pieces, vocabulary] after each piece of a prompt, all read in one pass; no two are of one slot."""
        device = self.model.device
        runs = [PrefillChunk(piece.slot, piece.first, len(piece.ids)) for piece in pieces]
        ids = torch.tensor([[token for piece in pieces for token in piece.ids]], device=device)
        positions = torch.cat([torch.arange(run.first, run.first + run.count, device=device) for run in runs])[None]
        ends = torch.tensor([run.count for run in runs], device=device).cumsum(0) - 1
        return _logits(self.model, ids, positions, PrefillBatch(runs, self.slots.storage), ends)[0]

    @torch.inference_mode()
    def decode(self, ids: Sequence[int], slots: Sequence[int], positions: Sequence[int]) -> torch.Tensor:
        """Logits [rows, vocabulary] after one more token in each of these slots."""
        device = self.model.device
        rows = [torch.tensor(list(values), device=device) for values in (ids, slots, positions)]
        span = span_of(max(positions) + 1, device)
        if self._offered is not None:
            self._try(self._offered, (rows[0], rows[1], rows[2], span, self._storage))
        return self._decode(rows[0], rows[1], rows[2], span, self._storage)

    def _try(
        self, offered: DecodeFunction, inputs: tuple[torch.Tensor, torch.Tensor, torch.Tensor, torch.Tensor, Any]
    ) -> None:
        """Change over to `offered` once it computes a step as the present way does; give it up after some steps.

        Rounding alone can take single steps of a small bfloat16 model further apart; what is wrong never comes close.
        """
        self._tries += 1
        try:
            agreed = same(offered(*inputs), self._decode(*inputs))
        except Exception as error:
            log.warning("a faster step is not used: %s", error)
            self._offered = None
            return
        if agreed:
            self._decode, self._offered = CheckedDecode(self.step, offered), None
            log.info("the faster step is in use")
        elif self._tries == TRIES:
            log.warning("a faster step is not used: its logits differ")
            self._offered = None


def span_of(length: int, device: torch.device) -> torch.Tensor:
    """Positions for a step that looks at `length` of them: whole blocks, two at least, since compilers take a size of
    one for something special.
    """
    blocks = max(2, -(-length // ATTENTION_BLOCK))
    return torch.arange(blocks * ATTENTION_BLOCK, device=device, dtype=torch.float32).view(blocks, ATTENTION_BLOCK)


def same(found: torch.Tensor, wanted: torch.Tensor) -> bool:
    """Whether logits [rows, vocabulary] are the same but for rounding, row by row."""
    apart = (found.float() - wanted.float()).norm(dim=-1)
    return bool((apart <= TOLERANCE * wanted.float().norm(dim=-1)).all())


def probe_layout(model: PreTrainedModel) -> KVLayout | None:
    """What the model stores for each token, or None where its attention is not the plain kind that slots can keep.

    The model is left with the attention over slots in place, or as it was.
    """
    config = model.config.get_text_config(decoder=True)
    kinds = set(getattr(config, "layer_types", None) or ())
    if not model._supports_attention_backend or not kinds <= ATTENTION_KINDS:
        return None
    before = config._attn_implementation
    found = LayerProbe({})
    try:
        model.set_attn_implementation(attention.NAME)
        with torch.inference_mode():
            ids = torch.zeros(1, 2, dtype=torch.long, device=model.device)
            _logits(model, ids, torch.arange(2, device=model.device)[None], found)
        if sorted(found.layers) == list(range(config.num_hidden_layers)):
            layers = tuple(found.layers[index] for index in range(config.num_hidden_layers))
            return KVLayout(layers, model.dtype)
    except Exception as error:  # a model may do anything here; the serial path takes it
        log.debug("no slots for %s: %r", type(model).__name__, error)
    model.set_attn_implementation(before)
    return None


def matches_own_attention(model: PreTrainedModel, shape: KVLayout) -> bool:
    """Whether a few tokens read and decoded in slots give the logits of the model's own forward pass.

    A prompt is read in two pieces by two rows at once, which then decode it together, one behind the other: a chat in
    small.
    """
    slots = Slots(shape, 2, CHECKED_TOKENS, model.device)
    over_slots = Forward(model, slots)
    vocabulary = model.config.get_text_config(decoder=True).vocab_size
    ids = [(7 + 31 * index) % min(vocabulary, 200) for index in range(CHECKED_TOKENS)]
    half = CHECKED_TOKENS // 2
    try:
        for begin, ends in ((0, (2, 2)), (2, (half, half - 1))):
            over_slots.prefill([PromptChunk(slot, begin, ids[begin:end]) for slot, end in enumerate(ends)])
        places = [[at, at - 1] for at in range(half, CHECKED_TOKENS)]
        found = [over_slots.decode([ids[at] for at in pair], (0, 1), pair) for pair in places]
        wanted = _plain(model, ids)
    except Exception as error:  # as above
        log.debug("no slots for %s: %r", type(model).__name__, error)
        return False
    return all(same(logits, wanted[pair]) for logits, pair in zip(found, places, strict=True))


def _plain(model: PreTrainedModel, ids: Sequence[int]) -> torch.Tensor:
    """Logits [tokens, vocabulary] of the model's own forward pass, with its own attention."""
    model.set_attn_implementation("eager")
    try:
        with torch.inference_mode():
            plain: Any = model(input_ids=torch.tensor([list(ids)], device=model.device), use_cache=False)
            logits: torch.Tensor = plain.logits[0]
            return logits
    finally:
        model.set_attn_implementation(attention.NAME)


def _logits(
    model: PreTrainedModel, ids: torch.Tensor, positions: torch.Tensor, place: object, ends: torch.Tensor | int = 1
) -> torch.Tensor:
    """Logits [rows, ends, vocabulary] behind the tokens at `ends`, or the last; ids and positions [rows, tokens]."""
    outputs: Any = model(input_ids=ids, position_ids=positions, use_cache=False, logits_to_keep=ends, place=place)
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
            return self._plain(*inputs)  # which writes the same places again
        if several in self._agreed:
            return found
        wanted = self._plain(*inputs)
        if same(found, wanted):
            self._agreed.add(several)
        else:
            self._tries[several] += 1
            if self._tries[several] == TRIES:
                log.warning(
                    "the faster step is not used for %s: its logits differ", "several rows" if several else "one"
                )
        return wanted
