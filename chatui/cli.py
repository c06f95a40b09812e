"""The command line: its commands, with flags generated from the settings."""

import os
import sys
from argparse import ArgumentParser
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pydantic import ValidationError
from pydantic_settings import CliApp, CliSettingsSource
from pydantic_settings import SettingsError as CliSettingsError

from chatui import __version__
from chatui.errors import ChatError
from chatui.setting_values import settings_error, unknown_variables
from chatui.settings import AppSettings

if TYPE_CHECKING:
    from chatui.models.fit import Machine
    from chatui.models.votes import Vote

Command = Callable[[list[str]], None]


def run(arguments: list[str]) -> None:
    """Serve the chat page and /v1: run [flags]."""
    settings = parse(arguments)
    from chatui import logs, tracing

    logs.configure(settings.log_format)
    tracing.start(settings.otlp_endpoint)
    from chatui import server

    server.run(settings)


def backup(arguments: list[str]) -> None:
    """Write all conversations and personas to a new file: backup FILE [flags]. The server may be running."""
    if "--help" in arguments:
        parse(["--help"])
    if not arguments or arguments[0].startswith("-"):
        raise ChatError("backup needs the name of a new file.", "Write it first: python -m chatui backup FILE.")
    target = Path(arguments[0])
    settings = parse(arguments[1:])
    from chatui.store.store import Store

    store = Store.open_unmigrated(settings)
    try:
        store.backup(target)
    finally:
        store.close()
    print(f"Wrote {target} ({target.stat().st_size / 1e6:.1f} MB).")


def explain(arguments: list[str]) -> None:
    """Print what memory a model needs here and how fast it can be, without loading it: explain MODEL [flags of run]."""
    model_argument = arguments[:1] if arguments and not arguments[0].startswith("-") else []
    settings = parse([*(f"--model={name}" for name in model_argument), *arguments[len(model_argument) :]])
    from chatui import model_report

    print(model_report.report(settings))


def models(arguments: list[str]) -> None:
    """Explain models and list those on this machine: models SUBCOMMAND [flags], models --help."""
    from chatui.models import command

    _print(command.run(arguments, _machine, _stored_votes))


def deploy(arguments: list[str]) -> None:
    """Create or update a Hugging Face Space: deploy space OWNER/NAME [flags], deploy space --help."""
    from chatui.deploy import command

    _print(command.run(arguments))


def _print(text: str) -> None:
    """Print a table. A reader that closes the pipe early, as `head` does, is no error.

    https://docs.python.org/3/library/signal.html#note-on-sigpipe
    """
    try:
        print(text, flush=True)
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


def _machine() -> "Machine":
    """Measure this machine's memory. Imports torch."""
    from chatui.engine import devices

    return devices.machine()


def _stored_votes(login: str, data_dir: str) -> "list[Vote]":
    """The stored votes of a login, or those of local use for "". The settings name the folder if `data_dir` is ""."""
    from chatui import owners
    from chatui.store.store import Store

    store = Store.open_unmigrated(parse([f"--data-dir={data_dir}"] if data_dir else []))
    try:
        return store.for_owner(owners.login_owner(login) if login else owners.LOCAL).votes.all()
    finally:
        store.close()


COMMANDS: dict[str, Command] = {"run": run, "backup": backup, "explain": explain, "models": models, "deploy": deploy}


METAVARS: Mapping[str, str] = {
    "model": "NAME",
    "allow_models": "NAMES",
    "admin": "NAMES",
    "models_dir": "FOLDER",
    "backend": "URL",
    "backends_file": "FILE",
    "cache_dir": "FOLDER",
    "data_dir": "FOLDER",
    "chat_template": "FILE",
    "idle_unload": "MINUTES",
    "kv_memory": "GB",
    "kv_cache_dir": "FOLDER",
    "kv_cache_size": "GB",
    "max_storage": "MB",
    "max_total_storage": "MB",
    "min_free_disk": "MB",
    "max_uploads": "MB",
    "revision": "REVISION",
    "device_map": "DEVICE",
    "host": "ADDRESS",
    "port": "PORT",
    "root_path": "PATH",
    "forwarded_allow_ips": "ADDRESSES",
    "allowed_hosts": "NAMES",
    "auth": "USER:PASSWORD",
    "api_key": "KEY",
    "database_url": "URL",
    "otlp_endpoint": "URL",
    "generation.stop": "TEXT",
}
"""What --help shows for the value of a setting. Choices are shown as they are, all others are a NUMBER."""


def _add_argument(parser: ArgumentParser, *flags: str, **options: Any) -> Any:
    """Add a flag with its word from METAVARS in place of the name of a Python type."""
    metavar = options.get("metavar")
    if isinstance(metavar, str) and not metavar.startswith("{"):
        options["metavar"] = METAVARS.get(options["dest"], "NUMBER")
    return parser.add_argument(*flags, **options)


def parse(arguments: list[str]) -> AppSettings:
    """Settings from flags, else CHATUI_* variables, else defaults. Raises ChatError. Exits after --help."""
    for warning in unknown_variables(AppSettings.model_fields):
        print(f"chatui: {warning}", file=sys.stderr)
    try:
        source: CliSettingsSource[ArgumentParser] = CliSettingsSource(AppSettings, add_argument_method=_add_argument)
        return CliApp.run(AppSettings, cli_args=arguments, cli_settings_source=source)
    except ValidationError as error:
        raise settings_error(error) from None
    except CliSettingsError as error:
        raise ChatError(str(error)) from None


def main(arguments: Sequence[str] | None = None) -> int:
    """Run a command, `run` by default. Returns the exit code: 2 for an error that the user can correct."""
    remaining = list(sys.argv[1:] if arguments is None else arguments)
    if remaining == ["--version"]:
        print(f"chatui {__version__}")
        return 0
    name = remaining.pop(0) if remaining and not remaining[0].startswith("-") else "run"
    if name not in COMMANDS:
        print(f"chatui: there is no command {name!r}. Commands: {', '.join(COMMANDS)}.", file=sys.stderr)
        return 2
    try:
        COMMANDS[name](remaining)
    except ChatError as error:
        print(f"chatui: {error}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        return 0
    return 0
