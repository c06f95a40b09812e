"""`chatui models SUBCOMMAND`: the subcommands about models that could be run here, as text or as JSON."""

import argparse
import json
from collections.abc import Callable, Iterable
from typing import Any

from chatui.models import names

Subcommand = Callable[[argparse.Namespace], str]
"""Runs with the parsed arguments and returns what is printed. Raises ChatError."""


def run(arguments: list[str]) -> str:
    """Run one subcommand and return its output. Exits after --help and on wrong arguments, as argparse does."""
    options = _parser().parse_args(arguments)
    subcommand: Subcommand = options.subcommand
    return subcommand(options)


def as_json(value: Any) -> str:
    """JSON as every subcommand prints it with --json."""
    return json.dumps(value, indent=2, ensure_ascii=False)


def as_table(header: Iterable[str], rows: Iterable[Iterable[str]]) -> str:
    """Columns of text for a terminal. Columns of numbers are aligned to the right."""
    lines = [list(header), *map(list, rows)]
    widths = [max(map(len, column)) for column in zip(*lines, strict=True)]
    to_right = [
        all(cell[:1].isdigit() or cell in ("", "-") for cell in column[1:]) for column in zip(*lines, strict=True)
    ]
    return "\n".join(
        "  ".join(
            cell.rjust(width) if right else cell.ljust(width)
            for cell, width, right in zip(line, widths, to_right, strict=True)
        ).rstrip()
        for line in lines
    )


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser("chatui models", description="Models that could be run here.")
    subcommands = parser.add_subparsers(required=True, metavar="SUBCOMMAND")
    _add(subcommands, "explain", _explain, "Explain the name of a model.").add_argument("name", help="name or path")
    return parser


def _add(subcommands: Any, name: str, subcommand: Subcommand, text: str) -> argparse.ArgumentParser:
    """Add a subcommand with the flag --json, and return its parser."""
    parser: argparse.ArgumentParser = subcommands.add_parser(name, help=text, description=text)
    parser.add_argument("--json", action="store_true", help="print JSON")
    parser.set_defaults(subcommand=subcommand)
    return parser


def _explain(options: argparse.Namespace) -> str:
    parsed = names.parse(options.name)
    sentences = names.explain(parsed)
    if options.json:
        return as_json({"name": options.name, "explanation": sentences})
    return "\n".join((options.name, "", *(sentences or ("This name says nothing about the model.",))))
