"""The flags of scripts/bench."""

import argparse
import secrets
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from scripts.benchmark.peers import PEERS
from scripts.benchmark.server import Address

DESCRIPTION = """Measures our server, which it starts, against the loop of a plain Gradio page and against any other
OpenAI-compatible servers. What follows -- are flags of scripts/run for our server."""


@dataclass(frozen=True)
class Options:
    """What to measure, and how. `flags` are our own server's."""

    users: tuple[int, ...]
    prompts: tuple[int, ...]
    tokens: int
    rounds: int
    own: bool
    baseline: bool
    others: tuple[Address, ...]
    peers: tuple[str, ...]
    own_weight_bytes: int | None
    flags: tuple[str, ...]
    seed: int
    json: Path | None


class _Other(argparse.Action):
    """--url begins another server; the flags that describe a server belong to the --url before them."""

    def __call__(
        self, parser: argparse.ArgumentParser, namespace: argparse.Namespace, values: Any, option: str | None = None
    ) -> None:
        if self.dest == "url":
            namespace.others.append(Address(values, values.partition("//")[2].partition("/")[0] or values))
        elif namespace.others:
            namespace.others[-1] = replace(namespace.others[-1], **{self.dest: values})
        elif self.dest in ("model", "weight_bytes"):
            setattr(namespace, "own_" + self.dest, values)
        else:
            parser.error(f"{option} belongs behind the --url it describes")


def read(words: Sequence[str]) -> Options:
    """The options of a command line; --help and mistakes exit."""
    ours, flags = list(words), list[str]()
    if "--" in ours:
        separator = ours.index("--")
        ours, flags = ours[:separator], ours[separator + 1 :]
    parser = _parser()
    given = parser.parse_args(ours)
    if not (given.own or given.baseline or given.others or given.peers):
        parser.error("there is nothing to measure")
    if given.own_model:
        flags += ["--model", given.own_model]
    quick = given.quick
    names = [address.name for address in given.others] + sorted(set(given.peers))
    if len(set(names)) < len(names):
        parser.error("two servers have the same name; tell them apart with --name")
    return Options(
        users=given.users or ((1, 4) if quick else (1, 4, 8, 16)),
        prompts=given.prompts or ((50,) if quick else (50, 1000)),
        tokens=given.tokens or (32 if quick else 128),
        rounds=given.rounds or (1 if quick else 3),
        own=given.own,
        baseline=given.baseline,
        others=tuple(given.others),
        peers=tuple(dict.fromkeys(given.peers)),
        own_weight_bytes=given.own_weight_bytes,
        flags=tuple(flags),
        seed=secrets.randbelow(2**32) if given.seed is None else given.seed,
        json=given.json,
    )


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser("scripts/bench", description=DESCRIPTION, allow_abbrev=False)
    parser.set_defaults(others=[], own_model=None, own_weight_bytes=None)
    add = parser.add_argument
    add("--users", type=_counts, metavar="N,N", help="users at once; 1,4,8,16 if left out")
    add("--prompts", type=_counts, metavar="N,N", help="lengths of prompts in tokens, about; 50,1000 if left out")
    add("--tokens", type=_count, metavar="N", help="tokens of a reply; 128 if left out")
    add("--rounds", type=_count, metavar="N", help="times that everything is measured; 3 if left out")
    add("--quick", action="store_true", help="users 1,4, prompts 50, 32 tokens, 1 round, where not given")
    add("--json", type=Path, metavar="FILE", help="write all raw figures there")
    add("--seed", type=int, metavar="N", help="for the same prompts again; new ones if left out")
    add("--no-own", dest="own", action="store_false", help="do not start our own server")
    add("--no-baseline", dest="baseline", action="store_false", help="do not measure the plain page")
    add(
        "--peer",
        dest="peers",
        action="append",
        choices=PEERS,
        default=[],
        help="another engine on the same GGUF file, installed into an environment of its own; may be repeated",
    )
    add("--url", action=_Other, metavar="URL", help="another server, such as http://127.0.0.1:8000/v1; may be repeated")
    for name, words in (
        ("--name", "what the tables call the --url before it"),
        ("--model", "the model to ask the --url before it for; before any --url: what our server and the page load"),
        ("--api-key", "key for the --url before it"),
    ):
        add(name, action=_Other, default=argparse.SUPPRESS, metavar=name[2:].upper(), help=words)
    add(
        "--weight-bytes",
        action=_Other,
        type=_count,
        default=argparse.SUPPRESS,
        metavar="N",
        help="bytes of weights that the --url before it reads for a token; before any --url: our server",
    )
    return parser


def _count(word: str) -> int:
    number = int(word)
    if number < 1:
        raise ValueError
    return number


def _counts(words: str) -> tuple[int, ...]:
    return tuple(sorted({_count(word) for word in words.split(",")}))


_count.__name__ = "positive number"
_counts.__name__ = "list of positive numbers"
