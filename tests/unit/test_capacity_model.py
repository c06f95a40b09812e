"""The arithmetic of capacity: known formulas, and what follows from adding users or parts."""

import math
from dataclasses import replace

import pytest

from chatui.ui.shared import redraw
from scripts.benchmark import capacity_model
from scripts.benchmark.capacity_inputs import Costs, Engine, Load, Site
from scripts.benchmark.capacity_model import TARGET, erlang_c, flow, full_first, parts, sized

COSTS = Costs(
    page_idle=0.02,
    page_load=0.07,
    page_tab=1e-4,
    page_turn=0.06,
    page_token=2e-4,
    page_redraw=0.004,
    page_reply=0.002,
    writer_reply=0.004,
    page_memory=2e8,
    memory_tab=2e5,
    page_files=20,
    database_idle=0.002,
    database_turn=0.01,
    database_token=1e-5,
    database_reply=0.002,
    statements_turn=40,
    log_turn=2e4,
    log_token=50,
    log_reply=2e3,
    stored_turn=1e4,
    stored_token=100,
    notifying=1000,
    proxy_load=0.001,
    proxy_turn=0.001,
    proxy_redraw=1e-4,
    bytes_load=4e4,
    bytes_turn=2e4,
    bytes_redraw=700,
)
LOAD, SITE, ENGINE = Load(), Site(page_servers=8, replicas=3), Engine()


def by_name(load: Load = LOAD, site: Site = SITE, engine: Engine = ENGINE) -> dict[str, float]:
    return {part.name: part.utilisation for part in parts(load, site, engine, COSTS)}


@pytest.mark.parametrize(
    ("places", "offered", "share"),
    # One place: the share of its time that is used. The others are from tables of Erlang's C formula.
    [(1, 0.5, 0.5), (2, 1.0, 1 / 3), (10, 8.0, 0.4092), (3, 2.0, 4 / 9), (5, 5.0, 1.0), (5, 9.0, 1.0)],
)
def test_who_waits(places: int, offered: float, share: float) -> None:
    assert erlang_c(places, offered) == pytest.approx(share, abs=1e-4)


def test_replies_that_run_are_those_that_come_times_how_long_they_take() -> None:
    now = flow(LOAD, SITE, ENGINE, COSTS)
    read = LOAD.read_tokens / ENGINE.read_per_second
    assert now.turns == pytest.approx(2000 * 12 / 3600)
    assert now.running == pytest.approx(now.turns * (read + LOAD.reply_tokens / now.per_second))


def test_an_engine_has_the_speeds_that_it_was_said_to_have() -> None:
    assert 1 / (ENGINE.step_alone + ENGINE.step_of_row) == pytest.approx(ENGINE.alone_per_second)
    full = ENGINE.rows / (ENGINE.step_alone + ENGINE.rows * ENGINE.step_of_row)
    assert full == pytest.approx(ENGINE.tokens_per_second)


def test_an_engine_that_cannot_keep_up_is_full_first_and_passes_on_what_it_can() -> None:
    load, site = (
        replace(LOAD, users=100_000),
        replace(SITE, page_servers=300, database_connections=10_000, proxy_connections=10**6),
    )
    now = flow(load, site, ENGINE, COSTS)
    assert now.busy > 1
    assert now.running == ENGINE.rows * site.replicas
    assert now.turns * now.busy == pytest.approx(load.turns)
    assert full_first(parts(load, site, ENGINE, COSTS)).adds == "engine replicas"


def test_more_users_fill_every_part_that_they_use() -> None:
    site = replace(SITE, page_servers=2)
    few, many = by_name(replace(LOAD, users=2000), site), by_name(replace(LOAD, users=8000), site)
    grown = {name for name in few if many[name] > few[name]}
    assert set(few) - grown == {"Database: connections, at most"}


def test_another_page_server_relieves_the_page_servers() -> None:
    load = replace(LOAD, users=8000)
    before, after = (by_name(load, replace(SITE, page_servers=count)) for count in (2, 16))
    for name in before:
        if name.startswith("Page server"):
            assert after[name] < before[name]


@pytest.mark.parametrize("running", [1, 2, 10, 100, 1000])
@pytest.mark.parametrize("other", [0.0, 0.2, 0.5, 0.7])
def test_redraws_take_what_the_rest_leaves_of_their_share(running: int, other: float) -> None:
    cost = 0.004
    interval = capacity_model.redraw_interval(running, cost, other)
    taken = other + running / interval * cost
    fewest = max(redraw.FLUSH_SECONDS, min(running * redraw.FLUSH_SECONDS_PER_REPLY, redraw.MAX_REDRAW_SECONDS))
    if interval < fewest:
        assert taken <= redraw.PROCESS_SHARE + 1e-9
    if interval > redraw.FLUSH_SECONDS:
        assert taken >= redraw.PROCESS_SHARE - 1e-9
    assert interval <= fewest


@pytest.mark.parametrize("users", [10, 100, 1000, 10_000, 100_000])
def test_a_site_that_was_sized_carries_its_users_and_a_smaller_one_does_not(users: int) -> None:
    load = replace(LOAD, users=users)
    site = sized(load, ENGINE, COSTS)
    assert full_first(parts(load, site, ENGINE, COSTS)).utilisation <= TARGET + 1e-6
    for name, least in (("page_servers", 1), ("replicas", 1)):
        if getattr(site, name) > least:
            smaller = replace(site, **{name: getattr(site, name) - 1})
            assert full_first(parts(load, smaller, ENGINE, COSTS)).utilisation > TARGET


def test_what_is_needed_is_told_part_by_part() -> None:
    full = {part.name: part for part in parts(LOAD, replace(SITE, replicas=1), ENGINE, COSTS)}["Engines: tokens"]
    assert full.utilisation > 1
    assert full.needed == math.ceil(full.utilisation / TARGET)


def test_costs_come_from_a_file_that_may_tell_more() -> None:
    assert Costs.of({**vars(COSTS), "more": 1.0}) == COSTS
    with pytest.raises(KeyError):
        Costs.of({})
