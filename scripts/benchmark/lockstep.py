"""What a gateway's processor does for one token: the engine writes a stream's next token once its client has the last.

So no two tokens of a stream ever come together, however busy the machine is, and the figure is the same on a busy one.
"""

import asyncio
import re
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from scripts.benchmark.scripted_engine import TOKEN, Connection
from scripts.benchmark.token_counter import REQUEST, worked

FIRST = 1_000_000_000
NUMBER = re.compile(rb" (\d{10})\.0000")


class Streams:
    """Replies whose tokens are their numbers. `tokens` is how many have come through."""

    def __init__(self) -> None:
        self.engines: dict[Engine, None] = {}
        self.tokens = 0

    def came(self, data: bytes) -> None:
        """Have the engine go on with the replies whose tokens a client has read."""
        numbers = [int(number) - FIRST for number in NUMBER.findall(data)]
        self.tokens += len(numbers)
        engines = list(self.engines)
        for number in numbers:
            engines[number].write_token()


class Engine(Connection):
    """The engine's end of a reply."""

    def __init__(self, streams: Streams) -> None:
        super().__init__([streams.engines])  # type: ignore[list-item]
        self._streams = streams
        self._number = -1

    def data_received(self, data: bytes) -> None:
        super().data_received(data)
        if self._number < 0 and self in self._streams.engines:
            self._number = list(self._streams.engines).index(self)
            self.write_token()

    def write_token(self) -> None:
        """One token: the number of the reply."""
        token = TOKEN % (FIRST + self._number)
        self._transport.write(b"%x\r\n%b\r\n" % (len(token), token))

    def connection_lost(self, _: Exception | None) -> None:
        """Keep the numbers of the others."""


class Client(asyncio.Protocol):
    """The client's end."""

    def __init__(self, streams: Streams) -> None:
        self._streams = streams

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        transport.write(REQUEST)  # type: ignore[attr-defined]

    def data_received(self, data: bytes) -> None:
        self._streams.came(data)


@asynccontextmanager
async def engine(streams: Streams) -> AsyncIterator[int]:
    """The port of an engine in this process."""
    server = await asyncio.get_running_loop().create_server(lambda: Engine(streams), "127.0.0.1", 0)
    try:
        yield server.sockets[0].getsockname()[1]
    finally:
        server.close()


async def measure(streams: Streams, count: int, gateway: tuple[int, int], tokens: int) -> tuple[float, float]:
    """(processor ms per 1,000 tokens, tokens per second) of the gateway with this port and process."""
    port, pid = gateway
    loop = asyncio.get_running_loop()
    for _ in range(count):
        await loop.create_connection(lambda: Client(streams), "127.0.0.1", port)
    while streams.tokens < 20 * count:  # what comes first is done once for each reply
        await asyncio.sleep(0.02)
    first, start, before = streams.tokens, loop.time(), worked((pid,))
    while streams.tokens < first + tokens:
        await asyncio.sleep(0.02)
    came = streams.tokens - first
    return 1000 * (worked((pid,)) - before) / (came / 1000), came / (loop.time() - start)
