"""The thread and its queue, driven by a scripted model."""

import asyncio
import contextlib
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Generator, Iterator
from pathlib import Path

import pytest

from chatui.catalogue import ModelSpec
from chatui.chat import ChatRequest, Message, ReplyDelta
from chatui.errors import ChatError, GenerationError, ModelError
from chatui.local.engine import Interrupted, Loader, LocalBackend, Report
from chatui.settings import GenerationSettings
from tests.fakes import INFO

SPEC = ModelSpec("fake/echo")
SOON = 5.0


class FakeModel:
    """Reads until `may_read`, then says what it was asked, a letter every `pause` seconds."""

    info = INFO

    def __init__(self, pause: float = 0.0) -> None:
        self.pause = pause
        self.running = 0
        self.served: list[str] = []
        self.may_read = threading.Event()
        self.may_read.set()
        self.began = threading.Event()
        self._unwanted: Callable[[], bool] = lambda: False

    def write(self, request: ChatRequest, queue_seconds: float) -> Generator[ReplyDelta]:
        text = request.messages[-1].content
        self.served.append(text)
        self.running += 1
        try:
            self.began.set()
            if text == "chat error":
                raise GenerationError("no luck")
            if text == "bug":
                raise ZeroDivisionError
            while not self.may_read.wait(0.001):
                if self._unwanted():
                    raise Interrupted
            for letter in text:
                time.sleep(self.pause)
                yield ReplyDelta(letter, tokens=1)
        finally:
            self.running -= 1

    @contextlib.contextmanager
    def interruptible(self, unwanted: Callable[[], bool]) -> Iterator[None]:
        self._unwanted = unwanted
        try:
            yield
        finally:
            self._unwanted = lambda: False


def backend_of(model: FakeModel, loader: Loader | None = None, **options) -> LocalBackend:
    return LocalBackend(SPEC, Path(), loader or (lambda spec, cache_dir, report: model), **options)


def ask(text: str) -> ChatRequest:
    return ChatRequest((Message("user", text),), GenerationSettings())


async def reply(backend: LocalBackend, text: str) -> str:
    return "".join([delta.text async for delta in backend.stream(ask(text))])


async def until(condition: Callable[[], bool]) -> None:
    async with asyncio.timeout(SOON):
        while not condition():
            await asyncio.sleep(0.001)


async def test_replies_come_in_the_order_of_the_requests():
    model = FakeModel()
    backend = backend_of(model).start()
    names = [f"request {number}" for number in range(5)]
    assert await asyncio.gather(*(reply(backend, name) for name in names)) == names
    assert model.served == names
    await backend.close()


async def test_a_request_during_loading_waits_for_the_model():
    loaded = threading.Event()
    model = FakeModel()

    def loader(spec: ModelSpec, cache_dir: Path, report: Report) -> FakeModel:
        report("unpacking")
        loaded.wait(SOON)
        return model

    backend = backend_of(model, loader).start()
    await until(lambda: backend.models()[0].phase == "unpacking")
    asked = asyncio.create_task(reply(backend, "hello"))
    await asyncio.sleep(0.01)
    assert backend.models()[0].state == "loading"
    assert not asked.done()
    loaded.set()
    assert await asked == "hello"
    assert backend.models()[0].state == "ready"
    assert backend.wait() == INFO
    await backend.close()


@pytest.mark.parametrize(
    ("raised", "says"),
    [(ModelError("no such file", "look again"), "no such file"), (KeyError("x"), "could not be loaded")],
)
async def test_an_error_while_loading_is_told_to_everyone(raised: Exception, says: str):
    def loader(spec: ModelSpec, cache_dir: Path, report: Report) -> FakeModel:
        raise raised

    backend = backend_of(FakeModel(), loader).start()
    for _ in range(2):
        with pytest.raises(ModelError, match=says):
            await reply(backend, "hello")
    with pytest.raises(ModelError, match=says):
        backend.wait()
    status = backend.models()[0]
    assert status.state == "failed"
    assert says in str(status.error)
    await backend.close()


async def test_a_request_cancelled_while_queued_is_never_served():
    model = FakeModel()
    model.may_read.clear()
    backend = backend_of(model).start()
    first = asyncio.create_task(reply(backend, "first"))
    await until(model.began.is_set)
    second = asyncio.create_task(reply(backend, "second"))
    await asyncio.sleep(0)
    second.cancel()
    await asyncio.gather(second, return_exceptions=True)
    model.may_read.set()
    assert await first == "first"
    assert await reply(backend, "third") == "third"
    assert model.served == ["first", "third"]
    await backend.close()


async def test_a_request_cancelled_while_loading_is_never_served():
    loaded = threading.Event()
    model = FakeModel()

    def loader(spec: ModelSpec, cache_dir: Path, report: Report) -> FakeModel:
        loaded.wait(SOON)
        return model

    backend = backend_of(model, loader).start()
    asked = asyncio.create_task(reply(backend, "first"))
    await asyncio.sleep(0)
    asked.cancel()
    await asyncio.gather(asked, return_exceptions=True)
    loaded.set()
    assert await reply(backend, "second") == "second"
    assert model.served == ["second"]
    await backend.close()


async def test_a_request_cancelled_while_the_prompt_is_read_frees_the_model():
    model = FakeModel()
    model.may_read.clear()
    backend = backend_of(model).start()
    asked = asyncio.create_task(reply(backend, "first"))
    await until(model.began.is_set)
    asked.cancel()
    await until(lambda: model.running == 0)
    model.may_read.set()
    assert await reply(backend, "second") == "second"
    await backend.close()


async def test_closing_the_iterator_frees_the_model_within_a_token():
    model = FakeModel(pause=0.01)
    backend = backend_of(model).start()
    pieces = backend.stream(ask("x" * 10_000))
    assert (await anext(pieces)).text == "x"
    assert model.running == 1
    await pieces.aclose()
    started = time.perf_counter()
    await until(lambda: model.running == 0)
    assert time.perf_counter() - started < 1.0
    await backend.close()


@pytest.mark.parametrize(("text", "says"), [("chat error", "no luck"), ("bug", "ZeroDivisionError")])
async def test_an_error_in_a_reply_fails_that_reply_only(text: str, says: str):
    model = FakeModel()
    backend = backend_of(model).start()
    results = await asyncio.gather(
        reply(backend, "a"), reply(backend, text), reply(backend, "b"), return_exceptions=True
    )
    assert results[0] == "a"
    assert results[2] == "b"
    assert isinstance(results[1], ChatError)
    assert says in str(results[1])
    assert model.running == 0
    await backend.close()


async def test_close_ends_the_reply_and_those_waiting_and_refuses_new_ones():
    model = FakeModel(pause=0.01)
    backend = backend_of(model).start()
    writing = asyncio.create_task(reply(backend, "x" * 10_000))
    await until(model.began.is_set)
    waiting = asyncio.create_task(reply(backend, "second"))
    await asyncio.sleep(0.02)
    started = time.perf_counter()
    await backend.close()
    assert time.perf_counter() - started < 2.0
    for task in (writing, waiting):
        with pytest.raises(ModelError, match="shutting down"):
            await asyncio.wait_for(task, SOON)
    with pytest.raises(ModelError, match="shutting down"):
        await asyncio.wait_for(reply(backend, "third"), SOON)
    assert model.running == 0
    assert model.served == ["x" * 10_000]
    await backend.close()


async def test_close_before_start():
    await backend_of(FakeModel()).close()


def test_a_reply_whose_event_loop_is_gone_ends():
    model = FakeModel(pause=0.002)
    backend = backend_of(model).start()

    async def ask_and_leave() -> None:
        pieces = backend.stream(ask("x" * 100_000))
        await anext(pieces)
        leftovers.append(pieces)

    leftovers: list[object] = []
    loop = asyncio.new_event_loop()
    loop.run_until_complete(ask_and_leave())
    loop.close()
    asyncio.run(until(lambda: model.running == 0))
    assert asyncio.run(reply(backend, "next")) == "next"
    asyncio.run(backend.close())


def test_two_event_loops_are_served_by_one_model():
    backend = backend_of(FakeModel(pause=0.001)).start()
    results: dict[str, str] = {}

    def user(name: str) -> None:
        results[name] = asyncio.run(reply(backend, name * 20))

    threads = [threading.Thread(target=user, args=(name,)) for name in "abc"]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(SOON)
    assert results == {name: name * 20 for name in "abc"}
    asyncio.run(backend.close())


async def test_wrap_decorates_every_reply():
    wrapped: list[str] = []

    def wrap(write):
        def decorated(request: ChatRequest, queue_seconds: float) -> Generator[ReplyDelta]:
            wrapped.append(request.messages[-1].content)
            yield from write(request, queue_seconds)

        return decorated

    backend = backend_of(FakeModel(), wrap=wrap).start()
    assert [await reply(backend, text) for text in ("a", "b")] == ["a", "b"]
    assert wrapped == ["a", "b"]
    await backend.close()


def test_the_module_imports_neither_torch_nor_transformers():
    code = "import sys, chatui.local.engine; print({'torch', 'transformers'} & set(sys.modules))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "set()"
