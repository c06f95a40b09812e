"""Visitors who speak the page's own protocol over HTTP, without a browser: any event, any data, any session."""

import json
import re
import socket
import threading
import time
import uuid
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from typing import Any

import httpx
import uvicorn
from fastapi import FastAPI

from chatui.owners import COOKIE

EVENT = {"index": 0, "value": {"text": "hello"}, "previous_value": "", "liked": True}
"""What the browser tells of a click; every kind of event finds what it needs."""

Dependency = Mapping[str, Any]


@contextmanager
def served(app: FastAPI) -> Iterator[str]:
    """Serve it in a thread; gives its address."""
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        config = uvicorn.Config(app, log_level="critical", timeout_graceful_shutdown=1, ws="none", lifespan="on")
        server = uvicorn.Server(config)
        thread = threading.Thread(target=server.run, kwargs={"sockets": [listener]}, daemon=True)
        thread.start()
        while not server.started:
            assert thread.is_alive()
            time.sleep(0.01)
        yield f"http://127.0.0.1:{listener.getsockname()[1]}"
        server.should_exit = True
        thread.join(20)


@dataclass(frozen=True)
class Answer:
    """All that came (`text`), and what it came to: the status and the last message's data."""

    status: int
    text: str
    data: Any = None

    def masked(self, known: Sequence[str] = ()) -> str:
        """What it came to without the `known` words, ids and numbers, for these differ between any two calls."""
        text = f"{self.status} {json.dumps(self.data)}"
        for word in sorted(known, key=len, reverse=True):
            text = text.replace(word, "~")
        text = re.sub(r"(?<![\w-])(?:[\w-]{22}|[0-9a-f]{32})(?![\w-])", "~", text)
        return re.sub(r"\d+(\.\d+)?", "#", text)


class Visitor:
    """Somebody with a cookie of ours, or with a login's cookies."""

    def __init__(self, url: str, cookies: Mapping[str, str], session: str = "") -> None:
        plain = {"accept-encoding": "identity"}  # what is said is searched as it comes
        self.http = httpx.Client(base_url=url, cookies=dict(cookies), headers=plain, timeout=60, verify=False)
        self.session = session or uuid.uuid4().hex[:11]

    @classmethod
    def guest(cls, url: str, cookie: str) -> "Visitor":
        return cls(url, {COOKIE: cookie})

    @classmethod
    def logged_in(cls, url: str, user: str, password: str) -> "Visitor":
        answer = httpx.post(f"{url}/login", data={"username": user, "password": password})
        assert answer.status_code == 200
        return cls(url, dict(answer.cookies))

    def post(self, path: str, body: Any, **options: Any) -> httpx.Response:
        return self.http.post(path, json=body, **options)

    def join(self, dependency: Dependency, data: Sequence[Any], **options: Any) -> httpx.Response:
        """Begin an event; its messages come by listen()."""
        return self.post("/gradio_api/queue/join", self._body(dependency, data), **options)

    def call(self, dependency: Dependency, data: Sequence[Any], **options: Any) -> Answer:
        """An event as the page would send it, heard to its end."""
        if not dependency["queue"]:
            answer = self.post("/gradio_api/run/predict", self._body(dependency, data), **options)
            return Answer(answer.status_code, answer.text, _data(answer))
        joined = self.join(dependency, data, **options)
        if joined.status_code != 200:
            return Answer(joined.status_code, joined.text, joined.json())
        text, last = "", None
        for line in self.listen():
            text += line
            message = json.loads(line.removeprefix("data:")) if line.startswith("data:") else {}
            if message.get("msg") == "process_completed":
                last = message["output"].get("data"), message["success"]
                break  # the stream stays open a while
        return Answer(200, text, last)

    def listen(self) -> Iterator[str]:
        """The lines of the session's stream, to its end."""
        with self.http.stream("GET", "/gradio_api/queue/data", params={"session_hash": self.session}) as stream:
            yield from stream.iter_lines()

    def read_beginning(self, method: str, path: str, seconds: float = 0.4, **options: Any) -> Answer:
        """The beginning of any answer, also of one that never ends: up to a silence of so many seconds.

        Fails where one goes on for longer, for a sign of life now and then.
        """
        status, body = 0, b""
        failures = (httpx.ReadTimeout, httpx.RemoteProtocolError)
        with suppress(*failures), self.http.stream(method, path, **options) as answer:
            status, last = answer.status_code, time.monotonic() + 60
            # On a busy machine only a body of unknown length is not waited for.
            if "content-length" not in answer.headers:
                answer.request.extensions["timeout"]["read"] = seconds
            for piece in answer.iter_raw():
                body += piece
                assert time.monotonic() < last, f"{path} does not end"
        text = body.decode("utf-8", "replace")
        return Answer(status, text, text)

    def _body(self, dependency: Dependency, data: Sequence[Any]) -> dict[str, Any]:
        return {
            "data": list(data),
            "fn_index": dependency["id"],
            "session_hash": self.session,
            "event_data": EVENT if dependency["collects_event_data"] else None,
            "trigger_id": None,
        }


def _data(answer: httpx.Response) -> Any:
    try:
        found = answer.json()
    except ValueError:
        return answer.text
    return found.get("data", found) if isinstance(found, dict) else found
