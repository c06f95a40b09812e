"""What the model's thread promises, whatever comes: to who asked, and to the runner that it drives."""

import asyncio
import random
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import pytest

from chatui.chat import ChatRequest, Finish, Message, ModelInfo, ReplyDelta
from chatui.engine.model_thread import ModelThread
from chatui.engine.request_queue import Job, RequestQueue
from chatui.engine.runners.contract import IsCancelled, Loader, StepResult
from chatui.errors import ChatError, GenerationError, ModelError, PromptError
from chatui.generation_settings import GenerationSettings
from chatui.model_spec import ModelSpec
from tests.fakes import INFO

SOON = 60.0
DONE = Finish("stop_token", 1, 1, 0, 0.0, 0.0, 0.0)
FAULTS: dict[str, BaseException] = {
    "prompt": PromptError("no prompt"),
    "bug": ZeroDivisionError(),
    "begin": GenerationError("no begin"),
    "reply": GenerationError("no more"),
    "step": RuntimeError("the step failed"),
}
"""What goes wrong with a request of which the text ends so: in `prepare`, in `begin`, or after its first letters."""


@dataclass(eq=False)
class Reply:
    """A reply that is being written, a letter for each step."""

    text: str
    is_cancelled: IsCancelled
    sent: int = 0


@dataclass(eq=False)
class Runner:
    """Says what it was asked, and checks that it is driven as the contract says.

    A step that gets no permit within `patience` seconds writes nothing.
    """

    info: ModelInfo = field(default_factory=lambda: replace(INFO, slots=2))
    replies: list[Reply] = field(default_factory=list)
    begun: list[str] = field(default_factory=list)
    ended: list[str] = field(default_factory=list)
    forgotten: list[str] = field(default_factory=list)
    stepped: list[list[str]] = field(default_factory=list)
    """The texts of the replies that each step advanced."""
    threads: set[tuple[str, str]] = field(default_factory=set)
    resets: int = 0
    patience: float = 0.001
    permits: threading.Semaphore = field(default_factory=lambda: threading.Semaphore(0))

    def can_begin(self, prepared: object) -> bool:
        return len(self.replies) < self.info.slots

    def prepare(self, request: ChatRequest) -> str:
        self._note("prepare")
        text = request.messages[-1].content
        if (fault := text.partition(" ")[2]) in ("prompt", "bug"):
            raise FAULTS[fault]
        return text

    def begin(self, prepared: object, queue_seconds: float, is_cancelled: IsCancelled) -> Reply:
        self._note("begin")
        assert isinstance(prepared, str)
        assert self.can_begin(prepared)
        self.begun.append(prepared)
        if prepared.endswith(" begin"):
            raise FAULTS["begin"]
        self.replies.append(Reply(prepared, is_cancelled))
        return self.replies[-1]

    def step(self) -> list[StepResult]:
        self._note("step")
        assert self.replies, "there is nothing to do"
        if not self.permits.acquire(timeout=self.patience):
            return []
        self.stepped.append([reply.text for reply in self.replies])
        results: list[StepResult] = []
        for reply in list(self.replies):
            word, _, fault = reply.text.partition(" ")
            reply.sent += 1
            if fault == "step" and reply.sent == 2:
                raise FAULTS[fault]
            error = FAULTS.get(fault) if reply.sent == 2 else None
            last = isinstance(error, ChatError) or reply.sent == len(word)
            if last:
                self.replies.remove(reply)
            delta = ReplyDelta(word[reply.sent - 1], tokens=1, finish=DONE if last else None)
            results.append((reply, error if isinstance(error, ChatError) else delta))
        return results

    def end(self, handle: object) -> None:
        self._note("end")
        assert isinstance(handle, Reply)
        self.replies.remove(handle)
        self.ended.append(handle.text)

    def answer_now(self, handle: object) -> None:
        assert handle in self.replies

    def forget(self, chat: str) -> None:
        self._note("forget")
        assert chat not in [reply.text for reply in self.replies], "its reply is being written"
        self.forgotten.append(chat)

    def reset(self) -> None:
        self._note("reset")
        self.resets += 1
        self.replies.clear()

    def _note(self, call: str) -> None:
        self.threads.add((call, threading.current_thread().name))

    def __getattr__(self, name: str) -> Any:
        raise AssertionError(f"the thread has no use for {name}")


def thread_of(runner: Runner, loader: Loader | None = None) -> ModelThread:
    load: Any = loader or (lambda *_: runner)
    return ModelThread(ModelSpec("fake/echo"), Path(), load, RequestQueue(99))


@contextmanager
def serving(runner: Runner) -> Iterator[ModelThread]:
    """A thread that serves; the runner may take any number of steps once the test is over."""
    thread = thread_of(runner)
    thread.start()
    try:
        yield thread
    finally:
        thread.close()
        runner.permits.release(1000)
        thread.join(SOON)
        assert not thread.is_alive()


def ask(thread: ModelThread, text: str, ticket: str = "") -> Job:
    """A request of a user and in a chat that are called like it."""
    request = ChatRequest((Message("user", text),), GenerationSettings(), user=text, temporary_conversation=text)
    job = Job(replace(request, ticket=ticket), asyncio.get_running_loop())
    thread._queue.put(job)
    return job


async def told(job: Job) -> list[str | BaseException]:
    """The letters that this job was told up to its end, and the error if it had one."""
    found: list[str | BaseException] = []
    async with asyncio.timeout(SOON):
        while (event := await job.events.get()) is not None:
            if isinstance(event, ChatError):
                found.append(event)
            elif event.text:
                found.append(event.text)
    return found


async def until(condition: Callable[[], bool]) -> None:
    async with asyncio.timeout(SOON):
        while not condition():
            await asyncio.sleep(0.001)


# --- Loading ---


def test_loading_tells_its_phases_and_then_the_model() -> None:
    runner, phases = Runner(), list[tuple[str, str]]()

    def load(spec: ModelSpec, cache_dir: Path, report: Callable[[str], None]) -> Any:
        assert not thread.settled.is_set()
        for phase in ("reading", "converting"):
            report(phase)
            phases.append((thread.status.state, thread.status.phase))
        return runner

    thread = thread_of(runner, load)
    assert (thread.status.state, thread.model) == ("loading", None)
    thread.load()
    assert phases == [("loading", "reading"), ("loading", "converting")]
    assert (thread.status.state, thread.status.info, thread.model) == ("ready", runner.info, runner)
    assert thread.settled.is_set()
    assert thread._queue.rows == runner.info.slots
    thread.check_open()


@pytest.mark.parametrize("raised", [ModelError("There is none.", "Name another."), MemoryError("too large")])
async def test_a_model_that_cannot_be_loaded_is_the_answer_to_all(raised: BaseException) -> None:
    def load(*_: object) -> Any:
        raise raised

    thread = thread_of(Runner(), load)
    early = ask(thread, "early")
    thread.start()
    [error] = await told(early)
    assert error is thread.status.error
    assert error is raised or "MemoryError: too large" in str(error)
    assert (thread.status.state, thread.model) == ("failed", None)
    assert await told(ask(thread, "late")) == [error]
    thread.close()
    thread.join(SOON)


@pytest.mark.parametrize("raised", [KeyboardInterrupt, SystemExit])
def test_who_ends_the_program_while_it_loads_ends_it(raised: type[BaseException]) -> None:
    def load(*_: object) -> Any:
        raise raised

    thread = thread_of(Runner(), load)
    with pytest.raises(raised):
        thread.load()
    assert thread.settled.is_set(), "nobody waits for it any more"


# --- Steps ---


async def test_each_step_is_measured_and_advances_all_running_replies() -> None:
    runner, seconds = Runner(), list[float]()
    with serving(runner) as thread:
        thread.on_step = seconds.append
        jobs = [ask(thread, "ab"), ask(thread, "xyz")]
        await until(lambda: len(thread._queue.running) == 2)
        runner.permits.release(1000)
        assert [await told(job) for job in jobs] == [["a", "b"], ["x", "y", "z"]]
    assert runner.stepped == [["ab", "xyz"], ["ab", "xyz"], ["xyz"]]
    assert len(seconds) >= 3
    assert min(seconds) >= 0
    assert (runner.ended, runner.resets) == ([], 0), "they ended by themselves"


async def test_a_reply_that_nobody_wants_gets_no_further_step() -> None:
    runner = Runner()
    with serving(runner) as thread:
        left, kept = ask(thread, "left"), ask(thread, "kept")
        await until(lambda: len(thread._queue.running) == 2)
        left.cancelled.set()
        await until(lambda: runner.ended == ["left"])
        runner.permits.release(1000)
        assert await told(kept) == list("kept")
        assert runner.stepped == [["kept"]] * 4
        assert await told(ask(thread, "new")) == list("new"), "its row is free"


async def test_what_was_asked_of_a_running_reply_happens_before_the_next_step() -> None:
    order: list[str] = []

    class Noting(Runner):
        def step(self) -> list[StepResult]:
            order.append("step")
            return super().step()

        def answer_now(self, handle: object) -> None:
            super().answer_now(handle)
            order.append("answer now")

    runner = Noting(patience=SOON)
    with serving(runner) as thread:
        job = ask(thread, "think", ticket=thread._queue.reserve("think"))
        await until(lambda: order == ["step"])
        thread.answer_now(job.request.ticket)
        thread.answer_now("of nobody")
        runner.permits.release(1000)
        assert await told(job) == list("think")
    assert order == ["step", "answer now", *["step"] * 4]


# --- Errors ---


@pytest.mark.parametrize("fault", ["prompt", "bug", "begin", "reply"])
async def test_an_error_ends_the_reply_that_has_it_and_no_other(fault: str) -> None:
    runner = Runner()
    runner.permits.release(1000)
    with serving(runner) as thread:
        other, bad, third = ask(thread, "other"), ask(thread, f"bad {fault}"), ask(thread, "third")
        *letters, error = await told(bad)
        assert letters == (["b"] if fault == "reply" else [])
        assert isinstance(error, ChatError)
        assert error is FAULTS[fault] or fault == "bug"
        assert (await told(other), await told(third)) == (list("other"), list("third"))
        assert (thread.status.state, runner.resets) == ("ready", 0)


async def test_what_a_failed_step_had_not_written_is_an_error_and_those_who_wait_are_answered() -> None:
    runner = Runner()
    with serving(runner) as thread:
        jobs = [ask(thread, "other"), ask(thread, "bad step"), ask(thread, "third")]
        await until(lambda: len(thread._queue.running) == 2)
        runner.permits.release(1000)
        (*before, error), (*letters, same), third = [await told(job) for job in jobs]
        assert isinstance(error, GenerationError)
        assert error is same
        assert before == list("other")[: len(before)]
        assert (letters, third) == (["b"], list("third"))
        assert (thread.status.state, thread.status.info, runner.resets) == ("ready", runner.info, 1)


# --- The end ---


async def test_closing_ends_what_runs_and_what_waits() -> None:
    runner = Runner()
    thread = thread_of(runner)
    thread.start()
    jobs = [ask(thread, text) for text in ("one", "two", "three")]
    await until(lambda: len(thread._queue.running) == 2)
    replies = list(runner.replies)
    assert not any(reply.is_cancelled() for reply in replies)
    thread.close()
    assert all(reply.is_cancelled() for reply in replies)
    with pytest.raises(ModelError, match="shutting down"):
        thread.check_open()
    runner.permits.release(1000)
    answers = [await told(job) for job in jobs]
    assert all(isinstance(answer[-1], ModelError) for answer in answers)
    await asyncio.to_thread(thread.join, SOON)
    assert (runner.replies, sorted(runner.ended)) == ([], ["one", "two"])
    assert (thread.stopped, thread.model) == (True, None)


async def test_one_that_was_never_started_fails_those_who_wait_and_loads_nothing() -> None:
    def load(*_: object) -> Any:
        raise AssertionError("loaded")

    thread = thread_of(Runner(), load)
    job = ask(thread, "early")
    thread.close()
    [error] = await told(job)
    assert "shutting down" in str(error)
    await asyncio.to_thread(thread.join, SOON)
    assert thread.settled.is_set(), "nobody waits for the model any more"


# --- All of it ---

CALLERS = {"prepare": "chatui-prompts"}
"""The thread of each call of the runner; that of all others is the model's."""


@pytest.mark.parametrize("seed", range(5))
async def test_whoever_stays_is_answered_though_others_leave_and_chats_are_forgotten(seed: int) -> None:
    chance, runner = random.Random(seed), Runner()
    runner.permits.release(1000)
    kinds = ["", "", " begin", " reply", " bug"]
    words = [chance.choice("ab") * chance.randint(3, 6) + str(number) for number in range(20)]
    with serving(runner) as thread:
        jobs = [ask(thread, word + chance.choice(kinds)) for word in words]
        for job in chance.sample(jobs, len(jobs)):
            if chance.random() < 0.4:  # as LocalBackend does where a client leaves
                job.cancelled.set()
                thread._queue.remove(job)
            if chance.random() < 0.5:
                thread.forget(job.request.temporary_conversation)
            await asyncio.sleep(chance.choice([0, 0.001]))
        for word, job in zip(words, jobs, strict=True):
            if not job.cancelled.is_set():
                *letters, last = await told(job)
                assert letters == list(word[: len(letters)]), "in order, and none is missing or twice"
                assert isinstance(last, ChatError) if " " in job.request.user else last == word[-1]
                assert job.events.empty(), "nothing comes after the end"
        await until(lambda: not (thread._queue.running or thread._queue.unstarted() or thread._forgotten_chats))
        assert not runner.replies
    assert len(set(runner.begun)) == len(runner.begun)
    assert all(len(texts) <= runner.info.slots for texts in runner.stepped)
    assert {(call, CALLERS.get(call, "chatui-model")) for call, _ in runner.threads} == runner.threads
