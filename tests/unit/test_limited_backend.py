"""The tokens of replies and prompts are counted, here and in the database, and more are refused."""

import asyncio
from dataclasses import replace

import pytest

from chatui.chat import ChatRequest, Finish, Message, Prompt, ReplyDelta
from chatui.errors import OverloadError, StoreError
from chatui.generation_settings import GenerationSettings
from chatui.limited_backend import LimitedBackend
from chatui.token_limits import TokenLimits, TokenUsage
from tests.fakes import FakeBackend

REQUEST = ChatRequest((Message("user", "Hi"),), GenerationSettings(), user="ada")


class Counts:
    """The database."""

    def __init__(self) -> None:
        self.tokens = 0
        self.down = False

    def add(self, user: str, day: str, tokens: int) -> int:
        if self.down:
            raise StoreError("The database is away.")
        self.tokens += tokens
        return self.tokens


def limited(per_day: int) -> tuple[LimitedBackend, Counts]:
    counts = Counts()
    return LimitedBackend(FakeBackend(["a", "b"]), TokenUsage(lambda _: TokenLimits(0, per_day)), counts), counts


async def ask(backend: LimitedBackend) -> str:
    deltas = [delta async for delta in backend.stream(REQUEST)]
    await asyncio.gather(*backend._counting)
    return "".join(delta.text for delta in deltas)


async def test_until_nothing_is_left() -> None:
    backend, counts = limited(6)
    assert await ask(backend) == "ab"
    assert counts.tokens == 5
    left = backend.usage.remaining("ada")
    assert left is not None
    assert (left.tokens, left.is_low) == (1, True)
    assert await ask(backend) == "ab"
    with pytest.raises(OverloadError):
        await ask(backend)
    with pytest.raises(OverloadError):
        backend.admit("ada")


async def test_what_another_server_has_counted() -> None:
    backend, counts = limited(6)
    counts.tokens = 6
    with pytest.raises(OverloadError):
        await ask(backend)


async def test_a_stopped_reply_counts_as_far_as_it_came() -> None:
    backend, counts = limited(100)
    stream = backend.stream(REQUEST)
    async for delta in stream:
        if delta.text:
            break
    await stream.aclose()
    await asyncio.gather(*backend._counting)
    assert counts.tokens == 4  # the prompt has a token for each character and one for the end


async def test_a_remote_prompt_counts_though_its_tokens_are_told_at_the_end() -> None:
    prompt = Prompt("", (), messages=REQUEST.messages)
    counts = Counts()
    fake = FakeBackend(["a"] * 100)
    fake.before = [ReplyDelta(prompt=prompt)]
    backend = LimitedBackend(fake, TokenUsage(lambda _: TokenLimits(0, 10_000)), counts)
    request = replace(REQUEST, messages=(Message("user", "word " * 80),))
    stream = backend.stream(replace(request, user="ada\nher friend"))
    seen = 0
    async for delta in stream:
        seen += delta.tokens
        if seen == 40:
            left = backend.usage.remaining("ada")
            assert left is not None
            assert left.tokens <= 10_000 - 100  # before the reply has ended, so that many at once are no way around
            break
    await stream.aclose()
    await asyncio.gather(*backend._counting)
    assert counts.tokens == 100 + 40


async def test_a_prompt_that_is_never_told_counts_as_estimated() -> None:
    counts = Counts()
    untold = Finish("stop_token", 0, 2, 0, 0.0, 0.1, 0.1, untold=("prompt_tokens", "cached_tokens"))
    fake = FakeBackend(["a", "b", ReplyDelta(finish=untold)])
    fake.before = [ReplyDelta(prompt=Prompt("", (), messages=REQUEST.messages))]
    backend = LimitedBackend(fake, TokenUsage(lambda _: TokenLimits(0, 10_000)), counts)
    request = replace(REQUEST, messages=(Message("user", "word " * 80),))
    assert [delta async for delta in backend.stream(request)]
    await asyncio.gather(*backend._counting)
    assert counts.tokens == 100 + 2


async def test_without_the_database_this_server_counts() -> None:
    backend, counts = limited(6)
    counts.down = True
    assert await ask(backend) == "ab"
    await ask(backend)
    with pytest.raises(OverloadError):
        await ask(backend)
