"""/v1/openapi.json has every route, method, status and field that there is, and no other."""

import asyncio
import gzip
import json
from dataclasses import replace
from typing import Any

import pytest
from starlette.testclient import TestClient
from starlette.types import ASGIApp, Message

from chatui import body_limit, server
from chatui.api import requests, routes
from chatui.api.accepted_fields import IGNORED_FIELDS, NEUTRAL_VALUES
from chatui.api.schemas import ChatCompletion, ChatCompletionChunk, ErrorResponse, Model, ModelList
from chatui.chat import ChatRequest, Finish, ModelStatus, ReplyDelta
from chatui.errors import OverloadError
from chatui.generation_settings import GenerationSettings
from chatui.settings import AppSettings
from tests.fakes import FakeBackend, prompt_of

KEY = "open-sesame"
HI = {"role": "user", "content": "Hi"}
BODY = {"messages": [HI]}
DESCRIBED = "/v1/openapi.json"


def client_of(backend: FakeBackend, **settings: Any) -> TestClient:
    """The whole application, as one on this computer asks it."""
    app = server.build_app(backend, AppSettings(**settings))
    return TestClient(app, "http://localhost:7860", client=("127.0.0.1", 5), raise_server_exceptions=False)


@pytest.fixture(scope="module")
def backend() -> FakeBackend:
    return FakeBackend(["x"], rate=1e9)


@pytest.fixture(scope="module")
def client(backend: FakeBackend) -> TestClient:
    return client_of(backend)


@pytest.fixture(scope="module")
def described(client: TestClient) -> Any:
    return client.get(DESCRIBED).json()


def test_every_route_and_method_is_described_and_no_other(described: Any, client: TestClient) -> None:
    api = routes.mounts(FakeBackend(), AppSettings())[0].app
    there = {(route.path_format, method) for route in api._router.routes for method in route.methods}  # type: ignore[attr-defined]
    documented = {(path, method.upper()) for path, methods in described["paths"].items() for method in methods}
    assert documented == there
    for path in {path for path, _ in documented}:
        endless = {"GET"} if path == "/models/sse" else set()
        for method in sorted({"GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "TRACE"} - endless):
            status = client.request(method, f"/v1{path.format(name='echo')}").status_code
            assert (status == 405) == ((path, method) not in documented), (method, path, status)


def test_every_field_is_described_and_no_other(described: Any) -> None:
    body = described["components"]["schemas"]["ChatBody"]
    assert set(body["properties"]) == requests.KNOWN_FIELDS
    assert body["additionalProperties"] is False
    assert body["required"] == ["messages"]


def test_every_field_alone_is_taken_and_refused_as_described(described: Any, client: TestClient) -> None:
    body = described["components"]["schemas"]["ChatBody"]["properties"]
    for name in requests.KNOWN_FIELDS - {"messages"}:
        assert client.post("/v1/chat/completions", json={**BODY, name: None}).status_code == 200, name
        for value in body[name].get("enum", []):
            assert client.post("/v1/chat/completions", json={**BODY, name: value}).status_code == 200, (name, value)
        odd = client.post("/v1/chat/completions", json={**BODY, name: {"x": [1]}}).status_code
        assert odd == (200 if name in IGNORED_FIELDS else 400), name
    assert {name for name in body if "enum" in body[name]} == set(NEUTRAL_VALUES)


def statuses_of(description: Any, path: str, method: str) -> set[int]:
    return {int(code) for code in description["paths"][path][method]["responses"]}


def error_statuses(backend: FakeBackend, path: str, monkeypatch: pytest.MonkeyPatch) -> set[int]:
    """Statuses that a route with a body gives, each for another reason; every refusal has the described shape."""
    client, locked = client_of(backend), client_of(backend, api_key=KEY)
    ready = backend.status
    answers = [client.post(path, json=BODY)]
    answers += [client.post(path, json={}), locked.post(path, json=BODY)]
    answers += [client.post(path, json=BODY, headers={"Origin": "https://evil.example"})]
    answers += [client.post(path, json={**BODY, "model": "nope"}), client.post(path, content=b"x")]
    answers += [
        client.post(path, content=b"[" + b"1," * body_limit.MAX_JSON_VALUES, headers={"Content-Type": "text/plain"})
    ]
    packed = {"Content-Type": "application/json", "Content-Encoding": "br"}
    answers += [client.post(path, content=gzip.compress(json.dumps(BODY).encode()), headers=packed)]
    for broken in (OverloadError("Too many are waiting."), RuntimeError("inside")):
        backend.before = [broken]
        answers.append(client.post(path, json=BODY))
    backend.before = []
    backend.status = ModelStatus("fake/echo", "loading", "weights")
    answers.append(client.post(path, json=BODY))
    backend.status = replace(ready)
    for answer in answers:
        assert answer.status_code == 200 or ErrorResponse.model_validate(answer.json())
    monkeypatch.setattr(body_limit, "READ_TIMEOUT_SECONDS", 0.01)
    return {asyncio.run(status_without_body(client.app, path)), *(answer.status_code for answer in answers)}


async def status_without_body(app: ASGIApp, path: str) -> int:
    """The status for a body that does not come."""
    sent: list[Message] = []

    async def receive() -> Message:
        return await asyncio.Future()

    async def send(message: Message) -> None:
        sent.append(message)

    headers = [(b"host", b"localhost"), (b"content-length", b"5"), (b"content-type", b"application/json")]
    scope = {"type": "http", "method": "POST", "path": path, "headers": headers, "client": ("127.0.0.1", 5)}
    await app({**scope, "query_string": b"", "scheme": "http", "http_version": "1.1"}, receive, send)
    return int(sent[0]["status"])


@pytest.mark.parametrize("path", ["/chat/completions", "/chat/completions/"])
def test_every_status_is_described_and_each_that_is_happens(
    described: Any, path: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    backend = FakeBackend(["x"], rate=1e9)
    assert error_statuses(backend, f"/v1{path}", monkeypatch) == statuses_of(described, path, "post")


@pytest.mark.parametrize("stream", [False, True])
def test_every_reply_has_the_described_shape(stream: bool) -> None:
    prompt = replace(prompt_of(ChatRequest((), GenerationSettings())), notes=("A system message was folded.",))
    finish = ReplyDelta(finish=Finish("length", 10, 4, 7, 0.5, 1.5, 2.5, cached_tokens=6))
    backend = FakeBackend([ReplyDelta(prompt=prompt), ReplyDelta(reasoning="Hm."), "x", finish])
    backend.before = [ReplyDelta(prompt=prompt)]
    asked = {**BODY, "stream": stream, "stream_options": {"include_usage": True}}
    answer = client_of(backend).post("/v1/chat/completions", json=asked)
    if not stream:
        whole = ChatCompletion.model_validate(answer.json())
        assert whole.notes
        assert whole.choices[0].message.reasoning_content == "Hm."
        return
    events = [line.removeprefix("data: ") for line in answer.text.split("\n\n") if line.startswith("data: ")]
    assert events.pop() == "[DONE]"
    chunks = [ChatCompletionChunk.model_validate_json(event) for event in events]
    assert any(chunk.notes for chunk in chunks)
    assert chunks[-1].usage is not None


def test_models_have_the_described_shape(client: TestClient) -> None:
    listed = ModelList.model_validate(client.get("/v1/models").json())
    assert Model.model_validate(client.get(f"/v1/models/{listed.data[0].id}").json()) == listed.data[0]


def test_only_those_who_may_ask_are_told() -> None:
    locked = client_of(FakeBackend(), api_key=KEY)
    assert locked.get(DESCRIBED).status_code == 401
    document = locked.get(DESCRIBED, headers={"Authorization": f"Bearer {KEY}"}).json()
    assert document["security"] == [{"key": []}]
    assert KEY not in json.dumps(document)


def test_a_path_of_a_proxy_is_told() -> None:
    response = client_of(FakeBackend(), api_key=KEY, root_path="/chat").get(
        DESCRIBED, headers={"Authorization": f"Bearer {KEY}"}
    )
    assert response.json()["servers"] == [{"url": "/chat/v1"}]


@pytest.mark.parametrize(("field", "value"), [("max_tokens", 5.0), ("top_k", 40.0), ("seed", 7.0)])
def test_a_whole_number_may_be_written_with_a_point(client: TestClient, field: str, value: float) -> None:
    assert client.post("/v1/chat/completions", json={**BODY, field: value}).status_code == 200
    assert client.post("/v1/chat/completions", json={**BODY, field: value + 0.5}).status_code == 400


def test_thoughts_sent_back_are_text_under_either_name(client: TestClient) -> None:
    for name, other in (("reasoning", "reasoning_content"), ("reasoning_content", "reasoning")):
        messages = [HI, {"role": "assistant", "content": "x", name: 5, other: "y"}, HI]
        assert client.post("/v1/chat/completions", json={"messages": messages}).status_code == 400
