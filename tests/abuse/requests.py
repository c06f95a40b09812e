"""Malformed requests for every route: a stream of them that a seed makes the same each time."""

import json
import random
from collections.abc import Iterator
from dataclasses import dataclass

JOIN = {"data": [], "fn_index": 0, "session_hash": "abc"}
CHAT = {"messages": [{"role": "user", "content": "Hi"}], "max_tokens": 2}
PATHS = (
    "/", "/login", "/logout", "/login_check", "/token", "/config", "/healthz", "/livez", "/early", "/theme.css",
    "/manifest.json", "/robots.txt", "/user", "/app_id", "/dev/reload", "/svelte/x", "/favicon.ico", "/pwa_icon",
    "/v1/models", "/v1/models/x", "/v1/chat/completions", "/v1/openapi.json", "/v1/", "/v1", "/assets/x",
    "/static/x", "/chatui/x", "/monitoring", "/gradio_api/info", "/gradio_api/openapi.json",
    "/gradio_api/queue/join", "/gradio_api/queue/data", "/gradio_api/queue/status", "/gradio_api/run/predict",
    "/gradio_api/run/x", "/gradio_api/api/x", "/gradio_api/api/predict", "/gradio_api/call/x", "/gradio_api/call/x/y",
    "/gradio_api/upload", "/gradio_api/upload_progress", "/gradio_api/cancel", "/gradio_api/reset",
    "/gradio_api/heartbeat/x", "/gradio_api/file=x", "/gradio_api/file=/etc/passwd", "/gradio_api/file/x",
    "/gradio_api/stream/x/y/z", "/gradio_api/stream/x/y/0/playlist.m3u8", "/gradio_api/component_server",
    "/gradio_api/custom_component/x/y/z/w", "/gradio_api/proxy=http://x/y", "/gradio_api/proxy=x",
    "/gradio_api/process_recording", "/gradio_api/deep_link", "/gradio_api/vibe-editor/", "/gradio_api/mcp/",
    "/gradio_api/monitoring/x", "/gradio_api/startup-events", "/gradio_api/app_id", "/gradio_api/login",
    "/gradio_api/token", "/gradio_api/config", "/config/x", "/gradio_api/simple_predict/x",
)  # fmt: skip
METHODS = ("GET", "POST", "PUT", "DELETE", "HEAD", "OPTIONS", "PATCH", "TRACE", "FOO", "get")
ODD = (
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


def malformed(seed: int, count: int, indices: int = 60) -> Iterator[Malformed]:
    """`count` requests; `indices` is how many functions the page has."""
    chance = random.Random(seed)
    for _ in range(count):
        path = chance.choice(PATHS)
        target = path
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
        yield Malformed(method, target, tuple(headers), body)


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
