"""Whatever a server does, a reply ends in time and clearly, keeps what had come, and holds up nobody else."""

import asyncio
import gzip
import json
import re
import socket
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Any

import httpx
import pytest

from chatui.chat import ChatRequest, Finish, Message
from chatui.combined_backend import CombinedBackend
from chatui.errors import ChatError
from chatui.generation_settings import GenerationSettings
from chatui.remote import backend as remote_backend
from chatui.remote import event_stream, probe, replica, reply_stream
from chatui.remote.backend import RemoteBackend
from chatui.remote.backend_spec import BackendSpec, ReplicaSpec
from tests.fault_server import FaultServer, Script, answer, event, head
from tests.ports import reserved_port

LIMITS = {"FIRST_EVENT_SECONDS": 0.4, "NEXT_EVENT_SECONDS": 0.4, "REFUSAL_SECONDS": 0.2, "MAX_BUSY_SECONDS": 0.3}
ASKED = ChatRequest((Message("user", "Hi"),), GenerationSettings(seed=1, max_new_tokens=8))
OK = [head(), event("Hello"), event({"choices": [{"delta": {}, "finish_reason": "stop"}]}), b"data: [DONE]\n\n"]
PING = (b": ping\n\n", 0.02)


def chunk(delta: Any, reason: Any = None, **more: Any) -> bytes:
    return event({"choices": [{"delta": delta, "finish_reason": reason}], **more})


def error(status: str, message: str, **headers: str) -> Script:
    return answer(status, {"error": {"message": message}}, **headers)


@dataclass
class Fault:
    """What a server does, what the user is told of it ("" for a reply that is whole), and the text that is kept."""

    does: Script
    says: str = ""
    text: str = ""
    then: list[Script] = field(default_factory=list)


DEEP = b'{"choices": ' + b"[" * 20_000
FAULTS = {
    "reset before the head": Fault(["reset"], "connection broke"),
    "closed before the head": Fault([], "connection broke"),
    "reset after the head": Fault([head(), "reset"], "connection broke"),
    "reset in the stream": Fault([head(), event("Hel"), 0.05, "reset"], "connection broke, in the middle", "Hel"),
    "cut in the stream": Fault(
        [head(Transfer_Encoding="chunked"), b"44\r\n" + event("Hel")[:60]], "connection broke|before it began"
    ),
    "no head": Fault(["hang"], "in time"),
    "no body": Fault([head(), "hang"], "in time"),
    "no body of an error": Fault([head("500 X", "text/plain", Content_Length="9"), "hang"], "status 500"),
    "no body of a whole reply": Fault([head(kind="application/json"), b"{", "hang"], "in time"),
    "stalls": Fault([head(), event("Hel"), "hang"], "in time, in the middle", "Hel"),
    "pings without end": Fault([head(), PING], "in time"),
    "pings after text": Fault([head(), event("Hel"), PING], "in time, in the middle", "Hel"),
    "empty events without end": Fault([head(), (event({"choices": []}), 0.02)], "in time"),
    "spaces without end": Fault([head(kind="text/plain"), (b" ", 0.02)], "in time"),
    "text without end": Fault([head(), (event("a"), 0.0)], "", "a" * 72),
    "half a JSON": Fault([head(), event("Hel"), b'data: {"choices": [\n\n'], "no JSON", "Hel"),
    "half a JSON at the end": Fault([head(), event("Hel"), b'data: {"cho'], "no JSON", "Hel"),
    "deep JSON": Fault([head(), event("Hel"), b"data: " + DEEP + b"\n\n"], "no JSON", "Hel"),
    "deep JSON as a whole": Fault(answer("200 OK", DEEP), "says"),
    "JSON that is no object": Fault([head(), event("Hel"), b"data: 7\n\n"], "no JSON object", "Hel"),
    "an error with raw quotes": Fault([head(), event("Hel"), b'data: {"error": "no "x""}\n\n'], 'no "x"', "Hel"),
    "no UTF-8": Fault([head(), event("Hel").replace(b"Hel", b"H\xffl")], "", "H\ufffdl"),
    "split UTF-8": Fault(
        [head(), *(bytes([b]) for b in 'data: {"choices": [{"text": "é😀"}]}\n\n'.encode())], "", "é😀"
    ),
    "split surrogates": Fault(
        [head(), chunk({"content": "a\ud83d"}), chunk({"content": "\ude00"}), chunk({"content": "\udc00b"})],
        "",
        "a😀\ufffdb",
    ),
    "a huge event": Fault([head(), event("Hel"), b"data: " + b"x" * 60_000], "too long", "Hel"),
    "a huge head": Fault([head(X_Long="x" * 300_000), event("Hel")], "connection broke"),
    "a compressed stream": Fault([head(Content_Encoding="gzip"), gzip.compress(b"".join(OK[1:]))], "", "Hello"),
    "broken compression": Fault([head(Content_Encoding="gzip"), b"no gzip at all"], "connection broke"),
    "another type": Fault([head(kind="text/plain"), *OK[1:]], "", "Hello"),
    "a page in place of a reply": Fault(answer("200 OK", b"<html><b>Log in</b>", "text/html"), "Log in"),
    "an error as a reply": Fault(error("200 OK", "out of memory"), "out of memory"),
    "an error in the stream": Fault([head(), event({"error": {"message": "no memory"}})], "no memory"),
    "an error after text": Fault(
        [head(), event("Hel"), event({"error": "no memory"}), b"data: [DONE]\n\n"], "no memory", "Hel"
    ),
    "nothing": Fault([head()], "before it began"),
    "nothing but the end": Fault([head(), b"data: [DONE]\n\n"], "before it began"),
    "no choices": Fault([head(), event({"choices": []}), event({"choices": [None]}), event({})], "before it began"),
    "null in every field": Fault(
        [
            head(),
            event({"choices": None, "usage": None, "error": None}),
            chunk(None),
            chunk({"content": None}),
            *OK[1:],
        ],
        "",
        "Hello",
    ),
    "numbers as texts": Fault(
        [head(), chunk({"content": "Hello"}, 5, usage={"prompt_tokens": "9"}, timings={"prompt_ms": "x"})], "", "Hello"
    ),
    "a reason that nobody knows": Fault([head(), event("Hello"), chunk({}, "so it is")], "", "Hello"),
    "aborted": Fault([head(), event("Hel"), chunk({}, "abort")], "abort", "Hel"),
    "a wrong key": Fault(error("401 Unauthorized", "no"), "does not accept"),
    "a forbidden key": Fault(error("403 Forbidden", "no"), "does not accept"),
    "an unknown model": Fault(error("404 Not Found", "no such model"), "no such model"),
    "too large": Fault(answer("413 Too Large", b"<h1>Request Entity Too Large</h1>", "text/html"), "Too Large"),
    "a refused field": Fault(
        answer("422 X", {"detail": [{"loc": ["body", "min_p"], "msg": "Extra inputs"}]}), "", "Hello", [OK]
    ),
    "a refused value": Fault(answer("422 X", {"detail": "temperature must be below 2"}), "must be below 2"),
    "too many, with a time": Fault(error("429 X", "slow down", Retry_After="0"), "", "Hello", [OK]),
    "too many for long": Fault(error("429 X", "slow down", Retry_After="77"), "slow down"),
    "too many for ever": Fault(error("429 X", "slow down"), "slow down"),
    "no money": Fault(answer("429 X", {"error": {"message": "quota", "code": "insufficient_quota"}}), "quota"),
    "broken": Fault(error("500 X", "boom"), "boom"),
    "a bad gateway": Fault(
        answer("502 Bad Gateway", b"<title>x</title><h1>502 Bad Gateway</h1>", "text/html"), "502 Bad"
    ),
    "loading": Fault(error("503 X", "Loading model"), "", "Hello", [OK]),
    "loading for ever": Fault(error("503 X", "Loading model"), "Loading model"),
    "elsewhere": Fault([head("307 X", Location="/trap/v1/chat/completions", Content_Length="0")], "redirects"),
}


@pytest.fixture(scope="module")
def server() -> Iterator[FaultServer]:
    with FaultServer({"healthy": [OK], "trap": [OK]}).serving() as server:
        yield server


@pytest.fixture(autouse=True)
def lowered(monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in LIMITS.items():
        monkeypatch.setattr(reply_stream, name, value)
    monkeypatch.setattr(reply_stream, "BUSY_PAUSE", 0.02)
    monkeypatch.setattr(event_stream, "MAX_EVENT_CHARACTERS", 50_000)
    monkeypatch.setattr(probe, "MAX_BYTES", 50_000)
    monkeypatch.setattr(probe, "MAX_SECONDS", 0.3)
    monkeypatch.setattr(replica, "PROBE_TIMEOUT", httpx.Timeout(0.4))
    monkeypatch.setattr(remote_backend, "SETTLED_SECONDS", 0.01)


def remote(url: str, name: str) -> RemoteBackend:
    return RemoteBackend(BackendSpec((ReplicaSpec(url),), name, "vllm"))


@asynccontextmanager
async def beside_a_healthy_one(server: FaultServer, url: str) -> AsyncIterator[tuple[CombinedBackend, RemoteBackend]]:
    """A backend at `url` called "ill", and one that is well."""
    ill = remote(url, "ill")
    combined = CombinedBackend([remote(f"{server.url}/healthy", "well"), ill]).start()
    try:
        async with asyncio.timeout(20):
            await asyncio.to_thread(combined.wait)
            yield combined, ill
    finally:
        await combined.close()


@dataclass
class Got:
    text: str = ""
    error: str = ""
    finish: Finish | None = None


async def ask(backend: CombinedBackend, model: str) -> Got:
    got = Got()
    try:
        async for delta in backend.stream(ChatRequest(ASKED.messages, ASKED.settings, model=model)):
            got.text, _ = delta.apply_to(got.text, "")
            got.finish = delta.finish or got.finish
            assert backend.models()
    except ChatError as error:
        got.error = str(error)
    return got


@pytest.mark.parametrize("name", FAULTS)
async def test_faults_of_a_reply(server: FaultServer, name: str) -> None:
    fault, path = FAULTS[name], re.sub(r"\W", "-", name)
    server.scripts[path] = [fault.does, *fault.then]
    async with beside_a_healthy_one(server, f"{server.url}/{path}") as (backend, ill):
        await asyncio.to_thread(ill.wait)
        got, well = await asyncio.gather(ask(backend, "ill/m"), ask(backend, "well/m"))
        assert got.text == fault.text
        assert bool(got.error) == bool(fault.says), got.error
        assert re.search(fault.says, got.error), got.error
        assert bool(got.finish) == (not fault.says)
        assert well.text == "Hello"
        assert (ill._replicas[0].outstanding, ill._admission.running) == (0, 0)
        while server.open[path]:
            await asyncio.sleep(0.01)
    assert not server.asked["trap"]


async def test_requests_that_end_together_are_made_again_behind_the_same_address(server: FaultServer) -> None:
    killed: Script = [0.2, "reset"]
    server.scripts["balancer"] = [*[killed] * 8, OK]
    async with beside_a_healthy_one(server, f"{server.url}/balancer") as (backend, _):
        for got in await asyncio.gather(*(ask(backend, "ill/m") for _ in range(8))):
            assert (got.text, got.error) == ("Hello", "")


async def test_a_server_that_fails_again_is_not_asked_a_third_time(server: FaultServer) -> None:
    server.scripts["fails-again"] = [error("500 X", "boom")]
    async with beside_a_healthy_one(server, f"{server.url}/fails-again") as (backend, _):
        assert "boom" in (await ask(backend, "ill/m")).error
        assert server.asked["fails-again"] == 2


LISTS: dict[str, tuple[Script, str]] = {
    "empty": (answer("200 OK", {"object": "list", "data": []}), "lists no model"),
    "huge": (answer("200 OK", json.dumps({"data": [{"id": "x" * 60_000}]}).encode()), "in time"),
    "without end": ([head(kind="application/json"), (b" ", 0.02)], "in time"),
    "silent": (["hang"], "in time"),
    "garbage": (answer("200 OK", b"\xff\xfe{]"), "no list of models"),
    "deep": (answer("200 OK", b"[" * 40_000), "no list of models"),
    "names": (answer("200 OK", {"data": [{"id": each} for each in (None, 7, "", "a\nb", "x" * 400)]}), "no model"),
    "page": (answer("404 Not Found", b"<h1>Not here</h1>", "text/html"), "Not here"),
    "locked": (answer("401 Unauthorized", {"error": "Unauthorized"}), "key"),
    "elsewhere": ([head("301 X", Location="http://169.254.169.254/", Content_Length="0")], "redirects"),
    "reset": (["reset"], "broke"),
}


@pytest.mark.parametrize("name", LISTS)
async def test_faults_of_a_list(server: FaultServer, name: str) -> None:
    path = f"list-{name.replace(' ', '-')}"
    server.models[path], says = LISTS[name]
    async with beside_a_healthy_one(server, f"{server.url}/{path}") as (backend, _ill):
        assert (await ask(backend, "well/m")).text == "Hello"
        while (status := backend.models()[-1]).state != "failed":
            await asyncio.sleep(0.01)
        assert status.error is not None
        assert says in status.error.message
        assert says in (await ask(backend, "ill")).error


async def test_no_server_and_no_name(server: FaultServer, monkeypatch: pytest.MonkeyPatch) -> None:
    def resolve(host: Any, *args: Any, **options: Any) -> Any:
        if host == "gone.invalid":
            raise socket.gaierror(socket.EAI_NONAME, "Name or service not known")
        return known(host, *args, **options)

    known = socket.getaddrinfo
    monkeypatch.setattr(socket, "getaddrinfo", resolve)
    with reserved_port() as port:
        for url in (f"http://127.0.0.1:{port}", "http://gone.invalid:8000"):
            async with beside_a_healthy_one(server, url) as (backend, _ill):
                assert "cannot be reached" in (await ask(backend, "ill")).error
                assert "cannot be reached" in (await ask(backend, "ill/m")).error
                assert (await ask(backend, "well/m")).text == "Hello"


async def test_the_first_request_waits_for_the_first_answer(server: FaultServer) -> None:
    backend = CombinedBackend([remote(f"{server.url}/healthy", "well")]).start()
    assert (await ask(backend, "well/m")).text == "Hello"
    await backend.close()


async def test_a_server_that_comes_back_with_another_model(server: FaultServer) -> None:
    server.scripts["restarted"] = [OK]
    async with beside_a_healthy_one(server, f"{server.url}/restarted") as (backend, ill):
        await asyncio.to_thread(ill.wait)
        server.models["restarted"] = answer("200 OK", {"data": [{"id": "other", "owned_by": "vllm"}]})
        ill._replicas[0].check()
        while backend.models()[-1].name != "ill/other":
            await asyncio.sleep(0.01)
        assert (await ask(backend, "ill/other")).text == "Hello"
        with pytest.raises(ChatError, match="not served here"):
            await ask_plainly(backend, "ill/m")


async def ask_plainly(backend: CombinedBackend, model: str) -> None:
    async for _ in backend.stream(ChatRequest(ASKED.messages, ASKED.settings, model=model)):
        pass
