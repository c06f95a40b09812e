"""Malformed requests for every route: a stream of them that a seed makes the same each time."""

import json
import random
import re
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from starlette.routing import Mount

JOIN = {"data": [], "fn_index": 0, "session_hash": "abc"}
CHAT = {"messages": [{"role": "user", "content": "Hi"}], "max_tokens": 2}
BESIDES = (
    "/", "//", "*", "/v1", "/v1/", "/v1/x", "/config/x", "/dev/reload", "/gradio_api/", "/gradio_api/mcp/", "/user",
    "/gradio_api/file=/etc/passwd", "/gradio_api/proxy=http://x/y", "/gradio_api/run/predict", "/login_check", "/x",
    "/gradio_api/vibe-editor/", "/docs", "http://127.0.0.1/v1/models", "/api/predict", "/gradio_api/call/chat",
)  # fmt: skip
"""Paths that no route has, or one value of a parameter that matters."""
VALUES = (
    "x", "0", "-1", "1e999", "%00", "%ff", "..", "..%2f..%2fetc%2fpasswd", "%ed%a0%80", "x%0Ay", "x" * 3000, "abc",
    "predict", "chat", "http://[", "http://127.0.0.1:1/", "/etc/passwd", "\u00e9", "%F0%9F%98%80", "fake/echo", "~",
)  # fmt: skip
"""For a parameter in a path."""
METHODS = ("GET", "POST", "PUT", "DELETE", "HEAD", "OPTIONS", "PATCH", "TRACE", "FOO", "get")
ODD: tuple[object, ...] = (
    None, True, False, 0, -1, 1.5, 10**30, 1e308, "", "x", "\x00", "\ud800", "../..", [], {}, [[]], [None], {"x": 1},
    "a" * 5000, [1] * 500, {"": None}, {"path": "/etc/passwd", "meta": {"_type": "gradio.FileData"}},
    {"__type__": "update"}, {"path": None}, {"meta": {}}, "é", "\u202e", -(2**63), float("nan"), float("inf"),
)  # fmt: skip
NAMES = (
    "data", "fn_index", "session_hash", "event_id", "trigger_id", "event_data", "api_name", "request", "batched",
    "simple_format", "messages", "model", "stream", "temperature", "max_tokens", "role", "content", "stop", "seed",
    "component_id", "fn_name", "username", "password", "time_limit", "upload_id", "key", "x", "keys", "top_p",
)  # fmt: skip
TYPES = (
    "application/json", "application/json; charset=x", "text/plain", "multipart/form-data",
    "multipart/form-data; boundary=x", 'multipart/form-data; boundary=""', "multipart/form-data; boundary=" + "b" * 300,
    "application/x-www-form-urlencoded", "", "x", "application/xml", "multipart/mixed", ";;;", "application/json,x",
)  # fmt: skip
HEADERS = (
    ("range", "bytes=x"), ("range", "bytes=99-1"), ("range", "bytes=-"), ("range", "bytes=0-1,5-2"), ("range", "x=1"),
    ("accept", "\xff"), ("accept-language", "x;q=x,;,"), ("accept-language", ";" * 3000), ("cookie", "a;=;;\xff"),
    ("cookie", "chatui=x.y; access-token=x; session=%00"), ("authorization", "Bearer"), ("authorization", "\xff"),
    ("authorization", "Basic !!!"), ("x-forwarded-for", "x"), ("x-forwarded-proto", "javascript"), ("origin", "null"),
    ("x-forwarded-host", "a,b c"), ("origin", "http://["), ("referer", "http://[::"), ("if-modified-since", "x"),
    ("if-none-match", "\xff"), ("content-encoding", "br"), ("content-encoding", "gzip"), ("if-range", "x"),
    ("x-gradio-user", "x"), ("x-gradio-target", "x"), ("user-agent", "\xff" * 300), ("expect", "x"), ("te", "x"),
    ("upgrade", "websocket"), ("connection", "upgrade"), ("accept-encoding", "x;q=9"), ("sec-fetch-site", "x"),
    ("host", ""), ("host", "["), ("host", "localhost:x"), ("x-http-method-override", "PUT"), ("content-md5", "x"),
)  # fmt: skip
TAILS = (
    "", "/", "//", "/%00", "/%ff", "/..%2f..", "%", "%zz", "/" + "a" * 3000, "/%0d%0aX:1", "/\u00e9", "/~", ";x",
    "/%ed%a0%80", "/" + "a" * 300, "/../..",
)  # fmt: skip
QUERIES = (
    "", "?", "?session_hash=x", "?session_hash", "?x=%ff", "?__theme=x", "?session_hash=%00", "?view=x&__theme=%ff",
    "?upload_id=x", "?" + "a=b&" * 500, "?%00=%00", "?logs=x", "?deep_link=x", "?deep_link=../x", "?size=x",
    "?page=\xff",
    "?id=x", "?format=x", "?all_session=x", "?serialize=x", "?__sign=x", "?redirect=//x", "?fn_index=9&fn_index=x",
)  # fmt: skip


@dataclass(frozen=True)
class Malformed:
    """One request as it goes over the wire."""

    method: str
    target: str
    headers: tuple[tuple[str, str], ...]
    body: bytes
    frame: Callable[["Malformed"], bytes] | None = None

    def sent(self) -> bytes:
        """What is written on the connection, which may be no HTTP."""
        return self.frame(self) if self.frame else self.raw()

    def raw(self) -> bytes:
        """Its bytes; the connection ends with the answer."""
        given = {name for name, _ in self.headers}
        lines = [f"{self.method} {self.target} HTTP/1.1", *(f"{name}: {value}" for name, value in self.headers)]
        if "host" not in given:
            lines.append("host: 127.0.0.1")
        if self.body:
            lines.append(f"content-length: {len(self.body)}")
        if "connection" not in given:
            lines.append("connection: close")
        return "\r\n".join(lines).encode("utf-8", "replace") + b"\r\n\r\n" + self.body


def paths_of(routes: Iterable[Any], prefix: str = "") -> Iterator[str]:
    """The paths of routes and of all that is mounted or included there."""
    for route in routes:
        if included := getattr(route, "original_router", None):
            yield from paths_of(included.routes, prefix)
            continue
        yield (path := prefix + route.path)
        if isinstance(route, Mount):
            mounted = getattr(route.app, "_router", route.app)
            yield from paths_of(getattr(mounted, "routes", ()), path)


def malformed(
    seed: int,
    count: int,
    paths: Sequence[str],
    credentials: Sequence[tuple[str, str]] = (),
    indices: int = 60,
) -> Iterator[Malformed]:
    """`count` requests to `paths`, half of them with `credentials`; `indices` is how many functions the page has."""
    chance = random.Random(seed)
    for _ in range(count):
        path = chance.choice(paths) if chance.random() < 0.9 else chance.choice(BESIDES)
        target = re.sub(r"{[^}]*}", lambda _: chance.choice(VALUES), path)
        if chance.random() < 0.25:
            target += chance.choice(TAILS)
        if chance.random() < 0.3:
            target += chance.choice(QUERIES)
        method = chance.choice(METHODS) if chance.random() < 0.4 else chance.choice(("GET", "POST"))
        headers = [chance.choice(HEADERS) for _ in range(chance.choice((0, 0, 1, 2)))]
        body = b""
        if method not in ("GET", "HEAD") or chance.random() < 0.05:
            kind = "application/json" if chance.random() < 0.6 else chance.choice(TYPES)
            headers.append(("content-type", kind))
            body = _body(chance, path, kind, indices)
        if chance.random() < 0.5:
            headers += credentials
        yield Malformed(method, target, tuple(headers), body, chance.choice(FRAMES) if chance.random() < 0.2 else None)


Frame = Callable[["Malformed"], bytes]
"""How a request goes over the wire otherwise than as HTTP has it."""


def _with(request: "Malformed", *headers: str, body: bytes = b"", version: str = "1.1") -> bytes:
    given = [f"{name}: {value}" for name, value in request.headers if name not in ("host", "connection", "upgrade")]
    lines = [f"{request.method} {request.target} HTTP/{version}", "host: 127.0.0.1", *headers, *given]
    return "\r\n".join(lines).encode("utf-8", "replace") + b"\r\n\r\n" + body


WEBSOCKET = ("connection: Upgrade", "upgrade: websocket", "sec-websocket-version: 13", "sec-websocket-key: eA==")
CHUNKED = "transfer-encoding: chunked"
FRAMES: tuple[Frame, ...] = (
    lambda request: _with(request, version="1.0"),
    lambda request: _with(request, version="0.9"),
    lambda request: _with(request, version="2.0"),
    lambda request: _with(request, version="1.1 ", body=b"x"),
    lambda request: _with(request, *WEBSOCKET),
    lambda request: _with(request, *WEBSOCKET[:2], body=b"\x81\x85"),
    lambda request: _with(request, "connection: Upgrade, HTTP2-Settings", "upgrade: h2c", "http2-settings: AAMA"),
    lambda request: request.raw().replace(b"connection: close", b"connection: keep-alive") + request.raw(),
    lambda request: _with(request, f"content-length: {len(request.body)}", body=request.body) * 4 + b"GARBAGE\r\n\r\n",
    lambda request: _with(request, CHUNKED, body=b"zz\r\n{}\r\n0\r\n\r\n"),
    lambda request: _with(request, CHUNKED, body=b"5\r\n{}\r\n0\r\n\r\n"),
    lambda request: _with(request, CHUNKED, body=b"-2\r\n{}\r\n0\r\n\r\n"),
    lambda request: _with(request, CHUNKED, body=b"2;x=" + b"y" * 9000 + b"\r\n{}\r\n0\r\n\r\n"),
    lambda request: _with(request, CHUNKED, body=b"ffffffffffffffffff\r\n{}"),
    lambda request: _with(request, CHUNKED, body=b"2\r\n{}\r\n0\r\nx: y\r\n\r\n"),
    lambda request: _with(request, CHUNKED, "content-length: 5", body=b"2\r\n{}\r\n0\r\n\r\n"),
    lambda request: _with(request, "transfer-encoding: gzip, chunked", body=b"0\r\n\r\n"),
    lambda request: _with(request, "content-length: 5", "content-length: 6", body=b"xxxxxx"),
    lambda request: _with(request, "content-length: -1", body=b"x"),
    lambda request: _with(request, "content-length: 1_0", body=b"x" * 10),
    lambda request: _with(request, "content-length: " + "9" * 400),
    lambda request: _with(request, f"content-length: {len(request.body) + 50}", body=request.body),
    lambda request: _with(request, "x: " + "y" * 70_000),
    lambda request: _with(request, *(f"x{number}: y" for number in range(3000))),
    lambda request: _with(request, "x: a\r\n b", "host: 127.0.0.1"),
    lambda request: _with(request, "x : y", ": z"),
    lambda request: _with(request, "x: \x00\x7f"),
    lambda request: request.raw()[: len(request.raw()) // 2],
    lambda request: request.raw().replace(b"\r\n", b"\n"),
    lambda request: b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03" + request.raw(),
    lambda request: b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n",
    lambda request: b"\r\n\r\n" + request.raw(),
)


def _body(chance: random.Random, path: str, kind: str, indices: int) -> bytes:
    if kind.startswith("multipart") and chance.random() < 0.8:
        return _multipart(chance)
    if kind.startswith("application/x-www") and chance.random() < 0.8:
        return chance.choice((b"username=a&password=b", b"username", b"%ff=%", b"&&&=", b"username=%00&password=\xff"))
    if chance.random() < 0.1:
        return chance.choice((b"{", b"\xff", b"\x00", b"[" * 5000, b"nul", b'"\\ud800"', b"1" * 5000, b"{}" * 3, b" "))
    sane = CHAT if path.startswith("/v1") else {**JOIN, "fn_index": chance.randrange(indices)}
    value: object = dict(sane)
    if chance.random() < 0.1:
        value = chance.choice(ODD)
    elif isinstance(value, dict):
        for _ in range(chance.choice((0, 1, 1, 2, 3))):
            value[chance.choice(NAMES)] = _odd(chance, 0)
        if chance.random() < 0.3:
            value.pop(chance.choice(list(value)), None)
        if not path.startswith("/v1") and chance.random() < 0.5:
            value["data"] = [_odd(chance, 0) for _ in range(chance.randrange(12))]
    return json.dumps(value).encode()


def _odd(chance: random.Random, depth: int) -> object:
    if depth < 3 and chance.random() < 0.2:
        return [_odd(chance, depth + 1) for _ in range(chance.randrange(4))]
    if depth < 3 and chance.random() < 0.2:
        return {chance.choice(NAMES): _odd(chance, depth + 1) for _ in range(chance.randrange(4))}
    return chance.choice(ODD)


def _multipart(chance: random.Random) -> bytes:
    name = chance.choice(("files", "x", "", "a" * 2000, "\xff"))
    file = chance.choice(
        ('; filename="a"', "", '; filename="../../x"', '; filename=""', '; filename="\x00"', "; filename")
    )
    head = f'--x\r\nContent-Disposition: form-data; name="{name}"{file}\r\n\r\n'.encode()
    whole = head + b"data\r\n--x--\r\n"
    return chance.choice((whole, head, whole[: chance.randrange(len(whole))], b"garbage", b"--x", whole * 30, b"--x--"))
