"""What visitors of the page see of many replies that another server writes at once, and what that costs."""

from dataclasses import dataclass

from scripts.benchmark.figures import percentile
from scripts.benchmark.page_counter import Drawn
from scripts.benchmark.token_counter import Order

HEADINGS = ("streams", "page servers", "offered", "reached", "p50 ms", "p95 ms", "redrawn every s", "cores of each")

VARIABLES = {"CHATUI_ALLOWED_HOSTS": "*"}
"""So that each visitor is somebody else: all who reach a server from its own computer only are one user."""


@dataclass(frozen=True)
class PageFigures:
    """What reached the visitors. `p50` and `p95` are delays of tokens in ms. `interval` are the seconds between two
    redraws of a reply, the median; `cores` what each page server takes.
    """

    offered: float
    reached: float
    p50: float | None
    p95: float | None
    interval: float | None
    cores: float


def figures_of(drawn: Drawn, order: Order, rate: float) -> PageFigures:
    """The figures of a measurement of replies that have `rate` tokens a second each."""
    p50, p95 = (
        None if delay is None else 1000 * delay for delay in (percentile(drawn.delays, share) for share in (0.5, 0.95))
    )
    cores = drawn.processor / drawn.seconds / len(order.pids)
    reached = len(drawn.delays) / drawn.seconds
    return PageFigures(order.streams * rate, reached, p50, p95, percentile(drawn.intervals, 0.5), cores)


def row(figures: PageFigures, order: Order) -> str:
    """A line of the table."""
    reached = f"{figures.reached:.0f} ({figures.reached / figures.offered:.1%})"
    delays = ["-" if delay is None else f"{delay:.0f}" for delay in (figures.p50, figures.p95)]
    interval = "-" if figures.interval is None else f"{figures.interval:.2f}"
    cells = (order.streams, len(order.pids), f"{figures.offered:.0f}", reached, *delays, interval)
    return "| " + " | ".join(map(str, (*cells, f"{figures.cores:.2f}"))) + " |"
