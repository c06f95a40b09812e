"""Parses and checks values of settings: variables, paths, lists and pydantic's errors."""

import contextlib
import difflib
import ipaddress
import json
import os
import re
from collections.abc import Callable, Collection, Iterable
from dataclasses import dataclass, field
from pathlib import Path

from pydantic import ValidationError

from chatui.errors import SettingsError

SECRETS = ("auth", "api_key", "database_url")


def refuse_empty_secrets() -> None:
    """Raises SettingsError if the variable of a secret is set, but empty. Other empty variables count as unset."""
    for name, value in os.environ.items():
        field = name.lower().removeprefix("chatui_")
        if name.lower().startswith("chatui_") and field in SECRETS and not value.strip():
            raise SettingsError(field, f"{name} is set, but empty.", "Give it a value, or unset it.")


def unknown_variables(field_names: Collection[str]) -> list[str]:
    """A warning for each CHATUI_* variable that names none of these fields. Suggests the most similar name."""
    warnings = []
    for name in sorted(os.environ):
        field = name.lower().removeprefix("chatui_")
        if name.lower().startswith("chatui_") and field not in field_names:
            similar = difflib.get_close_matches(field, field_names, 1)
            hint = f" Is CHATUI_{similar[0].upper()} meant?" if similar else ""
            warnings.append(f"{name} is no setting and does nothing.{hint}")
    return warnings


def expand_user(path: Path) -> Path:
    """The path with ~ and ~name expanded. Raises ValueError if the user is unknown or has no home folder."""
    try:
        return path.expanduser()
    except RuntimeError:
        raise ValueError("there is no home folder for ~; write the whole path") from None


def user_folder(find: Callable[[str], Path], field: str) -> Path:
    """This program's folder in the user's home, by a function of platformdirs. Raises SettingsError without a home."""
    try:
        folder = find("chatui")
    except RuntimeError:
        folder = Path()
    if folder.is_absolute():
        return folder
    flag = "--" + field.replace("_", "-")
    raise SettingsError(field, "the user has no home folder.", f"Set HOME, or name a folder with {flag}.")


def split_list(value: str) -> list[str]:
    """The items of a comma-separated list, without surrounding spaces. Empty items are dropped."""
    return [part.strip() for part in value.split(",") if part.strip()]


def model_names(value: str) -> list[str]:
    """The names in a comma-separated or JSON list, each only once. An existing path with commas is one name."""
    if value.startswith("["):
        names = json_value(value)
        if not isinstance(names, list) or not all(isinstance(name, str) for name in names):
            raise ValueError('needs names, such as ["owner/name", "/path/to/folder"]')
    else:
        whole = Path(value).expanduser()
        names = [value] if "," not in value or whole.exists() else split_list(value)
    return list(dict.fromkeys(strip_quotes(name) for name in names))


def split_backends(value: str) -> list[str]:
    """The backends of a text: each is an address with options behind commas, such as `http://a:1,name=x`.

    They are separated by line ends, by spaces before http:// or https://, or by commas that stand before no option, as
    several flags are joined. Other spaces are in a header.
    """
    return [part for part in re.split(r"\s*\n\s*|\s+(?=https?://)|,(?=\S)(?![a-z-]+=)", value.strip()) if part]


@dataclass(frozen=True)
class ApiKey:
    """A key of /v1, with the name of who has it ("" without one), and its limits (None: those of all users)."""

    key: str = field(repr=False)
    name: str = ""
    tokens_per_minute: int | None = None
    tokens_per_day: int | None = None


KEY = re.compile(
    r"(?:(?P<name>[\w.-]{1,40}):)?(?P<key>[!-+\--~]{8,})(?P<limits>(?:,tokens-per-(?:minute|day)=\d{1,12})*)"
)


def split_keys(value: str) -> list[str]:
    """The keys of a text, separated by spaces, or by commas that stand before no limit, as several flags are joined.

    An empty text is one empty key, which api_keys() refuses: it must not mean that none is needed.
    """
    return re.split(r"\s+|,(?!tokens-per-)", value.strip())


def api_keys(values: Iterable[str]) -> list[ApiKey]:
    """The keys of --api-key. Raises ValueError, which shows no key."""
    keys = []
    for value in values:
        match = KEY.fullmatch(value)
        if match is None:
            raise ValueError("--api-key must be 8 or more characters of ASCII, without spaces and commas")
        if match["limits"] and not match["name"]:
            raise ValueError("--api-key needs a name for its limits: NAME:KEY,tokens-per-day=NUMBER")
        limits = dict(re.findall(r"tokens-per-(minute|day)=(\d+)", match["limits"]))
        numbers = (int(limits[period]) if period in limits else None for period in ("minute", "day"))
        keys.append(ApiKey(match["key"], match["name"] or "", *numbers))
    if len({key.key for key in keys}) < len(keys):
        raise ValueError("--api-key has the same key twice")
    return keys


def host_names(value: str) -> str:
    """A comma-separated list of host names. Removes schemes, ports and paths, as copied URLs have them."""
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


def strip_quotes(value: str) -> str:
    """The text without surrounding spaces and quotes. In an --env-file, no shell removes the quotes."""
    value = value.strip()
    quoted = len(value) > 1 and value[0] == value[-1] and value[0] in "\"'"
    return value[1:-1] if quoted else value


def json_value(text: str) -> object:
    """Parse JSON. An empty text gives an empty object. Raises ValueError."""
    try:
        value: object = json.loads(text or "{}")
    except ValueError:
        raise ValueError('needs JSON, such as {"temperature": 0.3}') from None
    return value


def number_from_text(value: object) -> object:
    """Convert a text to an int or float if possible. Returns any other value unchanged."""
    for convert in (int, float):
        with contextlib.suppress(ValueError):
            return convert(value) if isinstance(value, str) else value
    return value


def settings_error(error: ValidationError) -> SettingsError:
    """Convert the first problem of a pydantic error to a SettingsError that names the field."""
    problem = error.errors(include_url=False)[0]
    # The location of a generation default is ("generation", name).
    parts = problem["loc"][: 2 if problem["loc"][:1] == ("generation",) else 1]
    field = ".".join(map(str, parts)) or "settings"
    message = str(problem["msg"]).removeprefix("Value error, ")
    return SettingsError(field, f"{message} (got {shorten(problem['input'])})" if problem["loc"] else message)


def shorten(value: object, limit: int = 60) -> str:
    """`repr` of a value, cut to at most `limit` characters."""
    text = repr(value)
    return text if len(text) <= limit else text[: limit - 3] + "..."
