"""An engine without a model: a server of OpenAI's API whose tokens are the times at which they were written.

`python -m scripts.benchmark.scripted_engine RATE GROUPS [REPLIES]` prints its port. Each reply has RATE tokens a
second, without an end. The replies are spread over GROUPS moments between two tokens: with 1 all are written at once,
as by an engine that has them in one batch. Nothing is written before so many REPLIES are asked for.
"""

import asyncio
import json
import sys
import time
from typing import cast

POLL_SECONDS = 0.05
MODEL = json.dumps({"object": "list", "data": [{"id": "m", "owned_by": "someone", "max_model_len": 4096}]}).encode()
LISTED = b"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Length: %d\r\n\r\n%b" % (len(MODEL), MODEL)
MISSING = b"HTTP/1.1 404 Not Found\r\nContent-Length: 0\r\n\r\n"
HEAD = b"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\nTransfer-Encoding: chunked\r\n\r\n"
TOKEN = (
    b'data: {"id":"chatcmpl-0","object":"chat.completion.chunk","created":1,"model":"m","choices":'
    b'[{"index":0,"delta":{"content":" %.4f"},"logprobs":null,"finish_reason":null}]}\n\n'
)


class Connection(asyncio.Protocol):
    """One client. A reply that it asks for is put into one of the `groups`."""

    def __init__(self, groups: list[dict["Connection", None]]) -> None:
        self._groups = groups
        self._received = b""

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast(asyncio.Transport, transport)

    def data_received(self, data: bytes) -> None:
        self._received += data
        head, end, body = self._received.partition(b"\r\n\r\n")
        length = head.lower().partition(b"content-length:")[2].split(b"\r\n")[0].strip()
        if not end or len(body) < int(length or 0):
            return
        self._received = b""
        if not head.startswith(b"POST"):
            self._transport.write(LISTED if b"/v1/models" in head else MISSING)
            return
        self._transport.write(HEAD)
        min(self._groups, key=len)[self] = None

    def connection_lost(self, _: Exception | None) -> None:
        for group in self._groups:
            group.pop(self, None)

    def write_token(self) -> None:
        """One token: the time of day."""
        token = TOKEN % time.time()
        self._transport.write(b"%x\r\n%b\r\n" % (len(token), token))


async def serve(rate: float, groups: int, replies: int = 0) -> None:
    """Serve until the process is ended. Nothing is written before so many `replies` are asked for."""
    grouped: list[dict[Connection, None]] = [{} for _ in range(groups)]
    server = await asyncio.get_running_loop().create_server(lambda: Connection(grouped), "127.0.0.1", 0)
    print(server.sockets[0].getsockname()[1], flush=True)
    while sum(map(len, grouped)) < replies:
        await asyncio.sleep(POLL_SECONDS)
    at = time.monotonic()
    while True:
        for group in grouped:
            for connection in list(group):
                connection.write_token()
            at += 1 / (rate * groups)
            await asyncio.sleep(at - time.monotonic())


if __name__ == "__main__":
    asyncio.run(serve(float(sys.argv[1]), *map(int, sys.argv[2:])))
