"""Server processes that a test commands, and a way to the database that the test can cut."""

import contextlib
import json
import os
import select
import signal
import socket
import subprocess
import sys
import threading
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[2]
FAKETIME = next(Path("/usr/lib").glob("*/faketime/libfaketime.so.1"), None)
ANSWER_SECONDS = 60.0


class ServerProcess:
    """A process of tests.crash.server; its clock is `ahead` seconds of ours."""

    def __init__(self, url: str, ahead: int = 0) -> None:
        environment = dict(os.environ)
        if ahead:
            environment |= {"LD_PRELOAD": str(FAKETIME), "FAKETIME": f"{ahead:+}s", "FAKETIME_DONT_FAKE_MONOTONIC": "1"}
        self._process = subprocess.Popen(
            [sys.executable, "-m", "tests.crash.server", url],
            cwd=ROOT,
            env=environment,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            bufsize=1,
        )

    def send(self, do: str, **values: Any) -> None:
        assert self._process.stdin is not None
        self._process.stdin.write(json.dumps({"do": do, **values}) + "\n")

    def answer(self) -> Any:
        assert self._process.stdout is not None
        assert select.select([self._process.stdout], [], [], ANSWER_SECONDS)[0], "the server does not answer"
        return json.loads(self._process.stdout.readline())

    def tell(self, do: str, **values: Any) -> Any:
        """Do something, and what comes of it."""
        self.send(do, **values)
        return self.answer()

    def signal(self, which: signal.Signals) -> None:
        self._process.send_signal(which)

    def end(self) -> None:
        with contextlib.suppress(ProcessLookupError):
            self._process.send_signal(signal.SIGCONT)
            self._process.kill()
        self._process.wait(10)
        for stream in (self._process.stdin, self._process.stdout):
            if stream is not None:
                with contextlib.suppress(OSError):
                    stream.close()


class TcpProxy:
    """A way to a port of this computer that can be cut, and mended again."""

    def __init__(self, port: int) -> None:
        self._port, self._cut = port, False
        self._pairs: list[tuple[socket.socket, socket.socket]] = []
        self._listening = socket.create_server(("127.0.0.1", 0))
        self.port = self._listening.getsockname()[1]
        threading.Thread(target=self._accept, daemon=True).start()

    def _accept(self) -> None:
        while True:
            try:
                near, _ = self._listening.accept()
            except OSError:
                return
            if self._cut:
                near.close()
                continue
            far = socket.create_connection(("127.0.0.1", self._port))
            self._pairs.append((near, far))
            for one, other in ((near, far), (far, near)):
                threading.Thread(target=self._carry, args=(one, other), daemon=True).start()

    @staticmethod
    def _carry(one: socket.socket, other: socket.socket) -> None:
        with contextlib.suppress(OSError):
            while data := one.recv(65536):
                other.sendall(data)
        for end in (one, other):
            with contextlib.suppress(OSError):
                end.shutdown(socket.SHUT_RDWR)

    def cut(self) -> None:
        self._cut = True
        for pair in self._pairs:
            for end in pair:
                with contextlib.suppress(OSError):
                    end.shutdown(socket.SHUT_RDWR)
        self._pairs.clear()

    def reconnect(self) -> None:
        self._cut = False

    def close(self) -> None:
        self.cut()
        self._listening.close()
