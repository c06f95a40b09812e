"""The whole application over the fake backend, in a process of its own: `python -m tests.abuse.server DATA_DIR`."""

import asyncio
import socket
import sys
from pathlib import Path

import uvicorn

from chatui.server import build_app
from chatui.settings import AppSettings
from tests.fakes import FakeBackend

WORDS = [f" word{number}" for number in range(60)]


def main() -> None:
    """Serve until the process is ended; the first line of stdout is the port."""
    listening = socket.create_server(("127.0.0.1", 0), backlog=2048)
    app = build_app(FakeBackend(WORDS, rate=30.0), AppSettings(data_dir=Path(sys.argv[1])))
    config = uvicorn.Config(app, log_level="warning", timeout_graceful_shutdown=1, ws="none")
    print(listening.getsockname()[1], flush=True)  # noqa: T201
    asyncio.run(uvicorn.Server(config).serve(sockets=[listening]))


if __name__ == "__main__":
    main()
