"""Finds the content in the body of an HTTP/1.1 response, however its bytes are cut. Knows no connection.

https://www.rfc-editor.org/rfc/rfc9112#name-message-body
"""

import re
from typing import Protocol

CHUNK_SIZE = re.compile(rb"([0-9A-Fa-f]{1,16})[ \t]*(?:;[^\r\n]*)?")
MAX_LINE_BYTES = 64 * 2**10
"""Bytes of a chunk's first line, or of all trailers."""


class Body(Protocol):
    """The body of one response. `ended` once its end has come; `rest` is what came behind it."""

    ended: bool
    rest: bytes

    def push(self, data: bytes) -> bytes:
        """The content in these bytes. Raises ValueError if they are no HTTP."""

    def is_whole_at_end(self) -> bool:
        """Whether nothing is missing if the connection ends now."""


class SizedBody:
    """A body of a known number of bytes."""

    def __init__(self, size: int) -> None:
        self._left = size
        self.ended = not size
        self.rest = b""

    def push(self, data: bytes) -> bytes:
        """See Body."""
        content, self.rest = data[: self._left], data[self._left :]
        self._left -= len(content)
        self.ended = not self._left
        return content

    def is_whole_at_end(self) -> bool:
        """See Body."""
        return self.ended


class UnsizedBody:
    """A body that ends with its connection."""

    ended = False
    rest = b""

    def push(self, data: bytes) -> bytes:
        """See Body."""
        return data

    def is_whole_at_end(self) -> bool:
        """See Body."""
        return True


class ChunkedBody:
    """A body in chunks. Extensions and trailers are skipped."""

    def __init__(self) -> None:
        self.ended = False
        self.rest = b""
        self._held = b""
        self._left = 0
        self._in_chunk = self._in_trailers = False

    def push(self, data: bytes) -> bytes:
        """See Body."""
        self._held += data
        content: list[bytes] = []
        while not self.ended and self._step(content):
            pass
        if self.ended:
            self.rest, self._held = self._held, b""
        return content[0] if len(content) == 1 else b"".join(content)

    def is_whole_at_end(self) -> bool:
        """See Body."""
        return self.ended

    def _step(self, content: list[bytes]) -> bool:
        """Take one part out of what is held. False if more must come first."""
        if self._left:
            piece, self._held = self._held[: self._left], self._held[self._left :]
            self._left -= len(piece)
            if piece:
                content.append(piece)
            return bool(piece)
        line, end, rest = self._held.partition(b"\r\n")
        if not end:
            if len(line) > (1 if self._in_chunk else MAX_LINE_BYTES):
                raise ValueError("a line of a chunked body is too long")
            return False
        self._held = rest
        if self._in_chunk:
            if line:
                raise ValueError("a chunk is longer than its size")
            self._in_chunk = False
        elif self._in_trailers:
            self.ended = not line
        else:
            self._begin_chunk(line)
        return True

    def _begin_chunk(self, line: bytes) -> None:
        size = CHUNK_SIZE.fullmatch(line)
        if size is None:
            raise ValueError("a chunk has no size")
        self._left = int(size[1], 16)
        self._in_chunk = bool(self._left)
        self._in_trailers = not self._left
