"""A small Hub on loopback that answers the routes which huggingface_hub calls, and can misbehave on request.

Routes: GET /api/models, GET /api/models/NAME[/revision/REVISION][?expand=|?blobs=], GET /api/models/NAME/tree/REVISION,
HEAD and GET /NAME/resolve/REVISION/FILE, GET /api/datasets/NAME/tree/REVISION/FOLDER,
GET /datasets/NAME/resolve/REVISION/FILE, GET /filter as the dataset viewer has it. Large files are redirected to
/cdn/SHA256 on another host name, as on the Hub:
https://huggingface.co/docs/hub/api
"""

import asyncio
import hashlib
import json
import re
import socket
import threading
from collections import Counter
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import uvicorn
from starlette.requests import Request
from starlette.types import Receive, Scope, Send

STORED_APART = (".safetensors", ".gguf", ".bin")
"""Suffixes of files that the Hub keeps in large file storage."""
PIECE = 16_384


@dataclass
class Repository:
    """A model on the local Hub. `facts` are further fields of its info, by the names that the Hub uses."""

    name: str
    files: dict[str, bytes]
    gated: bool = False
    private: bool = False
    xet: bool = False
    facts: dict[str, Any] = field(default_factory=dict)

    @property
    def commit(self) -> str:
        listing = sorted((path, hashlib.sha1(data).hexdigest()) for path, data in self.files.items())
        return hashlib.sha1(json.dumps([self.name, listing]).encode()).hexdigest()

    def etag(self, path: str) -> str:
        data = self.files[path]
        if path.endswith(STORED_APART):
            return hashlib.sha256(data).hexdigest()
        return hashlib.sha1(b"blob %d\0" % len(data) + data).hexdigest()

    def sibling(self, path: str, with_sizes: bool) -> dict[str, Any]:
        entry: dict[str, Any] = {"rfilename": path}
        if with_sizes:
            size = len(self.files[path])
            entry |= {"size": size, "blobId": self.etag(path)}
            if path.endswith(STORED_APART):
                entry |= {"lfs": {"size": size, "sha256": self.etag(path), "pointerSize": 130}}
        return entry

    def info(self, expand: list[str], with_sizes: bool) -> dict[str, Any]:
        every = {
            "author": self.name.split("/")[0],
            "sha": self.commit,
            "gated": "auto" if self.gated else False,
            "private": self.private,
            "siblings": [self.sibling(path, with_sizes) for path in self.files],
            "tags": [],
            "downloads": 0,
            "likes": 0,
            **self.facts,
        }
        return {"id": self.name, **{key: value for key, value in every.items() if not expand or key in expand}}


@dataclass
class Fault:
    """What happens to the next `times` requests whose "METHOD path" matches `pattern`.

    `status` and `headers` are answered at once. `cut` is the byte of the body after which the connection is cut.
    `hold` is the byte after which no more comes until `released`; 0 is before the status. `damage` flips a byte.
    """

    pattern: str
    times: int = 1
    status: int | None = None
    headers: dict[str, str] = field(default_factory=dict)
    cut: int | None = None
    hold: int | None = None
    damage: bool = False
    no_ranges: bool = False
    delay: float = 0.0
    reached: threading.Event = field(default_factory=threading.Event)
    released: threading.Event = field(default_factory=threading.Event)


@dataclass(frozen=True)
class Seen:
    """A request as it came."""

    method: str
    path: str
    query: str
    host: str
    range: str | None
    token: str | None


class LocalHub:
    """The ASGI application. `seen` are all requests, `served` the body bytes sent by path."""

    def __init__(self) -> None:
        self.url = ""
        self.stopped = threading.Event()
        self.faults: list[Fault] = []
        self.forget()

    def forget(self) -> None:
        """Be empty again, as at the start."""
        self.repositories: dict[str, Repository] = {}
        self.renamed: dict[str, str] = {}
        self.datasets: dict[str, dict[str, bytes]] = {}
        self.rows: dict[tuple[str, str], list[dict[str, Any]]] = {}
        """The answers of the dataset viewer by dataset and condition."""
        self.tokens: dict[str, set[str]] = {}
        """The names of the private and gated models that each token may read."""
        self.page_size = 1000
        self.seen: list[Seen] = []
        self.served: Counter[str] = Counter()
        self.heal()

    def add(self, name: str, files: Mapping[str, bytes], **fields: Any) -> Repository:
        repository = Repository(name, dict(files), **fields)
        self.repositories[name] = repository
        return repository

    def fault(self, pattern: str, **fields: Any) -> Fault:
        fault = Fault(pattern, **fields)
        self.faults.append(fault)
        return fault

    def heal(self) -> None:
        """End all faults, and let go of what they hold."""
        faults, self.faults = self.faults, []
        for fault in faults:
            fault.released.set()

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        assert scope["type"] == "http"
        request = Request(scope, receive)
        path = request.url.path
        token = request.headers.get("authorization", "").removeprefix("Bearer ") or None
        seen = Seen(
            request.method, path, request.url.query, request.url.hostname or "", request.headers.get("range"), token
        )
        self.seen.append(seen)
        fault = self._fault(f"{request.method} {path}")
        if fault and fault.delay:
            await asyncio.sleep(fault.delay)
        if fault and fault.hold == 0:
            await self._hold(request, fault)
        if fault and fault.status is not None:
            await self._answer(request, send, (fault.status, fault.headers, b"{}"))
            return
        status, headers, body = self._respond(request, token, fault)
        await self._answer(request, send, (status, headers, b"" if request.method == "HEAD" else body), fault)

    def _fault(self, line: str) -> Fault | None:
        for fault in self.faults:
            if fault.times > 0 and re.search(fault.pattern, line):
                fault.times -= 1
                return fault
        return None

    async def _hold(self, request: Request, fault: Fault) -> None:
        fault.reached.set()
        while not (fault.released.is_set() or self.stopped.is_set() or await request.is_disconnected()):
            await asyncio.sleep(0.005)

    async def _answer(
        self, request: Request, send: Send, answer: tuple[int, Mapping[str, str], bytes], fault: Fault | None = None
    ) -> None:
        status, headers, body = answer
        raw = [(key.lower().encode(), value.encode()) for key, value in headers.items()]
        if not any(key == b"content-length" for key, _ in raw):
            raw.append((b"content-length", str(len(body)).encode()))
        await send({"type": "http.response.start", "status": status, "headers": raw})
        cut = fault.cut if fault and fault.cut is not None else len(body)
        hold = fault.hold if fault and fault.hold else None
        position = 0
        while position < min(cut, len(body)) and not await request.is_disconnected():
            end = min(position + PIECE, cut, len(body))
            if hold is not None and position < hold:
                end = min(end, hold)
            await send({"type": "http.response.body", "body": body[position:end], "more_body": True})
            self.served[request.url.path] += end - position
            position = end
            if fault and hold == position:
                await self._hold(request, fault)
        if position == len(body):
            await send({"type": "http.response.body", "body": b"", "more_body": False})
        # Otherwise the body is shorter than Content-Length, and uvicorn closes the connection.

    def _respond(self, request: Request, token: str | None, fault: Fault | None) -> tuple[int, dict[str, str], bytes]:
        path = request.url.path
        if token is not None and token not in self.tokens:
            return 401, {"X-Error-Message": "Invalid credentials in Authorization header"}, b"{}"
        if path.startswith("/cdn/"):
            return self._file(request, self._stored(path.removeprefix("/cdn/")), {}, fault)
        if path == "/filter" or "/datasets/" in path:
            return self._dataset(request)
        return self._search(request) if path == "/api/models" else self._repository(request, token, fault)

    def _repository(
        self, request: Request, token: str | None, fault: Fault | None
    ) -> tuple[int, dict[str, str], bytes]:
        path = request.url.path
        api = re.fullmatch(r"/api/models/([^/]+/[^/]+|[^/]+?)(?:/(revision|tree)/([^/]+)(?:/(.*))?)?", path)
        resolve = re.fullmatch(r"/([^/]+/[^/]+)/resolve/([^/]+)/(.+)", path)
        match = api or resolve
        if match is None:
            return 404, {}, b"{}"
        name = match[1]
        if name in self.renamed:
            return 307, {"Location": path.replace(name, self.renamed[name], 1) + _query(request)}, b""
        repository = self.repositories.get(name)
        allowed = self.tokens.get(token or "", set())
        if repository is None or (repository.private and name not in allowed):
            return 404 if token else 401, {"X-Error-Code": "RepoNotFound"}, b"{}"
        revision = (match[3] if api else match[2]) or "main"
        if revision not in ("main", repository.commit):
            return 404, {"X-Error-Code": "RevisionNotFound"}, b"{}"
        if api:
            return self._api(request, repository, match[2])
        if repository.gated and name not in allowed:
            return 403 if token else 401, {"X-Error-Code": "GatedRepo", "X-Repo-Commit": repository.commit}, b"{}"
        return self._resolve(request, repository, match[3], fault)

    def _api(self, request: Request, repository: Repository, what: str | None) -> tuple[int, dict[str, str], bytes]:
        if what == "tree":
            entries = []
            for path, data in repository.files.items():
                entry: dict[str, Any] = {"type": "file", "path": path, "size": len(data), "oid": repository.etag(path)}
                if path.endswith(STORED_APART):
                    entry["lfs"] = {"oid": repository.etag(path), "size": len(data), "pointerSize": 130}
                entries.append(entry)
            return _json(entries)
        expand = request.query_params.getlist("expand")
        return _json(repository.info(expand, "blobs" in request.query_params))

    def _resolve(
        self, request: Request, repository: Repository, path: str, fault: Fault | None
    ) -> tuple[int, dict[str, str], bytes]:
        headers = {"X-Repo-Commit": repository.commit}
        if path not in repository.files:
            return 404, {**headers, "X-Error-Code": "EntryNotFound"}, b"{}"
        etag, data = repository.etag(path), repository.files[path]
        if not path.endswith(STORED_APART):
            return self._file(request, data, {**headers, "ETag": f'"{etag}"'}, fault)
        headers |= {"X-Linked-Size": str(len(data)), "X-Linked-ETag": f'"{etag}"'}
        if repository.xet:
            refresh = f"{self.url}/api/models/{repository.name}/xet-read-token/{repository.commit}"
            headers |= {"X-Xet-Hash": etag, "X-Xet-Refresh-Route": refresh}
        other_host = self.url.replace("127.0.0.1", "localhost")
        return 302, {**headers, "Location": f"{other_host}/cdn/{etag}"}, b""

    def _stored(self, sha256: str) -> bytes:
        return next(
            data
            for repository in self.repositories.values()
            for path, data in repository.files.items()
            if repository.etag(path) == sha256
        )

    def _dataset(self, request: Request) -> tuple[int, dict[str, str], bytes]:
        query = request.query_params
        if request.url.path == "/filter":
            rows = self.rows.get((query["dataset"], query["where"]), [])
            return _json({"features": [], "rows": [{"row_idx": 0, "row": row} for row in rows]})
        match = re.fullmatch(r"(?:/api)?/datasets/([^/]+/[^/]+)/(tree|resolve)/main/(.+)", request.url.path)
        files = self.datasets.get(match[1]) if match else None
        if match is None or files is None:
            return 404, {"X-Error-Code": "RepoNotFound"}, b"{}"
        if match[2] == "resolve":
            return 200, {"Content-Type": "application/json"}, files[match[3]]
        found = [path for path in files if path.startswith(f"{match[3]}/")]
        if not found:
            return 404, {"X-Error-Code": "EntryNotFound"}, b"{}"
        return _json([{"type": "file", "path": path, "size": len(files[path]), "oid": "0" * 40} for path in found])

    def _file(
        self, request: Request, data: bytes, headers: dict[str, str], fault: Fault | None
    ) -> tuple[int, dict[str, str], bytes]:
        whole = len(data)
        if fault and fault.damage:
            data = bytes([data[0] ^ 1]) + data[1:]
        requested = re.fullmatch(r"bytes=(\d+)-", request.headers.get("range", ""))
        if requested is None or (fault and fault.no_ranges):
            return 200, {**headers, "Content-Length": str(whole), "Accept-Ranges": "bytes"}, data
        start = int(requested[1])
        if start >= whole:
            return 416, {**headers, "Content-Range": f"bytes */{whole}"}, b""
        span = f"bytes {start}-{whole - 1}/{whole}"
        return 206, {**headers, "Content-Length": str(whole - start), "Content-Range": span}, data[start:]

    def _search(self, request: Request) -> tuple[int, dict[str, str], bytes]:
        query = request.query_params
        found = [repository for repository in self.repositories.values() if not repository.private]
        if query.get("search"):
            found = [repository for repository in found if query["search"].lower() in repository.name.lower()]
        if query.get("pipeline_tag"):
            found = [found_ for found_ in found if found_.facts.get("pipeline_tag") == query["pipeline_tag"]]
        for tag in query.getlist("filter"):
            found = [repository for repository in found if tag in repository.facts.get("tags", ())]
        if "gated" in query:
            found = [repository for repository in found if repository.gated == (query["gated"].lower() == "true")]
        if key := query.get("sort"):
            found.sort(key=lambda repository: repository.facts.get(key) or 0, reverse=True)
        start = int(query.get("cursor", 0))
        end = start + min(int(query.get("limit", self.page_size)), self.page_size)
        status, headers, body = _json(
            [found_.info(query.getlist("expand"), False) | {"modelId": found_.name} for found_ in found[start:end]]
        )
        if end < len(found):
            headers["Link"] = f'<{request.url.include_query_params(cursor=end)}>; rel="next"'
        return status, headers, body


def _json(value: Any) -> tuple[int, dict[str, str], bytes]:
    return 200, {"Content-Type": "application/json"}, json.dumps(value).encode()


def _query(request: Request) -> str:
    return f"?{request.url.query}" if request.url.query else ""


class _Server(uvicorn.Server):
    def __init__(self, config: uvicorn.Config) -> None:
        super().__init__(config)
        self.ready = threading.Event()

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        await super().startup(sockets)
        self.ready.set()


@contextmanager
def served(hub: LocalHub | None = None) -> Iterator[LocalHub]:
    """Serve a local Hub on a free port in a thread."""
    hub = hub or LocalHub()
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        hub.url = f"http://127.0.0.1:{listener.getsockname()[1]}"
        config = uvicorn.Config(hub, log_level="critical", timeout_graceful_shutdown=1, ws="none", lifespan="off")
        server = _Server(config)
        thread = threading.Thread(target=server.run, kwargs={"sockets": [listener]}, daemon=True)
        thread.start()
        assert server.ready.wait(60)
        try:
            yield hub
        finally:
            hub.heal()
            hub.stopped.set()
            server.should_exit = server.force_exit = True
            thread.join(60)
