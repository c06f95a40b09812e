"""gr.Blocks that redraws no more than has changed, and sends the page with what it opens on, in the visitor's language.

Replaced: `Blocks.process_api`, `preprocess_data`, `postprocess_data` and the attribute `config` (`gradio/blocks.py`).
Why: Gradio makes every output of an event anew at each update, changed or not; it sends all visitors the same first
page, which an event then fills a second later; and its components say the same words to everybody.
Upstream: `process_api` reads values by `preprocess_data` and makes an answer by `postprocess_data(block_fn,
predictions, state)`, which goes through `block_fn.outputs`. `main` in `gradio/routes.py` sends `blocks.config`, whose
components have `id` and `props`. `{"__type__": "update"}` changes nothing.
"""

import asyncio
import contextlib
import copy
import logging
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from contextvars import ContextVar
from typing import Any

import gradio as gr
from gradio.block_function import BlockFunction
from gradio.context import LocalContext
from gradio.state_holder import SessionState
from starlette.requests import Request

from chatui import i18n
from chatui.ui.gradio_compat import request_context
from chatui.ui.gradio_compat.bad_requests import reading
from chatui.ui.gradio_compat.sessions import Session

log = logging.getLogger(__name__)

Props = Mapping[int, Mapping[str, Any]]
"""What the browser is told of components, by their ids."""

_first: ContextVar[Props | None] = ContextVar("first", default=None)
"""What the page being sent shows at first, for the one who asked for it."""

MAX_OPENING_SECONDS = 1.0
"""So long a page waits for the store."""

WORDED = frozenset({"label", "info", "placeholder", "value", "submit_btn", "stop_btn", "choices", "examples"})
"""Properties of components that may hold words of ours."""

Opening = Callable[[], Awaitable[dict[Any, Any]]]


class PageBlocks(gr.Blocks):
    """Leaves alone the outputs that an event leaves alone: Gradio makes those components anew, at every redraw.

    Its configuration is each visitor's own while a page is sent `on_opening`, and in the visitor's language.
    """

    def says(self, component: gr.components.Component, **made: Callable[[], Any]) -> None:
        """Make these properties of a component anew for each language; plain words are found without."""
        vars(self).setdefault("_made", {})[component._id] = made

    async def process_api(  # type: ignore[override]
        self,
        block_fn: BlockFunction | int,
        inputs: list[Any],
        state: SessionState | None = None,
        request: Any = None,
        **options: Any,
    ) -> dict[str, Any]:
        """Answer an event in the language of the one who caused it."""
        with i18n.use_language(request_context.language_of(request)):
            return await super().process_api(block_fn, inputs, state, request, **options)

    async def preprocess_data(self, *call: Any, **options: Any) -> Any:
        """What the functions of an event are given. Raises gr.Error where a client sent something else."""
        with reading():
            return await super().preprocess_data(*call, **options)

    async def postprocess_data(
        self, block_fn: BlockFunction, predictions: list[Any] | dict[Any, Any], state: SessionState | None
    ) -> list[Any]:
        """What the browser is told of each output."""
        if not isinstance(predictions, dict) or not predictions.keys() & set(block_fn.outputs):
            return await super().postprocess_data(block_fn, predictions, state)
        named = copy.copy(block_fn)
        named.outputs = [output for output in block_fn.outputs if output in predictions]
        told = dict(zip(named.outputs, await super().postprocess_data(named, predictions, state), strict=True))
        return [told[output] if output in told else gr.skip() for output in block_fn.outputs]

    def opens_with(self, event: gr.events.Dependency, opening: Opening) -> None:
        """Send the page with what `opening` gives for the outputs of `event`, which then need not tell it again."""
        self._opening = (self.fns[event["id"]], opening)

    @contextlib.asynccontextmanager
    async def on_opening(self, request: Request, login: str | None) -> AsyncIterator[None]:
        """Send the page within this to the one who asks for it."""
        sent = _first.set(await self._first(request, login))
        try:
            yield
        finally:
            _first.reset(sent)

    async def _first(self, request: Request, login: str | None) -> Props | None:
        """None where that fails or takes too long: the page then comes first, and its event tells what is wrong."""
        event, opening = self._opening
        asked = LocalContext.request.set(gr.Request(request, username=login))
        try:
            async with asyncio.timeout(MAX_OPENING_SECONDS):
                told = await self.postprocess_data(event, await opening(), Session(self))
        except TimeoutError:
            log.warning("a page is sent without what it opens on: the server is too busy")
            return None
        except Exception as error:
            log.warning("a page is sent without what it opens on", exc_info=error)
            return None
        finally:
            LocalContext.request.reset(asked)
        return {output._id: _props(shown) for output, shown in zip(event.outputs, told, strict=True)}

    @property
    def config(self) -> Any:
        """What Gradio sends to the browser."""
        first = _first.get() or {}
        spoken = i18n.language() != i18n.SOURCE
        if not first and not spoken:
            return self._config
        components = [
            {**each, "props": {**(self._spoken(each) if spoken else each["props"]), **first.get(each["id"], {})}}
            for each in self._config["components"]
        ]
        return {**self._config, "components": components}

    @config.setter
    def config(self, config: Any) -> None:
        self._config = config

    def _spoken(self, component: Any) -> dict[str, Any]:
        """What a component shows, in the language spoken now."""
        made = vars(self).get("_made", {}).get(component["id"], {})
        props = {name: _worded(value) if name in WORDED else value for name, value in component["props"].items()}
        return {**props, **{name: make() for name, make in made.items()}}


def _worded(value: Any) -> Any:
    """A value with the messages in it told in the language spoken now."""
    if isinstance(value, str):
        return i18n.gettext(value) if value else value
    if isinstance(value, list | tuple):
        return [_worded(each) for each in value]
    return {name: _worded(each) for name, each in value.items()} if isinstance(value, dict) else value


def _props(shown: Any) -> Mapping[str, Any]:
    if isinstance(shown, dict) and shown.get("__type__") == "update":
        return {name: value for name, value in shown.items() if name != "__type__"}
    return {"value": shown}
