"""Starts an assembled folder the way a Space does, and talks to it."""

import contextlib
import os
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import httpx
import psutil
from gradio_client import Client

from tests.ports import reserved_port

HOST = "owner-chatui.hf.space"
PATIENCE = 180.0
"""Seconds for a start on a busy machine: importing torch alone may take half a minute."""


class Space:
    """`python app.py` in the folder, with the variables of a Space and no others; stopped at the end of the block."""

    def __init__(self, folder: Path, python: Path, home: Path, *command: str, **variables: str) -> None:
        self._port_is_held = contextlib.ExitStack()
        self.port = self._port_is_held.enter_context(reserved_port())
        self.url = f"http://127.0.0.1:{self.port}"
        self._folder = folder
        self._command = [str(python), *(command or ("app.py",))]
        self._output = home / "output.txt"
        self._environment = {
            "PATH": os.environ["PATH"],
            "HOME": str(home),
            "PYTHONUNBUFFERED": "1",
            "SYSTEM": "spaces",
            "SPACE_ID": "owner/chatui",
            "SPACE_HOST": HOST,
            "SPACE_AUTHOR_NAME": "owner",
            "SPACE_REPO_NAME": "chatui",
            "GRADIO_SERVER_NAME": "0.0.0.0",
            "GRADIO_SERVER_PORT": str(self.port),
            "HF_HUB_OFFLINE": "1",
            "CHATUI_COMPILE": "off",
            **variables,
        }

    def __enter__(self) -> Self:
        self._home().mkdir(parents=True, exist_ok=True)
        with self._output.open("wb") as output:
            self._process = subprocess.Popen(
                self._command, cwd=self._folder, env=self._environment, stdout=output, stderr=subprocess.STDOUT
            )
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        with self._port_is_held:
            self._end()

    def _end(self) -> None:
        workers = psutil.Process(self._process.pid).children(recursive=True) if self._process.poll() is None else []
        self._process.terminate()  # SIGINT is ignored below a shell that runs in the background
        try:
            self._process.wait(20)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()
        for worker in workers:  # ZeroGPU's outlive the server that forked them
            with contextlib.suppress(psutil.NoSuchProcess):
                worker.kill()

    @property
    def output(self) -> str:
        """What it wrote on the console so far."""
        return self._output.read_text(errors="replace")

    def get(self, path: str, address: str = "127.0.0.1", **headers: str) -> httpx.Response:
        """What it answers at one of its addresses."""
        return httpx.get(f"http://{address}:{self.port}{path}", headers=headers, timeout=PATIENCE)

    def health(self) -> dict[str, Any]:
        """What /healthz says, which must be JSON."""
        answer: dict[str, Any] = self.get("/healthz").json()
        return answer

    def wait_for(self, status: str) -> dict[str, Any]:
        """Wait until /healthz gives this status, and return its answer. Fails where the process ends."""
        end = time.monotonic() + PATIENCE
        seen: object = "no answer"
        while time.monotonic() < end:
            assert self._process.poll() is None, f"it ended:\n{self.output}"
            try:
                answer = self.health()
            except httpx.TransportError:
                time.sleep(0.2)
                continue
            seen = answer
            if answer["status"] == status:
                return answer
            assert answer["status"] == "loading", f"{answer}\n{self.output}"
            time.sleep(0.2)
        raise AssertionError(f"not {status} after {PATIENCE:.0f} s: {seen}\n{self.output}")

    def wait_for_output(self, text: str) -> str:
        """Wait until it has written this on the console, and return all that it wrote. Fails where the process ends."""
        end = time.monotonic() + PATIENCE
        while text not in (output := self.output):
            assert self._process.poll() is None, f"it ended:\n{output}"
            assert time.monotonic() < end, f"it did not write {text!r}:\n{output}"
            time.sleep(0.1)
        return output

    @contextlib.contextmanager
    def client(self, **headers: str) -> Iterator[Client]:
        """A Python user of the Space."""
        client = Client(self.url, verbose=False, headers=headers or None)
        try:
            yield client
        finally:
            client.close()

    def public_root(self) -> str:
        """The address that the page would load from, asked through a proxy that speaks https as that of Spaces does."""
        headers = {"host": HOST, "x-forwarded-proto": "https", "x-forwarded-host": HOST}
        root: str = self.get("/config", **headers).json()["root"]
        return root

    def _home(self) -> Path:
        return self._output.parent
