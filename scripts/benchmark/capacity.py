"""What an installation carries: measures what things cost on this computer, and plans for so many users.

The costs are those of the product's own processes: two page servers behind nginx, PostgreSQL, and an engine that
answers from a script. The plan is arithmetic (capacity_model.py); `--simulate` checks it by a simulation, and
`--visitors` by real visitors of two page servers here.
"""

import argparse
import json
import time
from collections.abc import Sequence
from dataclasses import asdict, fields
from pathlib import Path
from typing import Any

from scripts.benchmark import capacity_report
from scripts.benchmark.capacity_check import Check, check
from scripts.benchmark.capacity_costs import costs_of, observe
from scripts.benchmark.capacity_inputs import Costs, Engine, Load, Site
from scripts.benchmark.capacity_model import parts, sized
from scripts.benchmark.capacity_simulation import simulate
from scripts.benchmark.results import processor

HELP = {
    "present": "share of the users who have the page open at the busiest time",
    "turns_per_hour": "messages that each of these sends in an hour",
    "loads_per_hour": "how often each of these loads the page in an hour",
    "reply_tokens": "tokens of a reply, on average",
    "prompt_tokens": "tokens of a prompt, on average",
    "cached": "share of a prompt that the engine has in its cache",
    "rows": "replies that an engine replica writes at once",
    "tokens_per_second": "of an engine replica with all rows",
    "alone_per_second": "tokens/s of one reply alone",
    "read_per_second": "tokens of prompts that an engine replica reads in a second",
}
SITE = {"page_servers": int, "replicas": int, "database_cores": float, "database_connections": int}


def arguments() -> argparse.ArgumentParser:
    """The flags."""
    parser = argparse.ArgumentParser("scripts/bench capacity", description=__doc__, allow_abbrev=False)
    parser.add_argument("--users", default="10,100,1000,10000", help="10,100,1000,10000 if left out")
    parser.add_argument("--costs", type=Path, metavar="FILE", help="take what was measured before, and measure nothing")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write what was measured there")
    parser.add_argument("--visitors", type=int, default=0, help="real visitors who check the arithmetic; 0 if left out")
    parser.add_argument("--seconds", type=float, default=60.0, help="for which they stay; 60 if left out")
    parser.add_argument("--simulate", action="store_true", help="check the plan for the most users by a simulation")
    for kind in (Load, Engine):
        for field in fields(kind):
            if field.name in HELP:
                told = f"{HELP[field.name]}; {field.default} if left out"
                parser.add_argument(_flag(field.name), type=type(field.default), default=field.default, help=told)
    for name, type_ in SITE.items():
        parser.add_argument(_flag(name), type=type_, help="that there are; as many as are needed if left out")
    parser.add_argument("flags", nargs="*", help="behind --: flags of the page servers")
    return parser


def _flag(name: str) -> str:
    return f"--{name.replace('_', '-')}"


def _measured(given: argparse.Namespace) -> tuple[Costs, dict[str, Any]]:
    """The costs, and what is to be written of them."""
    if given.costs:
        told = json.loads(given.costs.read_text())
        return Costs.of(told["costs"]), told
    costs = costs_of(observe(given.flags))
    date = time.strftime("%Y-%m-%d")
    return costs, {"date": date, "processor": processor(), "flags": given.flags, "costs": asdict(costs)}


def _told(found: Check) -> dict[str, Any]:
    told = asdict(found)
    ratios = [{**row, "ratio": each.ratio} for row, each in zip(told["compared"], found.compared, strict=True)]
    return {**told, "compared": ratios}


def main(words: Sequence[str]) -> int:
    """Measure, plan and print."""
    given = arguments().parse_args(words)
    costs, told = _measured(given)
    print(f"\n{capacity_report.cost_table(costs)}\n")
    if given.visitors:
        told["check"] = _told(check(costs, given.visitors, given.seconds, given.flags))
        print(f"{capacity_report.check_table(told['check'])}\n")
    users = [int(word) for word in given.users.split(",")]
    names = vars(given)
    load = Load(users[-1], **{field.name: names[field.name] for field in fields(Load) if field.name in HELP})
    engine = Engine(**{field.name: names[field.name] for field in fields(Engine)})
    print(f"{capacity_report.plans(load, engine, costs, users)}\n")
    own = {name: names[name] for name in SITE if names[name] is not None}
    site = Site(**own) if own else sized(load, engine, costs)
    if given.simulate:
        told["simulated"] = simulate(load, site, engine, costs).utilisations
    if given.json:
        given.json.write_text(json.dumps(told, indent=1) + "\n")
    print(capacity_report.part_table(load, site, engine, costs, told.get("simulated") if given.simulate else None))
    print(f"\nFull first: {capacity_report.first_and_next(parts(load, site, engine, costs))}")
    return 0
