"""What the page shows of the chosen model when it is opened."""

from typing import Any, cast

import gradio as gr

from chatui.chat import ModelStatus
from chatui.models.permissions import Permissions
from chatui.ui.page.model_events import ModelEvents
from chatui.ui.persona import setting_controls
from chatui.ui.shared.model_access import ModelAccess
from tests.fakes import UNTOLD, FakeBackend


def events() -> ModelEvents:
    backend = FakeBackend()
    backend.status = ModelStatus("far", "ready", info=UNTOLD, remote=True)
    with gr.Blocks():
        boxes: list[Any] = setting_controls.build()
        access = ModelAccess(backend, Permissions())
        return ModelEvents(backend, access, gr.Dropdown(), cast(Any, boxes), gr.Textbox(), gr.Markdown())


def begun(name: str) -> list[Any]:
    return events().begin(name)


def test_a_model_whose_name_the_server_told_later_is_chosen() -> None:
    assert begun("its server")[-1]["value"] == "far"
    assert "value" not in begun("far")[-1]


def test_the_start_of_a_reply_is_greyed_out_where_the_server_cannot_go_on_from_it() -> None:
    _status, *settings, start_with, _following, _picker = begun("far")
    assert not start_with["interactive"]
    assert start_with["info"] == "This server cannot go on with a reply."
    assert [each["interactive"] for each in settings].count(False) == 1


def test_what_is_offered_later_is_what_the_server_tells_then() -> None:
    status, picker = events().offer("its server")
    assert "far" in status
    assert picker["value"] == "far"
    assert "value" not in events().offer("far")[-1]
