"""The /v1 routes over a scripted backend: in bodies by hand, and as the real `openai` client sees them."""

import asyncio
import contextlib
import gzip
import json
import math
import socket
import threading
import time
import zlib
from collections.abc import AsyncGenerator, Callable, Iterator
from dataclasses import replace
from typing import Any
from unittest.mock import AsyncMock

import httpx2
import openai
import pytest
import uvicorn
from hypothesis import given
from hypothesis import settings as examples
from hypothesis import strategies as st
from pydantic import ValidationError
from starlette.applications import Starlette
from starlette.datastructures import Headers
from starlette.testclient import TestClient
from starlette.types import Message as Event

from chatui import attempt_limiter, server
from chatui.api import access, model_events, reply_stream, requests, routes, schemas
from chatui.api.accepted_fields import FIELD_ALIASES
from chatui.api.responses import ApiError
from chatui.body_limit import MAX_BODY_BYTES
from chatui.chat import ChatRequest, Finish, LoadOptions, Message, ModelStatus, Prompt, ReplyDelta
from chatui.errors import GenerationError, ModelError, OverloadError, TooLongError
from chatui.generation_settings import GenerationSettings
from chatui.settings import AppSettings
from chatui.thinking_controls import ThinkingControls
from tests.fakes import INFO, FakeBackend, Hold

KEY = "sesame-open"
HI: dict[str, Any] = {"role": "user", "content": "Hi"}
CHAT = "/v1/chat/completions"
PATIENCE = 5.0
FINISH = Finish("length", 10, 4, 7, 0.5, 1.5, 2.5, cached_tokens=6, reasoning_tokens=2)


def app_of(backend: FakeBackend, **values: object) -> Starlette:
    return Starlette(routes=routes.mounts(backend, AppSettings.model_validate(values)))


def client_of(
    backend: FakeBackend, base: str = "http://localhost:7860", address: str = "127.0.0.1", **values: object
) -> TestClient:
    return TestClient(app_of(backend, **values), base, client=(address, 5), raise_server_exceptions=False)


def ask(backend: FakeBackend, **fields: object) -> httpx2.Response:
    return post(backend, json.dumps({"messages": [HI], **fields}))


def post(backend: FakeBackend, body: str | bytes, kind: str = "application/json") -> httpx2.Response:
    return client_of(backend).post(CHAT, content=body, headers={"Content-Type": kind})


def refused(response: httpx2.Response, status: int, param: str | None = None, code: str | None = None) -> str:
    """The error's message; it must have OpenAI's shape."""
    assert response.status_code == status, response.text
    error = response.json()["error"]
    assert set(error) == {"message", "type", "param", "code"}
    assert (error["param"], error["code"] if code else None) == (param, code)
    return str(error["message"])


def events_of(text: str) -> list[Any]:
    lines = [line.removeprefix("data: ") for line in text.split("\n\n") if line.startswith("data: ")]
    return [line if line == "[DONE]" else json.loads(line) for line in lines]


async def eventually(check: Callable[[], bool]) -> None:
    async with asyncio.timeout(PATIENCE):
        while not check():
            await asyncio.sleep(0.005)


@contextlib.contextmanager
def served(backend: FakeBackend, **values: object) -> Iterator[str]:
    """The address of a real server, its page too."""
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        app = server.build_app(backend, AppSettings.model_validate(values))
        running = uvicorn.Server(uvicorn.Config(app, log_level="critical", timeout_graceful_shutdown=1))
        thread = threading.Thread(target=running.run, kwargs={"sockets": [listener]})
        thread.start()
        try:
            deadline = time.monotonic() + 30
            while not running.started and time.monotonic() < deadline:
                time.sleep(0.02)
            yield f"http://127.0.0.1:{listener.getsockname()[1]}"
        finally:
            running.should_exit = True
            thread.join(20)


class Connection:
    """One POST by a client that can leave; `sent` is what it gets, unless its connection is broken."""

    def __init__(self, backend: FakeBackend, broken: bool = False, **fields: object) -> None:
        self._broken = broken
        self.sent: list[Event] = []
        self.left = asyncio.Event()
        self._body: bytes | None = json.dumps({"messages": [HI], **fields}).encode()
        headers = {"host": "localhost", "content-type": "application/json"}
        scope = {
            "type": "http",
            "method": "POST",
            "path": CHAT,
            "root_path": "",
            "query_string": b"",
            "headers": [(name.encode(), value.encode()) for name, value in headers.items()],
            "client": ("127.0.0.1", 5),
        }
        self.answering = asyncio.create_task(app_of(backend)(scope, self._receive, self._send))

    @property
    def text(self) -> str:
        return b"".join(event.get("body", b"") for event in self.sent).decode()

    async def _receive(self) -> Event:
        if self._body is not None:
            body, self._body = self._body, None
            return {"type": "http.request", "body": body, "more_body": False}
        await self.left.wait()
        return {"type": "http.disconnect"}

    async def _send(self, event: Event) -> None:
        if self._broken:
            raise OSError("broken")
        self.sent.append(dict(event))


# Replies


def test_a_whole_reply() -> None:
    backend = FakeBackend([ReplyDelta(reasoning="Hm."), "Hel", "lo", ReplyDelta(finish=FINISH)])
    response = ask(backend)
    assert response.status_code == 200
    assert response.headers["cache-control"] == "no-store"
    body = response.json()
    assert body["id"].startswith("chatcmpl-")
    assert (body["object"], body["model"]) == ("chat.completion", "fake/echo")
    assert abs(body["created"] - time.time()) < 60
    choice = body["choices"][0]
    assert choice["message"] == {
        "role": "assistant",
        "content": "Hello",
        "reasoning_content": "Hm.",
        "refusal": None,
    }
    assert choice["finish_reason"] == "length"
    assert body["usage"] == {
        "prompt_tokens": 10,
        "completion_tokens": 4,
        "total_tokens": 14,
        "prompt_tokens_details": {"cached_tokens": 6},
        "completion_tokens_details": {"reasoning_tokens": 2},
    }
    assert body["timings"] == {"queue_seconds": 0.5, "prefill_seconds": 1.5, "decode_seconds": 2.5, "seed": 7}


@pytest.mark.parametrize("reason", ["stop_token", "stop_string", "cancelled"])
def test_other_ends_are_stop(reason: Any) -> None:
    backend = FakeBackend(["x", ReplyDelta(finish=replace(FINISH, reason=reason))])
    assert ask(backend).json()["choices"][0]["finish_reason"] == "stop"
    assert events_of(ask(backend, stream=True).text)[-2]["choices"][0]["finish_reason"] == "stop"


@pytest.mark.parametrize("usage", [True, False])
def test_a_streamed_reply(usage: bool) -> None:
    backend = FakeBackend([ReplyDelta(reasoning="Hm."), "Hé", "\u2028", "lo", ReplyDelta(finish=FINISH)])
    response = ask(backend, stream=True, stream_options={"include_usage": usage})
    assert response.headers["content-type"].startswith("text/event-stream")
    assert response.headers["cache-control"] == "no-store"
    assert "\u2028" not in response.text
    *chunks, done = events_of(response.text)
    assert done == "[DONE]"
    assert len({chunk["id"] for chunk in chunks}) == 1
    assert {chunk["object"] for chunk in chunks} == {"chat.completion.chunk"}
    if usage:
        last = chunks.pop()
        assert last["choices"] == []
        assert last["usage"]["prompt_tokens_details"] == {"cached_tokens": 6}
        assert all(chunk["usage"] is None for chunk in chunks)
    else:
        assert not any("usage" in chunk for chunk in chunks)
    assert chunks[0]["choices"][0]["delta"]["role"] == "assistant"
    deltas = [chunk["choices"][0]["delta"] for chunk in chunks]
    assert "".join(delta.get("content", "") for delta in deltas) == "Hé\u2028lo"
    assert "".join(delta.get("reasoning_content", "") for delta in deltas) == "Hm."
    assert [chunk["choices"][0]["finish_reason"] for chunk in chunks] == [None] * (len(chunks) - 1) + ["length"]
    assert chunks[-1]["timings"]["seed"] == 7


@pytest.mark.parametrize("stream", [False, True])
def test_a_thought_that_shows_only_at_its_end_is_reasoning(stream: bool) -> None:
    fold = ReplyDelta("Yes", reasoning_remainder="m.\n")
    backend = FakeBackend(["\nH", fold, " sir", ReplyDelta(finish=FINISH)])
    response = ask(backend, stream=stream)
    if not stream:
        message = response.json()["choices"][0]["message"]
        assert (message["content"], message["reasoning_content"]) == ("Yes sir", "Hm.")
        return
    *chunks, _done = events_of(response.text)
    deltas = [chunk["choices"][0]["delta"] for chunk in chunks]
    assert "".join(delta.get("content", "") for delta in deltas).removeprefix("\nH") == "Yes sir"
    assert "".join(delta.get("reasoning_content", "") for delta in deltas) == "Hm."
    notes = [note for chunk in chunks for note in chunk.get("notes", [])]
    assert bool(notes) == any(delta.get("content") == "\nH" for delta in deltas)


class Unpaced(FakeBackend):
    """Sends its whole script at once, and no finish of its own."""

    async def stream(self, request: ChatRequest) -> AsyncGenerator[ReplyDelta]:
        for piece in self.replies[0]:  # type: ignore[union-attr]
            yield piece if isinstance(piece, ReplyDelta) else ReplyDelta(text=str(piece))


def test_deltas_that_wait_are_gathered_into_one_chunk() -> None:
    chunks = events_of(ask(Unpaced([*"abcdefgh", ReplyDelta(finish=FINISH)]), stream=True).text)
    assert [event["choices"][0]["delta"].get("content") for event in chunks[:-1]] == ["", "abcdefgh", None]


async def test_text_is_sent_as_soon_as_it_is_there() -> None:
    hold = Hold()
    connection = Connection(FakeBackend(["first", hold, "second"]), stream=True)
    await eventually(lambda: "first" in connection.text)
    assert "second" not in connection.text
    hold.release()
    await asyncio.wait_for(connection.answering, PATIENCE)
    assert "second" in connection.text


async def test_progress_is_told_in_comments() -> None:
    hold = Hold()
    connection = Connection(FakeBackend([ReplyDelta(prefilled_tokens=512), hold, "x"]), stream=True)
    await eventually(lambda: ": read 512\n\n" in connection.text)
    hold.release()
    await connection.answering
    assert events_of(connection.text)[-1] == "[DONE]"


async def test_a_long_wait_keeps_the_connection(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(routes, "HOLD_SECONDS", 0.03)
    monkeypatch.setattr(routes, "KEEP_ALIVE_SECONDS", 0.03)
    hold = Hold()
    backend = FakeBackend(["x"])
    backend.before = [ReplyDelta(queue_position=3), hold]
    connection = Connection(backend, stream=True)
    await eventually(lambda: ": place 3\n\n" in connection.text and ": waiting\n\n" in connection.text)
    hold.release()
    await asyncio.wait_for(connection.answering, PATIENCE)
    assert events_of(connection.text)[-1] == "[DONE]"


# Clients that leave


@pytest.mark.parametrize("stream", [False, True])
@pytest.mark.parametrize("waiting", [False, True], ids=["writing", "waiting"])
async def test_a_client_that_leaves_cancels_its_reply(stream: bool, waiting: bool) -> None:
    backend = FakeBackend(["one", Hold()])
    if waiting:
        backend.before = [ReplyDelta(queue_position=1), Hold()]
    connection = Connection(backend, stream=stream)
    await eventually(lambda: backend.running == 1 and (waiting or backend.last_piece_at > 0))
    assert backend.cancelled == 0
    connection.left.set()
    await eventually(lambda: backend.cancelled == 1)
    assert backend.running == 0
    await asyncio.wait_for(connection.answering, PATIENCE)


async def test_a_cancelled_answer_cancels_its_reply() -> None:
    backend = FakeBackend(["one", Hold()])
    connection = Connection(backend, stream=True)
    await eventually(lambda: "one" in connection.text)
    connection.answering.cancel()
    await eventually(lambda: backend.cancelled == 1)


async def test_leaving_counts_more_than_deltas_that_wait() -> None:
    left = asyncio.Event()

    async def receive() -> Event:
        await left.wait()
        return {"type": "http.disconnect"}

    backend = FakeBackend(["one", Hold()])
    watched = reply_stream.ReplyStream(backend.stream(ChatRequest((), GenerationSettings())), receive)
    await eventually(lambda: backend.last_piece_at > 0)
    left.set()
    for _ in range(50):  # until it is noticed
        await asyncio.sleep(0)
    with pytest.raises(reply_stream.ClientGoneError):
        await watched.batch(PATIENCE)
    await watched.aclose()
    assert backend.cancelled == 1


def test_a_finished_reply_is_not_cancelled() -> None:
    backend = FakeBackend()
    for stream in (False, True):
        assert ask(backend, stream=stream).status_code == 200
    assert (backend.running, backend.cancelled) == (0, 0)


async def test_a_broken_connection_cancels_its_reply() -> None:
    backend = FakeBackend(["one", Hold()])
    connection = Connection(backend, broken=True, stream=True)
    await asyncio.wait_for(connection.answering, PATIENCE)
    assert (backend.running, backend.cancelled) == (0, 1)


# Errors of the backend


def test_a_full_queue_is_429_with_the_time_to_wait() -> None:
    backend = FakeBackend()
    backend.before = [OverloadError("Too many are waiting.", retry_after=17)]
    for stream in (False, True):
        response = ask(backend, stream=stream)
        assert "Too many" in refused(response, 429, code="rate_limit_exceeded")
        assert response.headers["retry-after"] == "17"


@pytest.mark.parametrize("queue_position", [None, 2])
def test_a_prompt_that_is_too_long_is_400_even_from_the_queue(queue_position: int | None) -> None:
    backend = FakeBackend()
    places = [ReplyDelta(queue_position=queue_position)] if queue_position else []
    backend.before = [*places, TooLongError("It takes 9,000 tokens; there is room for 4,000.")]
    for stream in (False, True):
        message = refused(ask(backend, stream=stream), 400, "messages", "context_length_exceeded")
        assert "9,000" in message
        assert "4,000" in message


def test_a_model_that_is_not_there_is_503() -> None:
    backend = FakeBackend()
    backend.status = ModelStatus("m", "loading", "reading weights")
    response = ask(backend)
    assert "reading weights" in refused(response, 503)
    assert int(response.headers["retry-after"]) > 0
    assert client_of(backend).get("/v1/models").json()["data"][0]["id"] == "m"
    backend.status = ModelStatus("m", "failed", error=ModelError("Too big.", "Buy memory."))
    assert refused(ask(backend), 503) == "Too big. Buy memory."


def test_what_nobody_foresaw_tells_nothing_of_the_inside(caplog: pytest.LogCaptureFixture) -> None:
    backend = FakeBackend()
    backend.before = [RuntimeError("/secret/path")]
    for stream in (False, True):
        response = ask(backend, stream=stream)
        assert refused(response, 500)
        assert "secret" not in response.text
        assert "/secret/path" in caplog.text
        caplog.clear()


@pytest.mark.parametrize("error", [GenerationError("The logits are NaN."), RuntimeError("/secret/path")])
def test_an_error_in_mid_stream_ends_it(error: Exception) -> None:
    response = ask(FakeBackend(["some", error]), stream=True)
    assert response.status_code == 200
    *_, error_event, last = events_of(response.text)
    assert error_event["choices"][0]["delta"] == {"content": "some"}
    assert last["error"]["type"] == "server_error"
    assert ("NaN" in response.text) == isinstance(error, GenerationError)
    assert "secret" not in response.text
    refused(ask(FakeBackend(["some", error])), 500)


def test_a_reply_without_a_finish_is_an_error() -> None:
    cut = Unpaced(["half"])
    assert "early" in refused(ask(cut), 500)
    assert events_of(ask(cut, stream=True).text)[-1]["error"]["type"] == "server_error"


# Requests


def test_what_a_request_leaves_out_is_the_models_default() -> None:
    backend = FakeBackend()
    defaults = GenerationSettings(temperature=0.25, top_k=40, stop=("END",))
    backend.status = replace(backend.status, info=replace(INFO, defaults=defaults))
    ask(backend)
    request = backend.requests[-1]
    assert request.settings == defaults.model_copy(update={"max_new_tokens": 0})
    assert request.messages == (Message("user", "Hi"),)
    assert (request.model, request.user, request.no_truncation, request.ignore_eos) == (
        "fake/echo",
        "api:127.0.0.1",
        True,
        False,
    )
    ask(backend, temperature=1, stop=None, seed=None)
    assert backend.requests[-1].settings == defaults.model_copy(update={"temperature": 1.0, "max_new_tokens": 0})
    capped = defaults.model_copy(update={"max_new_tokens": 512})
    backend.status = replace(backend.status, info=replace(INFO, defaults=capped))
    ask(backend)
    assert backend.requests[-1].settings == capped


def test_every_setting_can_be_asked_for_in_both_dialects() -> None:
    backend = FakeBackend()
    asked: dict[str, Any] = {
        "temperature": 1.5,
        "top_p": 0.5,
        "seed": 3,
        "top_k": 5,
        "min_p": 0.1,
        "repetition_penalty": 1.2,
    }
    asked |= {"no_repeat_ngram_size": 3, "thinking_budget": 20}
    for name in ("max_tokens", "max_completion_tokens", "max_new_tokens"):
        assert ask(backend, **asked, stop=["a", "b"], ignore_eos=True, **{name: 9}).status_code == 200
        request = backend.requests[-1]
        assert request.settings == GenerationSettings(**asked, max_new_tokens=9, stop=("a", "b"))
        assert request.ignore_eos
    assert {*asked, "stop", "max_new_tokens", "thinking"} == set(GenerationSettings.model_fields)
    ask(backend, stop="END")
    assert backend.requests[-1].settings.stop == ("END",)


def test_two_spellings_of_one_setting_must_agree() -> None:
    backend = FakeBackend()
    assert ask(backend, max_tokens=5, max_completion_tokens=5).status_code == 200
    assert ask(backend, max_tokens=5, max_completion_tokens=None).status_code == 200
    assert backend.requests[-1].settings.max_new_tokens == 5
    refused(ask(backend, repetition_penalty=1.1, repeat_penalty=1.2), 400, "repeat_penalty")
    refused(ask(backend, max_tokens=1, max_completion_tokens=True), 400, "max_completion_tokens")


@pytest.mark.parametrize("name", sorted(GenerationSettings.model_fields))
def test_whole_numbers_may_be_written_with_a_point(name: str) -> None:
    backend = FakeBackend(["x"])
    status = ask(backend, **{name: 1.0}).status_code
    assert status == (400 if name in ("stop", "thinking") else 200)
    if status == 200:
        assert getattr(backend.requests[0].settings, name) == 1


@pytest.mark.parametrize("caps", [(5, 6), (6, 5), (-1, 5), (5, 32000), (5.0, 5)])
def test_of_two_caps_the_lower_one_holds(caps: tuple[float, float]) -> None:
    backend = FakeBackend()
    assert ask(backend, max_tokens=caps[0], max_completion_tokens=caps[1]).status_code == 200
    assert backend.requests[-1].settings.max_new_tokens == 5


NUMBERS = [
    *("max_tokens", "max_completion_tokens", "n", "frequency_penalty", "presence_penalty", "top_logprobs"),
    *(name for name in GenerationSettings.model_fields if name not in ("stop", "thinking")),
]
SCHEMA_CHANGES = {
    ("max_new_tokens", -1): 0,
    ("thinking_budget", -1): 0,
    ("thinking_budget", 0): 1,
    ("thinking_budget", 10**30): 32768,
    ("thinking_budget", 1e9): 32768,
    ("max_new_tokens", 10**30): 8192,
    ("max_new_tokens", 1e9): 8192,
    ("top_k", -1): 0,
    ("seed", -1): None,
}
"""What else a number means that is no value of the setting: off, or a cap above the limit."""
HOSTILE: st.SearchStrategy[object] = st.sampled_from(
    [-1, 0, 1, 1e9, 10**30, "1", None, True, [], {}, [[]], 0.5, math.inf, -math.inf, math.nan]
)


@given(st.dictionaries(st.sampled_from(NUMBERS), HOSTILE, min_size=1, max_size=2))
@examples(max_examples=3 * examples().max_examples)
def test_a_hostile_number_is_refused_by_name_or_does_what_it_says(fields: dict[str, Any]) -> None:
    backend = FakeBackend(["x"], rate=1e9)
    body = json.dumps({"messages": [HI], **fields})
    response = post(backend, body)
    if response.status_code == 400:
        error = response.json()["error"]
        assert error["param"] in fields
        assert fields[error["param"]] is not None
        assert error["param"] in error["message"]
        assert not backend.requests
        return
    assert response.status_code == 200
    settings = backend.requests[0].settings
    for name, value in fields.items():
        name = FIELD_ALIASES.get(name, name)
        if value is not None and name in GenerationSettings.model_fields:
            assert getattr(settings, name) == SCHEMA_CHANGES.get((name, value), value)
            assert not isinstance(value, bool)


@pytest.mark.parametrize("text", ["NaN", "-Infinity", "1e999"])
def test_numbers_that_are_no_json_are_refused(text: str) -> None:
    for field in ("temperature", "top_p", "max_tokens", "n"):
        body = f'{{"messages": [{json.dumps(HI)}], "{field}": {text}}}'
        response = post(FakeBackend(), body)
        refused(response, 400, field)
    body = f'{{"messages": [{json.dumps(HI)}], "metadata": {{"x": {text}}}}}'
    response = post(FakeBackend(), body)
    assert response.status_code == (200 if text == "1e999" else 400)


HARMLESS = {
    **{"n": 1, "frequency_penalty": 0, "presence_penalty": 0.0, "logprobs": False, "top_logprobs": 0, "store": False},
    **{"tools": [], "tool_choice": "auto", "response_format": {"type": "text"}, "logit_bias": {}, "user": "ada"},
    **{"metadata": {"a": "b"}, "service_tier": "auto", "parallel_tool_calls": True, "modalities": ["text"]},
    **{"safety_identifier": "x", "prompt_cache_key": "x", "stream_options": {"include_obfuscation": False}},
}


def test_what_asks_for_nothing_is_taken() -> None:
    backend = FakeBackend()
    assert ask(backend, **HARMLESS).status_code == 200
    plain = backend.requests[-1]
    nulls = dict.fromkeys(requests.KNOWN_FIELDS - {"messages"})
    assert ask(backend, **nulls).status_code == 200
    assert backend.requests[-1] == plain


CLIENTS: dict[str, dict[str, Any]] = {
    "vLLM": {
        **{
            "top_k": -1,
            "seed": -1,
            "min_tokens": 0,
            "skip_special_tokens": True,
            "best_of": 1,
            "use_beam_search": False,
        },
        **{"length_penalty": 1.0, "stop_token_ids": [], "chat_template_kwargs": {}, "include_reasoning": True},
    },
    "llama.cpp": {
        **{
            "max_tokens": -1,
            "cache_prompt": True,
            "timings_per_token": True,
            "reasoning_format": "auto",
            "mirostat": 0,
        },
        **{"repeat_penalty": 1.0, "typical_p": 1, "xtc_probability": 0, "dry_multiplier": 0.0, "return_progress": True},
    },
    "OpenAI": {
        **{
            "service_tier": "flex",
            "store": True,
            "metadata": {"a": "b"},
            "reasoning_effort": "medium",
            "moderation": None,
        },
        **{"verbosity": "medium", "prompt_cache_key": "k", "prompt_cache_options": {"mode": "implicit"}, "n": 1.0},
        **{"parallel_tool_calls": False, "tools": [], "tool_choice": "none", "response_format": {"type": "text"}},
        **{"modalities": ["text"], "prediction": None, "logit_bias": {}, "stop": None, "temperature": 1, "seed": 7.0},
        **{"stream_options": {"include_usage": None, "include_obfuscation": True}, "max_completion_tokens": 10},
    },
    "llama.cpp's page": {
        **{"dynatemp_range": 0, "dynatemp_exponent": 1, "xtc_threshold": 0.1, "typ_p": 1, "repeat_last_n": 64},
        **{"dry_base": 1.75, "dry_allowed_length": 2, "dry_penalty_last_n": -1, "samplers": [], "top_n_sigma": -1},
        **{"backend_sampling": False, "reasoning_format": "auto", "timings_per_token": True, "reasoning_budget": -1},
    },
    "Ollama": {"keep_alive": "5m", "options": {}, "format": "", "think": True, "num_predict": -1},
    "LM Studio": {"ttl": 300, "draft_model": "x", "top_k": 40, "repeat_penalty": 1.1},
    "Mistral": {"safe_prompt": False, "random_seed": 7, "prompt_mode": None},
    "DeepSeek": {"thinking": {"type": "enabled"}, "logprobs": False, "top_logprobs": None, "stop": []},
    "Qwen": {"enable_thinking": True, "chat_template_kwargs": {"enable_thinking": True}},
    "xAI": {"search_parameters": {"mode": "off"}, "deferred": False},
    "text-generation-webui": {
        **{"penalty_alpha": 0, "guidance_scale": 1, "negative_prompt": "", "custom_token_bans": "", "tfs": 1},
        **{"repetition_penalty_range": 1024, "epsilon_cutoff": 0, "ban_eos_token": False, "mirostat_mode": 0},
    },
    "a large cap": {"max_tokens": 32000, "stop": ""},
    "OpenRouter": {
        **{"provider": {"order": ["x"]}, "models": [], "route": "fallback", "reasoning": {"exclude": False}},
        **{"transforms": [], "usage": {"include": True}, "plugins": [], "seed": 2**40, "stop": ["", "END"]},
    },
}


@pytest.mark.parametrize("client", CLIENTS)
def test_what_other_servers_clients_send_is_accepted_where_it_changes_nothing(client: str) -> None:
    backend = FakeBackend()
    response = ask(backend, **CLIENTS[client])
    assert response.status_code == 200, response.text


def test_a_model_that_does_not_think_has_no_thinking_to_leave_out_or_to_measure_out() -> None:
    backend = FakeBackend()
    assert INFO.template is not None
    backend.status = replace(backend.status, info=replace(INFO, template=replace(INFO.template, thinks=False)))
    sent: dict[str, Any]
    for effort in ("none", "minimal", "low", "medium", "high", "xhigh", "max"):
        for sent in ({"reasoning_effort": effort}, {"reasoning": {"effort": effort}}, {"think": effort}):
            assert ask(backend, **sent).status_code == 200, sent
    for sent in ({"think": False}, {"thinking": {"type": "disabled"}}, {"chat_template_kwargs": {"thinking": False}}):
        assert ask(backend, **sent).status_code == 200, sent
    assert "does not think" in refused(ask(backend, think=True), 400, "think", "unsupported_parameter")


QWEN = ThinkingControls(switch="enable_thinking", closes=True)
GPT_OSS = ThinkingControls(effort="reasoning_effort", levels=("low", "medium", "high"), closes=True)
MISTRAL = ThinkingControls(effort="reasoning_effort", levels=("none", "high"), closes=True)


def thinking_backend(controls: ThinkingControls) -> FakeBackend:
    backend = FakeBackend()
    assert INFO.template is not None
    backend.status = replace(backend.status, info=replace(INFO, template=replace(INFO.template, controls=controls)))
    return backend


@pytest.mark.parametrize(
    ("controls", "sent", "thinking"),
    [
        (QWEN, {"chat_template_kwargs": {"enable_thinking": False}}, "off"),
        (QWEN, {"chat_template_kwargs": {"enable_thinking": True}, "enable_thinking": True}, "on"),
        (QWEN, {"reasoning_effort": "none"}, "off"),
        (QWEN, {"reasoning_effort": "medium"}, "auto"),
        (QWEN, {"think": False, "thinking": {"type": "disabled"}}, "off"),
        (QWEN, {"thinking": "on"}, "on"),
        (GPT_OSS, {"reasoning_effort": "high"}, "high"),
        (GPT_OSS, {"reasoning_effort": "medium"}, "medium"),
        (GPT_OSS, {"chat_template_kwargs": {"reasoning_effort": "low"}}, "low"),
        (GPT_OSS, {"reasoning": {"effort": "low", "enabled": True}}, "low"),
        (MISTRAL, {"reasoning_effort": "none"}, "off"),
    ],
)
def test_thinking_is_what_was_asked_where_the_template_knows_it(
    controls: ThinkingControls, sent: dict[str, Any], thinking: str
) -> None:
    backend = thinking_backend(controls)
    response = ask(backend, **sent)
    assert response.status_code == 200, response.text
    assert backend.requests[-1].settings.thinking == thinking


@pytest.mark.parametrize(
    ("controls", "field", "value", "reason"),
    [
        (GPT_OSS, "reasoning_effort", "none", "cannot be switched off"),
        (GPT_OSS, "reasoning_effort", "minimal", "low, medium, high"),
        (QWEN, "reasoning_effort", "high", "no levels"),
        (QWEN, "chat_template_kwargs", {"enable_thinking": "no"}, "true or false"),
        (QWEN, "chat_template_kwargs", {"enable_thinking": 0}, "true or false"),
        (QWEN, "chat_template_kwargs", {"chat_template": "{{ x }}"}, "template takes enable_thinking"),
        (QWEN, "chat_template_kwargs", {"tools": [], "messages": []}, "not supported"),
        (QWEN, "chat_template_kwargs", {"tokenize": True}, "not supported"),
        (QWEN, "chat_template_kwargs", {"\ud800" * 500: 1}, "not supported"),
        (QWEN, "chat_template_kwargs", ["enable_thinking"], "must be an object"),
        (QWEN, "chat_template_kwargs", {"reasoning_effort": {"a": 1}}, "must be one of"),
        (QWEN, "chat_template_kwargs", {"thinking_budget": "9"}, "number of tokens"),
        (ThinkingControls(), "thinking_budget", 9, "cannot be limited"),
        (QWEN, "thinking", {"kind": "enabled"}, "not supported"),
    ],
)
def test_thinking_that_the_template_does_not_know_is_refused(
    controls: ThinkingControls, field: str, value: object, reason: str
) -> None:
    backend = thinking_backend(controls)
    assert reason in refused(ask(backend, **{field: value}), 400, field)
    assert not backend.requests


def test_two_fields_about_thinking_must_agree() -> None:
    backend = thinking_backend(QWEN)
    contradiction = {"enable_thinking": True, "reasoning_effort": "none"}
    assert "contradicts" in refused(ask(backend, **contradiction), 400, "reasoning_effort")


def test_how_far_back_a_penalty_looks_counts_only_where_there_is_one() -> None:
    backend = FakeBackend()
    assert ask(backend, repeat_last_n=64, repeat_penalty=1.0).status_code == 200
    refused(ask(backend, repeat_last_n=64, repeat_penalty=1.1), 400, "repeat_last_n", "unsupported_parameter")
    assert ask(backend, repeat_last_n=-1, repeat_penalty=1.1).status_code == 200


def test_caps_and_switches_mean_what_other_servers_mean_by_them() -> None:
    backend = FakeBackend()
    meanings: list[tuple[dict[str, Any], str, object]] = [
        ({"max_tokens": 32000}, "max_new_tokens", 8192),
        ({"max_completion_tokens": 10**30}, "max_new_tokens", 8192),
        ({"n_predict": -1}, "max_new_tokens", 0),
        ({"reasoning_budget": 0}, "thinking_budget", 1),
        ({"thinking_token_budget": 64}, "thinking_budget", 64),
        ({"reasoning": {"max_tokens": 100}}, "thinking_budget", 100),
        ({"thinking": {"type": "enabled", "budget_tokens": 100}}, "thinking_budget", 100),
        ({"random_seed": 7}, "seed", 7),
        ({"max_tokens": 8191}, "max_new_tokens", 8191),
        ({"top_k": -1}, "top_k", 0),
        ({"seed": -1}, "seed", None),
        ({"seed": 2**32 + 7}, "seed", 7),
        ({"repeat_penalty": 1.2}, "repetition_penalty", 1.2),
        ({"stop": ["", "END"]}, "stop", ("END",)),
        ({"stop": ""}, "stop", ()),
    ]
    for sent, setting, meant in meanings:
        assert ask(backend, **sent).status_code == 200, sent
        assert getattr(backend.requests[-1].settings, setting) == meant


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("n", 2),
        ("n", True),
        ("frequency_penalty", 0.1),
        ("presence_penalty", -1),
        ("logprobs", 5),
        ("top_logprobs", 1),
        ("top_logprobs", 21),
        ("top_logprobs", -1),
        ("top_logprobs", True),
        ("logprobs", 0),
        ("tools", [{"type": "function"}]),
        ("tool_choice", "required"),
        ("response_format", {"type": "json_object"}),
        ("logit_bias", {"5": 100}),
        ("modalities", ["text", "audio"]),
        ("reasoning_effort", "high"),
        ("reasoning_effort", "none"),
        ("reasoning_effort", "much"),
        ("reasoning_effort", 5),
        ("reasoning", {"max_tokens": "100"}),
        ("thinking_budget", True),
        ("reasoning", {"exclude": True}),
        ("reasoning", [True]),
        ("think", False),
        ("thinking", {"type": "enabled", "budget_tokens": -5}),
        ("thinking", {"type": "disabled"}),
        ("enable_thinking", False),
        ("chat_template_kwargs", {"documents": []}),
        ("verbosity", "high"),
        ("moderation", {"model": "x"}),
        ("guided_json", {"type": "object"}),
        ("structured_outputs", {"regex": "a"}),
        ("xtc_probability", 0.5),
        ("repeat_last_n", "64"),
        ("web_search_options", {}),
        ("chat_template", "{{ messages }}"),
        ("chat_template_kwargs", {"enable_thinking": False}),
        ("best_of", 2),
        ("mirostat", 2),
        ("top_k", -2),
        ("top_k", 500),
        ("max_tokens", 0),
        ("max_tokens", -2),
        ("max_tokens", "-1"),
        ("seed", 2**63),
        ("seed", True),
        ("temprature", 1.0),
        ("stream", 1),
        ("stream_options", []),
        ("stream", "true"),
        ("ignore_eos", 1),
        ("user", 5),
        ("model", 5),
        ("stop", ["a"] * 17),
        ("stop", "\ud800"),
        ("user", "\ud800"),
        ("messages", None),
        ("messages", []),
        ("messages", "Hi"),
        ("messages", {}),
    ],
)
def test_what_cannot_be_done_is_refused_by_name(field: str, value: object) -> None:
    backend = FakeBackend()
    assert field in refused(ask(backend, **{field: value}), 400, field)
    assert not backend.requests


def test_the_model_is_known_by_its_name_and_its_last_part() -> None:
    backend = FakeBackend()
    for name in ("fake/echo", "echo", ""):
        assert ask(backend, model=name).json()["model"] == "fake/echo"
    assert "fake/echo" in refused(ask(backend, model="gpt-4o"), 404, "model", "model_not_found")
    refused(ask(backend, model="fake"), 404, "model", "model_not_found")


# Messages


def conversation(*messages: object) -> httpx2.Response:
    return ask(FakeBackend(), messages=list(messages))


def test_messages_of_every_kind_are_read() -> None:
    backend = FakeBackend()
    parts = [{"type": "text", "text": "two"}, {"type": "text", "text": "parts"}]
    messages = [
        {"role": "system", "content": "Be brief."},
        {"role": "developer", "content": "Be kind."},
        HI,
        {
            **{"role": "assistant", "content": "Yes?", "reasoning_content": "Hm.", "refusal": None},
            **{"annotations": [], "tool_calls": None, "id": "x", "created": 5, "function_call": None, "audio": None},
            **{"prefix": False, "tool_call_id": "", "type": "message", "status": "completed", "weight": 0},
        },
        {"role": "user", "content": parts, "name": "Ada", "cache_control": {"type": "ephemeral"}},
        {
            "role": "assistant",
            "content": [{"type": "output_text", "text": "So", "annotations": []}],
            "reasoning": "Ha.",
        },
        {
            "role": "user",
            "content": [{"type": "text", "text": "x", "cache_control": {"type": "ephemeral"}, "image_url": None}],
        },
        {"role": "assistant", "content": None, "tool_calls": []},
        HI,
    ]
    assert ask(backend, messages=messages).status_code == 200
    assert backend.requests[-1].messages == (
        Message("system", "Be brief.\n\nBe kind."),
        Message("user", "Hi"),
        Message("assistant", "Yes?", "Hm."),
        Message("user", "two\nparts"),
        Message("assistant", "So", "Ha."),
        Message("user", "x"),
        Message("assistant", ""),
        Message("user", "Hi"),
    )


@pytest.mark.parametrize(
    ("message", "param", "error"),
    [
        ({"role": "tool", "content": "x"}, "messages[1].role", "assistant"),
        ({"role": "user"}, "messages[1].content", "required"),
        ({"role": "user", "content": None}, "messages[1].content", "required"),
        ({"role": "user", "content": 5}, "messages[1].content", "string"),
        ({"role": "user", "content": "\ud800"}, "messages[1].content", "surrogate"),
        ({"role": "user", "content": [{"type": "image_url"}]}, "messages[1].content", "image_url"),
        ({"role": "user", "content": [{"type": "text"}]}, "messages[1].content", "text"),
        ({"role": "user", "content": [{"type": "text", "text": "x", "y": 1}]}, "messages[1].content", "nothing else"),
        ({"role": "user", "content": ["x"]}, "messages[1].content", "part 0"),
        ({"role": "user", "content": [{"type": "input_audio"}]}, "messages[1].content", "input_audio"),
        ({"role": "user", "content": [{"type": []}]}, "messages[1].content", "part 0"),
        ({"role": "user", "content": "x", "nmae": "Ada"}, "messages[1].nmae", "nmae"),
        ({"role": "assistant", "content": "x", "refusal": "No."}, "messages[1].refusal", "refusal"),
        ({"role": "assistant", "content": "x", "reasoning": 5}, "messages[1].reasoning_content", "string"),
        ({"role": "assistant", "content": "x", "tool_calls": [{}]}, "messages[1].tool_calls", "tool_calls"),
        ({"role": "assistant", "content": "x"}, "messages", "user"),
        ({"role": "user", "content": " \n"}, "messages", "say something"),
        ({"role": "user", "content": []}, "messages", "say something"),
        ("x", "messages[1]", "messages[1]"),
    ],
)
def test_other_messages_are_refused(message: object, param: str, error: str) -> None:
    assert error in refused(conversation(HI, message), 400, param)


BEGUN = {"role": "assistant", "content": " Well, ", "reasoning_content": "Hm."}


@pytest.mark.parametrize("more", [{}, {"add_generation_prompt": False}, {"add_generation_prompt": None}])
@pytest.mark.parametrize("stream", [True, False])
def test_a_reply_is_continued_where_that_is_asked_for(more: dict[str, Any], stream: bool) -> None:
    backend = FakeBackend(["then."])
    response = ask(backend, messages=[HI, BEGUN], continue_final_message=True, stream=stream, **more)
    assert response.status_code == 200
    assert backend.requests[-1].messages == (Message("user", "Hi"), Message("assistant", " Well, ", "Hm."))
    if stream:
        deltas = [event["choices"][0]["delta"] for event in events_of(response.text)[:-1]]
        assert "".join(delta.get("content", "") for delta in deltas) == "then."
    else:
        assert response.json()["choices"][0]["message"]["content"] == "then."


@pytest.mark.parametrize("value", [False, None])
def test_otherwise_a_reply_at_the_end_is_refused(value: bool | None) -> None:
    refused(ask(FakeBackend(), messages=[HI, BEGUN], continue_final_message=value), 400, "messages")


def test_a_reply_begins_anew_or_goes_on() -> None:
    asked = {"messages": [HI, BEGUN], "continue_final_message": True, "add_generation_prompt": True}
    message = refused(ask(FakeBackend(), **asked), 400, "add_generation_prompt", "invalid_value")
    assert "continue_final_message" in message
    refused(ask(FakeBackend(), add_generation_prompt=False), 400, "add_generation_prompt", "unsupported_parameter")
    assert ask(FakeBackend(), add_generation_prompt=True).status_code == 200
    for field in ("continue_final_message", "add_generation_prompt"):
        for value in (1, "true", list[str]()):
            refused(ask(FakeBackend(), **{field: value}), 400, field)


def test_only_a_reply_is_continued() -> None:
    message = refused(ask(FakeBackend(), messages=[HI], continue_final_message=True), 400, "messages")
    assert "assistant's" in message


def test_a_system_message_alone_is_refused() -> None:
    refused(conversation({"role": "system", "content": "x"}), 400, "messages")
    refused(conversation({"role": "assistant", "content": "x"}, {"role": "system", "content": "x"}), 400, "messages")


def test_either_side_may_begin_and_system_messages_stand_anywhere() -> None:
    backend = FakeBackend()
    later = {"role": "developer", "content": "Rhyme."}
    conversation = [{"role": "assistant", "content": "Welcome!"}, HI, {"role": "assistant", "content": "So?"}, later]
    for messages in ([*conversation, HI], conversation, [HI, later]):
        assert ask(backend, messages=messages).status_code == 200
        roles = [{"developer": "system"}.get(one["role"], one["role"]) for one in messages]
        expected = [Message(role, one["content"]) for role, one in zip(roles, messages, strict=True)]
        assert list(backend.requests[-1].messages) == expected


@pytest.mark.parametrize("stream", [True, False])
def test_what_was_folded_is_said(stream: bool) -> None:
    backend = FakeBackend(["fine"])
    backend.before = [ReplyDelta(prompt=Prompt("Hi", (1,), notes=("It was folded.",)))]
    response = ask(backend, messages=[HI], stream=stream)
    bodies = events_of(response.text) if stream else [response.json()]
    assert [body["notes"] for body in bodies if "notes" in body] == [["It was folded."]]


# Bodies


@pytest.mark.parametrize("kind", ["text/plain", "application/x-www-form-urlencoded", "", "text/json"])
def test_only_json_is_read(kind: str) -> None:
    """A page of another site can send these without asking first."""
    backend = FakeBackend()
    body = json.dumps({"messages": [HI]})
    response = post(backend, body, kind)
    assert "application/json" in refused(response, 415)
    assert not backend.requests
    kind = "Application/JSON; charset=utf-8"
    assert post(backend, body, kind).status_code == 200


DEEP = b"[" * 100_000
BODIES = [b"", b"{", b"[]", b"null", b'"x"', b"\xff", DEEP, b'{"messages":' + DEEP, b'{"seed":' + b"1" * 5000 + b"}"]


@pytest.mark.parametrize("body", BODIES, ids=range(len(BODIES)))
def test_bodies_that_are_no_request_are_refused(body: bytes) -> None:
    response = post(FakeBackend(), body)
    assert refused(response, 400)


@pytest.mark.parametrize("depth", [100, 900, 950, 980, 1100])
@pytest.mark.parametrize("field", ["temperature", "stop", "stream_options", "logit_bias", "metadata", "messages"])
def test_deep_nesting_breaks_nothing(field: str, depth: int) -> None:
    message = json.dumps(HI).encode()
    value = b"[" * depth + b"]" * depth
    if field == "messages":
        message = b'{"role": "user", "content": [{"type": %b}]}' % value
    body = b'{"messages": [%b], "metadata": %b, "%b": %b}' % (message, value, field.encode(), value)
    body = body if field != "messages" else b'{"messages": [%b]}' % message
    response = post(FakeBackend(), body)
    assert response.status_code == 400 or field == "metadata"
    assert response.status_code < 500


def test_a_body_has_a_largest_size() -> None:
    backend = FakeBackend()
    assert ask(backend, metadata={"x": "x" * (MAX_BODY_BYTES - 1000)}).status_code == 200
    refused(ask(backend, metadata={"x": "x" * MAX_BODY_BYTES}), 413)


async def test_a_huge_body_is_not_read_to_its_end() -> None:
    read: list[int] = []

    async def endless() -> AsyncGenerator[bytes]:
        while True:
            read.append(2**20)
            yield bytes(2**20)

    transport = httpx2.ASGITransport(app_of(FakeBackend()))
    async with httpx2.AsyncClient(transport=transport, base_url="http://localhost") as client:
        response = await client.post(CHAT, content=endless(), headers={"Content-Type": "application/json"})
    refused(response, 413)
    assert sum(read) <= MAX_BODY_BYTES + 2**20


def compressed(body: bytes, encoding: str) -> bytes:
    return zlib.compress(body) if encoding == "deflate" else gzip.compress(body)


def post_as(body: bytes, encoding: str) -> httpx2.Response:
    headers = {"Content-Type": "application/json", "Content-Encoding": encoding}
    return client_of(FakeBackend()).post(CHAT, content=body, headers=headers)


@pytest.mark.parametrize("encoding", ["gzip", "x-gzip", "GZIP", "deflate", "identity"])
def test_a_compressed_body_is_read(encoding: str) -> None:
    body = json.dumps({"messages": [HI]}).encode()
    assert post_as(body if encoding == "identity" else compressed(body, encoding), encoding).status_code == 200


def test_compressed_bodies_that_cannot_be_read_are_refused() -> None:
    body = json.dumps({"messages": [HI]}).encode()
    assert "gzip" in refused(post_as(body, "br"), 415)
    assert "gzip" in refused(post_as(body, "gzip, gzip"), 415)
    refused(post_as(body, "gzip"), 400)
    assert "early" in refused(post_as(gzip.compress(body)[:-12], "gzip"), 400)
    refused(post_as(gzip.compress(b" " * (MAX_BODY_BYTES + 1)), "gzip"), 413)


def test_a_conversation_has_a_largest_number_of_messages() -> None:
    turn = [{"role": "user", "content": "a"}]
    assert conversation(*turn * requests.MAX_MESSAGES).status_code == 200
    refused(conversation(*turn * (requests.MAX_MESSAGES + 1)), 400, "messages")


# Routes


def two_models() -> FakeBackend:
    """A backend that has loaded its first model, but never the second one."""

    class Two(FakeBackend):
        async def ensure_loaded(self, model: str) -> None:
            await super().ensure_loaded(model)
            info = replace(INFO, name=model, defaults=GenerationSettings(temperature=0.25))
            self.other = ModelStatus(model, "ready", info=info)

        def models(self) -> list[ModelStatus]:
            return [self.status, self.other]

        other = ModelStatus("fake/other", "unloaded")

    return Two()


def test_a_request_names_its_model_which_is_loaded_first() -> None:
    backend = two_models()
    for stream in (False, True):
        response = ask(backend, model="other", stream=stream)
        assert response.status_code == 200
        assert "fake/other" in response.text
    assert backend.loads == ["fake/other"]
    assert [request.model for request in backend.requests] == ["fake/other"] * 2
    assert {request.settings.temperature for request in backend.requests} == {0.25}  # its own default
    message = refused(ask(backend, model="nope"), 404, "model", "model_not_found")
    assert message.endswith("There is: fake/echo, fake/other.")


def test_a_model_that_cannot_be_loaded_is_503(monkeypatch: pytest.MonkeyPatch) -> None:
    backend = two_models()
    monkeypatch.setattr(backend, "ensure_loaded", AsyncMock(side_effect=ModelError("Too big.", "Buy memory.")))
    assert refused(ask(backend, model="other"), 503) == "Too big. Buy memory."
    assert refused(ask(backend, model="other", stream=True), 503) == "Too big. Buy memory."


def test_models_are_loaded_and_unloaded_on_request() -> None:
    backend = two_models()
    client = client_of(backend)
    assert client.post("/v1/models/load", json={"model": "other"}).json() == {"success": True}
    assert client.post("/v1/models/unload", json={"model": "fake/echo"}).json() == {"success": True}
    assert (backend.loads, backend.unloads) == (["fake/other"], ["fake/echo"])
    for path in ("/v1/models/load", "/v1/models/unload"):
        refused(client.post(path, json={"model": "nope"}), 404, "model", "model_not_found")
        refused(client.post(path, json={}), 400, "model")
        refused(client.post(path, json={"model": ""}), 400, "model")
        refused(client.post(path, json={"model": "other", "x": 1}), 400, "x")
        refused(client.get(path), 405)
        refused(client_of(backend, api_key=KEY).post(path, json={"model": "other"}), 401)
    assert (backend.loads, backend.unloads) == (["fake/other"], ["fake/echo"])


def test_a_model_is_loaded_as_the_body_says() -> None:
    backend = two_models()
    client = client_of(backend)
    options = {"precision": "int8", "device": "cpu", "context": 4096, "load_anyway": True}
    for fields in ({}, options, {"context": 512}):
        assert client.post("/v1/models/load", json={"model": "other", **fields}).status_code == 200
    assert backend.load_options == [None, LoadOptions("int8", "cpu", 4096, True), LoadOptions(context=512)]
    bad = {
        "precision": (3, None, "x" * 21),
        "device": (["cpu"], None),
        "context": ("512", 1.5, True),
        "load_anyway": (1, "true", None),
    }
    for name, values in bad.items():
        for value in values:
            refused(client.post("/v1/models/load", json={"model": "other", name: value}), 400, name)
    refused(client.post("/v1/models/unload", json={"model": "other", "context": 512}), 400, "context")
    assert len(backend.loads) == 3


def test_the_state_of_a_model_is_told_as_llama_cpps_router_does() -> None:
    backend = two_models()
    states = [model["status"] for model in client_of(backend).get("/v1/models").json()["data"]]
    assert states == [{"value": "loaded"}, {"value": "unloaded"}]
    backend.status = ModelStatus("fake/echo", "loading", "reading weights")
    assert client_of(backend).get("/v1/models/echo").json()["status"] == {
        "value": "loading",
        "progress": {"stage": "reading weights"},
    }
    backend.status = ModelStatus("fake/echo", "failed", error=ModelError("Too big."))
    failed = client_of(backend).get("/v1/models/echo").json()["status"]
    assert failed == {"value": "unloaded", "failed": True, "error": "Too big."}


async def test_changes_of_models_are_events(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(model_events, "POLL_SECONDS", 0.001)
    monkeypatch.setattr(model_events, "KEEP_ALIVE_SECONDS", 0.0)
    backend = two_models()
    async with contextlib.aclosing(model_events.model_events(backend)) as stream:
        first = [json.loads((await anext(stream)).removeprefix(b"data: ")) for _ in range(2)]
        assert first == [
            {"model": "fake/echo", "event": "model_status", "data": {"status": "loaded"}},
            {"model": "fake/other", "event": "model_status", "data": {"status": "unloaded"}},
        ]
        assert await anext(stream) == model_events.KEEP_ALIVE
        backend.status = ModelStatus("fake/echo", "loading", "reading weights")
        while (event := await anext(stream)) == model_events.KEEP_ALIVE:
            pass
        data = {"status": "loading", "progress": {"stage": "reading weights"}}
        change = {"model": "fake/echo", "event": "status_change", "data": data}
        assert json.loads(event.removeprefix(b"data: ")) == change
        assert schemas.ModelEvent.model_validate(change)
    assert client_of(backend).head("/v1/models/sse").headers["content-type"].startswith("text/event-stream")


def test_models_are_listed_and_found() -> None:
    client = client_of(FakeBackend())
    listed = client.get("/v1/models").json()
    assert listed["object"] == "list"
    [model] = listed["data"]
    assert (model["id"], model["object"], model["max_model_len"]) == ("fake/echo", "model", 4096)
    assert model["weight_bytes"] == INFO.read_bytes > 0
    assert model["revision"] == INFO.revision
    assert client.get("/v1/models/fake/echo").json() == model
    assert client.get("/v1/models/echo").json() == model
    assert client.get("/v1/models/").json() == client.get("/v1/models").json()
    assert client.post(f"{CHAT}/", json={"messages": [HI]}).status_code == 200
    refused(client.get("/v1/models/nope"), 404, "model", "model_not_found")


@pytest.mark.parametrize(
    ("method", "path", "status"),
    [
        ("GET", "/nope", 404),
        ("GET", "/", 404),
        ("GET", "", 404),
        ("POST", "", 404),
        ("GET", "/models/x%0Ay", 404),
        ("GET", "/chat/completions", 405),
        ("POST", "/models", 405),
    ],
)
def test_other_routes_and_methods_are_refused_in_openais_shape(method: str, path: str, status: int) -> None:
    response = client_of(FakeBackend()).request(method, f"/v1{path}")
    assert refused(response, status)
    assert ("allow" in response.headers) == (status == 405)


@pytest.mark.parametrize(
    "route", ["completions", "embeddings", "responses", "images/generations", "messages", "x" * 5000]
)
def test_what_is_not_there_says_what_is(route: str) -> None:
    response = client_of(FakeBackend()).post(f"/v1/{route}", json={"model": "x", "input": "Hi"})
    message = refused(response, 404, code="unknown_url")
    assert route[:20] in message
    assert "POST /v1/chat/completions" in message
    assert "GET /v1/models," in message
    assert len(message) < 500


def test_the_whole_application_has_v1_and_guards_it() -> None:
    backend = FakeBackend()
    app = server.build_app(backend, AppSettings())
    with TestClient(app, "http://localhost:7860", client=("127.0.0.1", 5)) as client:
        assert client.get("/v1/models").json()["object"] == "list"
        response = client.post(CHAT, json={"messages": [HI]})
        assert response.status_code == 200
        assert response.headers["x-content-type-options"] == "nosniff"
        for headers in ({"Origin": "https://evil.example"}, {"Sec-Fetch-Site": "cross-site"}):
            assert client.post(CHAT, json={"messages": [HI]}, headers=headers).status_code == 403
    assert len(backend.requests) == 1


# Keys


def bearer(key: str) -> dict[str, str]:
    return {"Authorization": f"Bearer {key}"}


ROUTES = [
    ("GET", "/v1/openapi.json"),
    ("GET", "/v1/models"),
    ("GET", "/v1/models/echo"),
    ("POST", CHAT),
    ("GET", "/v1/nope"),
]


@pytest.mark.parametrize(("method", "path"), ROUTES)
def test_a_key_closes_every_route(method: str, path: str) -> None:
    client = client_of(FakeBackend(), api_key=KEY)
    wrong: list[dict[str, str]] = [{}, bearer("wrong"), bearer(""), {"X-Api-Key": KEY}, {"Authorization": KEY}]
    for headers in [*wrong, {"Authorization": f"Basic {KEY}"}, bearer(KEY + "x"), bearer(KEY[:-1]), bearer("ü")]:
        raw = {name: value.encode() for name, value in headers.items()}
        response = client.request(method, path, headers=raw)  # type: ignore[arg-type]
        refused(response, 401, code="invalid_api_key")
        assert response.headers["www-authenticate"] == "Bearer"
    assert client.request(method, path, headers=bearer(KEY)).status_code != 401


def test_with_the_key_anyone_may_ask_from_anywhere() -> None:
    backend = FakeBackend()
    client = client_of(backend, "http://chat.example", "203.0.113.9", api_key=KEY, host="0.0.0.0")
    body = {"messages": [HI], "user": "ada"}
    assert client.post(CHAT, json=body, headers=bearer(KEY)).status_code == 200
    assert backend.requests[-1].user == "api:203.0.113.9\nada"


def test_without_the_key_a_users_name_is_not_trusted() -> None:
    backend = FakeBackend()
    ask(backend, user="ada")
    assert backend.requests[-1].user == "api:127.0.0.1"


def test_guessing_keys_ends_by_the_tenth(monkeypatch: pytest.MonkeyPatch) -> None:
    app = app_of(FakeBackend(), api_key=KEY)

    def attempt(key: str, address: str = "203.0.113.9") -> httpx2.Response:
        return TestClient(app, client=(address, 5)).get("/v1/models", headers=bearer(key))

    now = time.monotonic()
    monkeypatch.setattr(time, "monotonic", lambda: now)
    assert [attempt(f"guess-{number}").status_code for number in range(12)] == [401] * 9 + [429] * 3
    locked = attempt("wrong")
    refused(locked, 429)
    assert 1 <= int(locked.headers["retry-after"]) <= 61
    assert attempt("wrong", "203.0.113.10").status_code == 401
    now += 61
    for number in range(10):
        attempt("wrong", f"2001:db8::{number}")
    assert attempt("wrong", "2001:db8::ffff").status_code == 429
    assert attempt("wrong", "2001:db8:0:1::1").status_code == 401


def test_the_right_key_is_heard_however_many_wrong_ones_came_from_the_same_address() -> None:
    app = app_of(FakeBackend(), api_key=KEY)
    proxied = TestClient(app, client=("203.0.113.9", 5))
    for _ in range(3):
        wrong = {proxied.get("/v1/models", headers=bearer(f"guess-{number}")).status_code for number in range(30)}
        assert 429 in wrong
        assert proxied.get("/v1/models", headers=bearer(KEY)).status_code == 200


def test_the_memory_of_wrong_keys_is_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(attempt_limiter, "MAX_CLIENTS", 3)
    guard = access.Access(AppSettings(api_key=KEY))
    headers = Headers({"authorization": "Bearer wrong"})
    for number in range(20):
        for _ in range(20):
            with pytest.raises(ApiError):
                guard.check(headers, f"203.0.113.{number}")
    assert len(guard._failures) == 3
    assert max(count for count, _ in guard._failures.values()) == attempt_limiter.MAX_FAILED_KEYS


@pytest.mark.parametrize(
    "settings",
    [
        {"host": "0.0.0.0"},
        {"host": "::"},
        {"host": "192.0.2.1"},
        {"share": True, "share_without_login": True},
        {"auth": "ada:secret"},
        {"root_path": "/chat"},
    ],
)
def test_a_server_that_others_see_needs_a_key(settings: dict[str, Any]) -> None:
    backend = FakeBackend()
    client = client_of(backend, **settings)
    for method, path in ROUTES:
        assert "--api-key" in refused(client.request(method, path), 403)
    with_key = client_of(backend, **settings, api_key=KEY)
    assert with_key.get("/v1/models", headers=bearer(KEY)).status_code == 200


@pytest.mark.parametrize(
    ("host", "address", "headers", "status"),
    [
        ("localhost", "127.0.0.1", {}, 200),
        ("LOCALHOST:7860", "127.0.0.1", {}, 200),
        ("127.0.0.1:7860", "127.0.0.1", {}, 200),
        ("[::1]:7860", "::1", {}, 200),
        ("evil.example", "127.0.0.1", {}, 403),
        ("localhost.evil.example:7860", "127.0.0.1", {}, 403),
        ("127.0.0.1.evil.example", "127.0.0.1", {}, 403),
        ("192.0.2.1", "127.0.0.1", {}, 403),
        ("[::2]", "127.0.0.1", {}, 403),
        ("", "127.0.0.1", {}, 403),
        ("localhost", "192.0.2.1", {}, 403),
        ("localhost", "127.0.0.1", {"X-Forwarded-For": "127.0.0.1"}, 403),
        ("localhost", "127.0.0.1", {"X-Forwarded-Host": "chat.example"}, 403),
        ("localhost", "127.0.0.1", {"Forwarded": "for=192.0.2.1"}, 403),
        ("localhost", "127.0.0.1", {"X-Real-IP": "192.0.2.1"}, 403),
        ("localhost", "127.0.0.1", {"Via": "1.1 proxy"}, 403),
    ],
)
def test_without_a_key_only_this_computer_is_served_by_its_own_name(
    host: str, address: str, headers: dict[str, str], status: int
) -> None:
    response = client_of(FakeBackend(), address=address).get("/v1/models", headers={"Host": host, **headers})
    assert response.status_code == status
    if status == 403:
        assert "--api-key" in refused(response, 403)


@pytest.mark.parametrize(
    "key",
    [
        "",
        "short12",
        "with space",
        "schlüssel-lang",
        "ada:secret-of-ada,tokens-per-day=1e6",
        "secret-key,tokens-per-day=5",
    ],
)
def test_a_key_must_be_long_and_fit_a_header(key: str) -> None:
    with pytest.raises(ValidationError, match="--api-key") as caught:
        AppSettings(api_key=key)
    errors = caught.value.errors()
    assert errors[0]["loc"] == ()


def test_the_key_is_not_printed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CHATUI_API_KEY", KEY)
    settings = AppSettings()
    assert settings.api_key == (KEY,)
    assert KEY not in repr(settings)


# The real client, on a real server


@pytest.fixture(scope="module")
def site() -> Iterator[tuple[FakeBackend, str]]:
    backend = FakeBackend()
    with served(backend, api_key=KEY) as address:
        yield backend, address


def openai_client(address: str, key: str = KEY) -> openai.OpenAI:
    return openai.OpenAI(base_url=f"{address}/v1", api_key=key, max_retries=0, timeout=20)


@pytest.fixture
def backend(site: tuple[FakeBackend, str]) -> FakeBackend:
    fresh = FakeBackend()
    vars(site[0]).update(vars(fresh))
    return site[0]


@pytest.fixture
def openai_(site: tuple[FakeBackend, str], backend: FakeBackend) -> Iterator[openai.OpenAI]:
    with openai_client(site[1]) as client:
        yield client


ASKED: dict[str, Any] = {"model": "fake/echo", "messages": [HI]}


def test_openai_reads_a_whole_reply(openai_: openai.OpenAI, backend: FakeBackend) -> None:
    backend.replies = [["Hel", "lo", ReplyDelta(finish=FINISH)]]
    completion = openai_.chat.completions.create(**ASKED, extra_body={"top_k": 3}, max_completion_tokens=5)
    assert completion.choices[0].message.content == "Hello"
    assert completion.choices[0].finish_reason == "length"
    assert completion.usage is not None
    assert completion.usage.total_tokens == 14
    assert completion.usage.prompt_tokens_details is not None
    assert completion.usage.prompt_tokens_details.cached_tokens == 6
    assert backend.requests[-1].settings.top_k == 3
    again = [HI, completion.choices[0].message.model_dump(), HI]
    assert openai_.chat.completions.create(model="echo", messages=again).choices


def test_openai_reads_a_stream(openai_: openai.OpenAI, backend: FakeBackend) -> None:
    backend.before = [ReplyDelta(prefilled_tokens=5)]
    stream = openai_.chat.completions.create(**ASKED, stream=True, stream_options={"include_usage": True})
    chunks = list(stream)
    assert "".join(chunk.choices[0].delta.content or "" for chunk in chunks if chunk.choices) == "Hello from the fake."
    assert chunks[0].choices[0].delta.role == "assistant"
    assert chunks[-1].usage is not None
    assert chunks[-1].usage.completion_tokens == 4


def test_openai_lists_models(openai_: openai.OpenAI) -> None:
    assert [model.id for model in openai_.models.list()] == ["fake/echo"]
    assert openai_.models.retrieve("echo").id == "fake/echo"
    with pytest.raises(openai.NotFoundError) as caught:
        openai_.models.retrieve("nope")
    assert caught.value.code == "model_not_found"


def test_openai_raises_its_own_errors(site: tuple[FakeBackend, str], openai_: openai.OpenAI) -> None:
    backend = site[0]
    with pytest.raises(openai.BadRequestError) as bad:
        openai_.chat.completions.create(**ASKED, temperature=9)
    assert bad.value.param == "temperature"
    with pytest.raises(openai.AuthenticationError), openai_client(site[1], "wrong-key") as stranger:
        stranger.models.list()
    backend.before = [OverloadError("Full.", retry_after=3)]
    for stream in (False, True):
        with pytest.raises(openai.RateLimitError) as full:
            openai_.chat.completions.create(**ASKED, stream=stream)
        assert full.value.response.headers["retry-after"] == "3"
    backend.before = [TooLongError("Too long.")]
    with pytest.raises(openai.BadRequestError) as long:
        openai_.chat.completions.create(**ASKED, stream=True)
    assert long.value.code == "context_length_exceeded"


def test_openai_is_told_what_there_is_instead(openai_: openai.OpenAI) -> None:
    for call in (
        lambda: openai_.completions.create(model="echo", prompt="Hi"),
        lambda: openai_.embeddings.create(model="echo", input="Hi"),
        lambda: openai_.responses.create(model="echo", input="Hi"),
    ):
        with pytest.raises(openai.NotFoundError, match="/v1/chat/completions") as caught:
            call()
        assert caught.value.code == "unknown_url"


def test_openai_raises_an_error_in_mid_stream(openai_: openai.OpenAI, backend: FakeBackend) -> None:
    backend.replies = [["some", GenerationError("The logits are NaN.")]]
    chunks = openai_.chat.completions.create(**ASKED, stream=True)
    assert [next(chunks).choices[0].delta.content for _ in range(2)] == ["", "some"]
    with pytest.raises(openai.APIError, match="NaN"):
        next(chunks)


@pytest.mark.parametrize("stream", [False, True])
def test_a_real_client_that_leaves_frees_the_model(openai_: openai.OpenAI, backend: FakeBackend, stream: bool) -> None:
    backend.replies = [["one", Hold()]]
    if stream:
        reply = openai_.chat.completions.create(**ASKED, stream=True)
        assert next(chunk for chunk in reply if chunk.choices[0].delta.content)
        reply.close()
    else:
        with pytest.raises(openai.APITimeoutError):
            openai_.with_options(timeout=1.0).chat.completions.create(**ASKED)
    deadline = time.monotonic() + PATIENCE
    while backend.cancelled == 0 and time.monotonic() < deadline:
        time.sleep(0.01)
    assert (backend.cancelled, backend.running) == (1, 0)


def test_64_megabytes_are_refused_and_the_server_goes_on(site: tuple[FakeBackend, str], openai_: openai.OpenAI) -> None:
    headers = {"Content-Type": "application/json", **bearer(KEY)}
    response = httpx2.post(site[1] + CHAT, content=b" " * (64 * 2**20), headers=headers, timeout=30)
    refused(response, 413)
    assert openai_.models.list().data
