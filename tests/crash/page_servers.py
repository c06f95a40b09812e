"""Page servers that are started and killed quickly, behind nginx: `python -m tests.crash.page_servers OPTIONS`.

The process imports everything once and forks a server for each port on stdin; it answers with the server's process id.
OPTIONS are AppSettings' fields as JSON.
"""

import asyncio
import json
import os
import random
import re
import select
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path

import httpx
import psutil
import uvicorn

from chatui import uvicorn_protocol
from chatui.chat import ChatRequest
from chatui.server import build_app
from chatui.settings import AppSettings
from tests.fakes import FakeBackend

ROOT = Path(__file__).parents[2]
NGINX = shutil.which("nginx", path="/usr/sbin:/usr/bin:/usr/local/bin")
CADDY = shutil.which("caddy")
SEVERAL_BEHIND_CADDY = (ROOT / "deploy" / "caddy" / "several-servers.Caddyfile").read_text()
UPSTREAM = (ROOT / "deploy" / "nginx" / "several-servers.conf").read_text()
SERVER = (ROOT / "deploy" / "nginx" / "chatui.conf").read_text()
ANSWER_SECONDS = 60.0
WORDS = 40
WORDS_PER_SECOND = 20.0


def whole_reply(question: str) -> str:
    """The reply to a question; no other has any word of it. One like `name=200` has so many words."""
    return "".join(_words(question))


def _words(question: str) -> list[str]:
    name, _, count = question.partition("=")
    return [f" {name}-{number}" for number in range(int(count or WORDS))]


def _script(request: ChatRequest) -> list[str]:
    return _words(request.messages[-1].content)


def _serve(port: int, options: dict[str, object]) -> None:
    """A server on this port, until it is ended."""
    random.seed()
    listener = socket.socket()
    listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    listener.bind(("127.0.0.1", port))
    app = build_app(FakeBackend(_script, rate=WORDS_PER_SECOND), AppSettings.model_validate(options))
    listener.listen(2048)
    config = uvicorn_protocol.config(app, timeout_graceful_shutdown=1, lifespan="on")
    asyncio.run(uvicorn.Server(config).serve(sockets=[listener]))


def main() -> None:
    """Fork a server for each line."""
    options = json.loads(sys.argv[1])
    with tempfile.TemporaryDirectory() as folder:
        build_app(FakeBackend(), AppSettings(data_dir=Path(folder)))  # imports all that it needs
    signal.signal(signal.SIGCHLD, signal.SIG_IGN)  # the kernel buries them
    print("ready", flush=True)  # noqa: T201
    for line in sys.stdin:
        if pid := os.fork():
            print(pid, flush=True)  # noqa: T201
            continue
        signal.signal(signal.SIGCHLD, signal.SIG_DFL)
        os.close(0)
        _serve(int(line), options)
        os._exit(0)


class PageServers:
    """The servers on these ports, and what was written to stderr by all of them."""

    def __init__(self, ports: Sequence[int], folder: Path, **options: object) -> None:
        self.ports, self._log = ports, folder / "servers.txt"
        command = [sys.executable, "-m", "tests.crash.page_servers", json.dumps(options)]
        with self._log.open("w") as log:
            self._process = subprocess.Popen(
                command, cwd=ROOT, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=log, text=True, bufsize=1
            )
        assert self._answer() == "ready"
        self._pids = [0 for _ in ports]
        for number in range(len(ports)):
            self.start(number)

    @property
    def log(self) -> str:
        return self._log.read_text(errors="replace")

    def start(self, number: int) -> None:
        """Start a server, and return when it answers."""
        assert self._process.stdin is not None
        self._process.stdin.write(f"{self.ports[number]}\n")
        self._pids[number] = int(self._answer())
        wait_for(f"http://127.0.0.1:{self.ports[number]}/livez")

    def end(self, number: int, how: signal.Signals) -> None:
        """End a server, and return when it has ended."""
        pid = self._pids[number]
        os.kill(pid, how)
        deadline = time.monotonic() + ANSWER_SECONDS
        while Path(f"/proc/{pid}").exists():
            assert time.monotonic() < deadline, "it does not end"
            time.sleep(0.01)
        self._pids[number] = 0

    def connected(self) -> list[int]:
        """The servers that have a connection, such as the stream of a tab's reply."""
        found = {
            connection.laddr.port for connection in psutil.net_connections("tcp4") if connection.status == "ESTABLISHED"
        }
        return [number for number, port in enumerate(self.ports) if port in found]

    def close(self) -> None:
        for number, pid in enumerate(self._pids):
            if pid:
                self.end(number, signal.SIGKILL)
        self._process.kill()
        self._process.wait()
        for stream in (self._process.stdin, self._process.stdout):
            if stream is not None:
                stream.close()

    def _answer(self) -> str:
        assert self._process.stdout is not None
        assert select.select([self._process.stdout], [], [], ANSWER_SECONDS)[0], self.log
        return self._process.stdout.readline().strip()


class Nginx:
    """nginx as deploy/nginx has it, without TLS, before servers on these ports."""

    def __init__(self, port: int, ports: Sequence[int], folder: Path) -> None:
        assert NGINX is not None
        self.url = f"http://127.0.0.1:{port}"
        (first, second) = re.findall(r"10\.0\.0\.\d:7860", UPSTREAM)
        upstream = UPSTREAM.replace(first, f"127.0.0.1:{ports[0]}").replace(second, f"127.0.0.1:{ports[1]}")
        server = SERVER.replace("http://127.0.0.1:7860", "http://chatui").replace("listen 443 ssl", f"listen {port}")
        server = re.sub(r"\n *ssl_certificate.*", "", server)
        paths = ("client_body", "proxy", "fastcgi", "uwsgi", "scgi")
        temporary = "".join(f"{name}_temp_path {folder}/{name};\n" for name in paths)
        self._configuration = folder / "nginx.conf"
        self._configuration.write_text(
            f"daemon off;\nmaster_process off;\npid {folder}/nginx.pid;\nerror_log {folder}/nginx.txt;\n"
            f"events {{ worker_connections 4096; }}\nhttp {{\naccess_log off;\n{temporary}\n{upstream}\n{server}\n}}\n"
        )
        self.start()

    @property
    def pid(self) -> int:
        return self._process.pid

    def start(self) -> None:
        assert NGINX is not None
        command = [NGINX, "-p", str(self._configuration.parent), "-c", str(self._configuration), "-e", "stderr"]
        self._process = subprocess.Popen(command, stderr=subprocess.PIPE)
        wait_for(f"{self.url}/livez")

    def kill(self) -> None:
        self._process.kill()
        self._process.wait()
        if self._process.stderr is not None:
            self._process.stderr.close()


class Caddy:
    """Caddy as deploy/caddy has it, without TLS, before servers on these ports."""

    def __init__(self, port: int, ports: Sequence[int], folder: Path) -> None:
        assert CADDY is not None
        self.url = f"http://127.0.0.1:{port}"
        server = SEVERAL_BEHIND_CADDY.replace("chat.example.org {", f"{self.url} {{\nbind 127.0.0.1")
        for number, own in enumerate(ports, 1):
            server = server.replace(f"10.0.0.{number}:7860", f"127.0.0.1:{own}")
        configuration = folder / "Caddyfile"
        configuration.write_text(f"{{\nadmin off\n}}\n{server}")
        command = [CADDY, "run", "--config", str(configuration), "--adapter", "caddyfile"]
        self._process = subprocess.Popen(command, stderr=subprocess.DEVNULL, env={**os.environ, "HOME": str(folder)})
        wait_for(f"{self.url}/livez")

    def kill(self) -> None:
        self._process.kill()
        self._process.wait()


def wait_for(url: str) -> None:
    """Return when there is a server that answers."""
    deadline = time.monotonic() + ANSWER_SECONDS
    while True:
        try:
            if httpx.get(url, timeout=5).status_code == 200:
                return
        except httpx.TransportError:
            pass
        assert time.monotonic() < deadline, f"{url} does not answer"
        time.sleep(0.02)


if __name__ == "__main__":
    main()
