"""Costs and plans of capacity -> tables. Pure."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from scripts.benchmark.capacity_inputs import Costs, Engine, Load, Site
from scripts.benchmark.capacity_model import TARGET, Part, flow, full_first, parts, sized
from scripts.benchmark.report import format_number

MEASURED = Path(__file__).with_name("capacity.json")
"""What was measured last: costs, with the date and the processor."""
USERS = (10, 100, 1000, 10_000)
UNITS = {"bytes": 1e6, "bytes/s": 1e6}


@dataclass(frozen=True)
class Measured:
    """What a measurement found, what real visitors took, and how full a simulation found the parts."""

    date: str
    processor: str
    costs: Costs
    check: Mapping[str, Any]
    simulated: Mapping[str, float]


def read(file: Path = MEASURED) -> Measured:
    """What was measured. Raises OSError, ValueError, KeyError."""
    told = json.loads(file.read_text())
    costs = Costs.of(told["costs"])
    return Measured(told["date"], told["processor"], costs, told["check"], told["simulated"])


def table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """A table in Markdown; all columns but the first have numbers."""
    lines = [f"| {' | '.join(head)} |", "|---" + "|--:" * (len(head) - 1) + "|"]
    return "\n".join([*lines, *(f"| {' | '.join(row)} |" for row in rows)])


def plans(load: Load, engine: Engine, costs: Costs, users: Sequence[int] = USERS) -> str:
    """What so many users need, one row each, and what is full first."""
    head = ["Users", "Tabs", "Turns/s", "Replies at once", "Page servers", "Engine replicas", "Database cores"]
    head += ["`max_connections`", "Full first", "then"]
    rows = []
    for count in users:
        asked = replace(load, users=count)
        site = sized(asked, engine, costs)
        now = flow(asked, site, engine, costs)
        # What has a number of its own (replicas) says little of a site that is as small as it can be.
        fullest = parts(asked, site, engine, costs)[:2]
        numbers = [count, round(asked.tabs), now.turns, now.running, site.page_servers, site.replicas]
        cells = [f"{number:,}" if isinstance(number, int) else format_number(number) for number in numbers]
        cells += [f"{site.database_cores:.0f}", str(site.database_connections)]
        rows.append([*cells, *(f"{part.name}, {part.utilisation:.0%}" for part in fullest)])
    return table(head, rows)


def part_table(
    load: Load, site: Site, engine: Engine, costs: Costs, simulated: Mapping[str, float] | None = None
) -> str:
    """Each part, the fullest first: what is used of what there is, and how many keep it at the target."""
    head = ["Part", "Used", "Of", "Unit", "Share", *(["Simulated"] if simulated else []), f"For {TARGET:.0%}"]
    rows = []
    for part in parts(load, site, engine, costs):
        scale = UNITS.get(part.unit, 1.0)
        cells = [part.name, format_number(part.used / scale), format_number(part.most / scale)]
        cells += [f"M{part.unit}" if part.unit in UNITS else part.unit, f"{part.utilisation:.1%}"]
        if simulated:
            cells.append(f"{simulated[part.name]:.1%}" if part.name in simulated else "–")
        rows.append([*cells, f"{part.needed:,} {part.adds}"])
    return table(head, rows)


def cost_table(costs: Costs) -> str:
    """What one of each thing costs, in milliseconds of a core or bytes."""

    def ms(seconds: float) -> str:
        return f"{1000 * seconds:.2f}"

    none = "–"
    rows = [
        ["A server that nobody uses, each second", ms(costs.page_idle), ms(costs.database_idle), none, none],
        ["An open tab, each second", ms(costs.page_tab), none, none, none],
        ["A page load", ms(costs.page_load), none, ms(costs.proxy_load), _kilobytes(costs.bytes_load)],
        ["A turn", ms(costs.page_turn), ms(costs.database_turn), ms(costs.proxy_turn), _kilobytes(costs.bytes_turn)],
        ["A token", ms(costs.page_token), ms(costs.database_token), none, none],
        ["A redraw of a reply", ms(costs.page_redraw), none, ms(costs.proxy_redraw), _kilobytes(costs.bytes_redraw)],
        ["A reply that is being written, each second", ms(costs.page_reply), ms(costs.database_reply), none, none],
    ]
    return table(["", "Page server, ms", "Database, ms", "Proxy, ms", "Sent, kB"], rows)


def check_table(check: Mapping[str, Any]) -> str:
    """What real visitors took, beside what the arithmetic says of them."""
    rows = [
        [row["name"], format_number(row["measured"]), format_number(row["predicted"]), f"{row['ratio']:.2f}"]
        for row in check["compared"]
    ]
    return table(["", "Measured", "By the arithmetic", "Ratio"], rows)


def first_and_next(found: Sequence[Part]) -> str:
    """What is full first, in words."""
    first = full_first(found)
    return f"{first.name}: {first.utilisation:.0%} of {first.count} {first.adds}; {first.needed} would do."


def _kilobytes(count: float) -> str:
    return f"{count / 1000:.1f}"
