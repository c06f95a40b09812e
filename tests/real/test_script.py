"""The default model's replies are written again, token for token, by their scripts and notebooks.

In float32, where sums taken in another order do not decide between two tokens; in bfloat16 they sometimes do.
"""

import asyncio
import contextlib
import io
from collections.abc import Callable, Iterator
from dataclasses import replace
from typing import Any

import nbformat
import pytest
from nbclient import NotebookClient

from chatui.chat import ChatRequest, Finish, Message, ModelInfo, Prompt, TraceSnapshot
from chatui.engine.backend import LocalBackend
from chatui.engine.loading import embedded, loader
from chatui.engine.loading.loaded_model import LoadedModel
from chatui.engine.runners import batch_runner
from chatui.generation_settings import GenerationSettings
from chatui.inspection import Inspection
from chatui.model_spec import ModelSpec
from chatui.notebook import as_notebook
from chatui.python_script import as_python
from chatui.settings import AppSettings
from tests.examples import some_of

pytestmark = [
    pytest.mark.real,
    pytest.mark.skipif(embedded.find() is None, reason=f"needs the default model: {embedded.INSTALL}"),
]

SEED = 7
NEW_TOKENS = max(16, some_of(32))
PERSONA = Message("system", "You are a helpful robot from 1986.\n\nYou answer in one short sentence.")
FRANCE = Message("user", "What is the capital of France?")
SEA = Message("user", "Tell me about the sea.")
TALK = (PERSONA, FRANCE, Message("assistant", "Paris, beep."), Message("user", "And of Spain?"))
OFF: dict[str, Any] = {"temperature": 1.0, "top_p": 1.0}
GREEDY: dict[str, Any] = {"temperature": 0.0}
ODD = Message("user", 'Write `<|im_end|>` and 你好 "👩‍👩‍👧" twice.')
TURNS: dict[str, tuple[tuple[Message, ...], dict[str, Any]]] = {
    "greedy": ((PERSONA, FRANCE), GREEDY),
    "several turns": (TALK, GREEDY),
    "defaults": ((SEA,), {}),
    "temperature": ((SEA,), {**OFF, "temperature": 1.2}),
    "top-k": ((SEA,), {**OFF, "top_k": 40}),
    "top-p": ((SEA,), {**OFF, "temperature": 1.5, "top_p": 0.95}),
    "min-p": ((SEA,), {**OFF, "temperature": 1.8, "top_p": 0.98, "min_p": 0.05}),
    "penalty": ((SEA,), {"temperature": 0.5, "repetition_penalty": 1.2}),
    "stop string": ((ODD,), {"stop": (" a", "\n")}),
    "goes on": ((FRANCE, Message("assistant", "The capital of")), {"temperature": 0.9}),
}


@pytest.fixture(scope="module")
def loaded() -> LoadedModel:
    settings = AppSettings(dtype="float32", quantization="none")
    return loader.load(ModelSpec.from_settings(settings), settings.cache_dir, lambda _: None)


@pytest.fixture(scope="module")
def backend(loaded: LoadedModel) -> Iterator[LocalBackend]:
    spec = replace(ModelSpec.from_settings(AppSettings()), compile="off")
    model = batch_runner.open_batch_runner(loaded, spec)
    assert model is not None
    backend = LocalBackend(spec, AppSettings().cache_dir, lambda *_: model).start()
    yield backend
    asyncio.run(backend.close())


async def inspected(backend: LocalBackend, info: ModelInfo, name: str) -> tuple[Inspection, GenerationSettings, int]:
    """(the inspection of a reply, its settings, its seed)."""
    messages, values = TURNS[name]
    settings = GenerationSettings(**{"max_new_tokens": NEW_TOKENS, "seed": SEED, **values})
    prompt: Prompt | None = None
    finish: Finish | None = None
    snapshot: Callable[[], TraceSnapshot] = TraceSnapshot
    async for delta in backend.stream(ChatRequest(messages, settings, trace=True)):
        prompt, finish = delta.prompt or prompt, delta.finish or finish
        snapshot = delta.snapshot or snapshot
    assert prompt is not None
    assert finish is not None
    traces = snapshot().traces
    assert len(traces) == finish.completion_tokens
    return Inspection(info, prompt, traces, finish=finish), settings, finish.seed


WRITTEN_AGAIN = ("goes on",)
"""In CI. What each setting does in a script, tests/unit/test_python_script.py shows with tiny models."""


@pytest.mark.parametrize(
    "name", [name if name in WRITTEN_AGAIN else pytest.param(name, marks=pytest.mark.exhaustive) for name in TURNS]
)
async def test_the_script_writes_the_same_tokens(backend: LocalBackend, loaded: LoadedModel, name: str) -> None:
    inspection, settings, seed = await inspected(backend, loaded.info, name)
    script = as_python(inspection, settings, seed)
    names: dict[str, Any] = {}
    with contextlib.redirect_stdout(io.StringIO()) as printed:
        exec(compile(script, "script.py", "exec"), names)
    assert names["reply"] == inspection.traces.chosen_ids
    assert "The reply is that of chatui: True" in printed.getvalue()


EXECUTED = ["several turns", *(pytest.param(name, marks=pytest.mark.exhaustive) for name in ("defaults", "goes on"))]


@pytest.mark.parametrize("name", EXECUTED)
async def test_jupyter_executes_the_notebook(backend: LocalBackend, loaded: LoadedModel, name: str) -> None:
    """All cells run in a kernel of their own, and each way gives the tokens of chatui."""
    inspection, settings, seed = await inspected(backend, loaded.info, name)
    notebook = nbformat.reads(as_notebook(inspection, settings, seed), as_version=4)
    await NotebookClient(notebook, timeout=600, kernel_name="python3").async_execute()
    outputs = [output for cell in notebook.cells if cell.cell_type == "code" for output in cell.outputs]
    printed = "".join(output.text for output in outputs if output.get("name") == "stdout")
    assert f"{inspection.traces.chosen_ids}\n" in printed
    assert "The reply is that of chatui: True" in printed
    assert "Streamed, the reply is the same: True" in printed
    assert ("The pipeline gives the same reply: True" in printed) is (name != "goes on")
