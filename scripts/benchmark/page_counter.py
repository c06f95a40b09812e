"""The visitors of a measurement in a process of their own: each reads one reply at the page, and notes how old its
tokens are when they are drawn.

`python -m scripts.benchmark.page_counter '{"ports": [...], ...}'` prints a JSON object: the `delays` of all tokens in
seconds, the `intervals` between two redraws of a reply, and the processor `seconds` that the page servers took
meanwhile. A visitor comes once the one before is answered. The engine begins to write when all are there.
"""

import asyncio
import json
import sys
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from itertools import pairwise

from scripts.benchmark.page_visitors import Events, Plan, Seen, Visitor
from scripts.benchmark.target import BenchError
from scripts.benchmark.token_counter import STAMP, Counted, Order, worked
from tests.abuse.pages import config_of

SETTLING_SECONDS = 5.0
"""After the first token of each reply, until redraws have their pace."""
WAIT_SECONDS = 60.0


@dataclass(frozen=True)
class Drawn(Counted):
    """What was drawn in so many `seconds`: the delays of its tokens, and the time between two redraws of a reply."""

    intervals: list[float]


class Reader(Visitor):
    """Somebody who reads a reply without an end. Adds (when it was written, when it was drawn) of each token to
    `tokens`, and when its text was redrawn to `redraws`.
    """

    def __init__(self, url: str, events: Events, number: int) -> None:
        super().__init__(Plan(url, 1), events, Seen(), number)
        self.tokens: list[tuple[float, float]] = []
        self.redraws: list[float] = []
        self.begun, self._answered = asyncio.Event(), asyncio.Event()
        self.ended = False
        self._rest = b""
        self._tasks: list[asyncio.Task[None]] = []

    async def come(self) -> None:
        """Load the page, and send a message. Returns when it is shown. Raises BenchError."""
        await self.load()
        await self._predict("update", "Hi")
        await self._ask("POST", "/gradio_api/queue/join", self._events.body("_send", self._session, "", "Hi"))
        self._tasks = [asyncio.create_task(task) for task in (self._beat(), self._watch(), self._follow())]
        answered = asyncio.create_task(self._answered.wait())
        await asyncio.wait((answered, self._tasks[-1]), timeout=WAIT_SECONDS, return_when=asyncio.FIRST_COMPLETED)
        if self._seen.failed or not answered.done():
            raise BenchError("The page does not answer its visitors.")

    def leave(self) -> None:
        """Close the page."""
        for task in self._tasks:
            task.cancel()

    async def _follow(self) -> None:
        path = f"/gradio_api/queue/data?session_hash={self._session}"
        reader, _writer = await self._send("GET", path, b"", "x-chatui-tab: 1\r\n")
        while piece := await reader.read(2**18):
            self.came(piece, time.time())

    def came(self, piece: bytes, now: float) -> None:
        """Note what a piece of the stream draws. What was drawn before may be in it again."""
        whole, end, self._rest = (self._rest + piece).rpartition(b"\n\n")
        for event in whole.split(b"\n\n") if end else ():
            self.ended |= b'"process_completed"' in event
            if b'"process_generating"' not in event:
                continue
            self._answered.set()
            last = self.tokens[-1][0] if self.tokens else 0.0
            if drawn := [(stamp, now) for stamp in map(float, STAMP.findall(event)) if stamp > last]:
                self.begun.set()
                self.tokens += drawn
                self.redraws.append(now)


async def count(order: Order) -> Drawn:
    """Let the visitors come, and count for a while once all of them read. Raises BenchError and TimeoutError."""
    per_server = await asyncio.gather(*(_come(order, number) for number in range(len(order.ports))))
    readers = [reader for readers in per_server for reader in readers]
    async with asyncio.timeout(WAIT_SECONDS):
        await asyncio.gather(*(reader.begun.wait() for reader in readers))
    await asyncio.sleep(SETTLING_SECONDS)
    start, before = time.time(), worked(order.pids)
    await asyncio.sleep(order.seconds)
    end, processor = time.time(), worked(order.pids) - before
    if any(reader.ended for reader in readers):
        raise BenchError("The page ends replies at their most new tokens: give fewer --seconds, or a lower --rate.")
    for reader in readers:
        reader.leave()
    return drawn_between(readers, start, end, processor)


async def _come(order: Order, server: int) -> Sequence[Reader]:
    """The visitors of one server, who have come one after another."""
    url = f"http://127.0.0.1:{order.ports[server]}"
    events = Events(await config_of(url))
    readers = [Reader(url, events, number) for number in range(server, order.streams, len(order.ports))]
    for reader in readers:
        await reader.come()
    return readers


def drawn_between(readers: Sequence[Reader], start: float, end: float, processor: float) -> Drawn:
    """What was drawn between two moments, in which the page servers worked for so many `processor` seconds."""
    delays = [came - written for reader in readers for written, came in reader.tokens if start <= came < end]
    moments = [[moment for moment in reader.redraws if start <= moment < end] for reader in readers]
    intervals = [later - earlier for each in moments for earlier, later in pairwise(each)]
    return Drawn(delays, end - start, processor, intervals)


if __name__ == "__main__":
    print(json.dumps(asdict(asyncio.run(count(Order(**json.loads(sys.argv[1])))))))
