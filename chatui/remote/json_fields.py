"""Reads the JSON of servers, whose fields may be missing or of another type."""

from collections.abc import Mapping
from typing import Any

Fields = Mapping[str, Any]


def as_object(value: Any) -> Fields:
    """The value if it is an object, else an empty one."""
    return value if isinstance(value, dict) else {}


def as_objects(value: Any) -> list[Fields]:
    """The objects of the value if it is a list, else none."""
    return [entry for entry in value if isinstance(entry, dict)] if isinstance(value, list) else []


def as_count(*values: Any) -> int:
    """The first of these values that is a whole number above 0; 0 if none is."""
    return next((value for value in values if type(value) is int and value > 0), 0)


def as_told_count(*values: Any) -> int | None:
    """The first of these values that is a whole number, 0 too; None if none is."""
    return next((value for value in values if type(value) is int and value >= 0), None)


def as_text(value: Any) -> str:
    """The value if it is a text, else ""."""
    return value if isinstance(value, str) else ""
