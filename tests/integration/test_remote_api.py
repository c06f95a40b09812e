"""/v1 over a remote backend, whose server answers as it is told to."""

import asyncio
import contextlib
import json
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from typing import Any

import httpx
import pytest
from starlette.applications import Starlette

from chatui.api import routes
from chatui.combined_backend import CombinedBackend
from chatui.errors import ModelError
from chatui.remote import reply_stream
from chatui.remote.backend import RemoteBackend
from chatui.remote.backend_spec import BackendSpec, ReplicaSpec
from chatui.settings import AppSettings
from tests.ports import reserved_port
from tests.remote_servers import Answer, FakeServer, chunk, error, reply, serving

MODEL = {"id": "m", "object": "model", "owned_by": "vllm", "max_model_len": 1000}
CHAT = "/v1/chat/completions"
HI = {"messages": [{"role": "user", "content": "Hi"}], "seed": 1}


@asynccontextmanager
async def client_of(url: str, **spec: Any) -> AsyncIterator[httpx.AsyncClient]:
    backend = CombinedBackend([RemoteBackend(BackendSpec((ReplicaSpec(url),), "far", **spec)).start()])
    transport = httpx.ASGITransport(Starlette(routes=routes.mounts(backend, AppSettings())))
    async with httpx.AsyncClient(transport=transport, base_url="http://localhost:7860") as client:
        await asyncio.to_thread(_settle, backend)
        try:
            yield client
        finally:
            await backend.close()


def _settle(backend: CombinedBackend) -> None:
    with contextlib.suppress(ModelError):
        backend.wait()


async def answer_to(
    answers: list[Answer | Callable[[Any], Answer]], **fields: Any
) -> tuple[httpx.Response, FakeServer]:
    with serving(FakeServer(answers, [MODEL])) as server:
        async with client_of(server.url) as client:
            return await client.post(CHAT, json={**HI, **fields}), server


async def test_models_are_listed_with_what_is_told() -> None:
    with serving(FakeServer(models=[MODEL, {"id": "untold", "object": "model"}])) as server:
        async with client_of(server.url) as client:
            told, untold = (await client.get("/v1/models")).json()["data"]
    assert (told["id"], told["max_model_len"]) == ("far/m", 1000)
    assert not {"weight_bytes", "revision"} & set(told)
    assert set(untold) == {"id", "object", "created", "owned_by", "status"}


async def test_a_reply_as_a_whole_and_streamed() -> None:
    usage = {"prompt_tokens": 9, "completion_tokens": 2, "prompt_tokens_details": {"cached_tokens": 4}}
    response, server = await answer_to([reply("Hello", " you", usage=usage)], reasoning_effort="low")
    body = response.json()
    assert body["choices"][0]["message"]["content"] == "Hello you"
    assert body["usage"]["prompt_tokens_details"] == {"cached_tokens": 4}
    assert server.bodies[0]["seed"] == 1
    assert server.bodies[0]["reasoning_effort"] == "low", "the server knows whether its model has levels"
    response, _server = await answer_to([[chunk({"reasoning": "hm"}), "yes", chunk({}, "length")]], stream=True)
    events = [json.loads(line[6:]) for line in response.text.splitlines() if line.startswith("data: {")]
    deltas = [event["choices"][0]["delta"] for event in events if event["choices"]]
    assert "".join(delta.get("reasoning_content", "") for delta in deltas) == "hm"
    assert "".join(delta.get("content", "") for delta in deltas) == "yes"
    assert [event["choices"][0]["finish_reason"] for event in events if event["choices"]][-1] == "length"


async def test_usage_is_what_is_known_and_never_0() -> None:
    response, _server = await answer_to([reply("Hello")])
    assert response.json()["usage"] is None
    options = {"stream": True, "stream_options": {"include_usage": True}}
    response, _server = await answer_to([reply("Hello")], **options)
    events = [json.loads(line[6:]) for line in response.text.splitlines() if line.startswith("data: {")]
    assert [event["usage"] for event in events] == [None] * len(events)
    assert all(event["choices"] for event in events)
    response, _server = await answer_to([reply("Hello", usage={"prompt_tokens": 9, "completion_tokens": 1})], **options)
    events = [json.loads(line[6:]) for line in response.text.splitlines() if line.startswith("data: {")]
    assert (events[-1]["usage"]["prompt_tokens"], events[-1]["usage"]["prompt_tokens_details"]) == (9, None)


async def test_log_probabilities_have_the_texts_of_the_server() -> None:
    entry = {
        "token": "Hey",
        "logprob": -0.5,
        "top_logprobs": [{"token": "Hey", "logprob": -0.5}, {"token": "Yo", "logprob": -2.0}],
    }
    content = [
        [
            {
                **chunk({"content": "Hey"}),
                "choices": [{"index": 0, "delta": {"content": "Hey"}, "logprobs": {"content": [entry]}}],
            },
            chunk({}, "stop"),
        ]
    ]
    response, server = await answer_to(list(content), logprobs=True, top_logprobs=2)
    (told,) = response.json()["choices"][0]["logprobs"]["content"]
    assert (told["token"], round(told["logprob"], 3)) == ("Hey", -0.5)
    assert [each["token"] for each in told["top_logprobs"]] == ["Hey", "Yo"]
    assert server.bodies[0]["top_logprobs"] == 2


async def test_what_a_server_refused_is_noted_once() -> None:
    refused = error(
        400, {"error": {"message": "seed is not supported", "param": "seed", "code": "unsupported_parameter"}}
    )
    response, _server = await answer_to([refused, reply("yes")], logprobs=True)
    assert response.json()["notes"] == ["The server does not take seed: the reply was made without it."]


async def test_errors_keep_their_status(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(reply_stream, "MAX_BUSY_SECONDS", 0.0)
    busy = error(429, {"error": {"message": "too many"}}, Retry_After="7")
    response, _server = await answer_to([busy])
    assert (response.status_code, response.headers["retry-after"]) == (429, "7")
    long = error(
        400,
        {"error": {"message": "This model's maximum context length is 1000 tokens", "code": "context_length_exceeded"}},
    )
    response, _server = await answer_to([long])
    assert (response.status_code, response.json()["error"]["code"]) == (400, "context_length_exceeded")


async def test_a_server_that_is_away_is_a_clear_503() -> None:
    with reserved_port() as port:
        async with client_of(f"http://127.0.0.1:{port}") as client:
            response = await client.post(CHAT, json=HI)
            (listed,) = (await client.get("/v1/models")).json()["data"]
    assert response.status_code == 503
    assert "far gives no answer: it cannot be reached." in response.json()["error"]["message"]
    assert listed["status"]["failed"]
