"""Log probabilities in /v1: of the model's own distribution, in the shape that OpenAI's client reads."""

import json
import math
from collections.abc import Sequence
from typing import Any

import pytest
from openai.types.chat import ChatCompletion, ChatCompletionChunk
from openai.types.chat.chat_completion import ChoiceLogprobs
from starlette.applications import Starlette
from starlette.testclient import TestClient

from chatui.api import routes
from chatui.api.logprobs import LOWEST_LOGPROB, LogprobsReader
from chatui.chat import ReplyDelta, TraceSnapshot
from chatui.settings import AppSettings
from chatui.traces import TokenTrace, Traces
from tests.fakes import FakeBackend

WORDS = ["Hello", " from", " the", " fake."]
ASKED = {"messages": [{"role": "user", "content": "Hi"}], "logprobs": True}


def post(backend: FakeBackend, **fields: object) -> Any:
    app = Starlette(routes=routes.mounts(backend, AppSettings()))
    client = TestClient(app, "http://localhost:7860", client=("127.0.0.1", 5))
    response = client.post("/v1/chat/completions", json={**ASKED, **fields})
    assert response.status_code == 200, response.text
    if not fields.get("stream"):
        return ChatCompletion.model_validate(response.json())
    lines = [line.removeprefix("data: ") for line in response.text.split("\n\n") if line.startswith("data: ")]
    assert lines.pop() == "[DONE]"
    return [ChatCompletionChunk.model_validate_json(line) for line in lines]


def told(logprobs: ChoiceLogprobs | None) -> list[tuple[str, float, list[str]]]:
    """(token, probability, likeliest tokens) of each."""
    assert logprobs is not None
    assert logprobs.content is not None
    return [
        (token.token, round(math.exp(token.logprob), 6), [each.token for each in token.top_logprobs])
        for token in logprobs.content
    ]


@pytest.mark.parametrize(("top", "likeliest"), [(None, 0), (0, 0), (1, 1), (2, 2), (2.0, 2), (20, 2)])
def test_a_whole_reply_has_those_of_all_its_tokens(top: int | None, likeliest: int) -> None:
    backend = FakeBackend(WORDS, rate=1e9)
    reply = post(backend, top_logprobs=top)
    tokens = told(reply.choices[0].logprobs)
    assert tokens == [(word, 0.75, [word, " other"][:likeliest]) for word in WORDS]
    assert backend.requests[0].trace
    assert backend.requests[0].alternatives == max(1, int(top or 0))
    [first, *_] = reply.choices[0].logprobs.content
    assert bytes(first.bytes) == b"Hello"


def test_a_stream_has_each_once_with_its_piece_of_the_text() -> None:
    chunks = post(FakeBackend(WORDS, rate=100.0), top_logprobs=1, stream=True)
    text = ""
    tokens: list[str] = []
    for chunk in chunks:
        text += chunk.choices[0].delta.content or ""
        if chunk.choices[0].logprobs:
            tokens += [token for token, _, _ in told(chunk.choices[0].logprobs)]
        assert "".join(tokens) == text
    assert tokens == WORDS


def test_there_are_none_unless_they_are_asked_for() -> None:
    backend = FakeBackend(WORDS, rate=1e9)
    assert post(backend, logprobs=False).choices[0].logprobs is None
    assert all(chunk.choices[0].logprobs is None for chunk in post(backend, logprobs=None, stream=True))
    assert not any(request.trace for request in backend.requests)


TRACES = [
    TokenTrace(1, 0.1, 0.6, 1, 1.0, (1, 2, 3), ("model", "top_k"), ((0.6, 0.3, 0.1), (1.0, 0.0, 0.0))),
    TokenTrace(4, 0.2, 0.0, 9, 1.0, (2, 1, 4), ("model", "top_k"), ((0.5, 0.4, 0.0), (1.0, 0.0, 0.0))),
]
TEXTS = {1: "é", 2: "<0x20><0xE2><0x82>", 3: "<|end|>", 4: ""}


def reader(top: int) -> LogprobsReader:
    return LogprobsReader(top, lambda ids: {id: TEXTS[id] for id in ids})


def snapshot_of(traces: Sequence[TokenTrace]) -> TraceSnapshot:
    return TraceSnapshot(Traces.of(traces))


def test_they_are_the_models_own_and_a_part_of_a_character_is_spelled_as_bytes() -> None:
    fields = reader(2).read([ReplyDelta(tokens=2, snapshot=lambda: snapshot_of(TRACES))])
    assert fields is not None
    assert fields["refusal"] is None
    first, second = fields["content"]
    assert (first["token"], first["bytes"]) == ("é", [0xC3, 0xA9])
    assert first["logprob"] == pytest.approx(math.log(0.6))
    assert [each["token"] for each in first["top_logprobs"]] == ["é", " \\xe2\\x82"]
    assert first["top_logprobs"][1]["bytes"] == [0x20, 0xE2, 0x82]
    assert (second["token"], second["logprob"], second["bytes"]) == ("", LOWEST_LOGPROB, [])
    assert [each["logprob"] for each in second["top_logprobs"]] == pytest.approx([math.log(0.5), math.log(0.4)])
    json.dumps(fields, allow_nan=False)


def test_traces_that_are_ahead_or_behind_are_told_with_their_own_deltas() -> None:
    known: list[TokenTrace] = list(TRACES)
    read = reader(0).read
    assert read([ReplyDelta(snapshot=lambda: snapshot_of(known))]) is None
    ahead = read([ReplyDelta("é", tokens=1)])
    assert ahead is not None
    assert [token["token"] for token in ahead["content"]] == ["é"]
    del known[1:]
    assert read([ReplyDelta(tokens=1)]) is None
    known.append(TRACES[1])
    behind = read([ReplyDelta()])
    assert behind is not None
    assert len(behind["content"]) == 1
