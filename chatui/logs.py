"""Structured logs: one JSON object a line on standard error, without texts of chats."""

import json
import logging
import sys
import traceback
from datetime import UTC, datetime
from types import TracebackType
from typing import Any

from chatui import tracing
from chatui.settings import LogFormat

FIELDS = "fields"
"""The key of `extra` with what a record tells besides its message."""


class JsonFormatter(logging.Formatter):
    """Formats a record as JSON: time, level, logger, message, its fields, ids of the trace, and what failed where.

    The text of an exception is left out, since it may quote a chat: its type and the places in the code are told.
    """

    def format(self, record: logging.LogRecord) -> str:
        """The record as one line."""
        told: dict[str, Any] = {
            "time": datetime.fromtimestamp(record.created, UTC).isoformat(timespec="milliseconds"),
            "level": record.levelname,
            "logger": record.name,
            "message": record.getMessage(),
            **getattr(record, FIELDS, {}),
            **tracing.ids(),
        }
        if record.exc_info and record.exc_info[0] is not None:
            told |= {"error": record.exc_info[0].__name__, "stack": _places(record.exc_info[2])}
        return json.dumps(told, default=str)


def configure(kind: LogFormat) -> None:
    """Log as JSON from now on, ends of replies too; "text" leaves Python's own logs, which tell warnings only."""
    if kind == "text":
        return
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(JsonFormatter())
    logging.basicConfig(level=logging.WARNING, handlers=[handler], force=True)
    logging.getLogger("chatui").setLevel(logging.INFO)


def is_json() -> bool:
    """Whether logs are JSON."""
    return any(isinstance(handler.formatter, JsonFormatter) for handler in logging.getLogger().handlers)


def fields(**values: str | float | bool | None) -> dict[str, dict[str, Any]]:
    """The `extra` of a log call that adds these fields to its JSON. Those that are None are left out."""
    return {FIELDS: {name: value for name, value in values.items() if value is not None}}


def _places(trace: TracebackType | None) -> list[str]:
    return [f"{frame.filename}:{frame.lineno} {frame.name}" for frame in traceback.extract_tb(trace)]
