"""Server-sent events: bytes as they come in -> the data of each event."""


class EventReader:
    """Cuts a stream of bytes into events: https://html.spec.whatwg.org/multipage/server-sent-events.html"""

    def __init__(self) -> None:
        self._rest = b""
        self._data: list[bytes] = []

    def feed(self, piece: bytes) -> list[bytes]:
        """The data of the events that this piece completes; comments and other fields are passed over."""
        # A line may end in CR LF, and the piece between the two.
        *lines, self._rest = (self._rest + piece).split(b"\n")
        events = []
        for line in (line.removesuffix(b"\r") for line in lines):
            if not line and self._data:
                events.append(b"\n".join(self._data))
                self._data = []
            elif line.startswith(b"data:"):
                self._data.append(line[5:].removeprefix(b" "))
        return events
