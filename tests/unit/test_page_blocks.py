"""What an event leaves alone is not made anew, and the browser is told so; a page is sent with what it opens on."""

import asyncio
from typing import Any

import gradio as gr
import pytest
from gradio.context import LocalContext
from gradio.state_holder import SessionState
from starlette.requests import Request

from chatui.ui.gradio_compat import page_blocks
from chatui.ui.gradio_compat.page_blocks import PageBlocks


@pytest.fixture
def parts() -> tuple[PageBlocks, Any, list[gr.Textbox]]:
    """A page with an event of three outputs."""
    with PageBlocks() as page:
        boxes = [gr.Textbox(label=name) for name in "abc"]
        gr.Button().click(lambda: None, None, boxes)
    return page, page.fns[0], boxes


async def postprocess(
    parts: tuple[PageBlocks, Any, list[gr.Textbox]], predictions: Any, state: SessionState | None = None
) -> list[Any]:
    page, event, _ = parts
    return await page.postprocess_data(event, predictions, state or SessionState(page))


async def test_outputs_left_alone_stay_the_components_that_they_are(
    parts: tuple[PageBlocks, Any, list[gr.Textbox]],
) -> None:
    page, _, (a, b, c) = parts
    state = SessionState(page)
    assert await postprocess(parts, {b: "said", c: gr.update(label="new")}, state) == [
        gr.skip(),
        "said",
        {"__type__": "update", "label": "new"},
    ]
    assert state[a._id] is a
    assert state[b._id] is b
    assert state[c._id] is not c


async def test_it_tells_what_gradio_would(parts: tuple[PageBlocks, Any, list[gr.Textbox]]) -> None:
    page, event, (a, b, c) = parts
    for predictions in ({a: "x"}, {a: "x", b: "y", c: "z"}, ["x", "y", "z"], [gr.skip()] * 3, gr.skip()):
        theirs = await gr.Blocks.postprocess_data(page, event, predictions, SessionState(page))
        assert await postprocess(parts, predictions) == theirs


async def test_what_is_no_output_is_refused(parts: tuple[PageBlocks, Any, list[gr.Textbox]]) -> None:
    with parts[0]:
        other = gr.Textbox()
    with pytest.raises(ValueError, match="not specified as output"):
        await postprocess(parts, {parts[2][0]: "x", other: "y"})


def props_of(page: PageBlocks, box: gr.Textbox) -> dict[str, Any]:
    found: dict[str, Any] = next(each["props"] for each in page.config["components"] if each["id"] == box._id)
    return found


async def test_the_page_is_sent_with_what_it_opens_on_to_the_one_who_asks_alone() -> None:
    with PageBlocks() as page:
        box, other, third = (gr.Textbox(label=name, value="before") for name in "abc")
        loaded = page.load(lambda: None, None, [box, other, third])

    async def opening() -> dict[Any, Any]:
        request = LocalContext.request.get()
        assert request is not None
        return {box: f"for {request.username}", other: gr.update(label="new", value="after")}

    page.prefill_with(loaded, opening)
    page.config = page.get_config_file()

    async def sent(login: str) -> None:
        async with page.prefilled(Request({"type": "http"}), login):
            await asyncio.sleep(0)
            assert props_of(page, box)["value"] == f"for {login}"
            assert (props_of(page, other)["label"], props_of(page, other)["value"]) == ("new", "after")
            assert props_of(page, third)["value"] == "before"
            assert "__type__" not in props_of(page, other)
        assert props_of(page, box)["value"] == "before"

    await asyncio.gather(sent("a"), sent("b"))
    assert props_of(page, other)["label"] == "b"
    assert LocalContext.request.get(None) is None


@pytest.mark.parametrize("wrong", [RuntimeError("no store"), None], ids=["fails", "takes too long"])
async def test_a_page_comes_also_without_what_it_opens_on(
    wrong: Exception | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(page_blocks, "MAX_PREFILL_SECONDS", 0.01)
    with PageBlocks() as page:
        box = gr.Textbox(label="a", value="before")
        loaded = page.load(lambda: None, None, [box])

    async def opening() -> dict[Any, Any]:
        if wrong is not None:
            raise wrong
        await asyncio.sleep(10)
        return {box: "late"}

    page.prefill_with(loaded, opening)
    page.config = page.get_config_file()
    async with page.prefilled(Request({"type": "http"}), None):
        assert props_of(page, box)["value"] == "before"
    assert LocalContext.request.get(None) is None
