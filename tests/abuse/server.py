"""The whole application over the fake backend, in a process of its own: `python -m tests.abuse.server OPTIONS`.

OPTIONS are JSON: `rate`, the words a second of a reply, and AppSettings' fields.
"""

import asyncio
import json
import socket
import sys

import uvicorn

from chatui.server import build_app
from chatui.settings import AppSettings
from tests.fakes import FakeBackend

WORDS = [f" word{number}" for number in range(60)]


def main() -> None:
    """Serve until the process is ended; the first line of stdout is the port."""
    listening = socket.create_server(("127.0.0.1", 0), backlog=2048)
    options = json.loads(sys.argv[1])
    backend = FakeBackend(WORDS, rate=options.pop("rate"))
    app = build_app(backend, AppSettings(**options))
    # As chatui.server.run has it.
    config = uvicorn.Config(app, log_level="warning", timeout_graceful_shutdown=1, ws="none", proxy_headers=False)
    print(listening.getsockname()[1], flush=True)  # noqa: T201
    asyncio.run(uvicorn.Server(config).serve(sockets=[listening]))


if __name__ == "__main__":
    main()
