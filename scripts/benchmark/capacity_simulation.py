"""The same installation as a discrete-event simulation, to check the arithmetic of capacity_model.py.

Who waits, who is served next and which engine answers is decided by the product's own code (Admission, FairQueue,
replica_choice, CircuitBreaker), and how often replies are redrawn by RedrawCost, on an event loop whose time passes at
once. Processors, engines and visitors are simulated: visitors come at random, replies are of random lengths, and what
is busy is counted, not computed.
"""

import asyncio
import hashlib
import heapq
import random
from collections.abc import Coroutine
from dataclasses import dataclass, field
from typing import Any

from chatui.chat import ChatRequest, Message
from chatui.errors import OverloadError
from chatui.generation_settings import GenerationSettings
from chatui.remote import replica_choice
from chatui.remote.admission import Admission
from chatui.remote.backend_spec import BackendSpec, ReplicaSpec
from chatui.remote.circuit_breaker import CircuitBreaker
from chatui.remote.replica import Replica
from chatui.reply_writer import FLUSH_SECONDS
from chatui.ui.shared.redraw import RedrawCost, redraw_interval
from scripts.benchmark.capacity_inputs import Costs, Engine, Load, Site
from scripts.benchmark.capacity_model import OTHER_REDRAWS, most_saving_seconds, redraws_per_second, saving_seconds
from scripts.benchmark.virtual_time import Cores, VirtualLoop

SETTINGS = GenerationSettings()


class EngineReplica:
    """An engine that reads one prompt after another, and in between writes a token of each row in a step."""

    def __init__(self, engine: Engine, number: int, loop: VirtualLoop) -> None:
        self._engine, self._loop = engine, loop
        self.spec = ReplicaSpec(f"http://engine{number}")
        self.dead = False
        self._rows: list[tuple[float, int, asyncio.Future[None]]] = []
        self._room = asyncio.Semaphore(engine.rows)
        self._written = self._updated = self._reading_until = 0.0
        self._count = 0
        self._timer: asyncio.TimerHandle | None = None

    async def answer(self, read: float, write: float) -> None:
        """Read so many tokens, then write so many."""
        async with self._room:
            self._advance()
            self._reading_until = max(self._loop.time(), self._reading_until) + read / self._engine.read_per_second
            self._schedule()
            await asyncio.sleep(self._reading_until - self._loop.time())
            self._advance()
            ended = self._loop.create_future()
            self._count += 1
            heapq.heappush(self._rows, (self._written + write, self._count, ended))
            self._schedule()
            await ended

    @property
    def per_second(self) -> float:
        """Tokens/s of each row now."""
        return 1 / self._step()

    def _step(self) -> float:
        return self._engine.step_alone + self._engine.step_of_row * len(self._rows)

    def _advance(self) -> None:
        """Write what was to be written since the last time."""
        now = self._loop.time()
        self._written += max(0.0, now - max(self._updated, self._reading_until)) / self._step()
        self._updated = now

    def _schedule(self) -> None:
        """Wake when the next row has all of its tokens."""
        if self._timer is not None:
            self._timer.cancel()
        if self._rows:
            begin = max(self._loop.time(), self._reading_until)
            left = max(0.0, self._rows[0][0] - self._written)
            self._timer = self._loop.call_at(begin + left * self._step(), self._end_rows)

    def _end_rows(self) -> None:
        self._advance()
        while self._rows and self._rows[0][0] <= self._written + 1e-6:
            heapq.heappop(self._rows)[2].set_result(None)
        self._schedule()


@dataclass
class PageServer:
    """A page server: its queue, the engines as it knows them, its core, what a redraw costs it, the thread that saves
    replies, and the replies that it writes.
    """

    admission: Admission
    engines: dict[Replica, EngineReplica]
    core: Cores
    cost: RedrawCost
    writer: Cores = field(default_factory=Cores)
    running: int = 0
    saves: int = 0


@dataclass
class Counts:
    """What has happened. `turns` have ended; `failed` were requests to dead engines, which others took over.

    `running_seconds` is the time of all replies at engines together.
    """

    came: int = 0
    loads: int = 0
    turns: int = 0
    refused: int = 0
    failed: int = 0
    redraws: int = 0
    read: float = 0.0
    written: float = 0.0
    running_seconds: float = 0.0
    waited_seconds: float = 0.0


@dataclass(frozen=True)
class Outcome:
    """What was found. `utilisations` have the names of capacity_model's parts."""

    counts: Counts
    seconds: float
    running: float
    utilisations: dict[str, float]


class Simulation:
    """All parts while visitors come."""

    def __init__(self, load: Load, site: Site, engine: Engine, costs: Costs, loop: VirtualLoop, seed: int) -> None:
        self._load, self._site, self._engine, self._costs, self._loop = load, site, engine, costs, loop
        self._chance = random.Random(seed)
        self.engines = [EngineReplica(engine, number, loop) for number in range(site.replicas)]
        self._servers = [self._page_server() for _ in range(site.page_servers)]
        self._database = Cores(round(site.database_cores))
        self._proxy = Cores(round(site.proxy_cores))
        self._counts = Counts()
        self._running, self._changed_at = 0, 0.0
        self._tasks: set[asyncio.Task[None]] = set()

    async def run(self, warm_up: float, seconds: float) -> Outcome:
        """What happens in so many seconds behind a warm-up."""
        endless = [self._turns(), self._loads(), *(self._saves(server) for server in self._servers)]
        for each in endless:
            self._start(each)
        await asyncio.sleep(warm_up)
        before = self._busy()
        self._change_running(0)
        self._counts = Counts()
        await asyncio.sleep(seconds)
        busy = {name: (value - before[name]) / seconds for name, value in self._busy().items()}
        outcome = self._outcome(busy, seconds)
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        return outcome

    def _start(self, coroutine: Coroutine[Any, Any, None]) -> asyncio.Task[None]:
        task = self._loop.create_task(coroutine)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
        return task

    def _change_running(self, change: int) -> None:
        """Count the time that all running replies have taken, before their number changes."""
        now = self._loop.time()
        self._counts.running_seconds += self._running * (now - self._changed_at)
        self._running, self._changed_at = self._running + change, now

    def _page_server(self) -> PageServer:
        known = {}
        for engine in self.engines:
            replica = Replica(BackendSpec((engine.spec,)), engine.spec)
            replica.breaker = CircuitBreaker(self._loop.time)
            known[replica] = engine
        core, always = Cores(), self._always()
        cost = RedrawCost(lambda: core.busy + always * self._loop.time(), self._loop.time)
        return PageServer(Admission(self._site.max_requests, self._site.queue), known, core, cost)

    def _always(self) -> float:
        """What a page server takes of its core all the time, which is no event."""
        return self._costs.page_idle + self._load.tabs / self._site.page_servers * self._costs.page_tab

    async def _turns(self) -> None:
        while True:
            await asyncio.sleep(self._chance.expovariate(self._load.turns))
            self._start(self._turn(self._chance.randrange(max(1, round(self._load.tabs)))))

    async def _loads(self) -> None:
        while self._load.loads:
            await asyncio.sleep(self._chance.expovariate(self._load.loads))
            server = self._server_of(self._chance.randrange(max(1, round(self._load.tabs))))
            self._counts.loads += 1
            self._proxy.add(self._costs.proxy_load)
            server.core.add(self._costs.page_load)

    def _server_of(self, visitor: int) -> PageServer:
        """The server that the proxy's hash of a browser's cookie gives."""
        digest = hashlib.sha256(str(visitor).encode()).digest()
        return self._servers[int.from_bytes(digest[:8], "big") % len(self._servers)]

    async def _turn(self, visitor: int) -> None:
        """A message of a visitor, and its reply."""
        costs, server, counts, user = self._costs, self._server_of(visitor), self._counts, str(visitor)
        write = self._chance.expovariate(1 / self._load.reply_tokens)
        counts.came += 1
        await self._proxy.use(costs.proxy_turn)
        await server.core.use(costs.page_turn)
        await self._database.use(costs.database_turn + write * costs.database_token)
        try:
            waiter = server.admission.enter(user, "")
        except OverloadError:
            counts.refused += 1
            return
        asked = self._loop.time()
        try:
            async for _ in server.admission.positions(waiter):
                pass
            self._counts.waited_seconds += self._loop.time() - asked
            await self._reply(server, user, write)
        finally:
            server.admission.leave(waiter)
        server.core.add(write * costs.page_token + OTHER_REDRAWS * costs.page_redraw)
        self._proxy.add(OTHER_REDRAWS * costs.proxy_redraw)
        self._counts.turns += 1
        self._counts.written += write
        self._counts.redraws += OTHER_REDRAWS

    async def _reply(self, server: PageServer, user: str, write: float) -> None:
        """A reply of the engine that the product chooses, and its redraws meanwhile."""
        request = ChatRequest((Message("user", f"{user} {self._chance.random()}"),), SETTINGS)
        chosen = self._choose(server, replica_choice.prefix_key(request))
        engine = server.engines[chosen]
        chosen.outstanding += 1
        server.running += 1
        self._change_running(1)
        redraws = self._start(self._redraws(server, engine))
        try:
            await engine.answer(self._load.read_tokens, write)
            chosen.breaker.record_success()
        finally:
            redraws.cancel()
            chosen.outstanding -= 1
            server.running -= 1
            self._change_running(-1)
        self._counts.read += self._load.read_tokens

    def _choose(self, server: PageServer, key: bytes) -> Replica:
        """The engine that is asked, as in the product: those that are known to fail are asked last."""
        up = [replica for replica in server.engines if replica.breaker.is_closed]
        others = [replica for replica in server.engines if replica not in up]
        for replica in (*replica_choice.in_order(up, key), *others):
            if not replica.breaker.allow():
                continue
            if not server.engines[replica].dead:
                return replica
            replica.breaker.record_failure(replica.breaker.failures)
            self._counts.failed += 1
        raise RuntimeError("all engines are dead")

    async def _redraws(self, server: PageServer, engine: EngineReplica) -> None:
        """Update the tab as often as the product does."""
        while True:
            server.cost.count_redraw()
            interval = 1 / redraws_per_second(redraw_interval(server.running, server.cost.seconds), engine.per_second)
            await asyncio.sleep(max(interval, server.core.add(self._costs.page_redraw)))
            self._proxy.add(self._costs.proxy_redraw)
            self._counts.redraws += 1

    async def _saves(self, server: PageServer) -> None:
        """Save the running replies of a server again and again."""
        costs, each = self._costs, FLUSH_SECONDS
        while True:
            await asyncio.sleep(each)
            server.saves += 1
            if count := server.running:
                server.core.add(count * each * costs.page_reply)
                self._database.add(count * each * costs.database_reply)
                await server.writer.use(saving_seconds(costs, count))

    def _busy(self) -> dict[str, float]:
        count = len(self._servers)
        return {
            "Page server: processor": sum(server.core.busy for server in self._servers) / count,
            "Page server: saving replies": sum(server.writer.busy for server in self._servers) / count,
            "Database: processor": self._database.busy / self._site.database_cores,
            "Proxy: processor": self._proxy.busy / self._site.proxy_cores,
        }

    def _outcome(self, busy: dict[str, float], seconds: float) -> Outcome:
        costs, site, counts = self._costs, self._site, self._counts
        self._change_running(0)
        busy["Page server: processor"] += self._always()
        busy["Database: processor"] += site.page_servers * costs.database_idle / site.database_cores
        saves = sum(server.saves for server in self._servers) / site.page_servers
        busy["Page server: saving replies"] *= self._loop.time() / saves / most_saving_seconds()
        running = counts.running_seconds / seconds
        reading, writing = counts.read / self._engine.read_per_second, counts.written / self._engine.tokens_per_second
        busy["Engines: tokens"] = (reading + writing) / site.replicas / seconds
        busy["Engines: rows"] = running / site.replicas / self._engine.rows
        busy["Page server: replies at once"] = running / site.page_servers / site.max_requests
        sent = counts.turns * costs.bytes_turn + counts.redraws * costs.bytes_redraw
        busy["Network"] = (sent / seconds + counts.loads / seconds * costs.bytes_load) / site.network
        return Outcome(counts, seconds, running, busy)


def simulate(
    load: Load,
    site: Site,
    engine: Engine,
    costs: Costs,
    seconds: float = 300.0,
    warm_up: float = 60.0,
    seed: int = 1,
    dead: int = 0,
) -> Outcome:
    """What happens in so many simulated seconds, which is the same again for the same seed.

    So many of the engines are dead all the time.
    """
    loop = VirtualLoop()
    simulation = Simulation(load, site, engine, costs, loop, seed)
    for each in simulation.engines[:dead]:
        each.dead = True
    try:
        return loop.run_until_complete(simulation.run(warm_up, seconds))
    finally:
        loop.close()
