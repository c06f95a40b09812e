"""The command line: commands by name, flags made from the settings."""

import sys
from collections.abc import Callable, Sequence

from pydantic import ValidationError
from pydantic_settings import CliApp
from pydantic_settings import SettingsError as CliSettingsError

from chatui import __version__
from chatui.errors import ChatError
from chatui.settings import AppSettings, settings_error

Command = Callable[[list[str]], None]


def run(arguments: list[str]) -> None:
    """Serve the chat page."""
    settings = parse(arguments)
    from chatui import server

    server.run(settings)


COMMANDS: dict[str, Command] = {"run": run}


def parse(arguments: list[str]) -> AppSettings:
    """The settings from flags, then CHATUI_* variables, then defaults. Raises ChatError; --help exits."""
    try:
        return CliApp.run(AppSettings, cli_args=arguments)
    except ValidationError as error:
        raise settings_error(error) from None
    except CliSettingsError as error:
        raise ChatError(str(error)) from None


def main(arguments: Sequence[str] | None = None) -> int:
    """Run a command, `run` where none is named. Returns the exit code: 2 for what the user can mend."""
    words = list(sys.argv[1:] if arguments is None else arguments)
    if words == ["--version"]:
        print(f"chatui {__version__}")
        return 0
    name = words.pop(0) if words and not words[0].startswith("-") else "run"
    if name not in COMMANDS:
        print(f"chatui: there is no command {name!r}. Commands: {', '.join(COMMANDS)}.", file=sys.stderr)
        return 2
    try:
        COMMANDS[name](words)
    except ChatError as error:
        print(f"chatui: {error}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        return 0
    return 0
