"""gr.Blocks that redraws only what has changed, and sends the page prefilled and in the visitor's language.

Replaced: `Blocks.process_api`, `preprocess_data` and `postprocess_data` (`gradio/blocks.py`), and `config`
(lazy_config.py).
Why: Gradio rebuilds every output of an event at each update, changed or not. It sends all visitors the same first page,
which an event fills a second later. Its components have the same texts for everybody.
Upstream: `process_api` reads values by `preprocess_data` and builds a response by `postprocess_data(block_fn,
predictions, state)`, which iterates over `block_fn.outputs`. `main` in `gradio/routes.py` sends `blocks.config`, whose
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
from chatui.ui.gradio_compat.bad_requests import refuse_bad_values
from chatui.ui.gradio_compat.lazy_config import LazyConfig
from chatui.ui.gradio_compat.sessions import Session

log = logging.getLogger(__name__)

Props = Mapping[int, Mapping[str, Any]]
"""Properties of components by the ids of these."""

_prefilled: ContextVar[Props | None] = ContextVar("prefilled", default=None)
"""The visitor's own properties for the page that is being sent."""

MAX_PREFILL_SECONDS = 1.0
"""How long a page waits for its values from the store."""

TRANSLATED_PROPS = frozenset({"label", "info", "placeholder", "value", "submit_btn", "stop_btn", "choices", "examples"})
"""Properties of components that may contain messages to translate."""

LoadValues = Callable[[], Awaitable[dict[Any, Any]]]


class PageBlocks(LazyConfig):
    """Skips the outputs that an event does not set, which Gradio would rebuild at every redraw.

    Its configuration is the visitor's own within `prefilled`, and always in the current language.
    """

    def localize(self, component: gr.components.Component, **properties: Callable[[], Any]) -> None:
        """Compute these properties of a component for each language. Properties that are messages need no call."""
        vars(self).setdefault("_localized", {})[component._id] = properties

    async def process_api(  # type: ignore[override]
        self,
        block_fn: BlockFunction | int,
        inputs: list[Any],
        state: SessionState | None = None,
        request: Any = None,
        **options: Any,
    ) -> dict[str, Any]:
        """Run an event in the language of its request."""
        with i18n.use_language(request_context.language_of(request)):
            return await super().process_api(block_fn, inputs, state, request, **options)

    async def preprocess_data(self, *call: Any, **options: Any) -> Any:
        """The arguments of an event's function. Raises gr.Error if a client's values cannot be parsed."""
        with refuse_bad_values():
            return await super().preprocess_data(*call, **options)

    async def postprocess_data(
        self, block_fn: BlockFunction, predictions: list[Any] | dict[Any, Any], state: SessionState | None
    ) -> list[Any]:
        """The response for each output."""
        if not isinstance(predictions, dict) or not predictions.keys() & set(block_fn.outputs):
            return await super().postprocess_data(block_fn, predictions, state)
        partial = copy.copy(block_fn)
        partial.outputs = [output for output in block_fn.outputs if output in predictions]
        processed = dict(zip(partial.outputs, await super().postprocess_data(partial, predictions, state), strict=True))
        return [processed[output] if output in processed else gr.skip() for output in block_fn.outputs]

    def prefill_with(self, event: gr.events.Dependency, load: LoadValues) -> None:
        """Send the page with the values that `load` returns for the outputs of `event`, which can then skip them."""
        self._prefill = (self.fns[event["id"]], load)

    @contextlib.asynccontextmanager
    async def prefilled(self, request: Request, login: str | None) -> AsyncIterator[None]:
        """A context in which the page is sent with the values of this request's user."""
        token = _prefilled.set(await self._load_values(request, login))
        try:
            yield
        finally:
            _prefilled.reset(token)

    async def _load_values(self, request: Request, login: str | None) -> Props | None:
        """None if that fails or takes too long: the page is then sent without, and its event reports the error."""
        event, load = self._prefill
        token = LocalContext.request.set(gr.Request(request, username=login))
        try:
            async with asyncio.timeout(MAX_PREFILL_SECONDS):
                values = await self.postprocess_data(event, await load(), Session(self))
        except TimeoutError:
            log.warning("a page is sent without its values: the server is too busy")
            return None
        except Exception as error:
            log.warning("a page is sent without its values", exc_info=error)
            return None
        finally:
            LocalContext.request.reset(token)
        return {output._id: _props(value) for output, value in zip(event.outputs, values, strict=True)}

    @property
    def config(self) -> Any:
        """The configuration that Gradio sends to the browser."""
        shared = super().config
        prefilled = _prefilled.get() or {}
        translate = i18n.language() != i18n.SOURCE
        if not prefilled and not translate:
            return shared
        components = [
            type(component)(
                component,
                props={
                    **(self._translated_props(component) if translate else component["props"]),
                    **prefilled.get(component["id"], {}),
                },
            )
            for component in shared["components"]
        ]
        return {**shared, "components": components}

    @config.setter
    def config(self, config: Any) -> None:
        self._config = config

    def _translated_props(self, component: Any) -> dict[str, Any]:
        """The properties of a component in the current language."""
        localized = vars(self).get("_localized", {}).get(component["id"], {})
        props = {
            name: _translate(value) if name in TRANSLATED_PROPS else value for name, value in component["props"].items()
        }
        return {**props, **{name: compute() for name, compute in localized.items()}}


def _translate(value: Any) -> Any:
    """A copy of a value with the messages in it translated into the current language."""
    if isinstance(value, str):
        return i18n.gettext(value) if value else value
    if isinstance(value, list | tuple):
        return [_translate(item) for item in value]
    return {name: _translate(item) for name, item in value.items()} if isinstance(value, dict) else value


def _props(output: Any) -> Mapping[str, Any]:
    """The properties that an output of an event sets: those of an update, or else its value."""
    if isinstance(output, dict) and output.get("__type__") == "update":
        return {name: value for name, value in output.items() if name != "__type__"}
    return {"value": output}
