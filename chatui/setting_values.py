"""Reads and checks values of settings: variables, paths, lists, and pydantic's errors. Knows no setting by itself."""

import contextlib
import difflib
import ipaddress
import json
import os
import re
from collections.abc import Callable, Collection
from pathlib import Path

from pydantic import ValidationError

from chatui.errors import SettingsError

SECRETS = ("auth", "api_key", "database_url")


def refuse_empty_secrets() -> None:
    """An empty variable counts as none; but who sets one of these relies on it. Raises SettingsError."""
    for name, value in os.environ.items():
        field = name.lower().removeprefix("chatui_")
        if name.lower().startswith("chatui_") and field in SECRETS and not value.strip():
            raise SettingsError(field, f"{name} is set, but empty.", "Give it a value, or unset it.")


def unknown_variables(known: Collection[str]) -> list[str]:
    """A sentence for each CHATUI_* variable that names none of the `known` settings, with the name it is closest to."""
    warnings = []
    for name in sorted(os.environ):
        field = name.lower().removeprefix("chatui_")
        if name.lower().startswith("chatui_") and field not in known:
            meant = difflib.get_close_matches(field, known, 1)
            hint = f" Is CHATUI_{meant[0].upper()} meant?" if meant else ""
            warnings.append(f"{name} is no setting and does nothing.{hint}")
    return warnings


def expand_user(path: Path) -> Path:
    """The path with ~ and ~name replaced. Raises ValueError where that user is not known or has no home folder."""
    try:
        return path.expanduser()
    except RuntimeError:
        raise ValueError("there is no home folder for ~; write the whole path") from None


def user_folder(find: Callable[[str], Path], field: str) -> Path:
    """The user's own folder for this program. Raises SettingsError for a user who has no home folder."""
    try:
        found = find("chatui")
    except RuntimeError:
        found = Path()
    if found.is_absolute():
        return found
    flag = "--" + field.replace("_", "-")
    raise SettingsError(field, "the user has no home folder.", f"Set HOME, or name a folder with {flag}.")


def split_list(value: str) -> list[str]:
    """The parts of a list with commas."""
    return [part.strip() for part in value.split(",") if part.strip()]


def host_names(value: str) -> str:
    """A comma-separated list of host names, without the scheme, port and path of the addresses they are copied from."""
    parts = (re.sub(r"^[a-z]+://|/.*$", "", re.sub(r"^[a-z]+://", "", part)) for part in split_list(value))
    return ",".join(re.sub(r"^\[(.*)\](:\d+)?$|^([^:]+):\d+$", r"\1\3", part) for part in parts)


def url_path(value: str) -> str:
    """A URL path with one leading slash and no trailing one, such as /chat; "" for the root.

    Raises ValueError for a whole URL.
    """
    if "://" in value:
        raise ValueError("needs the path alone, such as /chat")
    path = value.strip("/")
    return f"/{path}" if path else ""


def check_networks(value: str) -> None:
    """Raises ValueError unless every part of a comma-separated list is an IP address, a network or *."""
    for part in split_list(value):
        try:
            ipaddress.ip_network(part) if part != "*" else None
        except ValueError as error:
            raise ValueError(f"needs addresses or networks such as 10.0.0.0/8: {error}") from None


def unquoted(value: str) -> str:
    """The text without surrounding spaces and quotes. No shell removes those of a line of an --env-file."""
    value = value.strip()
    quoted = len(value) > 1 and value[0] == value[-1] and value[0] in "\"'"
    return value[1:-1] if quoted else value


def json_value(text: str) -> object:
    """The value of a JSON text; an empty object for an empty text. Raises ValueError."""
    try:
        value: object = json.loads(text or "{}")
    except ValueError:
        raise ValueError('needs JSON, such as {"temperature": 0.3}') from None
    return value


def number_from_text(value: object) -> object:
    """The number that a text is; any other value unchanged."""
    for kind in (int, float):
        with contextlib.suppress(ValueError):
            return kind(value) if isinstance(value, str) else value
    return value


def settings_error(error: ValidationError) -> SettingsError:
    """The first problem of a pydantic error as a SettingsError naming the field."""
    problem = error.errors(include_url=False)[0]
    # Of the defaults for generation, the setting's name is the second part.
    parts = problem["loc"][: 2 if problem["loc"][:1] == ("generation",) else 1]
    field = ".".join(map(str, parts)) or "settings"
    message = str(problem["msg"]).removeprefix("Value error, ")
    return SettingsError(field, f"{message} (got {shorten(problem['input'])})" if problem["loc"] else message)


def shorten(value: object, limit: int = 60) -> str:
    """`repr` of a value, cut to at most `limit` characters."""
    text = repr(value)
    return text if len(text) <= limit else text[: limit - 3] + "..."
