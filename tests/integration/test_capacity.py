"""A whole installation for measurements: its parts start, its visitors are answered, and what it uses can be told."""

import pytest

from scripts.benchmark import capacity_costs
from scripts.benchmark.installation import installed
from scripts.benchmark.page_visitors import Plan
from scripts.benchmark.target import BenchError


@pytest.mark.exhaustive
def test_visitors_of_an_installation_are_answered_and_what_they_take_is_counted() -> None:
    try:
        with installed() as parts:
            plan = Plan(parts.url, 3, turns=2, tokens=20, rate=100, pause=0.1)
            found = capacity_costs.phase(parts, lambda: capacity_costs.visit(plan))
            assert capacity_costs.notifying_commits(parts.database) > 0
    except BenchError as error:
        pytest.skip(str(error))
    seen = found.seen
    assert (seen.loads, seen.turns, seen.tokens, seen.failed) == (3, 6, 120, 0)
    assert seen.redraws >= 3 * seen.turns
    assert min(seen.load_bytes, seen.turn_bytes, found.stored.statements, found.stored.commits) > 0
    assert min(found.page.seconds, found.writing) > 0
