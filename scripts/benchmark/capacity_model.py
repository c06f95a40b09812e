"""How much each part of an installation has to do for so many users: arithmetic from measured costs. Pure.

N = lambda * S (Little, 1961, https://doi.org/10.1287/opre.9.3.383): what is in a part is what comes times how long it
stays. U = lambda * D (utilisation law, Denning and Buzen, 1978, https://doi.org/10.1145/356733.356735): how busy a part
is, is what comes times what each takes of it. Who waits for one of c places: Erlang's C formula (1917).
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace

from chatui.reply_writer import FLUSH_SECONDS
from chatui.runner import LEASE_TIMEOUT
from chatui.ui.gradio_compat.sessions import MAX_TABS
from chatui.ui.shared import redraw
from scripts.benchmark.capacity_inputs import Costs, Engine, Load, Site

POOLED, LISTENING = 25, 1
"""Connections that a page server may have to the database: its pool with what it may overflow by, and the one that
listens.
"""
RESERVED = 3
"""Connections that PostgreSQL keeps for its superuser (superuser_reserved_connections)."""
SOCKETS_PER_TAB, SOCKETS_PER_REPLY = 1, 2
"""A visible tab waits for changes; a reply is read from the engine, and its tab reads it."""
OTHER_REDRAWS = 3
"""Of a reply besides those while it is written: its question, its end, its end once saved."""
SLOWEST_REDRAWS = 1.0
"""Seconds between two redraws of a reply after which its text no longer seems to flow."""
TARGET = 0.7
"""How full a part may be, on average, at the busiest time: what is left is for bursts and for a part that fails."""


@dataclass(frozen=True)
class Flow:
    """What goes on: turns and page loads a second, replies that are `running`, and redraws a second.

    `per_second` is the speed of one reply. `busy` is how much of the engines' time is used; above 1 they cannot keep
    up, and `turns` are those that they can.
    """

    turns: float
    loads: float
    running: float
    redraws: float
    per_second: float
    busy: float
    wait: float


@dataclass(frozen=True)
class Part:
    """How much of a part is used: `used` of `most`, in `unit`. `count` of what `adds` more are there."""

    name: str
    used: float
    most: float
    unit: str
    adds: str
    count: int

    @property
    def utilisation(self) -> float:
        """The share that is used."""
        return self.used / self.most

    @property
    def needed(self) -> int:
        """How many of what adds more keep it at the target."""
        return max(1, math.ceil(self.count * self.utilisation / TARGET - 1e-9))


def erlang_c(places: int, offered: float) -> float:
    """The share of those who wait where `offered` of so many places are used on average."""
    if offered >= places:
        return 1.0
    blocked = 1.0  # Erlang's B formula, place by place
    for count in range(1, places + 1):
        blocked = offered * blocked / (count + offered * blocked)
    return blocked / (1 - offered / places * (1 - blocked))


def redraw_interval(running: float, cost: float, other: float) -> float:
    """Seconds between two redraws of a reply on a page server that writes so many.

    `cost` is that of a redraw; everything else takes `other` of the core. Redraws take what it leaves of their share.
    """
    left = redraw.PROCESS_SHARE - other
    return redraw.redraw_interval(running, cost * redraw.PROCESS_SHARE / left if left > 0 else math.inf)


def redraws_per_second(interval: float, per_second: float) -> float:
    """Redraws of one reply a second. Nothing is drawn before something has come, or a heartbeat."""
    return min(1 / interval, max(per_second, 1 / redraw.HEARTBEAT_SECONDS))


def poisson(mean: float) -> list[float]:
    """How probable each number is, from none on, of what comes and stays independently: so many on average."""
    most = math.ceil(mean + 8 * math.sqrt(mean) + 8)
    return [math.exp(count * math.log(mean) - mean - math.lgamma(count + 1)) if mean else 0.0 for count in range(most)]


def server_redraws(running: float, per_second: float, cost: float, other: float) -> float:
    """Redraws a second of a page server with so many running replies on average; see redraw_interval().

    Their number goes up and down (M/G/infinity). It has to be averaged over, because the more there are, the less often
    each is redrawn.
    """
    return sum(
        share * count * redraws_per_second(redraw_interval(count, cost, other), per_second)
        for count, share in enumerate(poisson(running))
    )


def drawn(costs: Costs, now: Flow, tabs: float, reply_tokens: float, servers: int) -> Flow:
    """What goes on, with the redraws that so many page servers then make."""
    other = other_cores(costs, now, tabs, reply_tokens, servers)
    redraws = servers * server_redraws(now.running / servers, now.per_second, costs.page_redraw, other)
    return replace(now, redraws=redraws + OTHER_REDRAWS * now.turns)


def flow(load: Load, site: Site, engine: Engine, costs: Costs) -> Flow:
    """What goes on at this load. Reading prompts and writing share an engine's time.

    An engine with b rows ends replies at the rate b / (tokens * (a + c * b)): a queue with processor sharing, whose
    number of replies is distributed as a negative binomial whatever the lengths are (Kelly, 1979, chapter 3.3), with
    the mean A * (a + c) / (1 - A * c) where A are the tokens a second.
    """
    turns, reading = load.turns / site.replicas, load.read_tokens / engine.read_per_second
    most = 1 / (reading + load.reply_tokens / engine.tokens_per_second)
    busy, turns = turns / most, min(turns, most)
    left = 1 - turns * reading
    written = turns * load.reply_tokens / left
    share = 1 - written * engine.step_of_row
    rows = turns * reading + written / engine.alone_per_second / share if share > 0 else math.inf
    rows = min(rows, engine.rows)
    running, places, total = rows * site.replicas, engine.rows * site.replicas, turns * site.replicas
    per_second = load.reply_tokens / max(rows / turns - reading, 1e-9)
    wait = erlang_c(places, running) * (running / total) / (places - running) if running < places else math.inf
    now = Flow(total, load.loads, running, 0.0, per_second, busy, wait)
    return drawn(costs, now, load.tabs, load.reply_tokens, site.page_servers)


def page_cores(costs: Costs, now: Flow, tabs: float, reply_tokens: float) -> float:
    """Cores that all page servers together take for their users."""
    tokens = now.turns * reply_tokens
    return (
        tabs * costs.page_tab
        + now.loads * costs.page_load
        + now.turns * costs.page_turn
        + tokens * costs.page_token
        + now.redraws * costs.page_redraw
        + now.running * costs.page_reply
    )


def other_cores(costs: Costs, now: Flow, tabs: float, reply_tokens: float, servers: int) -> float:
    """What each of so many page servers takes of its core for all but the redraws of running replies."""
    besides = replace(now, redraws=OTHER_REDRAWS * now.turns)
    return costs.page_idle + page_cores(costs, besides, tabs, reply_tokens) / servers


def database_cores(costs: Costs, now: Flow, servers: int, reply_tokens: float) -> float:
    """Cores that the database takes."""
    tokens = now.turns * reply_tokens
    writing = now.turns * costs.database_turn + tokens * costs.database_token + now.running * costs.database_reply
    return servers * costs.database_idle + writing


def proxy_cores(costs: Costs, now: Flow) -> float:
    """Cores that the proxy takes."""
    return now.loads * costs.proxy_load + now.turns * costs.proxy_turn + now.redraws * costs.proxy_redraw


def saving_seconds(costs: Costs, running: float) -> float:
    """How long a page server takes to save its running replies once."""
    return FLUSH_SECONDS * running * costs.writer_reply


def most_saving_seconds() -> float:
    """How long that may take: then another server would take the replies for those of a server that is gone."""
    return LEASE_TIMEOUT.total_seconds() - FLUSH_SECONDS


def parts(load: Load, site: Site, engine: Engine, costs: Costs) -> list[Part]:
    """All parts, the fullest first."""
    now, count, replicas = flow(load, site, engine, costs), site.page_servers, site.replicas
    tabs, running = load.tabs / count, now.running / count
    sockets = tabs * SOCKETS_PER_TAB + running * SOCKETS_PER_REPLY
    cores = costs.page_idle + page_cores(costs, now, load.tabs, load.reply_tokens) / count
    other = other_cores(costs, now, load.tabs, load.reply_tokens, count)
    interval = redraw_interval(running, costs.page_redraw, other)
    notifying = min(now.running, count) / FLUSH_SECONDS + now.turns
    sent = now.loads * costs.bytes_load + now.turns * costs.bytes_turn + now.redraws * costs.bytes_redraw
    connections = count * (POOLED + LISTENING)
    page, database = "page servers", "database"
    found = [
        Part("Page server: processor", cores, 1.0, "cores", page, count),
        Part("Page server: time between redraws", interval, SLOWEST_REDRAWS, "s", page, count),
        Part("Page server: saving replies", saving_seconds(costs, running), most_saving_seconds(), "s", page, count),
        Part(
            "Page server: memory", costs.page_memory + tabs * costs.memory_tab, site.page_memory, "bytes", page, count
        ),
        Part("Page server: tabs it remembers", tabs, MAX_TABS, "tabs", page, count),
        Part("Page server: open files", costs.page_files + sockets, site.files, "files", page, count),
        Part("Page server: replies at once", running, site.max_requests, "replies", page, count),
        Part(
            "Database: processor",
            database_cores(costs, now, count, load.reply_tokens),
            site.database_cores,
            "cores",
            f"{database} cores",
            math.ceil(site.database_cores),
        ),
        Part(
            "Database: connections, at most",
            connections,
            site.database_connections - RESERVED,
            "connections",
            "max_connections",
            site.database_connections,
        ),
        Part("Database: notifying commits", notifying, costs.notifying, "a second", f"faster {database}", 1),
        Part(
            "Proxy: processor",
            proxy_cores(costs, now),
            site.proxy_cores,
            "cores",
            "proxy cores",
            math.ceil(site.proxy_cores),
        ),
        Part(
            "Proxy: connections",
            2 * count * (tabs + running),
            site.proxy_connections,
            "connections",
            "worker_connections",
            site.proxy_connections,
        ),
        Part("Network", sent, site.network, "bytes/s", "1 Gbit/s links", 1),
        Part("Engines: tokens", now.busy, 1.0, "of their time", "engine replicas", replicas),
        Part("Engines: rows", now.running / replicas, engine.rows, "rows each", "engine replicas", replicas),
    ]
    return sorted(found, key=lambda part: part.utilisation, reverse=True)


def sized(load: Load, engine: Engine, costs: Costs, site: Site | None = None) -> Site:
    """The smallest site that carries this load with every part at the target at most, starting from `site`."""
    site = site or Site(page_servers=1, database_cores=1.0, proxy_cores=1.0)
    names = {
        "page servers": "page_servers",
        "engine replicas": "replicas",
        "database cores": "database_cores",
        "proxy cores": "proxy_cores",
        "max_connections": "database_connections",
        "worker_connections": "proxy_connections",
    }
    while full := [part for part in parts(load, site, engine, costs) if part.utilisation > TARGET + 1e-9]:
        grown = next((part for part in full if part.adds in names), None)
        if grown is None:
            return site
        step = 100 if grown.adds.endswith("connections") else 1
        site = replace(site, **{names[grown.adds]: grown.count + step})
    return site


def full_first(parts_: Sequence[Part]) -> Part:
    """The part that is full first when more users come."""
    return max(parts_, key=lambda part: part.utilisation)
