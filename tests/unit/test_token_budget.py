"""The tokens of a pass follow the time that passes take."""

from collections.abc import Callable

import pytest

from chatui.engine.batching.token_budget import LONGEST, NEAR, TOLERANCE, VALID_PASSES, TokenBudget

SECONDS = 0.2
Took = Callable[[int, float], float]


def affine(fixed: float, each: float, per_context: float = 0.0) -> Took:
    """Seconds of a pass of so many tokens behind so many others."""
    return lambda tokens, context: fixed + tokens * (each + per_context * context)


def run(budget: TokenBudget, took: Took, passes: int = 20, context: float = 0.0) -> list[int]:
    """The sizes of passes that use the budget up."""
    sizes = list[int]()
    for _ in range(passes):
        sizes.append(budget.tokens(SECONDS, context))
        budget.record(sizes[-1], context, took(sizes[-1], context), SECONDS)
    return sizes


def test_it_begins_with_one_token_and_grows_to_what_fits() -> None:
    budget, took = TokenBudget(), affine(0.05, 0.001)
    sizes = run(budget, took)
    assert sizes == sorted(sizes)
    assert sizes[0] == 1
    assert sizes[-1] in (149, 150)


@pytest.mark.parametrize("fixed", [0.0, 0.01, 0.09])
@pytest.mark.parametrize("each", [0.0001, 0.003, 0.1])
@pytest.mark.parametrize("looks", [0.0, 0.01, 1.0])
def test_no_pass_takes_longer_whatever_stood_before(fixed: float, each: float, looks: float) -> None:
    """Also where looks at NEAR tokens cost as much as all the rest."""
    budget, took = TokenBudget(), affine(fixed, each, looks * each / NEAR)
    for context in (0, 500, 30_000, 0, 2000, 100, 4000):
        # A pass of two tokens may stand for one of one token for a while.
        limit = max(SECONDS, LONGEST * took(2, context))
        for size in run(budget, took, 6, context):
            assert took(size, context) <= 1.001 * limit


def test_short_pieces_do_not_slow_down_long_ones() -> None:
    budget, took = TokenBudget(), affine(0.05, 0.001)
    [*_, large] = run(budget, took)
    for _ in range(VALID_PASSES + 4):
        budget.record(3, 0, took(3, 0), SECONDS)
    assert budget.tokens(SECONDS, 0) == large


def test_a_model_that_becomes_slow_takes_long_once() -> None:
    budget = TokenBudget()
    run(budget, affine(0.0, 0.001))
    assert run(budget, affine(0.0, 0.01), 3) == [200, 20, 20]


def test_one_that_took_a_little_longer_makes_the_next_smaller() -> None:
    budget = TokenBudget()
    run(budget, affine(0.0, 0.001))
    budget.record(200, 0, 0.22, SECONDS)
    assert budget.tokens(SECONDS, 0) == 181


def test_where_one_token_is_slow_a_pass_takes_twice_as_long_until_it_is_over() -> None:
    budget = TokenBudget()
    slow = affine(1.0, 0.01)
    sizes = run(budget, slow, 12)
    assert 1.8 < slow(sizes[-1], 0) / slow(1, 0) <= LONGEST
    sizes = run(budget, affine(0.0, 0.01), 2 * VALID_PASSES)
    assert sizes[-1] == 20


def test_a_moment_of_delay_allows_no_long_pass() -> None:
    """The first token took seconds because the machine was busy."""
    budget, took = TokenBudget(), affine(0.01, 0.02)
    budget.record(1, 0, 3.0, SECONDS)
    assert max(took(size, 0) for size in run(budget, took)) <= TOLERANCE * SECONDS


def test_a_pass_without_measurable_time_is_a_fast_one() -> None:
    budget = TokenBudget()
    budget.record(1, 0, 0.0, SECONDS)
    assert budget.tokens(SECONDS, 0) > 1000
