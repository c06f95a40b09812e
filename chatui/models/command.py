"""`chatui models SUBCOMMAND`: the subcommands about models that could be run here, as text or as JSON."""

import argparse
import os
import re
from collections.abc import Callable, Iterable, Iterator
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any, get_args

from chatui.errors import HubError, ModelError
from chatui.model_spec import parse_model_name
from chatui.models import catalogue, compare_command, hub_commands, listing, names
from chatui.models.compare_command import StoredVotes
from chatui.models.facts import ModelFacts, from_hub, read_facts
from chatui.models.fit import DEFAULT_CONTEXT, Machine, recommend
from chatui.models.hub import Hub
from chatui.models.listing import as_json
from chatui.settings import DEFAULT_MODEL, KvDtype

HUB_NAME = re.compile(r"[\w.-]{1,96}(?:/[\w.-]{1,96})?")
MAX_CONTEXT = 10**8
"""Tokens."""

Subcommand = Callable[[argparse.Namespace], str]
"""Runs with the parsed arguments and returns what is printed. Raises ChatError."""


def run(arguments: list[str], machine: Callable[[], Machine], votes: StoredVotes) -> str:
    """Run one subcommand and return its output. `machine` measures this machine, `votes` reads stored votes.

    Both are called when they are needed. Exits after --help and on wrong arguments, as argparse does.
    """
    options = _parser().parse_args(arguments)
    options.machine, options.votes = lambda: machine().with_kv_dtype(options.kv_dtype), votes
    subcommand: Subcommand = options.subcommand
    return subcommand(options)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser("chatui models", description="Models that could be run here.")
    subcommands = parser.add_subparsers(required=True, metavar="SUBCOMMAND")
    explain = _add(subcommands, "explain", _explain, "Explain a model: its name, its size, and whether it fits here.")
    explain.add_argument("name", help="name on the Hub, folder or GGUF file")
    _add_kv(explain)
    models = _add(subcommands, "list", _list, "List the models on this machine, what runs well here first.")
    models.add_argument(
        "folders", nargs="*", type=Path, metavar="FOLDER", help="folder with models, beside the HF cache"
    )
    _add_kv(models)
    hub_commands.add_subcommands(partial(_add, subcommands))
    compare_command.add_subcommand(partial(_add, subcommands))
    return parser


def _add(subcommands: Any, name: str, subcommand: Subcommand, text: str) -> argparse.ArgumentParser:
    """Add a subcommand with the flag --json, and return its parser."""
    parser: argparse.ArgumentParser = subcommands.add_parser(name, help=text, description=text)
    parser.add_argument("--json", action="store_true", help="print JSON")
    parser.set_defaults(subcommand=subcommand)
    return parser


def _add_kv(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--context",
        type=_tokens,
        default=DEFAULT_CONTEXT,
        metavar="TOKENS",
        help=f"tokens of the conversation whose K/V is counted, {DEFAULT_CONTEXT} by default",
    )
    parser.add_argument(
        "--kv-dtype",
        choices=get_args(KvDtype),
        default=os.environ.get("CHATUI_KV_DTYPE", "auto"),
        help="type of the K/V, as for the server; CHATUI_KV_DTYPE or auto by default",
    )


def _tokens(text: str) -> int:
    if not text.isdecimal() or not 0 < int(text[:12]) <= MAX_CONTEXT:
        raise argparse.ArgumentTypeError(f"{text} is no number of tokens from 1 to {MAX_CONTEXT:,}")
    return int(text)


def _explain(options: argparse.Namespace) -> str:
    name, _ = parse_model_name(options.name)
    machine: Machine | None = None
    path = Path(name).expanduser()
    if not path.exists():
        found = next((model.path for model in catalogue.local_models() if model.name == name), None)
        if found is None and name == DEFAULT_MODEL:
            machine = options.machine()
            found = machine.default_model
        facts = _hub_facts(name) if found is None else read_facts(found)
        if isinstance(facts, HubError):
            return _explain_name(name, options.json, facts)
    else:
        facts = read_facts(path)
    facts = replace(facts, name=name)
    machine = machine or options.machine()
    if options.json:
        return as_json(listing.explanation_json(facts, machine.devices, options.context))
    return listing.explanation(facts, machine.devices, options.context)


def _hub_facts(name: str) -> ModelFacts | HubError:
    """What the Hub says about a model, or why it says nothing."""
    if not HUB_NAME.fullmatch(name):
        return HubError("missing", "It is not on this machine.")
    hub = Hub()
    try:
        model = hub.model(name)
        return from_hub(model, hub.config(model))
    except HubError as error:
        return error


def _explain_name(name: str, json_output: bool, reason: HubError) -> str:
    """What a name alone says. `reason` is why no more is known."""
    sentences = names.explain(names.parse(name)) or ("This name says nothing about the model.",)
    if json_output:
        return as_json({"name": name, "explanation": sentences, "problem": str(reason)})
    return "\n".join((name, "", *sentences, "", f"This is what its name says. {reason}"))


def _list(options: argparse.Namespace) -> str:
    machine: Machine = options.machine()
    folders = options.folders or _models_dir()
    models, problems = [], []
    for name, path, problem in _paths(folders, machine):
        try:
            if problem:
                raise ModelError(f"{problem}.")
            models.append(replace(read_facts(path), name=name))
        except ModelError as error:
            problems.append(f"{name} is not listed: {error.message}")
    recommended = recommend(models, machine.devices, options.context)
    form = listing.model_list_json if options.json else listing.model_list
    shown = form(models, machine.devices, options.context, recommended, problems)
    return as_json(shown) if options.json else str(shown)


def _paths(folders: Iterable[Path], machine: Machine) -> Iterator[tuple[str, Path, str]]:
    """(name, path, what is missing) of the default model, those in the HF cache, and those in folders."""
    if machine.default_model:
        yield DEFAULT_MODEL, machine.default_model, ""
    for model in catalogue.local_models(folders):
        yield model.name, model.path, model.problem


def _models_dir() -> list[Path]:
    """The folder of --models-dir, if the environment names one."""
    folder = os.environ.get("CHATUI_MODELS_DIR")
    return [Path(folder)] if folder else []
