"""Server-sent events from the bytes of a response, as servers really send them.

https://html.spec.whatwg.org/multipage/server-sent-events.html#event-stream-interpretation
"""

import codecs
import re
from collections.abc import Iterator
from dataclasses import dataclass, field

from chatui.errors import GenerationError

MAX_EVENT_CHARACTERS = 8_000_000
LINE_END = re.compile(r"\r\n|\n|\r")
ONE_EVENT = re.compile(rb"data: [^\r\n]+\n\n")
"""What most pieces of a stream are."""


@dataclass
class EventReader:
    """Splits bytes into the data of events, however the bytes are cut: in characters and line ends too.

    Comments are skipped. A field `error`, which old llama.cpp servers send, counts as data. An event that is not ended
    by an empty line counts at the end of the stream.
    """

    _decoder: codecs.IncrementalDecoder = field(
        default_factory=lambda: codecs.getincrementaldecoder("utf-8")("replace")
    )
    _pending: list[str] = field(default_factory=list)
    _pending_size: int = 0
    _held: str = ""
    _data: list[str] = field(default_factory=list)
    _size: int = 0
    _begun: bool = False

    def push(self, data: bytes) -> Iterator[str]:
        """The data of the events that these bytes complete. Raises GenerationError if one is too long."""
        if self._is_between_events and ONE_EVENT.fullmatch(data):
            return iter((data[len(b"data: ") : -len(b"\n\n")].decode("utf-8", "replace"),))
        return self._lines(self._decoder.decode(data))

    @property
    def _is_between_events(self) -> bool:
        """Whether nothing is held of an earlier event."""
        held = self._held or self._pending_size or self._data or self._decoder.getstate()[0]
        return self._begun and not held

    def flush(self) -> Iterator[str]:
        """The data of an event that the end of the stream completes."""
        yield from self._lines(self._decoder.decode(b"", final=True) + "\n\n")

    def _lines(self, text: str) -> Iterator[str]:
        if text and not self._begun:
            self._begun, text = True, text.removeprefix("\ufeff")
        text = self._held + text
        # A \r at the end may be half a line end.
        self._held = text[-1:] if text.endswith("\r") else ""
        *ends, rest = LINE_END.split(text[: len(text) - len(self._held)])
        for end in ends:
            line, self._pending, self._pending_size = "".join([*self._pending, end]), [], 0
            yield from self._line(line)
        self._pending.append(rest)
        self._pending_size += len(rest)
        if self._size + self._pending_size > MAX_EVENT_CHARACTERS:
            raise GenerationError("The server sent an event that is too long to be a piece of a reply.")

    def _line(self, line: str) -> Iterator[str]:
        if not line:
            data, self._data, self._size = "\n".join(self._data), [], 0
            if data:
                yield data
            return
        name, _colon, value = line.partition(":")
        if name in ("data", "error"):
            self._data.append(value.removeprefix(" "))
            self._size += len(value)
