"""Costs are found from totals."""

import random

import pytest

from scripts.benchmark.capacity_costs import fitted

ROWS = [[3, 900, 105], [16, 160, 104], [8, 1600, 911], [72, 3600, 1066], [48, 14400, 712]]
COSTS = [0.1, 2e-4, 3e-3]


def totals(noise: float = 0.0) -> list[float]:
    chance = random.Random(1)
    exact = [sum(cost * count for cost, count in zip(COSTS, row, strict=True)) for row in ROWS]
    return [total * chance.uniform(1 - noise, 1 + noise) for total in exact]


def test_what_each_costs_is_found_from_what_all_cost() -> None:
    assert fitted(ROWS, totals()) == pytest.approx(COSTS)
    assert fitted(ROWS, totals(0.05)) == pytest.approx(COSTS, rel=0.3)


def test_nothing_costs_less_than_nothing() -> None:
    found = fitted([[1, 1], [1, 2], [1, 3]], [3.0, 2.0, 1.0])
    assert found[1] == 0.0
    assert found[0] > 0


def test_rows_that_came_to_nothing_tell_nothing() -> None:
    assert fitted([*ROWS, [5, 5, 5]], [*totals(), 0.0]) == pytest.approx(COSTS)
