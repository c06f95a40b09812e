"""The whole application over the fake backend, in a process of its own: `python -m tests.abuse.server OPTIONS`.

OPTIONS are JSON: `rate`, the words a second of a reply, and AppSettings' fields.
"""

import asyncio
import json
import socket
import sys

import uvicorn

from chatui import uvicorn_protocol
from chatui.server import build_app
from chatui.settings import AppSettings
from tests.abuse.requests import paths_of
from tests.fakes import FakeBackend

WORDS = [f" word{number}" for number in range(60)]


def main() -> None:
    """Serve until the process is ended; the first line of stdout is the port."""
    listener = socket.create_server(("127.0.0.1", 0), backlog=2048)
    options = json.loads(sys.argv[1])
    backend = FakeBackend(WORDS, rate=options.pop("rate"))
    app = build_app(backend, AppSettings(**options))
    config = uvicorn_protocol.config(app, timeout_graceful_shutdown=1, lifespan="on")
    print(json.dumps([listener.getsockname()[1], sorted(set(paths_of(app.routes)))]), flush=True)  # noqa: T201
    asyncio.run(uvicorn.Server(config).serve(sockets=[listener]))


if __name__ == "__main__":
    main()
