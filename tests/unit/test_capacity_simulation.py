"""The simulation of an installation and its arithmetic agree, and the product's own queue decides in it."""

import asyncio
from dataclasses import replace
from typing import Any

import pytest

from chatui.remote.circuit_breaker import FAILURES
from scripts.benchmark.capacity_inputs import Engine, Load, Site
from scripts.benchmark.capacity_model import Flow, erlang_c, flow, parts
from scripts.benchmark.capacity_simulation import Outcome, simulate
from scripts.benchmark.virtual_time import VirtualLoop
from tests.unit.test_capacity_model import COSTS

SECONDS = 400.0
"""Random arrivals take so long to come near to their average."""
SMALL = Engine(rows=32, tokens_per_second=600.0, alone_per_second=60.0)
LOAD = Load(users=1000, turns_per_hour=24.0, loads_per_hour=20.0)
SITE = Site(page_servers=2, replicas=2, database_cores=1.0, proxy_cores=1.0)


def long(load: Load, site: Site, engine: Engine) -> Any:
    return pytest.param(load, site, engine, SECONDS, marks=pytest.mark.exhaustive)


def observed(load: Load, outcome: Outcome) -> Load:
    """The load as it has come, which is random in a short time: so many turns, of so many tokens."""
    counts = outcome.counts
    return replace(
        load,
        turns_per_hour=counts.came / outcome.seconds * 3600 / load.tabs,
        loads_per_hour=counts.loads / outcome.seconds * 3600 / load.tabs,
        reply_tokens=counts.written / counts.turns,
    )


def predicted(load: Load, site: Site, engine: Engine, outcome: Outcome) -> tuple[Flow, dict[str, float]]:
    come = observed(load, outcome)
    return flow(come, site, engine, COSTS), {part.name: part.utilisation for part in parts(come, site, engine, COSTS)}


@pytest.mark.parametrize(
    ("load", "site", "engine", "seconds"),
    [
        (replace(LOAD, users=400, loads_per_hour=200), SITE, replace(SMALL, alone_per_second=20), SECONDS),
        long(replace(LOAD, reply_tokens=600, turns_per_hour=12), replace(SITE, page_servers=1, replicas=3), SMALL),
        long(LOAD, SITE, SMALL),
        long(replace(LOAD, users=2000, reply_tokens=100), SITE, SMALL),
        long(replace(LOAD, prompt_tokens=6000, cached=0.1), replace(SITE, page_servers=3), replace(SMALL, rows=64)),
        long(Load(), Site(page_servers=8, replicas=2, database_cores=1.0, proxy_cores=1.0), Engine()),
    ],
)
def test_the_arithmetic_agrees_with_the_simulation(load: Load, site: Site, engine: Engine, seconds: float) -> None:
    outcome = simulate(load, site, engine, COSTS, seconds)
    now, utilisations = predicted(load, site, engine, outcome)
    assert outcome.counts.refused == 0
    assert outcome.running == pytest.approx(now.running, rel=0.05)
    for name, found in outcome.utilisations.items():
        assert utilisations[name] == pytest.approx(found, rel=0.07, abs=0.005), name
    # Of parts that are almost as full as each other, either may be called the fullest.
    told = {name: utilisations[name] for name in outcome.utilisations}
    assert told[max(outcome.utilisations, key=outcome.utilisations.__getitem__)] >= 0.9 * max(told.values())


def test_time_passes_at_once() -> None:
    loop = VirtualLoop()
    loop.run_until_complete(asyncio.sleep(1e6))
    assert loop.time() == pytest.approx(1e6)
    with pytest.raises(RuntimeError):
        loop.run_until_complete(asyncio.Event().wait())
    loop.close()


def test_the_same_seed_gives_the_same_outcome() -> None:
    outcomes = [simulate(LOAD, SITE, SMALL, COSTS, 10.0, seed=seed) for seed in (1, 1, 2)]
    assert outcomes[0] == outcomes[1]
    assert outcomes[0] != outcomes[2]


def test_the_queue_waits_as_long_as_erlang_says() -> None:
    # Rows that do not slow each other down, replies of exponential lengths and as many places: M/M/c.
    engine = Engine(rows=8, tokens_per_second=800.0, alone_per_second=100.0, read_per_second=1e9)
    load = Load(users=1000, turns_per_hour=540.0, loads_per_hour=0.0, reply_tokens=20.0)
    site = Site(page_servers=1, max_requests=8, queue=1000)
    free = replace(COSTS, page_redraw=0.0, page_reply=0.0, page_turn=0.0, page_token=0.0)
    outcome = simulate(load, site, engine, free, 80.0, warm_up=5.0)
    come = observed(load, outcome)
    service = come.reply_tokens / engine.alone_per_second
    offered = come.turns * service
    waiting = erlang_c(8, offered) * service / (8 - offered)
    assert outcome.counts.waited_seconds / outcome.counts.turns == pytest.approx(waiting, rel=0.2)
    assert outcome.running == pytest.approx(offered, rel=0.05)


def test_what_is_too_much_is_refused_and_the_rest_answered() -> None:
    site = replace(SITE, page_servers=1, replicas=1, max_requests=16, queue=8)
    outcome = simulate(replace(LOAD, users=3000), site, SMALL, COSTS, 60.0)
    assert outcome.counts.refused > 0
    assert outcome.running == pytest.approx(16, rel=0.02)
    assert outcome.utilisations["Page server: replies at once"] == pytest.approx(1.0, rel=0.02)


def test_dead_engines_are_hardly_asked_and_the_others_answer() -> None:
    outcome = simulate(LOAD, replace(SITE, replicas=3), SMALL, COSTS, 60.0, warm_up=0.0, dead=1)
    alive = simulate(LOAD, SITE, SMALL, COSTS, 60.0, warm_up=0.0)
    assert outcome.counts.refused == 0
    assert outcome.counts.failed == FAILURES * SITE.page_servers
    assert outcome.running == pytest.approx(alive.running, rel=0.05)
