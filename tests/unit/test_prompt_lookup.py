"""What followed the last tokens before is proposed again, with a chance that follows what happened."""

from itertools import pairwise

from hypothesis import given
from hypothesis import strategies as st

from chatui.engine.batching.prompt_lookup import NGRAM, Draft, PromptLookup

IDS = st.lists(st.integers(0, 3), max_size=60)


def test_what_was_written_before_is_proposed() -> None:
    lookup = PromptLookup([1, 2, 3, 4, 5, 6, 9, 1, 2])
    assert lookup.draft(3).tokens == (3, 4, 5)
    assert lookup.draft(0).tokens == ()
    lookup.update([3, 4])
    assert lookup.draft(9).tokens == (5, 6, 9, 1, 2, 3, 4)


def test_nothing_is_proposed_where_nothing_repeats() -> None:
    lookup = PromptLookup(range(50))
    assert lookup.draft(7) == Draft()
    assert PromptLookup([]).draft(7) == Draft()


def test_a_copy_follows_its_source_though_later_ones_begin_alike() -> None:
    source = [1, 2, 3, 4, 5, 6, 7]
    lookup = PromptLookup([*source, 0, 3, 4, 9, 9, 0, 1, 2])
    lookup.update([3, 4])
    assert lookup.draft(3).tokens == (5, 6, 7)


def test_after_a_change_the_copy_goes_on() -> None:
    lookup = PromptLookup([*range(20), 99])
    lookup.update([0, 1, 2, 3, 50, 5, 6])
    assert lookup.draft(4).tokens == (7, 8, 9, 10)


@given(IDS, IDS, st.integers(0, 9))
def test_drafts_stood_behind_the_same_tokens(prompt: list[int], output: list[int], limit: int) -> None:
    lookup = PromptLookup(prompt)
    for count in range(len(output) + 1):
        lookup.update(output[:count])
    ids, draft = [*prompt, *output], lookup.draft(limit)
    assert len(draft.chances) == len(draft.tokens) <= limit
    assert all(0 <= later <= earlier <= 1 for earlier, later in pairwise((1.0, *draft.chances)))
    ends = range(NGRAM, len(ids))
    sources = [end for end in ends if ids[end - NGRAM : end] == ids[-NGRAM:]]
    if limit:
        assert bool(draft.tokens) == bool(sources)
        assert not sources or any(tuple(ids[end : end + limit]) == draft.tokens for end in sources)


def test_chances_follow_what_happens() -> None:
    copied = PromptLookup([*range(40), 99])
    start = PromptLookup([*range(40), 99, 0, 1]).draft(1).chances
    copied.update(list(range(20)))
    assert copied.draft(1).chances > start
    disappointed = PromptLookup([1, 2, 3])
    for token in range(10, 40):
        disappointed.update([*(each for before in range(10, token) for each in (1, 2, before)), 1, 2, token])
    disappointed.update([*(each for before in range(10, 40) for each in (1, 2, before)), 1, 2])
    assert disappointed.draft(1).chances < start
