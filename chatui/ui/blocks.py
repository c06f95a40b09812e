"""gr.Blocks as this page needs it: it redraws no more than has changed, and is sent with what it opens on."""

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

from chatui.ui.sessions import Session

log = logging.getLogger(__name__)

Props = Mapping[int, Mapping[str, Any]]
"""What the browser is told of components, by their ids."""

_first: ContextVar[Props | None] = ContextVar("first", default=None)
"""What the page being sent shows at first, for the one who asked for it."""

LONGEST_SECONDS = 1.0
"""So long a page waits for the store."""

Opening = Callable[[], Awaitable[dict[Any, Any]]]


class Page(gr.Blocks):
    """Leaves alone the outputs that an event leaves alone: Gradio makes those components anew, at every redraw.

    Its configuration is each visitor's own while a page is sent `on_opening`.
    """

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
            async with asyncio.timeout(LONGEST_SECONDS):
                told = await self.postprocess_data(event, await opening(), Session(self))
        except Exception as error:
            log.warning("a page is sent without what it opens on", exc_info=error)
            return None
        finally:
            LocalContext.request.reset(asked)
        return {output._id: _props(shown) for output, shown in zip(event.outputs, told, strict=True)}

    @property
    def config(self) -> Any:
        """What Gradio sends to the browser."""
        first = _first.get()
        if first is None:
            return self._config
        components = [
            {**each, "props": {**each["props"], **first.get(each["id"], {})}} for each in self._config["components"]
        ]
        return {**self._config, "components": components}

    @config.setter
    def config(self, config: Any) -> None:
        self._config = config


def _props(shown: Any) -> Mapping[str, Any]:
    if isinstance(shown, dict) and shown.get("__type__") == "update":
        return {name: value for name, value in shown.items() if name != "__type__"}
    return {"value": shown}
