"""A local Hub that also keeps Spaces: it answers the routes that create and change them.

Routes: POST /api/repos/create, POST /api/buckets/OWNER/NAME, POST /api/validate-yaml, and of /api/spaces/NAME: GET, GET
runtime, variables, secrets and tree, POST variables, secrets, hardware, sleeptime, preupload and commit, PUT volumes.
"""

import base64
import json
import re
from dataclasses import dataclass, field
from typing import Any

from starlette.requests import Request
from starlette.responses import JSONResponse
from starlette.types import Receive, Scope, Send

from tests.local_hub import LocalHub


@dataclass
class Space:
    """A Space as the Hub keeps it."""

    visibility: str = "public"
    hardware: str = "cpu-basic"
    sleep_seconds: int | None = None
    variables: dict[str, str] = field(default_factory=dict)
    secrets: dict[str, str] = field(default_factory=dict)
    volumes: list[dict[str, Any]] = field(default_factory=list)
    files: dict[str, bytes] = field(default_factory=dict)


class SpaceHub(LocalHub):
    """`spaces` by name, `buckets` by name, and `steps`: what was changed, in order. `refused` answers all changes."""

    def forget(self) -> None:
        super().forget()
        self.spaces: dict[str, Space] = {}
        self.buckets: set[str] = set()
        self.steps: list[str] = []
        self.refused: int | None = None

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        request = Request(scope, receive)
        answer = self._answer_space(request.method, request.url.path, await request.body())
        await answer(scope, receive, send)

    def _answer_space(self, method: str, path: str, body: bytes) -> JSONResponse:
        if path == "/api/validate-yaml":
            return JSONResponse({"warnings": [], "errors": []})
        if method != "GET" and self.refused:
            return JSONResponse({"error": f"refused: {body.decode()}"}, self.refused)
        if path == "/api/repos/create":
            return self._create(json.loads(body))
        if match := re.fullmatch(r"/api/buckets/([^/]+/[^/]+)", path):
            self.buckets.add(match[1])
            return JSONResponse({"url": f"{self.url}/buckets/{match[1]}", "name": match[1]})
        match = re.fullmatch(r"/api/spaces/([^/]+/[^/]+)(?:/(\w+).*)?", path)
        if match is None or match[1] not in self.spaces:
            return JSONResponse({}, 404, {"X-Error-Code": "RepoNotFound"})
        space, what = self.spaces[match[1]], match[2] or ""
        return self._read(match[1], space, what) if method == "GET" else self._change(space, what, body)

    def _create(self, body: dict[str, Any]) -> JSONResponse:
        name = f"{body['organization']}/{body['name']}"
        self.steps.append("create")
        pairs = {kind: {each["key"]: each["value"] for each in body.get(kind, [])} for kind in ("variables", "secrets")}
        visibility, hardware = body.get("visibility", "public"), body.get("hardware", "cpu-basic")
        self.spaces[name] = Space(
            visibility, hardware, body.get("sleepTimeSeconds"), **pairs, volumes=body.get("volumes", [])
        )
        return JSONResponse({"url": f"{self.url}/spaces/{name}"})

    def _read(self, name: str, space: Space, what: str) -> JSONResponse:
        runtime = {"stage": "RUNNING", "hardware": {"current": space.hardware, "requested": None}}
        answers: dict[str, Any] = {
            "": {"id": name, "sha": "0" * 40, "siblings": []},
            "runtime": {**runtime, "volumes": space.volumes},
            "variables": {key: {"value": value} for key, value in space.variables.items()},
            "secrets": {key: {} for key in space.secrets},
            "tree": [{"type": "file", "path": path, "size": 1, "oid": "0" * 40} for path in space.files],
        }
        return JSONResponse(answers[what])

    def _change(self, space: Space, what: str, body: bytes) -> JSONResponse:
        if what == "preupload":
            files = [{**file, "uploadMode": "regular", "shouldIgnore": False} for file in json.loads(body)["files"]]
            return JSONResponse({"files": files})
        self.steps.append(what)
        if what == "commit":
            return self._commit(space, [json.loads(line) for line in body.splitlines()])
        sent = json.loads(body)
        if what in ("secrets", "variables"):
            getattr(space, what)[sent["key"]] = sent["value"]
        elif what == "volumes":
            space.volumes = sent["volumes"]
        elif what == "hardware":
            space.hardware = sent["flavor"]
        space.sleep_seconds = sent.get("sleepTimeSeconds", sent.get("seconds", space.sleep_seconds))
        return self._read("", space, what if what in ("secrets", "variables") else "runtime")

    def _commit(self, space: Space, lines: list[dict[str, Any]]) -> JSONResponse:
        for line in lines:
            if line["key"] == "deletedFile":
                del space.files[line["value"]["path"]]
            elif line["key"] == "file":
                space.files[line["value"]["path"]] = base64.b64decode(line["value"]["content"])
        return JSONResponse(
            {
                "success": True,
                "commitOid": "1" * 40,
                "commitUrl": f"{self.url}/spaces/a/b/commit/{'1' * 40}",
                "hookOutput": "",
            }
        )
