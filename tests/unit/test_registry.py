"""Several models in one process: what is loaded when, and that nobody gets another model's reply."""

import asyncio
import threading
from collections.abc import AsyncGenerator, AsyncIterator, Callable
from contextlib import aclosing, asynccontextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from chatui.chat import ChatRequest, LoadOptions, Message, ModelInfo, ModelStatus, ReplyDelta, TokenizeRequest
from chatui.engine.backend import LocalBackend
from chatui.errors import ModelError, OverloadError, SettingsError
from chatui.generation_settings import GenerationSettings
from chatui.model_spec import MAX_CONTEXT, ModelSpec
from chatui.models import registry as registry_module
from chatui.models.added_models import AddedModelsFile
from chatui.models.instances import Memory
from chatui.models.registry import Registry
from tests.fakes import INFO, FakeBackend, Hold

SIZES = {"a": 4, "b": 4, "c": 3, "d": 2, "e": 9}


class Machine:
    """A machine with `memory` bytes, on which fake models load. `broken` ones cannot be loaded."""

    def __init__(self, memory: int = 8) -> None:
        self.memory, self.held = memory, dict[FakeModel, int]()
        self.lock = threading.Lock()
        self.broken: set[str] = set()
        self.loading: list[str] = []
        self.most_at_once = 0
        self.loads: list[str] = []
        self.unloads: list[str] = []
        self.gates: dict[str, threading.Event] = {}
        self.backends: list[FakeModel] = []
        self.specs: list[ModelSpec] = []
        self.replies: dict[str, Any] = {}
        self.misrouted: list[str] = []

    def open(self, spec: ModelSpec) -> "FakeModel":
        self.specs.append(spec)
        self.backends.append(FakeModel(self, spec.name))
        return self.backends[-1]

    def free(self) -> int:
        return self.memory - sum(self.held.values())

    def registry(self, names: str = "abcd", **options: Any) -> Registry:
        memory = Memory(lambda spec: SIZES[spec.name], self.free, lambda: None)
        specs = [ModelSpec(name) for name in names]
        return Registry(specs, self.open, memory, **{"linger": 0.0, **options})


class FakeModel(FakeBackend):
    """A fake backend of one model, which says its own name."""

    def __init__(self, machine: Machine, name: str) -> None:
        super().__init__(machine.replies.get(name, [name]), rate=100_000.0)
        self.machine, self.name = machine, name
        self.status = ModelStatus(name, "loading", "starting")
        self.settled = threading.Event()
        self.closed = False

    def start(self) -> None:
        threading.Thread(target=self._load, daemon=True).start()

    def _load(self) -> None:
        machine = self.machine
        machine.loading.append(self.name)
        machine.most_at_once = max(machine.most_at_once, len(machine.loading))
        machine.gates.setdefault(self.name, _open_gate()).wait()
        with machine.lock:
            self.status = self._loaded_status()
        machine.loading.remove(self.name)
        self.settled.set()

    def _loaded_status(self) -> ModelStatus:
        machine, size = self.machine, SIZES[self.name]
        if self.closed or self.name in machine.broken or machine.free() < size:
            return ModelStatus(self.name, "failed", error=ModelError(f"{self.name} cannot be loaded."))
        assert self.name not in {other.name for other in machine.held}, "a model is in memory twice"
        machine.held[self] = size
        machine.loads.append(self.name)
        return ModelStatus(self.name, "ready", info=replace(INFO, name=self.name, weight_bytes=size, kv_bytes=0))

    def wait(self) -> ModelInfo:
        self.settled.wait()
        if self.status.info is None:
            raise self.status.error or AssertionError
        return self.status.info

    async def stream(self, request: ChatRequest) -> AsyncGenerator[ReplyDelta]:
        if request.model not in ("", self.name):
            self.machine.misrouted.append(request.model)
        async with aclosing(super().stream(request)) as deltas:
            async for delta in deltas:
                assert self in self.machine.held, "a model was unloaded under its reply"
                yield delta

    async def close(self) -> None:
        assert not self.running
        with self.machine.lock:
            self.closed = True
            if self.machine.held.pop(self, None) is not None:
                self.machine.unloads.append(self.name)


def _open_gate() -> threading.Event:
    gate = threading.Event()
    gate.set()
    return gate


def ask(model: str, **values: Any) -> ChatRequest:
    return ChatRequest((Message("user", "Who?"),), GenerationSettings(), model, **values)


async def reply(registry: Registry, model: str, **values: Any) -> str:
    text = ""
    async with aclosing(registry.stream(ask(model, **values))) as deltas:
        async for delta in deltas:
            text += delta.text
    return text


def states(registry: Registry) -> dict[str, str]:
    return {status.name: status.state for status in registry.models()}


async def until(condition: Callable[[], bool]) -> None:
    async with asyncio.timeout(60):
        while not condition():
            await asyncio.sleep(0.001)


@asynccontextmanager
async def serving(machine: Machine, names: str = "abcd", **options: Any) -> AsyncIterator[Registry]:
    registry = machine.registry(names, **options).start()
    try:
        yield registry
    finally:
        for gate in machine.gates.values():
            gate.set()
        await registry.close()


async def test_the_default_model_is_loaded_at_the_start_and_others_by_a_request() -> None:
    async with serving(machine := Machine()) as registry:
        assert registry.wait().name == "a"
        assert states(registry) == {"a": "ready", "b": "unloaded", "c": "unloaded", "d": "unloaded"}
        assert await reply(registry, "b") == "b"
        assert await reply(registry, "") == "a"
        assert machine.loads == ["a", "b"]
        assert states(registry)["b"] == "ready"


async def test_the_idle_model_that_was_not_used_for_the_longest_time_is_unloaded() -> None:
    async with serving(machine := Machine()) as registry:
        for name in "abac":
            assert await reply(registry, name) == name
        assert machine.unloads == ["b"]
        assert await reply(registry, "b") == "b"
        assert machine.unloads == ["b", "a"]
        known = {status.name: status.info for status in registry.models()}
        assert known["a"] is not None  # although it is unloaded
        assert known["d"] is None


async def test_requests_for_one_model_load_it_once() -> None:
    async with serving(machine := Machine()) as registry:
        assert await asyncio.gather(*(reply(registry, "b") for _ in range(8))) == ["b"] * 8
        assert machine.loads.count("b") == 1


async def test_a_cancelled_request_does_not_cancel_the_load_for_others() -> None:
    machine = Machine()
    machine.gates["b"] = threading.Event()
    async with serving(machine) as registry:
        first, second = (asyncio.create_task(reply(registry, "b")) for _ in range(2))
        waiting = asyncio.create_task(registry.ensure_loaded("b"))
        await until(lambda: machine.loading == ["b"])
        assert states(registry)["b"] == "loading"
        first.cancel()
        waiting.cancel()
        await asyncio.gather(first, waiting, return_exceptions=True)
        machine.gates["b"].set()
        assert await second == "b"
        assert machine.loads.count("b") == 1


async def test_a_model_with_a_reply_is_not_unloaded_and_new_requests_do_not_keep_it() -> None:
    machine, hold = Machine(memory=4), Hold()
    machine.replies["a"] = ["a", hold, "!"]
    async with serving(machine) as registry:
        running = asyncio.create_task(reply(registry, "a"))
        await until(lambda: bool(machine.backends) and machine.backends[0].running == 1)
        other = asyncio.create_task(reply(registry, "b"))
        await until(lambda: any(each.retired for each in registry._instances.all))
        again = asyncio.create_task(reply(registry, "a"))
        await until(lambda: len(registry._instances.all) == 3)
        assert not machine.unloads
        assert machine.loads[-1] == "a"
        assert states(registry)["b"] == "loading"
        hold.release()
        assert list(await asyncio.gather(running, other, again)) == ["a!", "b", "a!"]
        assert machine.loads == ["a", "b", "a"]


async def test_a_failed_load_leaves_the_others_serving_and_is_told() -> None:
    machine = Machine()
    machine.broken = {"b"}
    async with serving(machine) as registry:
        with pytest.raises(ModelError, match="b cannot be loaded"):
            await reply(registry, "b")
        with pytest.raises(ModelError, match="b cannot be loaded"):
            await registry.ensure_loaded("b")
        assert await reply(registry, "a") == "a"
        failed = registry.models()[1]
        assert (failed.name, failed.state, str(failed.error)) == ("b", "failed", "b cannot be loaded.")


async def test_a_failed_model_is_tried_again_after_a_while(monkeypatch: pytest.MonkeyPatch) -> None:
    machine = Machine()
    machine.broken = {"b"}
    async with serving(machine) as registry:
        with pytest.raises(ModelError):
            await registry.ensure_loaded("b")
        machine.broken.clear()
        with pytest.raises(ModelError):
            await reply(registry, "b")
        monkeypatch.setattr(registry_module, "RETRY_SECONDS", 0.0)
        assert await reply(registry, "b") == "b"
        assert states(registry)["b"] == "ready"
        await until(lambda: len(registry._instances.all) == 2)


async def test_a_model_too_large_for_this_machine_costs_no_other_its_place() -> None:
    async with serving(machine := Machine(memory=8), "ade") as registry:
        await reply(registry, "d")
        with pytest.raises(ModelError, match="e cannot be loaded"):
            await reply(registry, "e")
        assert machine.unloads == []


async def test_an_idle_model_is_unloaded_after_a_while_and_loaded_again() -> None:
    async with serving(machine := Machine(), idle_unload=0.02) as registry:
        await reply(registry, "a")
        await until(lambda: states(registry)["a"] == "unloaded" and machine.unloads == ["a"])
        assert await reply(registry, "a") == "a"


async def test_a_model_is_unloaded_on_request_once_its_reply_has_ended() -> None:
    machine, hold = Machine(), Hold()
    machine.replies["a"] = ["a", hold, "!"]
    async with serving(machine) as registry:
        running = asyncio.create_task(reply(registry, "a"))
        await until(lambda: bool(machine.backends) and machine.backends[0].running == 1)
        registry.unload("a")
        registry.unload("b")  # which is not loaded
        assert machine.unloads == []
        hold.release()
        assert await running == "a!"
        await until(lambda: machine.unloads == ["a"])
        assert states(registry)["a"] == "unloaded"


async def test_a_model_that_is_being_unloaded_is_loaded_again_only_when_it_is_gone() -> None:
    machine, hold = Machine(), Hold()
    machine.replies["a"] = ["a", hold, "!"]
    async with serving(machine) as registry:
        running = asyncio.create_task(reply(registry, "a"))
        await until(lambda: bool(machine.backends) and machine.backends[0].running == 1)
        registry.unload("a")
        again = asyncio.create_task(reply(registry, "a"))
        await until(lambda: len(registry._instances.all) == 2)
        assert await reply(registry, "b") == "b"
        assert machine.loads == ["a", "b"]
        hold.release()
        assert list(await asyncio.gather(running, again)) == ["a!", "a!"]
        assert machine.loads == ["a", "b", "a"]


async def test_a_model_that_waits_to_be_loaded_can_be_unloaded_with_its_requests_answered() -> None:
    machine = Machine()
    machine.gates["a"] = threading.Event()
    async with serving(machine) as registry:
        asked = asyncio.create_task(reply(registry, "b"))
        await until(lambda: len(registry._instances.all) == 2)
        registry.load("c")
        registry.unload("b")
        registry.unload("c")
        machine.gates["a"].set()
        assert await asked == "b"
        await until(lambda: states(registry) == {"a": "ready", "b": "unloaded", "c": "unloaded", "d": "unloaded"})
        assert "c" not in machine.loads


async def test_a_ticket_keeps_its_model_until_it_is_used_or_released() -> None:
    async with serving(machine := Machine(memory=4)) as registry:
        registry.wait()
        ticket = registry.admit("ada", "a")
        other = asyncio.create_task(reply(registry, "b"))
        await until(lambda: any(each.retired for each in registry._instances.all))
        assert await reply(registry, "a", ticket=ticket) == "a"
        assert await other == "b"
        registry.release_ticket(ticket)  # which was used
        second = registry.admit("ada", "b")
        registry.release_ticket(second)
        assert machine.backends[1].released_tickets == [second]
        machine.backends[1].full = OverloadError("Full.")
        with pytest.raises(OverloadError):
            registry.admit("ada", "b")
        assert {each.users for each in registry._instances.all} == {0}


async def test_previews_and_tokens_are_of_the_model_that_is_named() -> None:
    async with serving(Machine()) as registry:
        registry.wait()
        assert await registry.preview(ask("b")) is None
        assert registry.decode_tokens({1}, "b") == {}
        await registry.ensure_loaded("b")
        assert await registry.preview(ask("b")) is not None
        registry.answer_now("ticket")
        assert registry.decode_tokens({1}, "b") == {1: " other"}


async def test_texts_are_tokenized_by_the_model_that_is_named_which_is_loaded_first() -> None:
    machine = Machine()
    async with serving(machine) as registry:
        registry.wait()
        assert (await registry.tokenize(TokenizeRequest("x", model="b"))).ids == (ord("x"),)
        assert await registry.detokenize([ord("x")], "c") == "x"
        assert [backend.name for backend in machine.backends] == ["a", "b", "c"]
        with pytest.raises(ModelError):
            await registry.tokenize(TokenizeRequest("x", model="nope"))
        assert {each.users for each in registry._instances.all} == {0}
        registry.forget("chat")


async def test_a_model_is_loaded_again_as_it_was_chosen_and_replies_end_on_the_old_weights() -> None:
    machine, hold = Machine(memory=20), Hold()
    machine.replies["a"] = ["a", hold, "!"]
    async with serving(machine, "ab") as registry:
        running = asyncio.create_task(reply(registry, "a"))
        await until(lambda: bool(machine.backends) and machine.backends[0].running == 1)
        registry.load("a", LoadOptions("int8", context=512))
        registry.load("a", LoadOptions("int8", context=512))
        assert states(registry) == {"a": "loading", "b": "unloaded"}
        assert not machine.unloads
        hold.release()
        assert await running == "a!"
        await registry.ensure_loaded("a")
        assert [(spec.quantization, spec.context) for spec in machine.specs] == [("auto", None), ("int8", 512)]
        registry.unload("a")
        await until(lambda: states(registry)["a"] == "unloaded")
        await registry.ensure_loaded("a")
        assert machine.specs[-1].context == 512  # as it was
        registry.load("a", LoadOptions())
        await registry.ensure_loaded("a")
        assert machine.specs[-1] == machine.specs[0]
        registry.load("a")
        assert len(machine.specs) == 4


async def test_a_choice_that_cannot_be_loaded_fails_alone_and_is_not_kept() -> None:
    async with serving(machine := Machine(memory=20), "ab") as registry:
        registry.wait()
        assert await reply(registry, "b") == "b"
        with pytest.raises(SettingsError, match="precision"):
            registry.load("b", LoadOptions("x"))
        assert states(registry)["b"] == "ready"
        machine.broken = {"b"}
        registry.load("b", LoadOptions("float32", context=MAX_CONTEXT))
        with pytest.raises(ModelError, match="b cannot be loaded"):
            await registry.ensure_loaded("b")
        assert states(registry) == {"a": "ready", "b": "failed"}
        assert await reply(registry, "a") == "a"
        machine.broken = set()
        registry.load("b")
        assert await reply(registry, "b") == "b"
        assert machine.specs[-1].context is None


async def test_models_are_added_and_removed_while_others_serve() -> None:
    machine, hold = Machine(memory=20), Hold()
    machine.replies["b"] = ["b", hold, "!"]
    async with serving(machine, "a") as registry:
        assert registry.add("b") == "b"
        assert registry.add("b") == "b"
        assert [(status.name, status.added) for status in registry.models()] == [("a", False), ("b", True)]
        running = asyncio.create_task(reply(registry, "b"))
        await until(lambda: any(backend.running for backend in machine.backends))
        registry.remove("b")
        assert list(states(registry)) == ["a"]
        with pytest.raises(ModelError, match="b is not served here"):
            await reply(registry, "b")
        assert not machine.unloads
        hold.release()
        assert await running == "b!"
        await until(lambda: machine.unloads == ["b"])
        with pytest.raises(ModelError, match="a is the default model"):
            registry.remove("")
        assert await reply(registry, "a") == "a"


async def test_an_added_model_can_be_loaded_again_after_it_was_removed() -> None:
    async with serving(machine := Machine(memory=20), "a") as registry:
        for _ in range(3):
            registry.add("b")
            assert await reply(registry, "b") == "b"
            registry.remove("b")
        assert machine.loads.count("b") == 3
        assert registry.add("b", "abc") == "b"
        assert registry.add("https://huggingface.co/b/c/tree/abc") == "b/c"
        assert [status.source for status in registry.models()] == ["a", "b", "b/c"]


def test_added_models_are_served_after_a_restart(tmp_path: Path) -> None:
    file = AddedModelsFile(tmp_path / "data" / "added.json")
    registry = Machine().registry("a", added_file=file)
    registry.add("b", "abc")
    registry.add("c")
    registry.remove("c")
    again = Machine().registry("a", added_file=file)
    assert [(status.name, status.added) for status in again.models()] == [("a", False), ("b", True)]
    assert list(again._served)[1].spec.revision == "abc"
    assert [status.name for status in Machine().registry("ab", added_file=file).models()] == ["a", "b"]


@pytest.mark.parametrize("content", ["", "[1]", '[["a"]]', '{"a": 1}', "\x00"], ids=repr)
def test_a_damaged_file_of_added_models_keeps_nobody_from_starting(tmp_path: Path, content: str) -> None:
    path = tmp_path / "added.json"
    path.write_text(content)
    registry = Machine().registry("a", added_file=AddedModelsFile(path))
    assert list(states(registry)) == ["a"]
    registry.add("b")
    assert list(states(Machine().registry("a", added_file=AddedModelsFile(path)))) == ["a", "b"]


def test_what_is_put_into_the_folder_of_models_is_found(tmp_path: Path) -> None:
    folder = tmp_path / "models"
    registry = Machine().registry("a", models_dir=folder)
    registry.refresh()  # the folder is not there yet
    for name in ("x", "y"):
        (folder / name).mkdir(parents=True)
        (folder / name / "config.json").write_text("{}")
    registry.refresh()
    assert [(each.name, each.source) for each in registry.models()[1:]] == [
        ("x", str(folder / "x")),
        ("y", str(folder / "y")),
    ]
    (folder / "y" / "config.json").unlink()
    registry.refresh()
    registry.refresh()
    assert list(states(registry)) == ["a", "x"]
    folder.rename(tmp_path / "away")
    registry.refresh()
    assert list(states(registry)) == ["a", "x"]  # a disk that is away for a while costs nothing


def test_an_added_file_that_was_deleted_is_served_no_longer(tmp_path: Path) -> None:
    model, file = tmp_path / "model.gguf", AddedModelsFile(tmp_path / "added.json")
    model.touch()
    registry = Machine().registry("a", added_file=file)
    assert registry.add(str(model)) == "model.gguf"
    registry.add("owner/on-the-hub")
    model.unlink()
    registry.refresh()
    assert list(states(registry)) == ["a", "owner/on-the-hub"]
    assert file.read() == [("owner/on-the-hub", None)]


def test_an_added_adapter_is_put_on_the_served_model_that_it_names(tmp_path: Path) -> None:
    (tmp_path / "adapter_config.json").write_text('{"base_model_name_or_path": "someone/b"}')
    bases: list[ModelSpec | None] = []

    def open_backend(spec: ModelSpec) -> FakeModel:
        bases.append(spec.base)
        return FakeModel(Machine(), spec.name)

    memory = Memory(lambda _: 0, lambda: 1, lambda: None)
    registry = Registry([ModelSpec("a"), ModelSpec("owner/b")], open_backend, memory)
    registry.load(registry.add(str(tmp_path)))
    assert bases == [ModelSpec("owner/b")]


def test_a_second_model_of_a_name_has_its_path_as_its_name(tmp_path: Path) -> None:
    paths = [tmp_path / folder / "model.gguf" for folder in "ab"]
    registry = Machine().registry("a")
    for path in paths:
        path.parent.mkdir()
        path.touch()
    assert [registry.add(str(path)) for path in paths] == ["model.gguf", str(paths[1])]


async def test_an_unknown_model_is_refused_with_those_that_are_there() -> None:
    async with serving(Machine()) as registry:
        for call in (registry.load, registry.unload, lambda name: registry.admit("ada", name)):
            with pytest.raises(ModelError, match=r"x is not served here. Choose one of these: a, b, c, d\."):
                call("x")


async def test_after_the_end_nothing_waits() -> None:
    machine = Machine()
    machine.gates["a"] = threading.Event()
    registry = machine.registry().start()
    waiting = asyncio.create_task(registry.ensure_loaded("b"))
    await until(lambda: len(registry._instances.all) == 2)
    closing = asyncio.create_task(registry.close())
    await until(lambda: registry._instances.closing)
    machine.gates["a"].set()
    await closing
    with pytest.raises(ModelError):
        await waiting
    with pytest.raises(ModelError, match="shutting down"):
        registry.load("a")


async def test_requests_of_a_local_backend_that_never_started_end_with_it() -> None:
    backend = LocalBackend(ModelSpec("none"), Path(), lambda *_: pytest.fail("it was loaded"))
    asked = asyncio.create_task(_last(backend))
    await until(lambda: len(backend.queue.waiting) == 1)
    await backend.close()
    with pytest.raises(ModelError):
        await asked


async def _last(backend: LocalBackend) -> None:
    async for _ in backend.stream(ask("")):
        pass


Step = tuple[str, str]
ACTIONS = ("ask", "ask", "ask", "cancel", "load", "unload", "break", "mend")
STEPS = st.lists(
    st.tuples(st.sampled_from(ACTIONS), st.sampled_from("abcd")),
    max_size=25,
)


@given(steps=STEPS, memory=st.integers(4, 10))
def test_whatever_is_asked_budget_order_and_routing_hold(steps: list[Step], memory: int) -> None:
    machine = Machine(memory)
    asyncio.run(asyncio.wait_for(_play(machine, steps), 60))
    assert machine.most_at_once <= 1
    assert machine.misrouted == []
    assert machine.held == {}


async def _play(machine: Machine, steps: list[Step]) -> None:
    asked: list[tuple[str, asyncio.Task[str]]] = []
    async with serving(machine) as registry:
        for action, name in steps:
            if action == "ask":
                asked.append((name, asyncio.create_task(reply(registry, name))))
            elif action == "cancel" and asked:
                asked[-1][1].cancel()
            elif action == "load":
                registry.load(name)  # a failed one is tried again
            elif action == "unload":
                registry.unload(name)
            elif action == "break":
                machine.broken.add(name)
            elif action == "mend":
                machine.broken.discard(name)
            await asyncio.sleep(0)
            assert sum(machine.held.values()) <= machine.memory
        results = await asyncio.gather(*(task for _, task in asked), return_exceptions=True)
        for (name, _), result in zip(asked, results, strict=True):
            assert result == name or isinstance(result, (ModelError, asyncio.CancelledError))
            if isinstance(result, ModelError):
                assert ("break", name) in steps
