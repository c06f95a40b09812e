"""A thought ends in time: by its budget, by the reply's greatest length, or at once. Real ids, no forward pass."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from chatui.engine.text.thought_meter import ThoughtMeter
from chatui.reply_text.reply_parts import Parts
from chatui.reply_text.thinking_tags import THINK, Tags

END = (1, 2, 3)


def meter(budget: int, max_tokens: int) -> ThoughtMeter:
    return ThoughtMeter(lambda _: END, budget, max_tokens)


def tokens_until_the_end(made: ThoughtMeter) -> int:
    for tokens in range(10_000):
        if made.end_of(THINK):
            return tokens
        made.count(True, Parts(thought="x"), tokens + 1, 0.5, 9.0)
    raise AssertionError("it never ended")


@pytest.mark.parametrize(
    ("budget", "max_tokens", "tokens"),
    [(5, 100, 5), (0, 100, 75), (90, 100, 75), (0, 8, 4), (0, 4, 0), (0, 1, 0), (1, 1000, 1)],
)
def test_a_thought_takes_its_budget_and_leaves_room_for_the_answer(budget: int, max_tokens: int, tokens: int) -> None:
    assert tokens_until_the_end(meter(budget, max_tokens)) == tokens


@given(st.integers(0, 50), st.integers(len(END) + 1, 300))
def test_an_answer_always_has_a_token(budget: int, max_tokens: int) -> None:
    assert tokens_until_the_end(meter(budget, max_tokens)) + len(END) < max_tokens


def test_answering_now_ends_it_at_once() -> None:
    made = meter(50, 1000)
    assert not made.end_of(THINK)
    made.answer_now()
    assert made.end_of(THINK) == END
    assert not made.end_of(None)


def test_only_thoughts_are_counted_and_all_that_turns_out_to_be_one() -> None:
    made = meter(0, 100)
    made.count(True, Parts(), 1, 0.5, 0.5)
    made.count(False, Parts(thought="x"), 2, 0.25, 0.75)
    made.count(False, Parts("answer"), 3, 8.0, 8.75)
    assert (made.tokens, made.seconds) == (2, 0.75)
    made.count(False, Parts("answer", folds="it was a thought"), 9, 1.0, 12.0)
    assert (made.tokens, made.seconds) == (9, 12.0)


def test_the_end_is_encoded_once() -> None:
    asked: list[Tags] = []

    def ids(tags: Tags) -> tuple[int, ...]:
        asked.append(tags)
        return END

    made = ThoughtMeter(ids, 5, 100)
    for _ in range(3):
        made.end_of(THINK)
    assert asked == [THINK]
