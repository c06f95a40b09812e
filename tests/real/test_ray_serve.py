"""Ray Serve with two replicas of llama.cpp, in front of which the client stands: spread, affinity, a replica killed."""

import asyncio
import logging
import os
import signal
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path

import httpx
import pytest

from chatui.chat import ChatRequest, Finish, Message
from chatui.engine.loading import embedded
from chatui.errors import ChatError
from chatui.generation_settings import GenerationSettings
from chatui.remote.backend import RemoteBackend
from scripts.benchmark import peers, replicas
from tests.real.other_servers import CACHE

log = logging.getLogger(__name__)
pytestmark = [pytest.mark.real, pytest.mark.exhaustive]

STREAMS, SLOTS, REPLY_TOKENS = 16, 4, 150
"""With 8 streams a replica of 4 slots, half of them have not begun when it is killed."""
BEGUN, KILLED_AT = 6, 3
"""So many streams have so many pieces when a replica is killed."""
SECONDS = 300.0


@dataclass
class Cluster:
    """Ray Serve at an address. `folder` has a file for each replica that was started, with its llama.cpp's address."""

    backend: RemoteBackend
    folder: Path

    def engines(self) -> dict[int, str]:
        """The addresses by process id."""
        return {int(path.name): path.read_text() for path in self.folder.iterdir()}


@asynccontextmanager
async def cluster(router: str, folder: Path) -> AsyncIterator[Cluster]:
    model = embedded.find()
    if model is None:
        pytest.skip(f"needs the default model: {embedded.INSTALL}")
    arguments = str(model), router, "2", str(SLOTS), str(folder)
    async with (
        peers.started("Ray Serve", peers.RAY_SERVE, CACHE, *arguments) as url,
        replicas.connected(url) as backend,
        asyncio.timeout(SECONDS),
    ):
        yield Cluster(backend, folder)


@dataclass
class Reply:
    """What a page would have shown, and how it ended."""

    text: str = ""
    pieces: int = 0
    finish: Finish | None = None
    error: str = ""
    shown: list[str] = field(default_factory=list)


def asked(name: str, tokens: int = REPLY_TOKENS) -> ChatRequest:
    settings = GenerationSettings(temperature=0.0, seed=1, max_new_tokens=tokens)
    return ChatRequest((Message("user", f"{name}: write a story."),), settings, ignore_eos=True)


async def ask(backend: RemoteBackend, request: ChatRequest, reply: Reply) -> Reply:
    try:
        async for delta in backend.stream(request):
            reply.text, _ = delta.apply_to(reply.text, "")
            reply.shown.append(reply.text)
            reply.pieces += bool(delta.text)
            reply.finish = delta.finish or reply.finish
    except ChatError as error:
        reply.error = str(error)
    return reply


async def busy_slots(url: str) -> int:
    async with httpx.AsyncClient(trust_env=False) as client:
        slots = (await client.get(f"{url}/slots")).json()
    return sum(slot["is_processing"] for slot in slots)


async def until(condition: Callable[[], Awaitable[bool]]) -> None:
    """Wait until it is so."""
    async with asyncio.timeout(60):
        while not await condition():
            await asyncio.sleep(0.05)


async def test_chats_are_spread_and_stop_frees_the_slot(tmp_path: Path) -> None:
    async with cluster("power-of-two", tmp_path) as found:
        info = found.backend.models()[0].info
        assert info is not None
        assert info.server is not None
        assert info.server.software.startswith("llama.cpp")
        names = [f"chat {number}" for number in range(STREAMS)]
        got = await asyncio.gather(*(ask(found.backend, asked(name, 24), Reply()) for name in names))
        assert [(reply.error, reply.finish and reply.finish.completion_tokens) for reply in got] == [("", 24)] * STREAMS
        written = await replicas.written(list(found.engines().values()))
        assert sum(written) >= 24 * STREAMS
        assert min(written) >= sum(written) / 4, written
        one = asked("stopped", 1900)
        async for delta in (stream := found.backend.stream(one)):
            if delta.text:
                break
        await stream.aclose()

        async def free() -> bool:
            return not sum([await busy_slots(url) for url in found.engines().values()])

        await until(free)


@pytest.mark.parametrize("router", ["consistent-hash", "prefix"])
async def test_a_conversation_stays_at_its_replica(router: str, tmp_path: Path) -> None:
    load = replicas.Load(conversations=1, turns=3, words=30, tokens=8, at_once=1, slots=SLOTS)
    async with cluster(router, tmp_path) as found:
        engines = list(found.engines().values())
        for talk in range(5):
            before = await replicas.written(engines)
            await replicas.converse(lambda: found.backend, load, f"talk {talk}")
            after = await replicas.written(engines)
            assert sorted(now - then for now, then in zip(after, before, strict=True)) == [0, 24]


async def test_a_replica_is_killed_under_sixteen_streams(tmp_path: Path) -> None:
    async with cluster("power-of-two", tmp_path) as found:
        replies = [Reply() for _ in range(STREAMS)]
        streams = [
            asyncio.create_task(ask(found.backend, asked(f"stream {number}"), reply))
            for number, reply in enumerate(replies)
        ]

        async def begun() -> bool:
            return sum(reply.pieces >= KILLED_AT for reply in replies) >= BEGUN

        await until(begun)
        engines = found.engines()
        busy = {process: await busy_slots(url) for process, url in engines.items()}
        assert min(busy.values()) > 0, busy
        victim = next(iter(engines))
        before = [reply.text for reply in replies]
        os.kill(victim, signal.SIGKILL)
        # New turns go on at the other replica, at once and while the dead one is started again.
        turns = await asyncio.gather(*(ask(found.backend, asked(f"new {number}", 8), Reply()) for number in range(4)))
        assert [(turn.error, turn.finish and turn.finish.completion_tokens) for turn in turns] == [("", 8)] * 4
        await asyncio.gather(*streams)
        check_ends(replies, before)
        log.info("%d slots busy, %d replies broken", busy[victim], sum(bool(reply.error) for reply in replies))

        async def restarted() -> bool:
            return len(found.engines()) > len(engines)

        await until(restarted)
        broken = next(reply for reply in replies if reply.error)
        talk = (*asked(f"stream {replies.index(broken)}").messages, Message("assistant", broken.text))
        rest = await ask(found.backend, replace(asked("", 8), messages=talk), Reply())
        assert (rest.error, rest.pieces > 0) == ("", True)


def check_ends(replies: list[Reply], before: list[str]) -> None:
    """Each reply is whole, or says that it is not, and has all that was shown of it."""
    for reply, text in zip(replies, before, strict=True):
        assert reply.text.startswith(text)
        assert all(later.startswith(earlier) for earlier, later in zip(reply.shown, reply.shown[1:], strict=False))
        assert bool(reply.finish) != bool(reply.error)
        if reply.finish is None:
            assert "in the middle of the reply" in reply.error
            assert reply.text
        else:
            assert reply.finish.completion_tokens == REPLY_TOKENS
    # No more had begun there than it has slots. The others were written by the other replica.
    assert 0 < sum(bool(reply.error) for reply in replies) <= SLOTS
