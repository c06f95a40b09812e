"""Compares what real visitors of two page servers take with what the arithmetic of capacity_model.py says of them."""

from collections.abc import Sequence
from dataclasses import dataclass

from scripts.benchmark import capacity_costs, capacity_model
from scripts.benchmark.capacity_inputs import Costs
from scripts.benchmark.capacity_model import Flow
from scripts.benchmark.figures import percentile
from scripts.benchmark.installation import PAGES, installed
from scripts.benchmark.page_visitors import Plan
from scripts.benchmark.scripted_vllm import FIRST_SECONDS

TOKENS, RATE, PAUSE_SECONDS = 200, 25.0, 60.0


@dataclass(frozen=True)
class Compared:
    """A figure as it was measured, and as the arithmetic has it."""

    name: str
    measured: float
    predicted: float

    @property
    def ratio(self) -> float:
        """How many times what was predicted was measured."""
        return self.measured / self.predicted if self.predicted else float("nan")


@dataclass(frozen=True)
class Check:
    """What `visitors` took in so many seconds. The times are from Send to the first text."""

    visitors: int
    seconds: float
    turns: int
    failed: int
    first_median: float
    first_p95: float
    compared: tuple[Compared, ...]


def check(costs: Costs, visitors: int, seconds: float, flags: Sequence[str] = ()) -> Check:
    """Let so many visitors use two page servers behind the proxy for so many seconds."""
    with installed(flags) as parts:
        capacity_costs.visit(Plan(parts.url, 4, turns=1, tokens=50, rate=50))
        plan = Plan(
            parts.url,
            visitors,
            seconds=seconds,
            tokens=TOKENS,
            rate=RATE,
            pause=PAUSE_SECONDS,
            arrival=seconds / 6,
            varied=True,
        )
        found = capacity_costs.phase(parts, lambda: capacity_costs.visit(plan))
    seen = found.seen
    # Visitors think, then wait for their reply: the law of response time (Denning and Buzen).
    reply_seconds = FIRST_SECONDS + TOKENS / RATE
    turns = visitors * seconds / (PAUSE_SECONDS + reply_seconds)
    begun = _flow(seen.turns / found.seconds, seen.loads / found.seconds, seen.tokens / seen.turns)
    now = capacity_model.drawn(costs, begun, visitors, seen.tokens / seen.turns, PAGES)
    cores = PAGES * costs.page_idle + capacity_model.page_cores(costs, now, visitors, seen.tokens / seen.turns)
    database = capacity_model.database_cores(costs, now, PAGES, seen.tokens / seen.turns)
    # A computer that is too busy redraws less often than the product means to.
    redraws = seen.redraws / found.seconds
    cores_drawn = cores + (redraws - now.redraws) * costs.page_redraw
    compared = (
        Compared("turns", seen.turns, turns),
        Compared("replies at once", seen.reply_seconds / found.seconds, now.running),
        Compared("redraws a second", redraws, now.redraws),
        Compared("page servers, cores", found.page.seconds / found.seconds, cores),
        Compared("page servers, cores, by the redraws that were seen", found.page.seconds / found.seconds, cores_drawn),
        Compared("database, cores", found.database.seconds / found.seconds, database),
        Compared("proxy, cores", found.proxy.seconds / found.seconds, capacity_model.proxy_cores(costs, now)),
    )
    first = [percentile(seen.first_seconds, share) or 0.0 for share in (0.5, 0.95)]
    return Check(visitors, found.seconds, seen.turns, seen.failed, first[0], first[1], compared)


def _flow(turns: float, loads: float, tokens: float) -> Flow:
    """What goes on when so many turns come and the engine is never full, without redraws."""
    running = turns * (FIRST_SECONDS + tokens / RATE)
    return Flow(turns, loads, running, 0.0, RATE, 0.0, 0.0)
