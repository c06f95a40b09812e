"""K/V slots: where conversations are remembered, who may use them, and which one begins like a new prompt."""

import itertools
from collections.abc import Sequence
from dataclasses import dataclass, field

import torch

from chatui.engine.batching.attention import KVCache
from chatui.estimates import ATTENTION_BLOCK, positions_for

# A shorter common start than this is not worth copying: every prompt begins with the template's first few tokens.
WORTH_COPYING = 16


@dataclass(frozen=True)
class KVLayout:
    """What one token takes in each layer: (kv heads, key size, value size); `dtype` of all of them."""

    layers: tuple[tuple[int, int, int], ...]
    dtype: torch.dtype

    @property
    def bytes_per_token(self) -> int:
        """Bytes of keys and values for one token, all layers together."""
        return sum(heads * (key + value) for heads, key, value in self.layers) * self.dtype.itemsize


def fit(bytes_per_token: int, context: int, budget: int, wanted: int, least: int = 4096) -> tuple[int, int]:
    """(slots, tokens in each) within `budget` bytes: fewer slots than `wanted` before less than `least` tokens."""
    positions = budget // bytes_per_token
    slots = max(1, min(wanted, positions // positions_for(min(context, least))))
    return slots, min(
        context, max(ATTENTION_BLOCK, positions // slots // ATTENTION_BLOCK * ATTENTION_BLOCK - ATTENTION_BLOCK)
    )


@dataclass(eq=False)
class Slot:
    """One conversation's keys and values: `tokens` are those stored, `busy` while a row uses it.

    Where it is a `chat` that is to be forgotten, `filled` is how many tokens it has been at most.
    """

    index: int
    tokens: list[int] = field(default_factory=list)
    busy: bool = False
    used: int = 0
    chat: str = ""
    filled: int = 0


class Slots:
    """A fixed number of slots of `capacity` tokens. Memory is taken at once, but pages only as they are filled.

    With `spare` there is one more, at index `count`, that no conversation gets.
    """

    def __init__(self, shape: KVLayout, count: int, capacity: int, device: torch.device, spare: bool = False) -> None:
        self.shape, self.capacity = shape, capacity
        # Zeros, since what lies behind a slot's tokens is read and weighed with nothing: it must be finite.
        held = count + spare
        length = positions_for(capacity)
        self.storage = KVCache(
            [torch.zeros(held, h, k, length, dtype=shape.dtype, device=device) for h, k, _ in shape.layers],
            [torch.zeros(held, h, length, v, dtype=shape.dtype, device=device) for h, _, v in shape.layers],
        )
        self.all = [Slot(index) for index in range(count)]
        self._clock = itertools.count(1)

    @property
    def nbytes(self) -> int:
        """Bytes of all slots."""
        return sum(tensor.nbytes for tensor in (*self.storage.keys, *self.storage.values))

    @property
    def free(self) -> int:
        """How many slots no row uses."""
        return sum(not slot.busy for slot in self.all)

    def take(self, ids: Sequence[int], chat: str = "") -> Slot | None:
        """A free slot, now busy, that holds (nearly) as long a start of `ids` as any slot remembers, never all of them.

        The last token must be read anew, for what follows it is asked. The start is copied where its slot is busy, or
        would lose much of a conversation that goes on differently while another slot is empty, or holds something older
        and less of it is kept than lost. None if all are busy. The slot is then one of the `chat`, "" for none.
        """
        free = [slot for slot in self.all if not slot.busy]
        if not free:
            return None
        common = {slot: _common(slot.tokens, ids) for slot in self.all}
        best = max(self.all, key=lambda slot: (common[slot], not slot.busy, -len(slot.tokens)))
        lost, spare = len(best.tokens) - common[best], any(not slot.tokens for slot in free)
        little = lost < min(WORTH_COPYING, common[best] + 1)
        goes_on = not best.busy and (little or (lost <= common[best] and not spare))
        chosen = best if goes_on else min(free, key=lambda slot: (slot.used, slot.index))
        chosen.filled = max(chosen.filled, len(chosen.tokens))
        if not goes_on:
            if common[best] - common[chosen] >= WORTH_COPYING:
                self._copy(best, chosen, common[best])
            common[chosen] = _common(chosen.tokens, ids)
        del chosen.tokens[common[chosen] :]
        if chosen.chat != chat:
            self._hand_over(chosen, chat)
        chosen.busy, chosen.used = True, next(self._clock)
        return chosen

    def give_back(self, slot: Slot) -> None:
        """The row has ended; what its slot holds may serve the next prompt."""
        slot.busy, slot.used = False, next(self._clock)

    def forget(self, slot: Slot) -> None:
        """Give back a slot whose contents are no good any more."""
        for tensor in (*self.storage.keys, *self.storage.values):
            tensor[slot.index].zero_()
        slot.tokens.clear()
        slot.chat, slot.filled = "", 0
        self.give_back(slot)

    def forget_chat(self, chat: str) -> None:
        """Leave nothing of this chat, which no row uses: no tokens, no keys and no values."""
        for slot in self.all:
            if chat and slot.chat == chat and not slot.busy:
                slot.filled = max(slot.filled, len(slot.tokens))
                slot.tokens.clear()
                self._hand_over(slot, "")

    def _hand_over(self, slot: Slot, chat: str) -> None:
        """The slot becomes another chat's. Of one that is to be forgotten, what lies behind its tokens is overwritten.

        Only as far as it was filled: to write into all of a slot would take all of its memory.
        """
        if slot.chat:
            for keys in self.storage.keys:
                keys[slot.index, :, :, len(slot.tokens) : slot.filled + 1] = 0
            for values in self.storage.values:
                values[slot.index, :, len(slot.tokens) : slot.filled + 1] = 0
        slot.chat, slot.filled = chat, 0

    def _copy(self, source: Slot, target: Slot, count: int) -> None:
        target.tokens.clear()
        for keys in self.storage.keys:
            keys[target.index, :, :, :count] = keys[source.index, :, :, :count]
        for values in self.storage.values:
            values[target.index, :, :count] = values[source.index, :, :count]
        target.tokens[:] = source.tokens[:count]


def _common(held: Sequence[int], ids: Sequence[int]) -> int:
    """Length of the common start, short of all `ids`."""
    limit = min(len(held), len(ids) - 1)
    if list(held[:limit]) == list(ids[:limit]):
        return limit
    return next(index for index in range(limit) if held[index] != ids[index])
