"""Measures what a page load, an open tab, a turn, a token and a redraw cost each part of an installation."""

import json
import re
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from functools import partial
from typing import Any

import httpx
import numpy as np
import psycopg

from scripts.benchmark.capacity_inputs import Costs
from scripts.benchmark.installation import PAGES, DatabaseUsage, Installation, Usage, installed
from scripts.benchmark.page_visitors import Plan, Seen
from scripts.benchmark.server_process import ROOT

IDLE_SECONDS = 20.0
TABS, ARRIVAL_SECONDS, TAB_SETTLE_SECONDS, TAB_SECONDS = 200, 50.0, 10.0, 60.0
LOADS = 60
SETTLE_SECONDS = 2.0
TURNS: Sequence[Mapping[str, Any]] = (
    {"visitors": 1, "turns": 3, "tokens": 300, "rate": 100},
    {"visitors": 2, "turns": 8, "tokens": 10, "rate": 100},
    {"visitors": 4, "turns": 2, "tokens": 200, "rate": 15},
    {"visitors": 4, "turns": 8, "tokens": 20, "rate": 5},
    {"visitors": 12, "turns": 2, "tokens": 400, "rate": 50},
    {"visitors": 24, "turns": 3, "tokens": 50, "rate": 10},
    {"visitors": 24, "turns": 2, "tokens": 300, "rate": 30},
    {"visitors": 40, "turns": 2, "tokens": 150, "rate": 15},
)
"""Turns that differ in what they have much of, so that it can be told what each costs."""

THROUGH: Sequence[Mapping[str, Any]] = (
    {"visitors": 12, "turns": 2, "tokens": 200, "rate": 30},
    {"visitors": 8, "turns": 8, "tokens": 10, "rate": 50},
)
"""The same through the proxy."""
NOTIFIERS, NOTIFY_SECONDS = 8, 3.0


@dataclass(frozen=True)
class Phase:
    """What the visitors of a plan saw, and what page servers, database and proxy used meanwhile."""

    seconds: float
    seen: Seen
    page: Usage
    database: Usage
    proxy: Usage
    stored: DatabaseUsage
    writing: float
    """Seconds that the page servers have spent in write transactions."""

    def over(self, idle: "Phase | None", part: str) -> float:
        """The processor seconds of a part, without those that it uses when idle."""
        used: float = getattr(self, part).seconds
        return used if idle is None else used - idle_share(idle, part) * self.seconds


def idle_share(idle: Phase, part: str) -> float:
    """The processor seconds that a part uses each second when idle."""
    return float(getattr(idle, part).seconds / idle.seconds)


def visit(plan: Plan) -> Seen:
    """What the visitors of a plan see, who are a process of their own."""
    command = [sys.executable, "-m", "scripts.benchmark.page_visitors", json.dumps(asdict(plan))]
    done = subprocess.run(command, cwd=ROOT, check=True, stdout=subprocess.PIPE, text=True)
    return Seen(**json.loads(done.stdout))


@contextmanager
def visiting(plan: Plan) -> Iterator[None]:
    """The visitors of a plan, who are a process of their own, until the block ends."""
    command = [sys.executable, "-m", "scripts.benchmark.page_visitors", json.dumps(asdict(plan))]
    process = subprocess.Popen(command, cwd=ROOT, stdout=subprocess.DEVNULL)
    try:
        yield
    finally:
        process.kill()
        process.wait()


def phase(parts: Installation, act: Callable[[], Seen]) -> Phase:
    """What is used while something is done, until all of it is saved."""
    before, stored, start = _usages(parts), parts.database_usage(), time.monotonic()
    written = write_seconds(parts)
    seen = act()
    time.sleep(SETTLE_SECONDS)
    seconds = time.monotonic() - start
    after = parts.database_usage()
    page, database, proxy = map(_less, _usages(parts), before)
    done = DatabaseUsage(*_difference(after, stored))
    return Phase(seconds, seen, page, database, proxy, done, write_seconds(parts) - written)


def _usages(parts: Installation) -> list[Usage]:
    """What all page servers together, the database and the proxy have used until now."""
    pages = [vars(parts.usage(name)).values() for name in parts.pages]
    return [Usage(*map(sum, zip(*pages, strict=True))), parts.usage("database"), parts.usage("proxy")]


def write_seconds(parts: Installation) -> float:
    """Seconds that all page servers have spent in write transactions until now."""
    told = [httpx.get(f"{url}/metrics", timeout=30).raise_for_status().text for url in parts.urls]
    found = [re.search(r"^[\w:]*store_write_seconds_sum (\S+)", text, re.MULTILINE) for text in told]
    return sum(float(each[1]) for each in found if each)


def _less(after: Usage, before: Usage) -> Usage:
    seconds, memory, files, sockets, threads = _difference(after, before)
    return Usage(seconds, memory, files, sockets, threads)


def _difference(after: Any, before: Any) -> list[Any]:
    return [later - earlier for later, earlier in zip(vars(after).values(), vars(before).values(), strict=True)]


def _idle(seconds: float) -> Seen:
    time.sleep(seconds)
    return Seen()


def fitted(rows: Sequence[Sequence[float]], totals: Sequence[float]) -> list[float]:
    """What one of each column costs, so that the rows come to their totals: least squares of relative errors, none
    below zero. Rows whose total is nothing tell nothing.
    """
    rows, totals = zip(*((row, total) for row, total in zip(rows, totals, strict=True) if total > 0), strict=True)
    columns = list(range(len(rows[0])))
    weights = np.array([1 / total for total in totals])
    matrix = np.array(rows, dtype=float) * weights[:, None]
    while True:
        found, *_ = np.linalg.lstsq(matrix[:, columns], np.ones(len(totals)), rcond=None)
        if found.min() >= 0:
            costs = dict(zip(columns, found.tolist(), strict=True))
            return [costs.get(column, 0.0) for column in range(len(rows[0]))]
        del columns[int(found.argmin())]


@dataclass(frozen=True)
class Observations:
    """What was seen of an installation: while nobody came, loads of the page (and through the proxy), open tabs, turns
    of all kinds (and through the proxy). `base` is a page server before, `tab_memory` the bytes of each tab,
    `notifying` the commits a second.
    """

    idle: Phase
    loads: Phase
    proxied: Phase
    tabs: Phase
    tab_memory: float
    turns: Sequence[Phase]
    through: Sequence[Phase]
    base: Usage
    notifying: float


def observe(flags: Sequence[str] = (), tell: Callable[[str], None] = print) -> Observations:
    """Observe an installation whose page servers have these flags. It takes some minutes."""
    with installed(flags) as parts:
        page = partial(Plan, parts.urls[0])
        visit(page(4, turns=2, tokens=50, rate=50))
        visit(Plan(parts.url, 4, turns=1, tokens=50, rate=50))
        base = parts.usage("page 1")
        idle = phase(parts, lambda: _idle(IDLE_SECONDS))
        tell(
            f"idle: page servers {idle_share(idle, 'page'):.4f}, database {idle_share(idle, 'database'):.4f} of a core"
        )
        loads = phase(parts, lambda: visit(page(LOADS, arrival=LOADS / 5)))
        proxied = phase(parts, lambda: visit(Plan(parts.url, LOADS, arrival=LOADS / 5)))
        tell(f"a page load: {loads.over(idle, 'page') / LOADS:.4f} s of a core")
        turns = []
        for row in TURNS:
            turns.append(phase(parts, lambda row=row: visit(page(**row))))  # type: ignore[misc]
            seen = turns[-1].seen
            tell(f"{seen.turns} turns, {seen.tokens} tokens: {turns[-1].over(idle, 'page'):.2f} s of a core")
        through = [phase(parts, lambda row=row: visit(Plan(parts.url, **row))) for row in THROUGH]  # type: ignore[misc]
        notifying = notifying_commits(parts.database)
        with visiting(page(TABS, arrival=ARRIVAL_SECONDS, seconds=1e6, pause=1e9)):
            before = parts.usage("page 1").memory
            time.sleep(ARRIVAL_SECONDS + TAB_SETTLE_SECONDS)
            tab_memory = (parts.usage("page 1").memory - before) / TABS
            tabs = phase(parts, lambda: _idle(TAB_SECONDS))
        tell(f"{TABS} open tabs: {tabs.over(idle, 'page'):.2f} s of a core in {tabs.seconds:.0f} s")
    return Observations(idle, loads, proxied, tabs, tab_memory, turns, through, base, notifying)


def costs_of(seen: Observations) -> Costs:
    """What each thing costs, by what was seen."""
    return Costs(
        **_page_costs(seen),
        **_database_costs(seen.idle, seen.turns),
        **_proxy_costs(seen.proxied, seen.through),
        notifying=seen.notifying,
        bytes_load=seen.proxied.seen.load_bytes / seen.proxied.seen.loads,
        **_byte_costs(seen.turns),
    )


def _page_costs(observed: Observations) -> dict[str, float]:
    idle, tabs, phases, base = observed.idle, observed.tabs, observed.turns, observed.base
    load = observed.loads.over(idle, "page") / observed.loads.seen.loads
    # Reports of what is typed and what follows a turn are events of the turn; its loads are not.
    rows = [[each.seen.turns, each.seen.tokens, each.seen.redraws, each.seen.reply_seconds] for each in phases]
    totals = [each.over(idle, "page") - load * each.seen.loads for each in phases]
    turn, token, redraw, reply = fitted(rows, totals)
    written = [[each.seen.turns, each.seen.reply_seconds] for each in phases]
    _, writer = fitted(written, [each.writing for each in phases])
    return {
        "page_idle": idle_share(idle, "page") / PAGES,
        "page_load": load,
        "page_tab": max(0.0, tabs.over(idle, "page")) / TABS / tabs.seconds,
        "page_turn": turn,
        "page_token": token,
        "page_redraw": redraw,
        "page_reply": reply,
        "writer_reply": writer,
        "page_memory": base.memory,
        "memory_tab": observed.tab_memory,
        "page_files": base.files,
    }


def _database_costs(idle: Phase, phases: Sequence[Phase]) -> dict[str, float]:
    rows = [[each.seen.turns, each.seen.tokens, each.seen.reply_seconds] for each in phases]
    turn, token, reply = fitted(rows, [each.over(idle, "database") for each in phases])
    calls_idle = idle.stored.statements / idle.seconds
    calls = [each.stored.statements - calls_idle * each.seconds for each in phases]
    (statements,) = fitted([row[:1] for row in rows], calls)
    log = fitted(rows, [each.stored.log_bytes for each in phases])
    stored = fitted([row[:2] for row in rows], [max(1, each.stored.bytes) for each in phases])
    return {
        "database_idle": idle_share(idle, "database") / PAGES,
        "database_turn": turn,
        "database_token": token,
        "database_reply": reply,
        "statements_turn": statements,
        **dict(zip(("log_turn", "log_token", "log_reply"), log, strict=True)),
        **dict(zip(("stored_turn", "stored_token"), stored, strict=True)),
    }


def _proxy_costs(loads: Phase, phases: Sequence[Phase]) -> dict[str, float]:
    load = loads.proxy.seconds / loads.seen.loads
    totals = [max(0.01, each.proxy.seconds - load * each.seen.loads) for each in phases]
    turn, redraw = fitted([[each.seen.turns, each.seen.redraws] for each in phases], totals)
    return {"proxy_load": load, "proxy_turn": turn, "proxy_redraw": redraw}


def _byte_costs(phases: Sequence[Phase]) -> dict[str, float]:
    rows = [[each.seen.turns, each.seen.redraws] for each in phases]
    turn, redraw = fitted(rows, [each.seen.turn_bytes for each in phases])
    return {"bytes_turn": turn, "bytes_redraw": redraw}


def notifying_commits(url: str) -> float:
    """Transactions with a notification that the database commits in a second, from several connections at once."""
    counts: list[int] = []

    def commit(end: float) -> None:
        count = 0
        with psycopg.connect(url) as connection:
            while time.monotonic() < end:
                connection.execute("SELECT pg_notify('chatui', 'reply benchmark')")
                connection.commit()
                count += 1
        counts.append(count)

    end = time.monotonic() + NOTIFY_SECONDS
    threads = [threading.Thread(target=commit, args=(end,)) for _ in range(NOTIFIERS)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return sum(counts) / NOTIFY_SECONDS
