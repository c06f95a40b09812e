import asyncio
import contextlib
import gzip
import json
import socket
import threading
import time
import zlib
from collections.abc import Iterable, Iterator
from pathlib import Path

import httpx
import pytest
from hypothesis import given
from hypothesis import strategies as st
from starlette.requests import Request
from starlette.responses import JSONResponse
from starlette.types import Message, Receive, Scope, Send

from chatui import body_limit
from chatui.body_limit import (
    MAX_BODY_BYTES,
    MAX_FORM_BYTES,
    MAX_JSON_VALUES,
    UPLOAD,
    BodyLimit,
    RefusedError,
    check_json_size,
)
from chatui.server import build_app
from chatui.settings import AppSettings
from tests.fakes import FakeBackend
from tests.visitors import served

PIECE = 2**16
JSON = "application/json"
FILE = "multipart/form-data; boundary=x"
FILE_HEAD = b'--x\r\nContent-Disposition: form-data; name="files"; filename="a.bin"\r\n\r\n'
ROUTES = [
    "/",
    "/login",
    "/v1/chat/completions",
    "/gradio_api/queue/join",
    "/gradio_api/run/predict",
    "/healthz",
    UPLOAD,
]


class Wrapped:
    """The limit around an application that tells what it was given; it may be asked without any server."""

    def __init__(self) -> None:
        self.given: list[bytes] = []
        self.limit = BodyLimit(self._app)

    async def _app(self, scope: Scope, receive: Receive, send: Send) -> None:
        body = await Request(scope, receive).body()
        self.given.append(body)
        await JSONResponse(len(body))(scope, receive, send)

    async def ask(self, pieces: Iterable[bytes], kind: str = JSON, path: str = "/any", **headers: str) -> int:
        """The status of the answer; 0 where there is none. Pieces are taken only as they are asked for."""
        coming = iter([*pieces]) if isinstance(pieces, list) else iter(pieces)
        sent: list[Message] = []

        async def receive() -> Message:
            piece = next(coming, None)
            if piece is None:
                return {"type": "http.request", "body": b"", "more_body": False}
            return {"type": "http.request", "body": piece, "more_body": True}

        async def send(message: Message) -> None:
            sent.append(message)

        named = {"content-type": kind, **({} if "content_length" in headers else {"transfer-encoding": "chunked"})}
        named |= {name.replace("_", "-"): value for name, value in headers.items()}
        raw = [(name.encode(), value.encode()) for name, value in named.items()]
        scope = {"type": "http", "method": "POST", "path": path, "headers": raw, "query_string": b""}
        await self.limit(scope, receive, send)
        return int(sent[0]["status"]) if sent else 0


def ask(pieces: Iterable[bytes], kind: str = JSON, path: str = "/any", **headers: str) -> tuple[int, list[bytes]]:
    wrapped = Wrapped()
    return asyncio.run(wrapped.ask(pieces, kind, path, **headers)), wrapped.given


def endless(taken: list[int]) -> Iterator[bytes]:
    while True:
        taken.append(PIECE)
        yield b" " * PIECE


@pytest.mark.parametrize("path", ["/any", "/v1/chat/completions", "/gradio_api/queue/join", UPLOAD])
@pytest.mark.parametrize("kind", [JSON, "text/plain", "", "application/x-www-form-urlencoded"])
def test_a_body_without_end_is_not_read_on(path: str, kind: str) -> None:
    taken: list[int] = []
    assert ask(endless(taken), kind, path) == (413, [])
    assert sum(taken) <= MAX_BODY_BYTES + PIECE


def test_what_is_announced_too_large_is_not_read_at_all() -> None:
    for length in (MAX_BODY_BYTES + 1, 10**9, 10**40):
        taken: list[int] = []
        assert ask(endless(taken), content_length=str(length)) == (413, [])
        assert taken == []


def test_a_form_is_small_unless_it_is_an_upload() -> None:
    form = [b"x" * (MAX_FORM_BYTES + 1)]
    assert ask(form, FILE, "/login")[0] == 413
    assert ask(form, FILE, "/gradio_api/component_server")[0] == 413
    assert ask(form, FILE, UPLOAD)[0] == 200


@given(st.lists(st.binary(max_size=40).map(lambda part: part.replace(b"\0", b"")), max_size=8))
def test_what_is_let_through_is_what_came(pieces: list[bytes]) -> None:
    assert ask(pieces) == (200, [b"".join(pieces)])


def test_a_client_that_leaves_early_is_not_answered() -> None:
    wrapped = Wrapped()

    async def receive() -> Message:
        return {"type": "http.disconnect"}

    async def send(_: Message) -> None:
        raise AssertionError

    scope = {"type": "http", "method": "POST", "path": "/", "headers": [(b"content-length", b"5")]}
    asyncio.run(wrapped.limit(scope, receive, send))
    assert wrapped.given == []


@pytest.mark.parametrize(
    "body",
    [
        b"[],",
        b'"",',
        b"1,",
        b'{"a":1},',
        b'"\\\\",',
        b'"\\"",[],',
        '"ü\\u0022",'.encode(),
    ],
)
def test_many_small_values_are_refused_before_they_are_read(body: bytes) -> None:
    whole = b"[" + body * (MAX_JSON_VALUES + 1) + b"1]"
    assert ask([whole])[0] == 413


@pytest.mark.parametrize("text", ["a,b,[c],{d}" * 100_000, '\\"' * 500_000, "[" * 1_000_000, "\\" * 500_000])
def test_text_is_not_taken_for_values(text: str) -> None:
    body = json.dumps({"data": [text]}).encode()
    assert ask([body]) == (200, [body])


@given(st.recursive(st.none() | st.text(), lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner)))
def test_no_json_has_more_values_than_are_counted(value: object) -> None:
    def count(value: object) -> int:
        if isinstance(value, dict):
            return 1 + sum(1 + count(inner) for inner in value.values())
        return 1 + sum(map(count, value)) if isinstance(value, list) else 1

    with pytest.MonkeyPatch.context() as patch:
        for form in (json.dumps(value), json.dumps(value, ensure_ascii=False, indent=1)):
            patch.setattr(body_limit, "MAX_JSON_VALUES", count(value) * 2)
            check_json_size(form.replace("\0", "").encode("utf-8", "replace"))  # a legal one passes
            patch.setattr(body_limit, "MAX_JSON_VALUES", 0)
            if isinstance(value, dict | list | str):
                with pytest.raises(RefusedError):
                    check_json_size(form.encode("utf-8", "replace"))


def test_json_in_another_encoding_does_not_slip_by() -> None:
    assert ask([json.dumps(["x"]).encode("utf-16")])[0] == 400


def test_quotes_without_an_end_take_no_longer_than_others() -> None:
    """Linear: four times as much takes about four times as long, not sixteen."""
    for part in (b'"', b'\\"', b'"\\', b'""\\\\"'):
        spent = []
        for size in (250_000, 1_000_000):
            body, seconds = part * size, []
            for _ in range(3):
                start = time.thread_time()
                with contextlib.suppress(RefusedError):
                    check_json_size(body)
                seconds.append(time.thread_time() - start)
            spent.append(min(seconds))
        assert spent[1] < 12 * spent[0] + 0.02


def test_gzip_is_unpacked_as_far_as_the_limit() -> None:
    body = json.dumps({"a": "b" * 1000}).encode()
    assert ask([gzip.compress(body)], content_encoding="gzip") == (200, [body])
    bomb = gzip.compress(b" " * (64 * MAX_BODY_BYTES))
    assert len(bomb) < MAX_BODY_BYTES
    assert ask([bomb], content_encoding="gzip") == (413, [])
    assert ask([gzip.compress(b"[]," * MAX_JSON_VALUES)], content_encoding="gzip")[0] == 413
    assert ask([b"no gzip"], content_encoding="gzip")[0] == 400
    assert ask([gzip.compress(body)[:-9]], content_encoding="gzip")[0] == 400
    assert ask([zlib.compress(body)], content_encoding="deflate") == (200, [body])
    assert ask([body], content_encoding="br")[0] == 415


def test_a_body_that_drips_is_refused_and_one_on_a_slow_line_is_not(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(body_limit, "READ_TIMEOUT_SECONDS", 0.3)

    async def dripped(pieces: int, size: int) -> int:
        wrapped = Wrapped()
        sent: list[Message] = []
        left = pieces

        async def receive() -> Message:
            nonlocal left
            await asyncio.sleep(0.05 if left < pieces else 0.0)
            left -= 1
            return {"type": "http.request", "body": b" " * size, "more_body": left > 0}

        async def send(message: Message) -> None:
            sent.append(message)

        headers = [(b"transfer-encoding", b"chunked")]
        await wrapped.limit({"type": "http", "method": "POST", "path": "/", "headers": headers}, receive, send)
        assert bool(wrapped.given) == (sent[0]["status"] == 200)
        return int(sent[0]["status"])

    assert asyncio.run(dripped(1000, 1)) == 408
    assert asyncio.run(dripped(20, 20_000)) == 200


def test_large_bodies_that_wait_together_have_a_limit(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(body_limit, "MAX_BUFFERED_BYTES", 3 * PIECE)

    async def crowd() -> None:
        wrapped = Wrapped()
        go = asyncio.Event()

        async def held(size: int) -> int:
            answers: list[Message] = []
            pieces = [b" " * size, b""]

            async def receive() -> Message:
                if len(pieces) == 1:
                    await go.wait()
                return {"type": "http.request", "body": pieces.pop(0), "more_body": bool(pieces)}

            async def send(message: Message) -> None:
                answers.append(message)

            scope = {"type": "http", "method": "POST", "path": "/", "headers": [(b"content-length", b"9")]}
            await wrapped.limit(scope, receive, send)
            return int(answers[0]["status"])

        large = [asyncio.create_task(held(2 * PIECE)) for _ in range(5)]
        await asyncio.sleep(0)
        small = [asyncio.create_task(held(1000)) for _ in range(20)]
        for _ in range(50):  # until each waits or is refused
            await asyncio.sleep(0)
        go.set()
        assert sorted(await asyncio.gather(*large)) == [200] * 3 + [503] * 2
        assert await asyncio.gather(*small) == [200] * 20
        assert await wrapped.ask([b" " * 2 * PIECE]) == 200

    asyncio.run(crowd())


# --- The whole application, over sockets ---


@pytest.fixture(scope="module")
def url(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    settings = AppSettings(data_dir=tmp_path_factory.mktemp("bodies"), auth="ada:secret")
    with served(build_app(FakeBackend(), settings)) as address:
        yield address


def answered(url: str, head: str, body: Iterable[bytes]) -> int:
    """The status of the first answer, however far the body has come by then; 0 without one."""
    host, _, port = url.removeprefix("http://").partition(":")
    with socket.create_connection((host, int(port)), timeout=30) as connection:
        connection.sendall(f"{head}\r\nHost: {host}:{port}\r\n\r\n".encode())
        thread = threading.Thread(target=_poured, args=(connection, body), daemon=True)
        thread.start()
        line = connection.recv(4096)
    return int(line.split()[1]) if line else 0


def _poured(connection: socket.socket, body: Iterable[bytes]) -> None:
    with contextlib.suppress(OSError):
        for piece in body:
            connection.sendall(piece)


def chunked(piece: bytes, times: int) -> Iterator[bytes]:
    for _ in range(times):
        yield b"%x\r\n%s\r\n" % (len(piece), piece)
    yield b"0\r\n\r\n"


@pytest.mark.parametrize("kind", [JSON, FILE, "application/x-www-form-urlencoded"])
@pytest.mark.parametrize("path", ROUTES)
def test_every_route_refuses_too_much_before_login(url: str, path: str, kind: str) -> None:
    head = f"POST {path} HTTP/1.1\r\nContent-Type: {kind}\r\n"
    refused = {401, 413} if path == UPLOAD else {413}  # nothing of an upload is read before the login
    assert answered(url, head + "Content-Length: 1000000000", []) in refused
    assert answered(url, head + "Transfer-Encoding: chunked", chunked(b"[]," * 20_000, 200)) in refused


def test_every_route_refuses_what_drips(url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(body_limit, "READ_TIMEOUT_SECONDS", 0.1)
    for path in ROUTES:
        refused = {401, 408} if path == UPLOAD else {408}
        for kind in (JSON, FILE):
            head = f"POST {path} HTTP/1.1\r\nContent-Type: {kind}\r\nContent-Length: 1000"
            assert answered(url, head, [b" "]) in refused, path


def test_deep_json_is_a_plain_refusal(url: str) -> None:
    deep = b"[" * 100_000 + b"]" * 100_000
    client = httpx.Client(base_url=url)
    client.post("/login", data={"username": "ada", "password": "secret"}).raise_for_status()
    for path in ROUTES:
        status = client.post(path, content=deep, headers={"content-type": JSON}).status_code
        assert 400 <= status < 500, path


def wait_for_files(folder: Path, count: int) -> None:
    deadline = time.monotonic() + 60
    while sum(file.is_file() for file in folder.rglob("*")) != count:
        assert time.monotonic() < deadline
        time.sleep(0.01)


def test_an_upload_that_is_refused_leaves_nothing(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("GRADIO_TEMP_DIR", str(tmp_path / "uploads"))
    monkeypatch.setattr(body_limit, "MAX_UPLOAD_BYTES", 10 * PIECE)
    kept = tmp_path / "uploads"
    with served(build_app(FakeBackend(), AppSettings(data_dir=tmp_path))) as url:
        head = f"POST {UPLOAD} HTTP/1.1\r\nContent-Type: {FILE}\r\nTransfer-Encoding: chunked"
        first_chunk = next(chunked(FILE_HEAD, 1))
        assert answered(url, head, [first_chunk, *chunked(b"x" * PIECE, 40)]) == 413
        assert httpx.post(f"{url}{UPLOAD}", files={"files": ("a.bin", b"fine")}).status_code == 200
        with monkeypatch.context() as impatient:
            impatient.setattr(body_limit, "READ_TIMEOUT_SECONDS", 0.2)
            assert answered(url, head, [first_chunk]) == 408
        wait_for_files(kept, 1)
        host, _, port = url.removeprefix("http://").partition(":")
        with socket.create_connection((host, int(port))) as leaving:
            leaving.sendall(f"{head}\r\nHost: {host}\r\n\r\n".encode() + first_chunk)
            wait_for_files(kept, 2)
        wait_for_files(kept, 1)
        assert [file.name for file in kept.rglob("*") if file.is_file()] == ["a.bin"]
