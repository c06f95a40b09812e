"""chatui stands in front of another chatui: all that /v1 tells comes through."""

import asyncio
import contextlib
from collections.abc import AsyncIterator, Iterator
from dataclasses import replace

import pytest

from chatui.chat import ChatRequest, Message, ReplyDelta, TokenizeRequest
from chatui.errors import ChatError, GenerationError, TooLongError
from chatui.generation_settings import GenerationSettings, Thinking
from chatui.remote.backend import RemoteBackend
from chatui.remote.backend_spec import BackendSpec, ReplicaSpec
from chatui.server import build_app
from chatui.settings import AppSettings
from tests.fakes import FakeBackend
from tests.visitors import served

SETTINGS = GenerationSettings(
    seed=1, max_new_tokens=20, top_k=5, min_p=0.1, repetition_penalty=1.1, no_repeat_ngram_size=3, stop=("x",) * 9
)
ASKED = ChatRequest((Message("system", "S"), Message("user", "Hi")), SETTINGS)


@pytest.fixture(scope="module")
def upstream(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[FakeBackend, str]]:
    fake = FakeBackend()
    with served(build_app(fake, AppSettings(data_dir=tmp_path_factory.mktemp("data")))) as url:
        yield fake, url


@pytest.fixture
async def backend(upstream: tuple[FakeBackend, str]) -> AsyncIterator[tuple[FakeBackend, RemoteBackend]]:
    fake, url = upstream
    fake.reset(["Hello", " there"])
    backend = RemoteBackend(BackendSpec((ReplicaSpec(url),), "up")).start()
    await asyncio.to_thread(backend.wait)
    yield fake, backend
    await backend.close()


async def reply(backend: RemoteBackend, request: ChatRequest = ASKED) -> tuple[str, str, list[ReplyDelta]]:
    """(thought, text, deltas) of a reply."""
    text, thought, deltas = "", "", []
    async for delta in backend.stream(request):
        text, thought = delta.apply_to(text, thought)
        deltas.append(delta)
    return thought, text, deltas


async def test_a_reply_and_what_is_told_of_it(backend: tuple[FakeBackend, RemoteBackend]) -> None:
    fake, remote = backend
    fake.reset([ReplyDelta(reasoning="hm", tokens=1), "Hello", " there"])
    thought, text, deltas = await reply(remote)
    assert (thought, text) == ("hm", "Hello there")
    finish, asked = deltas[-1].finish, fake.requests[-1]
    assert finish is not None
    assert (finish.reason, finish.prompt_tokens, finish.reasoning_tokens) == ("stop_token", 3, 1)
    assert (asked.settings, asked.messages) == (SETTINGS, ASKED.messages)
    (status,) = remote.models()
    assert status.info is not None
    assert (status.name, status.info.context_length, status.info.weight_bytes) == ("up/fake/echo", 4096, 4_000_000)
    assert status.info.server is not None
    assert (status.info.server.software, status.info.server.unsupported) == ("chatui", {})


@pytest.mark.parametrize("thinking", ["off", "on", "low"])
async def test_thinking_that_the_model_cannot_do_hinders_nothing(
    backend: tuple[FakeBackend, RemoteBackend], thinking: Thinking
) -> None:
    fake, remote = backend
    settings = SETTINGS.model_copy(update={"thinking": thinking})
    assert (await reply(remote, replace(ASKED, settings=settings)))[1] == "Hello there"
    assert fake.requests[-1].settings.thinking == "auto"


async def test_the_prompt_and_its_tokens(backend: tuple[FakeBackend, RemoteBackend]) -> None:
    _, remote = backend
    prompt = await remote.preview(ASKED)
    assert prompt is not None
    assert (prompt.text, len(prompt.token_ids)) == ("S\nHi\n", 5)
    tokens = await remote.tokenize(TokenizeRequest("Hey"))
    assert (tokens.ids, tokens.names) == ((72, 101, 121), ("H", "e", "y"))
    traced = await reply(remote, replace(ASKED, trace=True))
    traces = [delta.snapshot().traces for delta in traced[2] if delta.snapshot]
    assert [len(each) for each in traces] == [1, 2, 2]
    texts = remote.decode_tokens({trace.id for trace in traces[-1]})
    assert [texts[trace.id] for trace in traces[-1]] == ["Hello", " there"]


async def test_going_on_with_a_reply(backend: tuple[FakeBackend, RemoteBackend]) -> None:
    fake, remote = backend
    begun = (*ASKED.messages, Message("assistant", "Hel"))
    assert (await reply(remote, replace(ASKED, messages=begun)))[1] == "Hello there"
    assert fake.requests[-1].messages == begun


async def test_stop_frees_the_row(backend: tuple[FakeBackend, RemoteBackend]) -> None:
    fake, remote = backend
    fake.reset(["word "] * 100_000)
    async with contextlib.aclosing(remote.stream(replace(ASKED, settings=GenerationSettings(seed=1)))) as deltas:
        async for delta in deltas:
            if delta.text:
                break
        assert fake.running == 1
    async with asyncio.timeout(10):
        while fake.running:
            await asyncio.sleep(0.01)
    assert fake.cancelled == 1


@pytest.mark.parametrize(
    ("error", "said"),
    [(TooLongError("The conversation is too long."), "too long"), (GenerationError("NaN."), "NaN")],
)
async def test_errors_come_through(backend: tuple[FakeBackend, RemoteBackend], error: ChatError, said: str) -> None:
    fake, remote = backend
    for before in ([], ["Hel"]):
        fake.reset([*before, error])
        with pytest.raises(ChatError, match=said):
            await reply(remote, replace(ASKED, no_truncation=True))
