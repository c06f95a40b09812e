"""The header and the dropdown of models: what they say of models that other servers run."""

import re

from chatui.chat import ModelStatus
from chatui.errors import ModelError
from chatui.ui.shared import header, model_picker
from tests.fakes import INFO, TOLD, UNTOLD

DEAD = ModelStatus("dead", "failed", error=ModelError("dead: it cannot be reached."), remote=True)


def words(html: str) -> str:
    return re.sub(r"<[^>]*>|[\u2068\u2069]", " ", html)


def test_the_header_says_what_is_told_and_no_more() -> None:
    told = words(header.status(ModelStatus("lc/smol", "ready", info=TOLD, remote=True)))
    assert re.search(r"llama\.cpp b1.*Q4_1.*1M parameters · 5 MB.*context 4,096.*lc", told)
    untold = words(header.status(ModelStatus("far", "ready", info=UNTOLD, remote=True)))
    assert "OpenAI API" in untold
    assert not re.search(r"\b0\b", untold)
    assert "it cannot be reached" in header.status(DEAD)


def test_the_picker_names_the_software_of_remote_models() -> None:
    models = [ModelStatus("echo", "ready", info=INFO), ModelStatus("far", "ready", info=UNTOLD, remote=True), DEAD]
    choices = model_picker.update(models)["choices"]
    assert [value for _label, value in choices] == ["echo", "far", "dead"]
    assert [re.sub("[\u2068\u2069]", "", label) for label, _value in choices] == [
        "echo",
        "far · OpenAI API",
        "dead · failed",
    ]


def test_a_changed_latency_is_no_change_of_the_model() -> None:
    assert ModelStatus("far", "ready", latency=lambda: 1.0) == ModelStatus("far", "ready", latency=lambda: 0.1)
