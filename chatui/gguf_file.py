"""Reads the header of GGUF files, their tensors and their metadata fields: without the package gguf, and no weights.

The format: https://github.com/ggml-org/ggml/blob/master/docs/gguf.md
"""

import struct
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import BinaryIO, TypeVar

from chatui.stored_tensors import StoredTensor, damaged_file_error

GgufValue = int | float | bool | str | tuple[int | float | bool | str, ...]

# Codes of the module struct for numbers by their value type.
NUMBER_CODES = {0: "B", 1: "b", 2: "H", 3: "h", 4: "I", 5: "i", 6: "f", 7: "?", 10: "Q", 11: "q", 12: "d"}
STRING, ARRAY = 8, 9
ALIGNMENT = 32
MAX_ITEMS = 1024
"""Longer arrays are the vocabulary, and are left out of the fields."""

Result = TypeVar("Result")


def read_gguf_header(path: Path) -> list[StoredTensor]:
    """The tensors listed in the header of a GGUF file. Raises ModelError if it is truncated or not in the format."""

    def read(reader: "_Reader") -> tuple[int, list[StoredTensor]]:
        fields, tensors = reader.header()
        alignment = fields.get("general.alignment", ALIGNMENT)
        alignment = max(1, alignment) if isinstance(alignment, int) else ALIGNMENT
        return -(-reader.position // alignment) * alignment, tensors

    data_start, tensors = _read(path, read)
    if not tensors or data_start + max(tensor.offset for tensor in tensors) >= path.stat().st_size:
        raise damaged_file_error(path)
    return [replace(tensor, offset=data_start + tensor.offset) for tensor in tensors]


def read_gguf_fields(path: Path) -> dict[str, GgufValue]:
    """The metadata fields of a GGUF file without the arrays of its vocabulary. Raises ModelError as above."""
    return _read(path, lambda reader: reader.header()[0])


def _read(path: Path, read: Callable[["_Reader"], Result]) -> Result:
    with path.open("rb") as file:
        try:
            return read(_Reader(file, path.stat().st_size))
        except (struct.error, ValueError, KeyError, OverflowError, RecursionError):
            raise damaged_file_error(path) from None


class _Reader:
    """Reads the values of a GGUF file of `size` bytes in order. Does not catch parse errors."""

    def __init__(self, file: BinaryIO, size: int) -> None:
        self._file = file
        self._size = size

    @property
    def position(self) -> int:
        """The position in the file. After `header` this is the header's end."""
        return self._file.tell()

    def header(self) -> tuple[dict[str, GgufValue], list[StoredTensor]]:
        """(fields, tensors with offsets from the data's start)."""
        if self._file.read(4) != b"GGUF" or self._number("I") not in (2, 3):
            raise ValueError
        tensor_count, field_count = int(self._number("Q")), int(self._number("Q"))
        fields: dict[str, GgufValue] = {}
        for _ in range(field_count):
            name, kind = self._text(), int(self._number("I"))
            value = self._value(kind)
            if value is not None:
                fields[name] = value
        return fields, [self._tensor() for _ in range(tensor_count)]

    def _tensor(self) -> StoredTensor:
        name = self._text()
        shape = tuple(int(self._number("Q")) for _ in range(int(self._number("I"))))
        return StoredTensor(name, f"GGUF-{self._number('I')}", shape, int(self._number("Q")))

    def _number(self, code: str) -> int | float | bool:
        number: int | float | bool = struct.unpack("<" + code, self._file.read(struct.calcsize("<" + code)))[0]
        return number

    def _text(self) -> str:
        length = int(self._number("Q"))
        if length > self._size:
            raise ValueError
        return self._file.read(length).decode(errors="replace")

    def _value(self, kind: int) -> GgufValue | None:
        """The value of this type, None for an array that is too long or has arrays in it."""
        if kind == STRING:
            return self._text()
        return self._array() if kind == ARRAY else self._number(NUMBER_CODES[kind])

    def _array(self) -> GgufValue | None:
        kind, count = int(self._number("I")), int(self._number("Q"))
        if count > MAX_ITEMS and kind in NUMBER_CODES:
            self._file.seek(struct.calcsize("<" + NUMBER_CODES[kind]) * count, 1)
            return None
        items: list[int | float | bool | str] = []
        for _ in range(count):
            item = self._value(kind)
            if isinstance(item, int | float | str) and count <= MAX_ITEMS:
                items.append(item)
        return tuple(items) if len(items) == count else None
