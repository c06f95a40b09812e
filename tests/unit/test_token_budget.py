"""The tokens of a pass follow the time that passes take."""

from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from chatui.engine.batching.token_budget import (
    GROW,
    MAX_TOKENS,
    MIN_TOKENS,
    SHRINK,
    START_TOKENS,
    TokenBudget,
)

SECONDS = 0.2


def run(budget: TokenBudget, fixed: float, each: float, passes: int = 12) -> list[int]:
    """The sizes of passes that use the budget up; each takes `fixed` seconds and so many for each token."""
    sizes = list[int]()
    for _ in range(passes):
        sizes.append(budget.tokens)
        budget.record(sizes[-1], fixed + each * sizes[-1])
    return sizes


@given(fixed=st.floats(0, 1), each=st.floats(0.00001, 0.2))
def test_it_settles_at_the_largest_size_that_fits(fixed: float, each: float) -> None:
    [*sizes, last] = run(TokenBudget(SECONDS), fixed, each)
    assert sizes[-4:] == [last] * 4
    assert last == MIN_TOKENS or fixed + each * last <= SHRINK * SECONDS
    assert last == MAX_TOKENS or 2 * (fixed + each * last) > GROW * SECONDS


@given(each=st.floats(0.0001, 0.02), noise=st.lists(st.floats(0.94, 1.06), min_size=20, max_size=20))
def test_noise_does_not_move_it(each: float, noise: list[float]) -> None:
    """At its edges it may move once, and then it stays."""
    budget = TokenBudget(SECONDS)
    run(budget, 0.0, each)
    sizes = list[int]()
    for factor in noise:
        budget.record(budget.tokens, each * budget.tokens * factor)
        sizes.append(budget.tokens)
    assert sum(one != other for one, other in pairwise(sizes)) <= 1


def test_it_begins_small_and_doubles() -> None:
    assert run(TokenBudget(SECONDS), 0.0, 0.0001, 6) == [START_TOKENS, 32, 64, 128, MAX_TOKENS, MAX_TOKENS]


def test_a_pass_that_took_too_long_is_the_only_one() -> None:
    budget = TokenBudget(SECONDS)
    run(budget, 0.0, 0.001)
    assert run(budget, 0.0, 0.01, 3) == [128, 16, 16]


@pytest.mark.parametrize(("tokens", "seconds"), [(1, 0.01), (15, 0.11)])
def test_a_short_piece_does_not_tell_that_longer_ones_are_as_fast(tokens: int, seconds: float) -> None:
    budget = TokenBudget(SECONDS)
    budget.record(tokens, seconds)
    assert budget.tokens == START_TOKENS


def test_prompts_shorter_than_a_pass_let_it_grow() -> None:
    """Else prompts of 50 tokens, of which 64 have no room for two, were never read together."""
    budget = TokenBudget(SECONDS)
    for _ in range(5):
        budget.record(min(50, budget.tokens), 0.0005 * min(50, budget.tokens))
    assert budget.tokens == MAX_TOKENS


@pytest.mark.parametrize(("each", "settles_at"), [(0.0012, 64), (0.0026, 32)])
def test_it_recovers_from_a_time_when_the_machine_was_busy(each: float, settles_at: int) -> None:
    budget = TokenBudget(SECONDS)
    run(budget, 0.5, each)
    assert budget.tokens == MIN_TOKENS
    assert run(budget, 0.04, each)[-1] == settles_at


def test_a_pass_is_cut_to_take_less_time() -> None:
    budget = TokenBudget(SECONDS)
    run(budget, 0.0, 0.001)
    assert budget.within(0.001) == 128, "nothing was measured"
    budget.measure(100, 0.1)
    budget.measure(5, 0.05)
    assert (budget.within(0.2), budget.within(0.1), budget.within(0.001)) == (128, 100, 64)


def test_however_slow_a_model_is_some_tokens_are_read() -> None:
    budget = TokenBudget(SECONDS)
    budget.record(1, 1e9)
    assert budget.tokens == MIN_TOKENS
