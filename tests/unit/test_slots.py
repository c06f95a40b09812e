"""Which slot a prompt gets, what it finds there, and that its list of tokens is what the storage holds."""

from collections.abc import Sequence

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from chatui.engine.batching.slots import WORTH_COPYING, KVLayout, Slot, Slots, fit
from chatui.estimates import positions_for

SHAPE = KVLayout(((2, 3, 4), (1, 5, 2)), torch.float32)
LONG = 2 * WORTH_COPYING


def made(count: int = 3, capacity: int = 100) -> Slots:
    return Slots(SHAPE, count, capacity, torch.device("cpu"))


def store(slots: Slots, slot: Slot, ids: Sequence[int]) -> None:
    """What a forward pass does, with keys and values that tell the token; 0 is none."""
    first, after = len(slot.tokens), len(slot.tokens) + len(ids)
    told = torch.tensor(ids, dtype=torch.float32) + 1
    for keys, values in zip(slots.storage.keys, slots.storage.values, strict=True):
        keys[slot.index, :, :, first:after] = told
        values[slot.index, :, first:after] = told[:, None]
    slot.tokens.extend(ids)


def stored(slots: Slots, slot: Slot) -> list[int]:
    """The tokens whose keys and values lie in the slot's storage, in every layer."""
    count = len(slot.tokens)
    told = slots.storage.keys[0][slot.index, 0, 0, :count]
    for keys, values in zip(slots.storage.keys, slots.storage.values, strict=True):
        assert torch.equal(keys[slot.index, :, :, :count], told.expand(*keys.shape[1:3], -1))
        assert torch.equal(values[slot.index, :, :count], told[:, None].expand(values.shape[1], -1, values.shape[3]))
    return [int(number) - 1 for number in told]


def use(slots: Slots, prompt: Sequence[int]) -> Slot:
    """A row that reads `prompt`, and is still there."""
    slot = slots.take(prompt)
    assert slot is not None
    store(slots, slot, prompt[len(slot.tokens) :])
    return slot


def used(slots: Slots, prompt: Sequence[int]) -> Slot:
    """A row that reads `prompt` and leaves."""
    slot = use(slots, prompt)
    slots.give_back(slot)
    return slot


def stored_tokens(slots: Slots, slot: Slot) -> set[int]:
    """The tokens of which keys or values lie anywhere in the slot, whether it is said to hold them or not."""
    parts = [tensor[slot.index] for tensor in (*slots.storage.keys, *slots.storage.values)]
    return {int(number) - 1 for part in parts for number in part.unique() if number}


def passing(slots: Slots, prompt: Sequence[int], chat: str = "passing") -> Slot:
    """A row of a chat that is to be forgotten, which leaves."""
    slot = slots.take(prompt, chat)
    assert slot is not None
    store(slots, slot, prompt[len(slot.tokens) :])
    slots.give_back(slot)
    return slot


def test_of_a_chat_that_is_forgotten_nothing_is_left_and_others_stay() -> None:
    slots = made()
    kept, other = used(slots, [1, 2, 3]), passing(slots, [4, 5, 6], "other")
    slot = passing(slots, [7, 8, 9, 10, 11])
    assert passing(slots, [7, 8, 9, 12]) is slot  # edited: what it said before lies behind
    slots.forget_chat("passing")
    assert stored_tokens(slots, slot) == set(slot.tokens) == set()
    assert (kept.tokens, other.tokens) == ([1, 2, 3], [4, 5, 6])
    assert stored(slots, kept) == kept.tokens
    assert stored(slots, other) == other.tokens
    slots.forget_chat("")
    assert kept.tokens == [1, 2, 3]


def test_who_gets_the_slot_of_such_a_chat_finds_what_is_common_and_nothing_else() -> None:
    slots = made(count=1)
    passing(slots, [1, 2, 3, 4, 5, 6])
    slot = used(slots, [1, 2, 3, 9])
    assert stored_tokens(slots, slot) == {1, 2, 3, 9}
    slots.forget_chat("passing")
    assert slot.tokens == [1, 2, 3, 9]


def test_a_copied_start_leaves_nothing_of_such_a_chat_behind_it() -> None:
    slots = made(count=2)
    common = list(range(LONG))
    passing(slots, [*range(50, 50 + LONG), 98, 99])
    source = use(slots, [*common, 91])
    slot = used(slots, [*common, 92])
    assert slot is not source
    assert stored_tokens(slots, slot) == {*common, 92}


def test_it_is_remembered_while_it_goes_on() -> None:
    slots = made()
    slot = passing(slots, [1, 2, 3])
    again = slots.take([1, 2, 3, 4], "passing")
    assert again is slot
    assert slot.tokens == [1, 2, 3]


def test_a_conversation_that_goes_on_finds_its_slot() -> None:
    slots = made()
    first, second = used(slots, [1, 2, 3]), used(slots, [4, 5, 6])
    assert slots.take([4, 5, 6, 7]) is second
    assert second.tokens == [4, 5, 6]
    assert slots.take([1, 2, 3, 9]) is first
    assert first.tokens == [1, 2, 3]


def test_the_last_token_of_a_prompt_is_always_left_to_read() -> None:
    slots = made()
    slot = used(slots, [1, 2, 3])
    assert slots.take([1, 2, 3]) is slot
    assert slot.tokens == [1, 2]


def test_the_longest_common_start_wins() -> None:
    slots = made()
    conversations = ([1, 2, *[50] * 5], [1, 2, 3, 4, 50], [1, *[9] * 5])
    longest = [used(slots, ids) for ids in conversations][1]
    assert slots.take([1, 2, 3, 4, 5]) is longest
    assert longest.tokens == [1, 2, 3, 4]


def test_new_prompts_take_the_empty_slots_then_the_one_unused_for_longest() -> None:
    slots = made(3)
    first, second, third = (used(slots, [number] * 5) for number in (1, 2, 3))
    assert len({first.index, second.index, third.index}) == 3
    used(slots, [1] * 6)
    assert slots.take([9, 9]) is second
    assert slots.take([8, 8]) is third
    assert slots.take([7, 7]) is first
    assert slots.take([6, 6]) is None
    assert slots.free == 0


def test_the_start_is_copied_from_a_busy_slot() -> None:
    slots = made()
    common = list(range(LONG))
    busy = use(slots, [*common, 91])
    copy = slots.take([*common, 92])
    assert copy is not None
    assert copy is not busy
    assert copy.tokens == stored(slots, copy) == common
    assert busy.tokens == stored(slots, busy) == [*common, 91]


def test_a_short_start_is_not_worth_a_copy() -> None:
    slots = made()
    common = list(range(WORTH_COPYING - 1))
    use(slots, [*common, 91])
    other = slots.take([*common, 92])
    assert other is not None
    assert other.tokens == []


def test_a_long_conversation_is_not_cut_down_to_a_start_that_can_be_copied() -> None:
    slots = made()
    persona, rest = list(range(LONG)), [90] * (LONG + 1)
    long = used(slots, [*persona, *rest])
    other = slots.take([*persona, 91, 92])
    assert other is not long
    assert other is not None
    assert other.tokens == stored(slots, other) == persona
    assert long.tokens == stored(slots, long) == [*persona, *rest]


def test_conversations_that_only_share_the_templates_first_tokens_do_not_take_each_others_slots() -> None:
    slots = made(3)
    conversations = [[1, 2, 3, *[number] * 9] for number in (10, 11, 12)]
    kept = [used(slots, ids) for ids in conversations]
    assert [slot.tokens for slot in kept] == conversations
    used(slots, conversations[0])
    assert slots.take([1, 2, 3, 4, 5]) is kept[1]


def test_a_conversation_that_was_changed_in_its_second_half_keeps_its_slot() -> None:
    slots = made()
    slot = used(slots, list(range(LONG)))
    assert slots.take([*range(LONG - 5), 99, 98]) is slot
    assert slot.tokens == list(range(LONG - 5))


def test_a_slot_that_is_the_only_one_is_cut() -> None:
    slots = made(1)
    slot = used(slots, list(range(50)))
    assert slots.take([0, 1, 2, 99]) is slot
    assert slot.tokens == stored(slots, slot) == [0, 1, 2]


def test_forgetting_leaves_zeros_and_no_tokens() -> None:
    slots = made()
    kept, slot = use(slots, [1, 2, 3]), use(slots, [4, 5, 6])
    slots.forget(slot)
    assert (slot.tokens, slot.busy) == ([], False)
    for tensor in (*slots.storage.keys, *slots.storage.values):
        assert not tensor[slot.index].any()
    assert stored(slots, kept) == [1, 2, 3]


def test_bytes_are_those_of_the_tensors() -> None:
    slots = made(3, 100)
    assert SHAPE.bytes_per_token == 4 * (2 * (3 + 4) + 1 * (5 + 2))
    assert slots.nbytes == 3 * positions_for(100) * SHAPE.bytes_per_token


class TestFit:
    @given(st.integers(1, 10**6), st.integers(1, 10**6), st.integers(0, 10**11), st.integers(1, 256))
    def test_within_budget_and_context(self, bytes_per_token: int, context: int, budget: int, wanted: int) -> None:
        slots, capacity = fit(bytes_per_token, context, budget, wanted)
        assert 1 <= slots <= wanted
        assert 1 <= capacity <= context
        assert slots * positions_for(capacity) * bytes_per_token <= max(budget, positions_for(1) * bytes_per_token)

    @pytest.mark.parametrize(
        ("tokens", "context", "wanted", "fits"),
        [
            (10**6, 2048, 16, (16, 2048)),  # all that was asked for
            (5 * positions_for(2048), 2048, 16, (5, 2048)),  # fewer slots before shorter ones
            (5 * positions_for(4096), 32768, 16, (5, 4096)),  # but not before 4096 tokens
            (10**5, 32768, 4, (4, 24_896)),  # what is left over makes slots longer
            (1000, 32768, 16, (1, 896)),
        ],
    )
    def test_slots_are_given_up_before_their_length(
        self, tokens: int, context: int, wanted: int, fits: tuple[int, int]
    ) -> None:
        assert fit(10, context, 10 * tokens + 9, wanted) == fits


class Machine(RuleBasedStateMachine):
    """Rows come, write and go in any order; `busy` mirrors what each of them has stored."""

    @initialize(count=st.integers(1, 4), capacity=st.integers(20, 60))
    def start(self, count: int, capacity: int) -> None:
        self.slots = made(count, capacity)
        self.busy: dict[Slot, list[int]] = {}

    @rule(data=st.data(), end=st.lists(st.integers(0, 2), min_size=1, max_size=19))
    def come(self, data: st.DataObject, end: list[int]) -> None:
        before = {slot: list(slot.tokens) for slot in self.slots.all}
        start = data.draw(st.sampled_from([[], *before.values()]))
        prompt = [*start[: data.draw(st.integers(0, len(start)))], *end][: self.slots.capacity - 1]
        slot = self.slots.take(prompt)
        if slot is None:
            assert len(self.busy) == len(self.slots.all)
            return
        assert slot not in self.busy
        assert slot.tokens == prompt[: len(slot.tokens)]
        assert len(slot.tokens) < len(prompt)
        longest = max(common(tokens, prompt) for tokens in before.values())
        assert longest - WORTH_COPYING < len(slot.tokens) <= longest
        gone = [other for other in before if other is not slot and other.tokens != before[other]]
        assert not gone, "no other slot may change"
        self.busy[slot] = list(slot.tokens)
        self.write(slot, prompt[len(slot.tokens) :])

    @precondition(lambda self: self.busy)
    @rule(data=st.data(), ids=st.lists(st.integers(0, 2), min_size=1, max_size=9))
    def go_on(self, data: st.DataObject, ids: list[int]) -> None:
        slot = data.draw(st.sampled_from(list(self.busy)))
        self.write(slot, ids[: self.slots.capacity - len(slot.tokens)])

    @precondition(lambda self: self.busy)
    @rule(data=st.data(), fails=st.booleans())
    def leave(self, data: st.DataObject, fails: bool) -> None:
        slot = data.draw(st.sampled_from(list(self.busy)))
        held = self.busy.pop(slot)
        if fails:
            self.slots.forget(slot)
        else:
            self.slots.give_back(slot)
        assert slot.tokens == ([] if fails else held)

    @invariant()
    def tokens_are_what_is_stored(self) -> None:
        for slot in self.slots.all:
            assert stored(self.slots, slot) == slot.tokens
            assert slot.busy == (slot in self.busy)
            assert self.busy.get(slot, slot.tokens) == slot.tokens
            assert len(slot.tokens) <= self.slots.capacity
        assert self.slots.free == len(self.slots.all) - len(self.busy)

    def write(self, slot: Slot, ids: Sequence[int]) -> None:
        store(self.slots, slot, ids)
        self.busy[slot].extend(ids)


def common(held: Sequence[int], ids: Sequence[int]) -> int:
    limit = min(len(held), len(ids) - 1)
    return next((at for at in range(limit) if held[at] != ids[at]), limit)


TestMachine = Machine.TestCase
TestMachine.settings = settings(max_examples=30, stateful_step_count=20, deadline=None)
