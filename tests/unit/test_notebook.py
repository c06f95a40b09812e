"""The notebook of a reply generates the same tokens in its steps, and is valid whatever text is in it."""

import json
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any

import nbformat
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from chatui.chat import Finish, Message, ModelAnatomy, Prompt
from chatui.generation_settings import GenerationSettings
from chatui.inspection import Inspection
from chatui.notebook import as_notebook
from chatui.python_script import as_python
from tests import models
from tests.examples import some_of
from tests.unit import test_python_script as script
from tests.unit.test_python_script import ANY_TEXT, HELLO, INFO, ODD, SEED, TURNS

LOAD = "## Step 1: load the model and its tokenizer"
STEPS = [f"## Step {number}" for number in range(1, 6)]
ANATOMY = ModelAnatomy(2, 1000, 1000, {"float32": 4000, "int4": 700}, {"float32": 4000, "int4": 700}, 64, bandwidth=1e9)
load = script.load


def cells(notebook: str, kind: str) -> list[str]:
    return ["".join(cell["source"]) for cell in json.loads(notebook)["cells"] if cell["cell_type"] == kind]


def of(inspection: Inspection, **values: Any) -> str:
    return as_notebook(inspection, GenerationSettings(**values), SEED)


@pytest.mark.parametrize(
    "name",
    [
        "greedy",
        "all filters",
        "stop strings",
        "thinking",
        "not thinking",
        "goes on",
        "goes on where the template refuses",
    ],
)
def test_each_way_generates_the_same_tokens(load: Callable[..., Any], name: str) -> None:
    template, messages, values = TURNS[name]
    inspection, _, _ = script.generated(load(template), messages, values)
    names, printed = script.run("\n".join(cells(of(inspection, **{"max_new_tokens": 24, **values}), "code")))
    assert names["reply"] == script.ids_of(inspection)
    assert names["prompt"][0].tolist() == list(inspection.prompt.token_ids)
    assert "The reply is that of chatui: True" in printed
    assert "Streamed, the reply is the same: True" in printed
    assert ("The pipeline gives the same reply: True" in printed) is not name.startswith("goes on")
    if template == models.CHATML:
        assert names["chat_text"] == inspection.prompt.text
    if name == "greedy":
        assert "Tokenized by itself, the text has the same ids: True" in printed
        parameters = sum(parameter.numel() for parameter in names["model"].parameters())
        assert f"{parameters:,} parameters x 4 B" in printed
        assert names["weight_bytes"] == names["model"].get_memory_footprint() >= 4 * parameters
        assert names["cached"] == len(inspection.prompt.token_ids) * kv_per_token(names["model"])


def kv_per_token(model: Any) -> int:
    """Bytes of the keys and values of one token in float32."""
    config = model.config
    return int(2 * config.num_hidden_layers * config.num_key_value_heads * config.head_dim * 4)


def test_the_code_is_that_of_the_script() -> None:
    """Each line of the script's code is in the notebook as often as in the script, or more often."""
    inspection = Inspection(INFO, Prompt("Hi", (1, 2), messages=(HELLO, ODD)))
    values: dict[str, Any] = {"top_k": 5, "stop": ("x",)}
    code = Counter("\n".join(cells(of(inspection, **values), "code")).splitlines())
    script_lines = Counter(as_python(inspection, GenerationSettings(**values), SEED).splitlines())
    missing = script_lines - code
    assert not [line for line in missing if line and not line.startswith("#")]


def test_five_steps_and_both_other_ways_are_explained() -> None:
    texts = cells(of(Inspection(INFO, Prompt("Hi", (1, 2), messages=(HELLO,)))), "markdown")
    heads = [text.partition(":")[0] for text in texts if text.startswith("## Step")]
    assert heads == STEPS
    assert [text.splitlines()[0] for text in texts[6:]] == [
        "## All steps in one call",
        "## Streamed",
        "## Memory",
        "## Speed",
    ]


def test_memory_and_speed_have_the_formulas_of_the_page() -> None:
    finish = Finish("length", 2, 11, SEED, 0, 0, 2.0)
    model = replace(INFO, anatomy=ANATOMY, slots=2, kv_tokens=640)
    *_, memory, speed = cells(of(Inspection(model, Prompt("Hi", (1, 2), messages=(HELLO,)), finish=finish)), "markdown")
    assert "| Weights in float32 | 4 kB | 1,000 parameters × 4 B |" in memory
    assert "| KV cache |" in memory
    assert "640 tokens × " in memory
    assert "| Most in float32 | 250,000 tokens/s | 1.0 GB/s ÷ 4 kB |" in speed
    assert "| This reply in chatui | 5.0 tokens/s | 10 tokens ÷ 2 s |" in speed


@given(st.lists(ANY_TEXT, min_size=1, max_size=2), ANY_TEXT.filter(bool), st.booleans())
@example([""], "\x1f|`", False)
@settings(max_examples=some_of(40), deadline=None)
def test_any_text_makes_a_valid_notebook(texts: Sequence[str], name: str, continued: bool) -> None:
    """Every notebook is valid, can be saved as UTF-8, and has nothing from outside in its Markdown or as code."""
    messages = [Message("user", text) for text in texts] + [Message("assistant", name)] * continued
    model = replace(INFO, name=name, source=name, precision=name)
    notebook = of(Inspection(model, Prompt("Hi", (1, 2), messages=tuple(messages))), stop=("x",))
    nbformat.validate(nbformat.reads(notebook.encode().decode(), as_version=4))
    assert [text.partition("\n")[0] for text in cells(notebook, "markdown")][:2] == ["# A reply, step by step", LOAD]
    for code in cells(notebook, "code"):
        compile(code, "cell", "exec")
    table = cells(notebook, "markdown")[0].partition("| model |")[2]
    assert len(table.splitlines()) == 2 + 4 + len(GenerationSettings.model_fields) - 1
    assert all(row.count("|") == 3 for row in table.splitlines()[2:])
