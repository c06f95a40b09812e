"""Finds the content in the body of an HTTP/1.1 response, however its bytes are cut. Knows no connection.

https://www.rfc-editor.org/rfc/rfc9112#name-message-body
"""

import re
from typing import Protocol

CHUNK_SIZE = re.compile(rb"([0-9A-Fa-f]{1,16})[ \t]*(?:;[^\r\n]*)?")
MAX_LINE_BYTES = 64 * 2**10
"""Bytes of a chunk's first line, or of all trailers."""


class Body(Protocol):
    """The body of one response. `ended` once its end has come; `rest` is what came behind it.

    `error` says what is no HTTP, "" as long as all is: nothing that comes behind that is read.
    """

    ended: bool
    rest: bytes
    error: str

    def push(self, data: bytes) -> bytes:
        """The content in these bytes."""

    def is_whole_at_end(self) -> bool:
        """Whether nothing is missing if the connection ends now."""


class SizedBody:
    """A body of a known number of bytes."""

    error = ""

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
    error = ""

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
        self.error = ""
        self._held = b""
        self._at = self._left = self._trailer_bytes = 0
        self._in_chunk = self._in_trailers = False

    def push(self, data: bytes) -> bytes:
        """See Body."""
        if self.error:
            return b""
        self._held += data
        content: list[bytes] = []
        try:
            while not self.ended and self._step(content):
                pass
        except ValueError as error:
            self.error = str(error)
        self._held, self._at = self._held[self._at :], 0
        if self.ended:
            self.rest, self._held = self._held, b""
        return content[0] if len(content) == 1 else b"".join(content)

    def is_whole_at_end(self) -> bool:
        """See Body."""
        return self.ended

    def _step(self, content: list[bytes]) -> bool:
        """Read one part of what is held, from `_at` on. False if more must come first. Raises ValueError."""
        if self._left:
            piece = self._held[self._at : self._at + self._left]
            self._at += len(piece)
            self._left -= len(piece)
            if piece:
                content.append(piece)
            return bool(piece)
        end = self._held.find(b"\r\n", self._at)
        if end < 0:
            if len(self._held) - self._at > (1 if self._in_chunk else MAX_LINE_BYTES):
                raise ValueError("a line of a chunked body is too long")
            return False
        line = self._held[self._at : end]
        self._at = end + 2
        if self._in_chunk:
            if line:
                raise ValueError("a chunk is longer than its size")
            self._in_chunk = False
        elif self._in_trailers:
            self._read_trailer(line)
        else:
            self._begin_chunk(line)
        return True

    def _read_trailer(self, line: bytes) -> None:
        self._trailer_bytes += len(line)
        if self._trailer_bytes > MAX_LINE_BYTES:
            raise ValueError("the trailers of a chunked body are too long")
        self.ended = not line

    def _begin_chunk(self, line: bytes) -> None:
        size = CHUNK_SIZE.fullmatch(line)
        if size is None:
            raise ValueError("a chunk has no size")
        self._left = int(size[1], 16)
        self._in_chunk = bool(self._left)
        self._in_trailers = not self._left
