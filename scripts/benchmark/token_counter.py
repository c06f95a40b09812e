"""The clients of a measurement in a process of their own: they ask for streams, and note how old each token is.

`python -m scripts.benchmark.token_counter '{"ports": [...], ...}'` prints a JSON object: the `delays` of all tokens in
seconds, and the processor `seconds` that the processes took meanwhile.
"""

import asyncio
import json
import re
import sys
import time
from dataclasses import asdict, dataclass
from typing import cast

import psutil

STAMP = re.compile(rb" (\d{10}\.\d{4})")
BODY = json.dumps({"model": "m", "messages": [{"role": "user", "content": "Hi"}], "stream": True}).encode()
REQUEST = (
    b"POST /v1/chat/completions HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\n"
    b"Connection: close\r\nContent-Length: %d\r\n\r\n%b" % (len(BODY), BODY)
)
OPENED_PER_SECOND = 50
SETTLING_SECONDS = 2.0
LATE_SECONDS = 1.0
"""How long tokens are waited for that were written at the end."""
WAIT_SECONDS = 30.0


@dataclass(frozen=True)
class Order:
    """What to measure: so many `streams` in all from the servers at these `ports`, for so many `seconds`.

    `pids` are the processes whose work is measured.
    """

    ports: tuple[int, ...]
    streams: int
    seconds: float
    pids: tuple[int, ...] = ()


@dataclass(frozen=True)
class Counted:
    """The delays of the tokens that were written in so many `seconds` and came; and the processor seconds meanwhile."""

    delays: list[float]
    seconds: float
    processor: float


class Stream(asyncio.Protocol):
    """One reply. Adds (when it was written, when it came) of each token to `tokens`."""

    def __init__(self, tokens: list[tuple[float, float]]) -> None:
        self._tokens = tokens
        self._rest = b""
        self.begun = asyncio.get_running_loop().create_future()

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = cast(asyncio.Transport, transport)
        self.transport.write(REQUEST)

    def data_received(self, data: bytes) -> None:
        whole, end, self._rest = (self._rest + data).rpartition(b"\n\n")
        now = time.time()
        stamps = STAMP.findall(whole) if end else ()
        if stamps and not self.begun.done():
            self.begun.set_result(None)
        self._tokens += [(float(stamp), now) for stamp in stamps]


async def count(order: Order) -> Counted:
    """Open the streams, and count for a while once all of them are there. Raises TimeoutError."""
    tokens: list[tuple[float, float]] = []
    streams = []
    loop = asyncio.get_running_loop()
    for number in range(order.streams):
        port = order.ports[number % len(order.ports)]
        streams.append((await loop.create_connection(lambda: Stream(tokens), "127.0.0.1", port))[1])
        await asyncio.sleep(1 / OPENED_PER_SECOND)
    async with asyncio.timeout(WAIT_SECONDS):
        await asyncio.gather(*(stream.begun for stream in streams))
    await asyncio.sleep(SETTLING_SECONDS)
    start, before = time.time(), worked(order.pids)
    await asyncio.sleep(order.seconds)
    end, processor = time.time(), worked(order.pids) - before
    await asyncio.sleep(LATE_SECONDS)
    for stream in streams:
        stream.transport.abort()
    return Counted([came - written for written, came in tokens if start <= written < end], end - start, processor)


def worked(pids: tuple[int, ...]) -> float:
    """The processor seconds of the processes so far."""
    return sum(sum(psutil.Process(pid).cpu_times()[:2]) for pid in pids)


if __name__ == "__main__":
    print(json.dumps(asdict(asyncio.run(count(Order(**json.loads(sys.argv[1])))))))
