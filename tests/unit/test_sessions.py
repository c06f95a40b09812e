"""What is remembered of a tab: its components as they are now and its states, and no copy of what it shows."""

from collections.abc import Callable
from typing import Any

import gradio as gr
import gradio.routes
import pytest
from gradio.state_holder import SessionState

from chatui.ui.gradio_compat.page_blocks import PageBlocks
from chatui.ui.gradio_compat.sessions import Session, Sessions, install


@pytest.fixture
def page() -> PageBlocks:
    page = PageBlocks()
    with page:
        box, state = gr.Textbox(label="said"), gr.State(7)
        gr.Button().click(lambda *values: values, [box, state], [box, state])
    return page


async def postprocess(page: PageBlocks, predictions: Any, session: SessionState) -> list[Any]:
    shown: list[Any] = await page.postprocess_data(page.fns[0], predictions, session)
    return shown


async def test_it_answers_as_gradios_own(page: PageBlocks) -> None:
    box, state = page.fns[0].outputs
    mine, theirs = Session(page), SessionState(page)
    predictions: list[Callable[[], Any]] = [
        lambda: ["x", 1],
        lambda: {box: "y"},
        lambda: {state: 5},
        lambda: {box: gr.update(label="new", value="z")},
    ]
    for each in predictions:
        assert await postprocess(page, each(), mine) == await postprocess(page, each(), theirs)
        assert mine[state._id] == theirs[state._id]
        assert mine[box._id].label == theirs[box._id].label
        assert (box._id in mine, state._id in mine) == (box._id in theirs, state._id in theirs)


async def test_nothing_of_what_was_shown_is_kept_twice(page: PageBlocks) -> None:
    box, _ = page.fns[0].outputs
    session = Session(page)
    await postprocess(page, {box: "a secret"}, session)
    await postprocess(page, {box: gr.update(label="another secret", value="third")}, session)
    assert list(session.components) == []


def test_gradios_servers_keep_their_sessions_here(page: PageBlocks) -> None:
    install()
    app = gradio.routes.App.create_app(page)
    assert isinstance(app.state_holder, Sessions)
    assert isinstance(app.state_holder["tab"], Session)
    assert app.state_holder["tab"] is app.state_holder["tab"]
