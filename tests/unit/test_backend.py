"""The threads and their queue, driven by a scripted model."""

import asyncio
import contextvars
import gc
import itertools
import os
import subprocess
import sys
import threading
import time
import weakref
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

import pytest

from chatui import priority
from chatui.chat import ChatRequest, Finish, Message, ModelInfo, Prompt, ReplyDelta, TokenizeRequest, Tokens
from chatui.engine.backend import LocalBackend
from chatui.engine.model_thread import MAX_RESTARTS
from chatui.engine.runners.contract import IsCancelled, Loader, ModelRunner, ReportPhase, StepResult
from chatui.errors import ChatError, GenerationError, ModelError, OverloadError, PromptError
from chatui.generation_settings import GenerationSettings
from chatui.model_spec import ModelSpec
from tests.fakes import INFO

SPEC = ModelSpec("fake/echo")
SOON = 60.0
"""Seconds in which everything here happens, however busy the machine is."""
DONE = Finish("stop_token", 1, 1, 0, 0.0, 0.0, 0.0)


def opened() -> threading.Event:
    event = threading.Event()
    event.set()
    return event


@dataclass(eq=False)
class FakeReply:
    """A reply of the scripted model: a letter for each step."""

    text: str
    is_cancelled: IsCancelled
    sent: int = 0


class Panic(BaseException):
    """As PanicException of Rust libraries, which passes by `except Exception`."""


@dataclass(eq=False)
class FakeModel:
    """Says what it was asked, to at most `rows` at once; a step reads while `may_read` is shut, then takes `pause`.

    Some texts go wrong: "bad prompt" and "bad begin" with a ChatError, "bug" with another error, "fails" in a step of
    its own, "broken" for the whole step.
    """

    rows: int = 1
    pause: float = 0.0
    info: ModelInfo = INFO
    replies: list[FakeReply] = field(default_factory=list)
    served: list[str] = field(default_factory=list)
    ended: list[str] = field(default_factory=list)
    ended_after: dict[str, int] = field(default_factory=dict)
    """The steps that were done or begun when a reply was ended, by its text."""
    max_running: int = 0
    steps: int = 0
    resets: int = 0
    may_prepare: threading.Event = field(default_factory=opened)
    may_read: threading.Event = field(default_factory=opened)
    may_reset: threading.Event = field(default_factory=opened)
    began: threading.Event = field(default_factory=threading.Event)
    asked_in: list[str] = field(default_factory=list)
    forgotten: list[str] = field(default_factory=list)
    forgot: threading.Event = field(default_factory=threading.Event)
    answered_now: list[object] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.info = replace(self.info, slots=self.rows)

    def can_begin(self, prepared: object) -> bool:
        return len(self.replies) < self.rows

    def prepare(self, request: ChatRequest) -> str:
        text = request.messages[-1].content
        self.asked_in.append(ASKER.get())
        if text.startswith("slow"):
            assert self.may_prepare.wait(SOON)
        if text == "bad prompt":
            raise PromptError("cannot be asked")
        if text == "bug":
            raise ZeroDivisionError
        if text == "panic":
            raise Panic
        return text

    def begin(self, prepared: object, queue_seconds: float, is_cancelled: IsCancelled) -> FakeReply:
        assert isinstance(prepared, str)
        assert self.can_begin(prepared)
        assert queue_seconds >= 0
        self.asked_in.append(ASKER.get())
        self.served.append(prepared)
        if prepared == "bad begin":
            raise GenerationError("no luck")
        reply = FakeReply(prepared, is_cancelled)
        self.replies.append(reply)
        self.max_running = max(self.max_running, len(self.replies))
        self.began.set()
        return reply

    def step(self) -> list[StepResult]:
        self.steps += 1
        while not self.may_read.wait(0.001):
            if any(reply.is_cancelled() for reply in self.replies):
                self.replies = [reply for reply in self.replies if not reply.is_cancelled()]
                return []
        time.sleep(self.pause)
        if any(reply.text == "broken" for reply in self.replies):
            raise RuntimeError("the step is broken")
        if any(reply.text == "panics" for reply in self.replies):
            raise Panic
        return [(reply, self._next(reply)) for reply in list(self.replies)]

    def end(self, handle: object) -> None:
        if handle in self.replies:
            self.replies.remove(handle)
            self.ended.append(handle.text)
            self.ended_after[handle.text] = self.steps

    def answer_now(self, handle: object) -> None:
        self.answered_now.append(handle)

    def forget(self, chat: str) -> None:
        assert chat not in [reply.text for reply in self.replies]
        self.forgotten.append(chat)
        self.forgot.set()

    def preview(self, request: ChatRequest, memo: object = None) -> Prompt:
        return Prompt("", ())

    def decode_tokens(self, ids: set[int]) -> dict[int, str]:
        return {id: str(id) for id in ids}

    def tokenize(self, request: TokenizeRequest) -> Tokens:
        return Tokens(tuple(map(ord, request.text)), tuple(request.text))

    def detokenize(self, ids: Sequence[int]) -> str:
        return "".join(map(chr, ids))

    def kv_usage(self) -> float:
        return 0.5

    def reset(self) -> None:
        assert self.may_reset.wait(SOON)
        self.resets += 1
        self.replies.clear()

    def _next(self, reply: FakeReply) -> ReplyDelta | ChatError:
        if reply.text == "fails":
            self.replies.remove(reply)
            return GenerationError("failed by itself")
        letter = reply.text[reply.sent]
        reply.sent += 1
        last = reply.sent == len(reply.text)
        if last:
            self.replies.remove(reply)
        return ReplyDelta(letter, tokens=1, finish=DONE if last else None)


ASKER = contextvars.ContextVar("asker", default="nobody")


def backend_of(model: ModelRunner, loader: Loader | None = None, **options: int) -> LocalBackend:
    return LocalBackend(SPEC, Path(), loader or (lambda spec, cache_dir, report: model), **options)


def ask(text: str, user: str = "") -> ChatRequest:
    """In a chat that is called like it."""
    return ChatRequest((Message("user", text),), GenerationSettings(), user=user, temporary_conversation=text)


async def reply(backend: LocalBackend, text: str, user: str = "", ticket: str = "") -> str:
    return "".join([delta.text async for delta in backend.stream(replace(ask(text, user), ticket=ticket))])


async def until(condition: Callable[[], bool]) -> None:
    async with asyncio.timeout(SOON):
        while not condition():
            await asyncio.sleep(0.001)


async def asked(backend: LocalBackend, *texts: str, user: str = "") -> list[asyncio.Task[str]]:
    """Requests that have come in, in this order."""
    tasks = [asyncio.create_task(reply(backend, text, user)) for text in texts]
    await asyncio.sleep(0)
    return tasks


async def occupied(backend: LocalBackend, model: FakeModel, user: str = "") -> list[asyncio.Task[str]]:
    """One request that is being answered and one that is made ready, so that all others wait."""
    tasks = await asked(backend, "running", user=user)
    await until(model.began.is_set)
    tasks += await asked(backend, "made ready", user=user)
    await until(lambda: len(backend.queue.prepared) == 1)
    return tasks


async def cancel(*tasks: asyncio.Task[str]) -> None:
    for task in tasks:
        task.cancel()
    await asyncio.gather(*tasks, return_exceptions=True)


class StandsStill(FakeModel):
    """Whose steps do nothing until it may read."""

    def step(self) -> list[StepResult]:
        if self.may_read.wait(0.001):
            return super().step()
        return []


class TestForgetting:
    async def test_a_chat_that_is_over_is_forgotten_though_nothing_else_happens(self) -> None:
        model = FakeModel()
        backend = backend_of(model).start()
        assert await reply(backend, "said") == "said"
        backend.forget("said")
        assert await asyncio.to_thread(model.forgot.wait, SOON)
        assert model.forgotten == ["said"]
        await backend.close()

    async def test_not_before_its_last_reply_is_over_and_one_that_nobody_wants_is(self) -> None:
        model = StandsStill(rows=2)
        model.may_read.clear()
        backend = backend_of(model).start()
        [written, left] = await asked(backend, "written", "left")
        await until(lambda: len(model.replies) == 2)
        backend.forget("written")
        await cancel(left)
        backend.forget("left")
        await until(lambda: model.forgotten == ["left"])
        model.may_read.set()
        assert await written == "written"
        await until(lambda: model.forgotten == ["left", "written"])
        await backend.close()

    async def test_a_running_reply_is_told_to_answer_now(self) -> None:
        model = StandsStill()
        model.may_read.clear()
        backend = backend_of(model).start()
        tickets = [backend.admit(""), "unknown"]
        running = asyncio.create_task(reply(backend, "thinks", ticket=tickets[0]))
        await until(model.began.is_set)
        for ticket in tickets:
            backend.answer_now(ticket)
        await until(lambda: bool(model.answered_now))
        assert model.answered_now == model.replies
        model.may_read.set()
        assert await running == "thinks"
        await backend.close()

    async def test_a_model_that_is_loading_has_nothing_to_forget(self) -> None:
        loading = threading.Event()
        model = FakeModel()

        def load(*_: object) -> FakeModel:
            assert loading.wait(SOON)
            return model

        backend = backend_of(model, load).start()
        backend.forget("early")
        loading.set()
        assert await reply(backend, "said") == "said"
        await backend.close()


class TestOrder:
    async def test_replies_come_in_the_order_of_the_requests(self) -> None:
        model = FakeModel()
        backend = backend_of(model).start()
        names = [f"request {number}" for number in range(5)]
        assert await asyncio.gather(*(reply(backend, name) for name in names)) == names
        assert model.served == names
        assert model.max_running == 1
        await backend.close()

    async def test_as_many_at_once_as_there_is_room(self) -> None:
        model = FakeModel(rows=3, pause=0.002)
        backend = backend_of(model).start()
        names = [letter * 20 for letter in "abcdefg"]
        assert await asyncio.gather(*(reply(backend, name) for name in names)) == names
        assert model.max_running == 3
        assert model.served == names
        await backend.close()

    async def test_users_take_turns(self) -> None:
        model = FakeModel()
        backend = backend_of(model)
        tasks = [*await asked(backend, "a1", "a2", "a3", user="a"), *await asked(backend, "b1", "b2", user="b")]
        tasks += await asked(backend, "c1", user="c")
        backend.start()
        await asyncio.gather(*tasks)
        assert model.served == ["a1", "b1", "c1", "a2", "b2", "a3"]
        await backend.close()

    async def test_a_crowd_of_one_does_not_hold_up_a_newcomer(self) -> None:
        model = FakeModel(pause=0.001)
        model.may_read.clear()
        backend = backend_of(model).start()
        crowd = await asked(backend, *(f"crowd {number}" for number in range(10)), user="crowd")
        await until(lambda: len(backend.queue.prepared) == 1)
        [newcomer] = await asked(backend, "new", user="newcomer")
        model.may_read.set()
        assert await newcomer == "new"
        await asyncio.gather(*crowd)
        assert model.served.index("new") <= 3, "behind the one that runs, the one made ready and one in line"
        await backend.close()

    async def test_the_next_row_is_for_who_has_none(self) -> None:
        model = StandsStill(rows=3, pause=0.001)
        model.may_read.clear()
        backend = backend_of(model).start()
        crowd = await asked(backend, *("crowd" + 1000 * number * "d" for number in range(5)), user="crowd")
        await until(lambda: len(model.replies) == 3 and len(backend.queue.prepared) == 1)
        newcomers = await asked(backend, "new 1", user="one") + await asked(backend, "new 2", user="two")
        newcomers += await asked(backend, "new 3", user="three")
        model.may_read.set()
        await asyncio.gather(*newcomers)
        assert model.served[3:6] == ["new 1", "new 2", "new 3"], "before the one of the crowd that was made ready"
        await cancel(*crowd)
        await backend.close()

    async def test_a_prompt_is_made_ready_for_each_free_row(self) -> None:
        """So that those who come together begin with the same step."""
        model = FakeModel(rows=4)
        model.may_read.clear()
        backend = backend_of(model).start()
        tasks = await asked(backend, "running")
        await until(model.began.is_set)
        tasks += await asked(backend, "1", "2", "3", "4", "5")
        await until(lambda: len(backend.queue.prepared) == 3)
        assert len(backend.queue.waiting) == 2, "whose turn it is beyond that is not decided yet"
        model.may_read.set()
        assert await asyncio.gather(*tasks) == ["running", *"12345"]
        assert model.max_running == 4
        await backend.close()

    async def test_everything_happens_in_the_askers_context(self) -> None:
        model = FakeModel()
        backend = backend_of(model).start()
        for name in ("anna", "bert"):
            ASKER.set(name)
            await reply(backend, "hello")
        assert model.asked_in == ["anna", "anna", "bert", "bert"]
        await backend.close()


class TestPlaces:
    async def places(self, backend: LocalBackend, text: str) -> list[int]:
        """The places told, all before the first letter."""
        deltas = [delta async for delta in backend.stream(ask(text))]
        places = [delta.queue_position for delta in deltas if delta.queue_position is not None]
        assert all(delta.queue_position is not None for delta in deltas[: len(places)])
        return places

    async def test_they_are_told_and_fall(self) -> None:
        model = FakeModel()
        model.may_read.clear()
        backend = backend_of(model).start()
        tasks = [asyncio.create_task(self.places(backend, "slow 0"))]
        await until(model.began.is_set)
        tasks.append(asyncio.create_task(self.places(backend, "slow 1")))
        await until(lambda: len(backend.queue.prepared) == 1)
        tasks += [asyncio.create_task(self.places(backend, f"slow {number}")) for number in range(2, 6)]
        await until(lambda: len(backend.queue.waiting) == 4)
        model.may_read.set()
        positions = await asyncio.gather(*tasks)
        assert positions == [[1], [1], [2, 1], [3, 2, 1], [4, 3, 2, 1], [5, 4, 3, 2, 1]]
        await backend.close()

    async def test_they_never_rise_while_a_prompt_is_made(self) -> None:
        model = FakeModel()
        model.may_prepare.clear()
        backend = backend_of(model).start()
        tasks = [asyncio.create_task(self.places(backend, "slow 0"))]
        await until(lambda: backend.queue.preparing is not None)
        tasks += [asyncio.create_task(self.places(backend, f"{number}")) for number in (1, 2)]
        await until(lambda: len(backend.queue.waiting) == 2)
        model.may_prepare.set()
        assert await asyncio.gather(*tasks) == [[1], [2, 1], [3, 2, 1]]
        await backend.close()

    async def test_they_fall_when_somebody_before_leaves(self) -> None:
        model = FakeModel()
        model.may_read.clear()
        backend = backend_of(model).start()
        tasks = await asked(backend, "running")
        await until(model.began.is_set)
        tasks += await asked(backend, "made ready", "second", "third")
        await until(lambda: len(backend.queue.prepared) == 1)
        last = backend.stream(ask("last"))
        assert (await asyncio.wait_for(anext(last), SOON)).queue_position == 4
        for left, place in ((tasks[2], 3), (tasks[1], 2)):
            await cancel(left)
            assert (await asyncio.wait_for(anext(last), SOON)).queue_position == place
        await last.aclose()
        model.may_read.set()
        assert [await tasks[at] for at in (0, 3)] == ["running", "third"]
        assert model.served == ["running", "third"]
        await backend.close()

    async def test_too_many_are_turned_away(self) -> None:
        model = FakeModel()
        model.may_read.clear()
        backend = backend_of(model, max_waiting=2).start()
        tasks = await occupied(backend, model)
        tasks += await asked(backend, "first", "second")
        for _ in range(3):
            with pytest.raises(OverloadError, match="2 requests are waiting") as caught:
                await reply(backend, "too many")
        assert (caught.value.status, caught.value.retry_after) == (429, 10)
        await cancel(tasks.pop())
        tasks += await asked(backend, "now there is room")
        model.may_read.set()
        assert await asyncio.gather(*tasks) == ["running", "made ready", "first", "now there is room"]
        await backend.close()


class TestShares:
    async def test_one_user_cannot_take_all_places_of_the_queue(self) -> None:
        model = FakeModel()
        model.may_read.clear()
        backend = backend_of(model, max_waiting=8).start()
        greedy = await occupied(backend, model, user="greedy")
        greedy += await asked(backend, *(f"greedy {number}" for number in range(8)), user="greedy")
        await until(lambda: sum(task.done() for task in greedy) == 2 and len(backend.queue.waiting) == 6)
        for task in (task for task in greedy if task.done()):
            with pytest.raises(OverloadError, match="left are for others"):
                await task
        others = [*await asked(backend, "one", user="a"), *await asked(backend, "two", user="b")]
        await until(lambda: len(backend.queue.waiting) == 8)
        with pytest.raises(OverloadError, match="8 requests are waiting"):
            await reply(backend, "too late", "c")
        model.may_read.set()
        assert await asyncio.gather(*others) == ["one", "two"]
        await asyncio.gather(*greedy, return_exceptions=True)
        await backend.close()

    async def test_a_ticket_keeps_a_place_until_its_request_comes_or_never_will(self) -> None:
        model = FakeModel()
        model.may_read.clear()
        backend = backend_of(model, max_waiting=2).start()
        tasks = await occupied(backend, model)
        first, second = backend.admit("a"), backend.admit("b")
        with pytest.raises(OverloadError, match="2 requests are waiting"):
            await reply(backend, "too many")
        with pytest.raises(OverloadError, match="2 requests are waiting"):
            await asyncio.to_thread(backend.admit, "c")
        tasks.append(asyncio.create_task(reply(backend, "kept", "a", first)))
        await until(lambda: len(backend.queue.waiting) == 1)
        with pytest.raises(OverloadError):
            backend.admit("c")
        for _ in range(2):
            backend.release_ticket(second)
            backend.release_ticket(first)
        tasks += await asked(backend, "now there is room")
        model.may_read.set()
        assert await asyncio.gather(*tasks) == ["running", "made ready", "kept", "now there is room"]
        assert backend.queue.tickets == {}
        await backend.close()

    async def test_one_users_tickets_leave_places_to_others_however_many_come_at_once(self) -> None:
        backend = backend_of(FakeModel(), max_waiting=8)
        tickets = [backend.admit("greedy") for _ in range(6)]
        with pytest.raises(OverloadError, match="6 of your requests"):
            backend.admit("greedy")
        backend.admit("other")
        backend.admit("another")
        with pytest.raises(OverloadError, match="8 requests are waiting"):
            backend.admit("last")
        backend.release_ticket(tickets[0])
        backend.admit("last")


class TestLoading:
    async def test_a_request_waits_for_the_model(self) -> None:
        loaded = threading.Event()
        model = FakeModel()

        def loader(spec: ModelSpec, cache_dir: Path, report: ReportPhase) -> FakeModel:
            report("unpacking")
            loaded.wait(SOON)
            return model

        backend = backend_of(model, loader).start()
        await until(lambda: backend.models()[0].phase == "unpacking")
        [waiting] = await asked(backend, "hello")
        tokenizing = asyncio.create_task(backend.tokenize(TokenizeRequest("hello")))
        await asyncio.sleep(0.01)
        assert backend.models()[0].state == "loading"
        assert not waiting.done()
        assert not tokenizing.done()
        loaded.set()
        assert await waiting == "hello"
        assert await backend.detokenize((await tokenizing).ids) == "hello"
        assert backend.models()[0].state == "ready"
        assert backend.wait() == FakeModel().info
        await backend.close()

    @pytest.mark.parametrize(
        ("raised", "says"),
        [
            (ModelError("no such file", "look again"), "no such file"),
            (KeyError("x"), "could not be loaded"),
            (Panic(), "could not be loaded"),
        ],
    )
    async def test_an_error_is_told_to_everyone(self, raised: BaseException, says: str) -> None:
        failing = threading.Event()

        def loader(spec: ModelSpec, cache_dir: Path, report: ReportPhase) -> FakeModel:
            failing.wait(SOON)
            raise raised

        backend = backend_of(FakeModel(), loader).start()
        waiting = await asked(backend, "first", "second")
        failing.set()
        for task in waiting:
            with pytest.raises(ModelError, match=says):
                await task
        with pytest.raises(ModelError, match=says):
            await reply(backend, "third")
        with pytest.raises(ModelError, match=says):
            await backend.detokenize([1])
        with pytest.raises(ModelError, match=says):
            backend.wait()
        status = backend.models()[0]
        assert status.state == "failed"
        assert says in str(status.error)
        await backend.close()

    async def test_in_ones_own_thread(self) -> None:
        threads: list[threading.Thread] = []

        def loader(spec: ModelSpec, cache_dir: Path, report: ReportPhase) -> FakeModel:
            threads.append(threading.current_thread())
            return FakeModel()

        backend = backend_of(FakeModel(), loader).load_in_this_thread()
        assert backend.models()[0].state == "ready"
        assert await reply(backend.start(), "hello") == "hello"
        assert threads == [threading.current_thread()]
        await backend.close()


class TestCancelling:
    async def test_a_request_that_waits_is_never_served(self) -> None:
        model = FakeModel()
        model.may_read.clear()
        backend = backend_of(model).start()
        tasks = await asked(backend, "first", "second", "third")
        await until(lambda: len(backend.queue.prepared) == 1)
        await cancel(tasks[2])
        await cancel(tasks[1])
        model.may_read.set()
        assert await tasks[0] == "first"
        assert await reply(backend, "fourth") == "fourth"
        assert model.served == ["first", "fourth"]
        await backend.close()

    async def test_nor_one_that_was_given_up_while_the_model_was_loading(self) -> None:
        loaded = threading.Event()
        model = FakeModel()

        def loader(spec: ModelSpec, cache_dir: Path, report: ReportPhase) -> FakeModel:
            loaded.wait(SOON)
            return model

        backend = backend_of(model, loader).start()
        await cancel(*await asked(backend, "first"))
        loaded.set()
        assert await reply(backend, "second") == "second"
        assert model.served == ["second"]
        await backend.close()

    async def test_nor_one_that_was_given_up_while_its_prompt_was_made(self) -> None:
        model = FakeModel()
        model.may_prepare.clear()
        backend = backend_of(model).start()
        tasks = await asked(backend, "slow")
        await until(lambda: backend.queue.preparing is not None)
        await cancel(*tasks)
        model.may_prepare.set()
        assert await reply(backend, "second") == "second"
        assert model.served == ["second"]
        await backend.close()

    async def test_while_the_prompt_is_read_the_model_is_freed(self) -> None:
        model = FakeModel()
        model.may_read.clear()
        backend = backend_of(model).start()
        tasks = await asked(backend, "first")
        await until(model.began.is_set)
        await cancel(*tasks)
        await until(lambda: not model.replies)
        model.may_read.set()
        assert await reply(backend, "second") == "second"
        await backend.close()

    async def test_closing_the_iterator_frees_the_row_within_a_step(self) -> None:
        model = FakeModel(rows=2, pause=0.01)
        backend = backend_of(model).start()
        beside = asyncio.create_task(reply(backend, "y" * 20))
        pieces = backend.stream(ask("x" * 10_000))
        async for delta in pieces:
            if delta.text:
                break
        before = model.steps
        await pieces.aclose()
        await until(lambda: "x" * 10_000 in model.ended)
        assert model.ended_after["x" * 10_000] - before <= 2
        assert await beside == "y" * 20
        await backend.close()

    def test_a_reply_whose_event_loop_is_gone_ends(self) -> None:
        model = FakeModel(pause=0.002)
        backend = backend_of(model).start()

        async def ask_and_leave() -> None:
            pieces = backend.stream(ask("x" * 100_000))
            await anext(pieces)
            leftovers.append(pieces)
            await until(lambda: bool(model.replies))

        leftovers: list[object] = []
        loop = asyncio.new_event_loop()
        loop.run_until_complete(ask_and_leave())
        loop.close()
        asyncio.run(until(lambda: not model.replies))
        assert asyncio.run(reply(backend, "next")) == "next"
        asyncio.run(backend.close())

    @pytest.mark.parametrize("count", [500, pytest.param(3000, marks=pytest.mark.exhaustive)])
    async def test_many_leave_nothing_behind(self, count: int) -> None:
        model = FakeModel(rows=4)
        backend = backend_of(model, max_waiting=100).start()
        left: weakref.WeakSet[ChatRequest] = weakref.WeakSet()

        async def on_lease_lost(number: int) -> None:
            request = ChatRequest((Message("user", f"request {number}"),), GenerationSettings(seed=number))
            left.add(request)
            pieces = backend.stream(request)
            for _ in range(number % 7):
                await anext(pieces)
            await pieces.aclose()

        for start in range(0, count, 50):
            await asyncio.gather(*(on_lease_lost(number) for number in range(start, start + 50)))
        await until(lambda: not model.replies and not backend.queue.running)
        assert await reply(backend, "last") == "last"
        await until(lambda: not backend.queue.running)
        assert (backend.queue.unstarted(), backend.queue._line._lines) == ([], {})
        assert backend.thread.outputs == []
        gc.collect()
        assert len(left) <= 1, "what the threads' own variables hold"
        await backend.close()


class TestErrors:
    @pytest.mark.parametrize(
        ("text", "says"),
        [
            ("bad prompt", "cannot be asked"),
            ("bad begin", "no luck"),
            ("bug", "ZeroDivisionError"),
            ("panic", "Panic"),
            ("fails", "failed by itself"),
        ],
    )
    async def test_an_error_fails_that_reply_only(self, text: str, says: str) -> None:
        model = FakeModel(rows=2)
        backend = backend_of(model).start()
        results = await asyncio.gather(*(reply(backend, each) for each in ("a", text, "b")), return_exceptions=True)
        assert (results[0], results[2]) == ("a", "b")
        assert isinstance(results[1], ChatError)
        assert says in str(results[1])
        assert (model.replies, model.resets) == ([], 0)
        await backend.close()

    async def test_a_step_that_fails_outright_fails_those_running_and_the_engine_starts_again(self) -> None:
        model = FakeModel(rows=2, pause=0.001)
        model.may_reset.clear()
        backend = backend_of(model)
        running = await asked(backend, "x" * 10_000, "broken", "waiting", "bad prompt")
        backend.start()
        for task in running[:2]:
            with pytest.raises(GenerationError, match="stopped") as caught:
                await asyncio.wait_for(task, SOON)
            assert "ask once more" in caught.value.remedy
        status = backend.models()[0]
        assert (status.state, status.phase) == ("loading", "starting again after a failure")
        model.may_reset.set()
        assert await running[2] == "waiting"
        assert await reply(backend, "next") == "next"
        with pytest.raises(PromptError):
            await running[3]
        assert model.resets == 1
        status = backend.models()[0]
        assert (status.state, status.info) == ("ready", model.info)
        await backend.close()

    async def test_nor_does_a_panic_of_a_library_end_the_engine(self) -> None:
        backend = backend_of(FakeModel()).start()
        with pytest.raises(GenerationError, match=r"stopped \(Panic\)"):
            await asyncio.wait_for(reply(backend, "panics"), SOON)
        assert await asyncio.wait_for(reply(backend, "next"), SOON) == "next"
        await backend.close()

    async def test_an_engine_that_keeps_failing_stops(self) -> None:
        model = FakeModel()
        backend = backend_of(model).start()
        for _ in range(MAX_RESTARTS):
            with pytest.raises(GenerationError):
                await reply(backend, "broken")
            assert await reply(backend, "hello") == "hello"
        tasks = await asked(backend, "broken", "second", "third")
        with pytest.raises(GenerationError):
            await tasks[0]
        for task in tasks[1:]:
            with pytest.raises(ModelError, match="keeps failing"):
                await asyncio.wait_for(task, SOON)
        await until(lambda: backend.thread.stopped)
        status = backend.models()[0]
        assert status.state == "failed"
        assert "keeps failing" in str(status.error)
        with pytest.raises(ModelError, match="keeps failing"):
            await asyncio.wait_for(reply(backend, "hello"), SOON)
        await backend.close()

    async def test_failures_long_ago_are_forgiven(self) -> None:
        backend = backend_of(FakeModel()).start()
        for _ in range(3 * MAX_RESTARTS):
            backend.thread.failures[:] = [at - 30.0 for at in backend.thread.failures]
            with pytest.raises(GenerationError):
                await reply(backend, "broken")
        assert await reply(backend, "hello") == "hello"
        await backend.close()

    async def test_an_engine_that_cannot_start_again_stops(self) -> None:
        class Broken(FakeModel):
            def reset(self) -> None:
                raise RuntimeError("the device is gone")

        backend = backend_of(Broken()).start()
        with pytest.raises(GenerationError):
            await reply(backend, "broken")
        with pytest.raises(ModelError, match="keeps failing"):
            await asyncio.wait_for(reply(backend, "hello"), SOON)
        await backend.close()


class TestClosing:
    async def test_it_ends_the_replies_and_those_waiting_and_refuses_new_ones(self) -> None:
        model = FakeModel(pause=0.01)
        backend = backend_of(model).start()
        [writing] = await asked(backend, "x" * 10_000)
        await until(model.began.is_set)
        waiting = await asked(backend, "second", "third")
        await until(lambda: len(backend.queue.prepared) == 1)
        await asyncio.wait_for(backend.close(), SOON)  # the whole reply takes 100 s
        for task in (writing, *waiting):
            with pytest.raises(ModelError, match="shutting down"):
                await asyncio.wait_for(task, SOON)
        with pytest.raises(ModelError, match="shutting down"):
            await asyncio.wait_for(reply(backend, "fourth"), SOON)
        assert model.ended == model.served == ["x" * 10_000]
        await backend.close()

    async def test_it_does_not_wait_for_a_prompt_that_is_read(self) -> None:
        model = FakeModel()
        model.may_read.clear()
        backend = backend_of(model).start()
        tasks = await asked(backend, "first")
        await until(model.began.is_set)
        await asyncio.wait_for(backend.close(), SOON)
        with pytest.raises(ModelError, match="shutting down"):
            await asyncio.wait_for(tasks[0], SOON)

    async def test_nor_does_a_request_whose_prompt_is_being_made_wait_for_ever(self) -> None:
        model = FakeModel()
        model.may_prepare.clear()
        backend = backend_of(model).start()
        tasks = await asked(backend, "slow")
        await until(lambda: backend.queue.preparing is not None)
        closing = asyncio.create_task(backend.close())
        with pytest.raises(ModelError, match="shutting down"):
            await asyncio.wait_for(tasks[0], SOON)
        model.may_prepare.set()
        await closing

    async def test_before_start(self) -> None:
        await backend_of(FakeModel()).close()

    async def test_the_model_is_let_go(self) -> None:
        model = FakeModel()
        models: list[ModelRunner] = [model]
        backend = backend_of(model, lambda *_: models.pop()).start()
        await reply(backend, "hello")
        await backend.close()
        gone = weakref.ref(model)
        del model
        gc.collect()
        assert gone() is None


class TestThreads:
    async def test_a_step_is_one_call_for_each_event_loop(self, monkeypatch: pytest.MonkeyPatch) -> None:
        model = FakeModel(rows=10)
        backend = backend_of(model)
        loop, calls = asyncio.get_running_loop(), itertools.count()
        called = loop.call_soon_threadsafe
        tasks = await asked(backend, *(letter * 100 for letter in "abcdefghij"))
        monkeypatch.setattr(loop, "call_soon_threadsafe", lambda *args: (next(calls), called(*args))[1])
        model.may_read.clear()  # until all can begin
        backend.start()
        await until(lambda: len(model.replies) + len(backend.queue.prepared) == 10)
        model.may_read.set()
        await asyncio.gather(*tasks)
        places = 10 * 10
        assert model.steps < 200
        assert next(calls) <= model.steps + places
        await backend.close()

    def test_two_event_loops_are_served_by_one_model(self) -> None:
        model = FakeModel(rows=2, pause=0.001)
        backend = backend_of(model).start()
        results: dict[str, str] = {}

        def user(name: str) -> None:
            results[name] = asyncio.run(reply(backend, name * 20))

        threads = [threading.Thread(target=user, args=(name,)) for name in "abc"]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join(SOON)
        assert results == {name: name * 20 for name in "abc"}
        assert model.max_running == 2
        asyncio.run(backend.close())

    @pytest.mark.skipif(sys.platform != "linux", reason="elsewhere a priority is the whole process's")
    async def test_the_model_comes_after_other_programs_and_the_server_does_not(self) -> None:
        priorities = []

        class Watched(FakeModel):
            def step(self) -> list[StepResult]:
                priorities.append(os.getpriority(os.PRIO_PROCESS, threading.get_native_id()))
                return super().step()

        before = os.getpriority(os.PRIO_PROCESS, threading.get_native_id())
        backend = backend_of(Watched()).start()
        await reply(backend, "x")
        assert set(priorities) == {max(before, priority.MODEL)}
        assert os.getpriority(os.PRIO_PROCESS, threading.get_native_id()) == before
        await backend.close()

    async def test_a_prompt_that_takes_long_does_not_stop_those_who_write(self) -> None:
        model = FakeModel(rows=2, pause=0.001)
        model.may_prepare.clear()
        backend = backend_of(model).start()
        writing = backend.stream(ask("x" * 10_000))
        async for delta in writing:
            if delta.text:
                break
        [slow] = await asked(backend, "slow")
        await until(lambda: backend.queue.preparing is not None)
        for _ in range(20):
            assert (await asyncio.wait_for(anext(writing), SOON)).text == "x"
        assert not slow.done()
        model.may_prepare.set()
        assert await slow == "slow"
        await writing.aclose()
        await backend.close()


def test_the_module_imports_neither_torch_nor_transformers() -> None:
    code = "import sys, chatui.engine.backend; print({'torch', 'transformers'} & set(sys.modules))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "set()"
