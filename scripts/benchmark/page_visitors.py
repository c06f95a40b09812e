"""People at the page, in a process of their own: `python -m scripts.benchmark.page_visitors PLAN` writes what they saw.

They ask as the page does: what it asks when it is loaded, its heartbeats, its waiting for changes, the events of a turn
and what follows them. Each request has a connection of its own, as behind a proxy that keeps none.
"""

import asyncio
import contextlib
import json
import random
import re
import sys
import time
import uuid
from dataclasses import asdict, dataclass, field
from typing import Any
from urllib.parse import urlsplit

from tests.abuse.pages import Config, config_of

HEARTBEAT_SECONDS = 30.0
STATE = re.compile(rb'"(\{\\"chat\\".*?[^\\]\\?\})"')
COOKIE = re.compile(rb"set-cookie: ([^;]+)", re.IGNORECASE)
CHUNK = re.compile(rb"\r\n[0-9a-f]+\r\n")
"""The size of a piece of a body (Transfer-Encoding: chunked); a proxy may begin one anywhere."""
POSITION = re.compile(rb'"position":"([^"]+)".*"pause":([\d.]+)')
RETRY_SECONDS = 5.0
PATIENCE_SECONDS = 300.0
DRAFTS = 1
"""How often what is being typed is told for a message: once for each pause of a quarter of a second."""


@dataclass(frozen=True)
class Plan:
    """So many `visitors`, who come within `arrival` seconds, and then ask for `seconds`, or so many `turns` each.

    The time between two turns is random, of the mean `pause`. Replies have so many `tokens`, on average where `varied`,
    at `rate` tokens/s. A conversation has at most `chat_turns`.
    """

    url: str
    visitors: int
    turns: int = 0
    seconds: float = 0.0
    tokens: int = 100
    rate: float = 30.0
    pause: float = 0.0
    arrival: float = 0.0
    chat_turns: int = 4
    varied: bool = False
    seed: int = 1


@dataclass
class Seen:
    """What all visitors did and saw. `reply_seconds` are those from Send to the end of all replies together."""

    loads: int = 0
    turns: int = 0
    tokens: int = 0
    redraws: int = 0
    requests: int = 0
    failed: int = 0
    load_bytes: int = 0
    turn_bytes: int = 0
    reply_seconds: float = 0.0
    first_seconds: list[float] = field(default_factory=list)
    end_seconds: list[float] = field(default_factory=list)


class Events:
    """The page's events by name, with the values that a new page has."""

    def __init__(self, config: Config) -> None:
        self._parts = {part["id"]: part["props"] for part in config["components"]}
        self._events = [event for event in config["dependencies"] if event["backend_fn"]]
        ids = {part.get("elem_id"): id for id, part in self._parts.items()}
        self._state, self._model = ids["where"], ids["model"]

    def body(self, name: str, session: str, state: str = "", message: str = "") -> bytes:
        """The request of an event in a tab with this state and this text in the message box."""
        return self._body(self._named(name), session, state, message)

    def after_load(self, session: str) -> list[bytes]:
        """What the page asks when it has been built."""
        chosen = [event for event in self._events if event["targets"] == [[self._model, "change"]]]
        events = [*map(self._named, ("loaded", "begin", "update", "update")), *chosen]
        return [self._body(event, session, "", "") for event in events]

    def _named(self, name: str) -> dict[str, Any]:
        return next(event for event in self._events if re.fullmatch(rf"{name}(_\d+)?", event["api_name"] or ""))

    def _body(self, event: dict[str, Any], session: str, state: str, message: str) -> bytes:
        known = {"message": message}
        data = [known.get(str(self._parts[id].get("elem_id")), self._parts[id].get("value")) for id in event["inputs"]]
        if state:
            data = [state if id == self._state else value for id, value in zip(event["inputs"], data, strict=True)]
        body = {"data": data, "fn_index": event["id"], "event_data": None, "trigger_id": None, "session_hash": session}
        return json.dumps(body).encode()


class Visitor:
    """Somebody with a browser of their own and one tab."""

    def __init__(self, plan: Plan, events: Events, seen: Seen, number: int) -> None:
        self._plan, self._events, self._seen = plan, events, seen
        self._chance = random.Random(f"{plan.seed} {number}")
        self._host = urlsplit(plan.url).netloc
        self._cookie = b""
        self._session, self._state, self._turns = uuid.uuid4().hex[:11], "", 0

    async def visit(self) -> None:
        """Come, and take as many turns as planned."""
        plan = self._plan
        await asyncio.sleep(self._chance.uniform(0, plan.arrival))
        await self.load()
        in_background = [asyncio.create_task(self._beat()), asyncio.create_task(self._watch())]
        end = time.monotonic() + plan.seconds
        while self._turns < plan.turns or time.monotonic() < end:
            pause = self._chance.expovariate(1 / plan.pause) if plan.pause else 0.0
            left = max(0.0, end - time.monotonic())
            await asyncio.sleep(pause if plan.turns else min(pause, left))
            if plan.turns or pause < left:
                await self._turn()
        for task in in_background:
            task.cancel()

    async def load(self) -> None:
        """Load the page."""
        page = await self._ask("GET", "/")
        self._cookie = (COOKIE.search(page) or [b"", self._cookie])[1]
        self._seen.load_bytes += len(page)
        await self._ask("POST", f"/gradio_api/heartbeat/{self._session}")
        for body in self._events.after_load(self._session):
            answer = await self._ask("POST", "/gradio_api/run/predict", body)
            self._seen.load_bytes += len(answer)
        self._seen.loads += 1

    async def _beat(self) -> None:
        while True:
            await asyncio.sleep(HEARTBEAT_SECONDS)
            await self._ask("POST", f"/gradio_api/heartbeat/{self._session}")

    async def _watch(self) -> None:
        """Wait for what other tabs of the visitor change, as a visible tab does: there are none."""
        since = "seconds=1"
        while True:
            answer = await self._ask("GET", f"/gradio_api/changes?session_hash={self._session}&{since}")
            if position := POSITION.search(answer):
                since = f"since={position[1].decode()}"
                await asyncio.sleep(float(position[2]))
            else:
                await asyncio.sleep(RETRY_SECONDS)

    async def _turn(self) -> None:
        plan, seen = self._plan, self._seen
        tokens = max(1, round(self._chance.expovariate(1 / plan.tokens))) if plan.varied else plan.tokens
        if self._turns % plan.chat_turns == 0:
            self._state = ""
        self._turns += 1
        asked = f"tokens={tokens} rate={plan.rate:.0f}"
        for _ in range(DRAFTS):
            await self._predict("update", asked)
        started = time.monotonic()
        await self._ask("POST", "/gradio_api/queue/join", self._events.body("_send", self._session, self._state, asked))
        stream, first = await self._read(f"/gradio_api/queue/data?session_hash={self._session}")
        ended = time.monotonic()
        for _ in range(2):
            await self._predict("update", "")
        if b'"success":true' not in stream.rpartition(b'"process_completed"')[2]:
            seen.failed += 1
            return
        self._state = json.loads(b'"' + STATE.findall(stream)[-1] + b'"')
        seen.turns += 1
        seen.tokens += tokens
        seen.redraws += stream.count(b'"process_generating"')
        seen.turn_bytes += len(stream)
        seen.reply_seconds += ended - started
        seen.first_seconds.append(first - started)
        seen.end_seconds.append(ended - started)

    async def _predict(self, name: str, message: str) -> None:
        body = self._events.body(name, self._session, self._state, message)
        answer = await self._ask("POST", "/gradio_api/run/predict", body)
        self._seen.turn_bytes += len(answer)

    async def _ask(self, method: str, path: str, body: bytes = b"") -> bytes:
        reader, writer = await self._send(method, path, body)
        answer = await reader.read(-1)
        writer.close()
        self._seen.failed += not answer.startswith(b"HTTP/1.1 2")
        return answer

    async def _read(self, path: str) -> tuple[bytes, float]:
        """(the stream, when its first text came)."""
        reader, writer = await self._send("GET", path, b"", "x-chatui-tab: 1\r\n")
        pieces, first = list[bytes](), 0.0
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(PATIENCE_SECONDS):
                while piece := await reader.read(2**18):
                    pieces.append(piece)
                    if not first and re.search(rb"\d tokens? ", piece):
                        first = time.monotonic()
        writer.close()
        return CHUNK.sub(b"", b"".join(pieces)), first or time.monotonic()

    async def _send(
        self, method: str, path: str, body: bytes, more: str = ""
    ) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
        self._seen.requests += 1
        host, _, port = self._host.partition(":")
        reader, writer = await asyncio.open_connection(host, int(port), limit=2**20)
        kind = "accept: text/html\r\n" if path == "/" else "content-type: application/json\r\n"
        head = f"{method} {path} HTTP/1.1\r\nhost: {self._host}\r\nconnection: close\r\naccept-encoding: gzip\r\n"
        cookie = b"cookie: %b\r\n" % self._cookie if self._cookie else b""
        told = f"{kind}{more}content-length: {len(body)}\r\n".encode()
        writer.write(head.encode() + told + cookie + b"\r\n" + body)
        await writer.drain()
        return reader, writer


async def visited(plan: Plan) -> Seen:
    """What all visitors of a plan saw."""
    events, seen = Events(await config_of(plan.url)), Seen()
    await asyncio.gather(*(Visitor(plan, events, seen, number).visit() for number in range(plan.visitors)))
    return seen


if __name__ == "__main__":
    print(json.dumps(asdict(asyncio.run(visited(Plan(**json.loads(sys.argv[1])))))))
