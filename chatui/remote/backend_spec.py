"""Which servers answer for which backend: reads --backend and --backends-file. Opens no connection."""

import os
import re
import stat
import tomllib
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit, urlunsplit

from chatui.errors import SettingsError
from chatui.remote.dialects import DIALECTS
from chatui.setting_values import shorten, split_list
from chatui.settings import AppSettings

MAX_REQUESTS = 256
"""Replies of one backend at once, unless its `max-requests` says otherwise. More wait in the queue."""
OPTIONS = ("name", "key-env", "header", "dialect", "context", "max-requests", "models")
SEPARATOR = re.compile(r",(?=(?:[a-z-]+)=)")
NAME = re.compile(r"[\w.-]{1,40}")
HEADER = re.compile(r"([!#$%&'*+.^_`|~0-9A-Za-z-]+)\s*:\s*([\x20-\x7e]*)")


@dataclass(frozen=True)
class ReplicaSpec:
    """One server: its address without /v1, and what is sent with each request to it."""

    url: str
    headers: Mapping[str, str] = field(default_factory=dict, repr=False)

    @property
    def host(self) -> str:
        """Its host and port, such as "gpu1:8000"."""
        return urlsplit(self.url).netloc


@dataclass(frozen=True)
class BackendSpec:
    """Servers that are replicas of each other. `name` stands before the names of its models, "" for none.

    `dialect` is a name of DIALECTS, "" where the server is asked. `context` in tokens counts where the server does not
    tell. At most `max_requests` replies run at once. Of its models, those that match one of `models` are served, all
    if there are none.
    """

    replicas: tuple[ReplicaSpec, ...]
    name: str = ""
    dialect: str = ""
    context: int | None = None
    max_requests: int = MAX_REQUESTS
    models: tuple[str, ...] = ()

    @property
    def title(self) -> str:
        """What people call it: its name, or the address of its first server."""
        return self.name or self.replicas[0].host


def from_settings(settings: AppSettings) -> list[BackendSpec]:
    """The backends of --backend and --backends-file, in order. Those of the same name are one. Raises SettingsError."""
    entries = [_flag_entry(value) for value in settings.backend]
    if settings.backends_file is not None:
        entries += _file_entries(settings.backends_file)
    specs: dict[str, BackendSpec] = {}
    for entry in entries:
        spec = _spec(entry)
        key = spec.name or spec.replicas[0].url
        known = specs.get(key)
        specs[key] = spec if known is None else _joined(known, spec)
    return list(specs.values())


def _joined(known: BackendSpec, more: BackendSpec) -> BackendSpec:
    urls = {replica.url for replica in known.replicas}
    replicas = (*known.replicas, *(replica for replica in more.replicas if replica.url not in urls))
    return BackendSpec(
        replicas,
        known.name,
        known.dialect or more.dialect,
        known.context or more.context,
        min(known.max_requests, more.max_requests),
        known.models or more.models,
    )


def _flag_entry(value: str) -> dict[str, Any]:
    """`URL,option=value,...` as a table of --backends-file."""
    url, *options = SEPARATOR.split(value)
    entry: dict[str, Any] = {"urls": [url], "headers": {}}
    for option in options:
        name, _equals, text = option.partition("=")
        if name == "key":
            raise SettingsError(
                "backend",
                "a key on the command line can be read by everybody on this computer.",
                "Put it into a variable and name that: key-env=MY_KEY.",
            )
        if name not in OPTIONS:
            raise SettingsError("backend", f"{shorten(name)} is no option.", f"Take one of {', '.join(OPTIONS)}.")
        if name == "header":
            match = HEADER.fullmatch(text)
            if match is None:
                raise SettingsError("backend", "that is no header.", "Write it as header=Name: value.")
            entry["headers"][match[1]] = match[2]
        else:
            entry[name] = _number(name, text) if name in ("context", "max-requests") else text
    return entry


def _number(name: str, text: str) -> int:
    if not text.isdecimal() or not 0 < int(text) <= 100_000_000:
        raise SettingsError("backend", f"{name} needs a whole number above 0 (got {shorten(text)}).")
    return int(text)


def _file_entries(path: Path) -> list[dict[str, Any]]:
    """The tables [[backend]] of a TOML file. Raises SettingsError."""
    try:
        entries = tomllib.loads(path.read_text("utf-8")).get("backend")
        mode = path.stat().st_mode
    except OSError as error:
        raise SettingsError("backends_file", f"{path} cannot be read ({error.strerror}).") from None
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise SettingsError("backends_file", f"{path} is no TOML: {error}") from None
    if not isinstance(entries, list) or not all(isinstance(entry, dict) for entry in entries):
        raise SettingsError("backends_file", f"{path} has no [[backend]] tables.", "Begin each one with [[backend]].")
    if mode & (stat.S_IRWXG | stat.S_IRWXO) and any("key" in entry for entry in entries):
        raise SettingsError(
            "backends_file", f"{path} has keys in it, and others may read it.", f"Run chmod 600 {path}, or use key-env."
        )
    return [_checked(entry) for entry in entries]


def _checked(entry: Mapping[str, Any]) -> dict[str, Any]:
    """A table whose values have the right types. Raises SettingsError."""
    kinds = {
        **dict.fromkeys(("url", "name", "key", "key-env", "dialect"), str),
        **{"urls": list, "headers": dict, "context": int, "max-requests": int, "models": list},
    }
    for name, value in entry.items():
        if name not in kinds:
            raise SettingsError("backends_file", f"{shorten(name)} is no option.", f"Take one of {', '.join(kinds)}.")
        if not isinstance(value, kinds[name]):
            raise SettingsError("backends_file", f"{name} has the wrong type.")
    headers = entry.get("headers", {})
    texts = [*entry.get("urls", []), *entry.get("models", []), *headers.values()]
    if not all(isinstance(text, str) for text in texts):
        raise SettingsError("backends_file", "urls, models and headers need texts.")
    if not all(HEADER.fullmatch(f"{name}: {value}") for name, value in headers.items()):
        raise SettingsError("backends_file", "a header needs a name without spaces and a value in ASCII.")
    return {**entry, "urls": [*([entry["url"]] if "url" in entry else []), *entry.get("urls", [])]}


def _spec(entry: Mapping[str, Any]) -> BackendSpec:
    name, dialect = entry.get("name", ""), entry.get("dialect", "")
    if name and not NAME.fullmatch(name):
        raise SettingsError("backend", f"{shorten(name)} is no name.", "Take letters, digits, dots and dashes.")
    if dialect and dialect not in DIALECTS:
        known = ", ".join(DIALECTS)
        raise SettingsError("backend", f"there is no dialect {shorten(dialect)}.", f"Take one of {known}.")
    headers = {**_key_header(entry), **entry.get("headers", {})}
    replicas = tuple(ReplicaSpec(_base_url(url), headers) for url in dict.fromkeys(entry["urls"]))
    if not replicas:
        raise SettingsError("backends_file", "a [[backend]] has no url.")
    models = entry.get("models", ())
    return BackendSpec(
        replicas,
        name,
        dialect,
        entry.get("context"),
        entry.get("max-requests", MAX_REQUESTS),
        tuple(split_list(models.replace("+", ",")) if isinstance(models, str) else models),
    )


def _key_header(entry: Mapping[str, Any]) -> dict[str, str]:
    """The header that carries the backend's key. Raises SettingsError if there is none where one is named."""
    key, variable = entry.get("key", ""), entry.get("key-env", "")
    if variable:
        key = os.environ.get(variable, "").strip()
        if not key:
            raise SettingsError("backend", f"the variable {shorten(variable)} with the key is not set.")
    if key and not re.fullmatch(r"[!-~]+", key):
        raise SettingsError("backend", "a key may have no spaces and nothing but ASCII.")
    return {"Authorization": f"Bearer {key}"} if key else {}


def _base_url(value: str) -> str:
    """The address of a server, without /v1 and a slash at its end. Raises SettingsError."""
    try:
        parts = urlsplit(value.strip() if "://" in value else f"http://{value.strip()}")
        valid = parts.scheme in ("http", "https") and bool(parts.hostname) and (parts.port is None or parts.port > 0)
    except ValueError:
        valid = False
    if "@" in value:
        raise SettingsError("backend", "an address may have no password, ? or #.", "Name a variable with key-env.")
    if not valid:
        raise SettingsError("backend", f"{shorten(value)} is no address.", "Write http://host:8000 or https://host.")
    if parts.query or parts.fragment:
        raise SettingsError("backend", "an address may have no password, ? or #.", "Name a variable with key-env.")
    path = re.sub(r"/v1/?$", "", parts.path).rstrip("/")
    return urlunsplit((parts.scheme, parts.netloc, path, "", ""))
