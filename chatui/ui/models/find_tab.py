"""The tab Find of the Models view: search the Hub, weigh a model, fetch it."""

import asyncio
import logging
import threading
from collections import OrderedDict
from collections.abc import AsyncGenerator, Mapping, Sequence
from dataclasses import replace
from typing import Any, ClassVar

import gradio as gr

from chatui.backend import NO_OWN_MODELS
from chatui.errors import ChatError, HubError, ModelError, SettingsError, unexpected
from chatui.i18n import N_
from chatui.models import facts
from chatui.models.download_manager import DownloadManager
from chatui.models.fetch import plan_download
from chatui.models.file_choice import gguf_choices
from chatui.models.fit import DEFAULT_CONTEXT, Device
from chatui.models.hub import Hub, HubModel
from chatui.models.leaderboards import Leaderboards
from chatui.ui.gradio_compat import request_context
from chatui.ui.gradio_compat.hidden_textbox import hidden_textbox
from chatui.ui.models import downloads_view, find_view
from chatui.ui.models.find_query import FindQuery, fields_of
from chatui.ui.models.find_view import FoundModel
from chatui.ui.models.tabs import QUIET, ModelsContext
from chatui.ui.shared.updates import ComponentUpdates

log = logging.getLogger(__name__)

TICK_SECONDS = 1.0
MAX_TABS = 1000
"""Tabs whose latest action is remembered."""
MAX_HUBS = 50
"""Users whose answers of the Hub are cached."""

Fields = Mapping[str, str]


class FindTab:
    """Search, plan and downloads. Links and forms send their actions as `number|action=argument`."""

    id: ClassVar[str] = "find"
    title: ClassVar[str] = N_("Find")

    def __init__(self, context: ModelsContext) -> None:
        self._context = context
        self._downloads: DownloadManager = context.downloads
        self._leaderboards = Leaderboards()
        self._lock = threading.Lock()
        self._hubs: OrderedDict[str, Hub] = OrderedDict()
        self._last_requests: OrderedDict[str, str] = OrderedDict()
        self._action = hidden_textbox("models-find")
        self._list = gr.Markdown(elem_id="find-list")
        self._token = gr.Markdown(elem_id="find-token")
        self._form = gr.Markdown(elem_id="find-form")
        self._results = gr.Markdown(elem_id="find-results")
        self._timer = gr.Timer(TICK_SECONDS, active=False)
        self.outputs: Sequence[Any] = [self._list, self._form, self._token, self._timer]

    async def show(self) -> ComponentUpdates:
        """The form and the downloads. The Hub is not asked before the user does."""
        if not self._context.overviews.runs_models:
            form = find_view.no_models_here()
        else:
            form = find_view.form() if self._context.access.may_manage() else find_view.not_allowed()
        return {**await self._progress(), self._form: form}

    def connect(self) -> None:
        """Register the events of the tab."""
        streamed = {**QUIET, "queue": True, "concurrency_limit": None, "trigger_mode": "multiple"}
        outputs = [self._list, self._results, self._token, self._timer]
        self._action.change(self._act, self._action, outputs, **streamed)
        self._timer.tick(self._tick, self._token, [self._list, self._token, self._timer], **QUIET)

    async def _act(self, sent: str) -> AsyncGenerator[ComponentUpdates]:
        """Run an action. The answer to a search is dropped if the tab has asked for something else meanwhile."""
        number, _bar, rest = (sent or "").partition("|")
        name, _equals, argument = rest.partition("=")
        if not name:
            yield {self._timer: gr.skip()}  # an event that yields nothing empties its outputs
            return
        shows_results = name in ("search", "more", "model", "fetch")
        if shows_results:
            self._remember(number)
        try:
            self._context.access.check_manage()
            self._check_runs_models()
            async for updates in self._run(name, argument):
                yield updates if not shows_results or self._is_last_request(number) else {self._timer: gr.skip()}
        except Exception as error:
            known = error if isinstance(error, ChatError) else unexpected(error)
            if not isinstance(error, ChatError):
                log.exception("an action of the tab Find failed")
            if shows_results and name != "fetch":
                failed = find_view.search_failure(known, FindQuery.parse(fields_of(argument)))
                yield {self._results: failed} if self._is_last_request(number) else {self._timer: gr.skip()}
            else:
                yield await self._progress(known)
        # At its end Gradio sends the last values of an event again, maybe after those of a later event.
        yield {self._timer: gr.skip()}

    async def _run(self, name: str, argument: str) -> AsyncGenerator[ComponentUpdates]:
        fields = fields_of(argument)
        if name in ("search", "more"):
            async for updates in self._search(FindQuery.parse(fields)):
                yield updates
        elif name == "model":
            async for updates in self._model(FindQuery.parse(fields), fields):
                yield updates
        elif name == "fetch":
            async for updates in self._fetch(FindQuery.parse(fields), fields):
                yield updates
        else:
            await asyncio.to_thread(self._change, name, argument, fields)
            yield await self._progress()

    def _change(self, name: str, argument: str, fields: Fields) -> None:
        """Change a download or the token. Raises ChatError."""
        user = request_context.login()
        tokens = self._downloads.tokens
        if name == "token":
            tokens.of(user).write(fields.get("token", ""))
            self._forget_hub(user)
            self._downloads.resume_with_token(user)
        elif name == "forget-token":
            tokens.of(user).delete()
            self._forget_hub(user)
        elif name == "pause":
            self._downloads.pause(argument)
        elif name == "resume":
            self._downloads.resume(argument, user)
        elif name == "cancel":
            self._downloads.cancel(argument)
        else:
            raise SettingsError("action", "there is no such one.", "Load the page again.")

    async def _search(self, query: FindQuery) -> AsyncGenerator[ComponentUpdates]:
        if query.page == 1:
            yield {self._results: find_view.asking()}
        yield {self._results: await asyncio.to_thread(self._found, query)}

    def _found(self, query: FindQuery) -> str:
        """The pages of a search up to that of the query. Raises HubError."""
        hub, devices = self._hub(), self._devices()
        models: dict[str, HubModel] = {}
        has_more = False
        for number in range(1, query.page + 1):
            page = hub.search(query.search(devices), number)
            models |= {model.id: model for model in page.models}
            has_more = page.has_more
            if not has_more:
                break
        return find_view.results(query, list(models.values()), has_more, devices)

    async def _model(self, query: FindQuery, fields: Fields) -> AsyncGenerator[ComponentUpdates]:
        """The page of a model: first what the Hub says, then what the leaderboards say."""
        yield {self._results: find_view.asking()}
        found = await asyncio.to_thread(self._read, fields.get("model", ""), fields.get("gguf", ""))
        yield {self._results: await asyncio.to_thread(self._page, found, query)}
        results = await asyncio.to_thread(self._leaderboards.results, found.model)
        yield {self._results: await asyncio.to_thread(self._page, replace(found, results=results), query)}

    async def _fetch(self, query: FindQuery, fields: Fields) -> AsyncGenerator[ComponentUpdates]:
        name, gguf = fields.get("model", ""), fields.get("gguf", "")
        plan = await asyncio.to_thread(plan_download, name, None, gguf, self._hub())
        await asyncio.to_thread(self._downloads.start, plan, request_context.login())
        yield await self._progress()
        async for updates in self._model(query, fields):
            yield updates

    def _page(self, found: FoundModel, query: FindQuery) -> str:
        return find_view.model_page(found, query, self._devices(), DEFAULT_CONTEXT)

    def _read(self, name: str, gguf: str) -> FoundModel:
        """What the Hub says about a model, and what fetching it takes. Raises HubError."""
        hub = self._hub()
        model = hub.model(name)
        plan, problem = None, None
        try:
            plan = plan_download(name, None, gguf, hub)
        except HubError as error:
            problem = error
        try:
            config = hub.config(model)
        except HubError:  # that of a gated model
            config = {}
        evaluated = replace(model, evaluations=hub.evaluations(name))
        ids = {status.plan for status in self._downloads.all() if status.progress.state != "done"}
        return FoundModel(
            evaluated,
            facts.from_hub(evaluated, config),
            plan,
            problem,
            gguf_choices(model.files),
            is_fetched=plan in ids,
            has_token=self._has_token(),
        )

    async def _tick(self, token: str) -> ComponentUpdates:
        """The progress. The token's form is left alone while it is the same, because something may be typed in it."""
        updates = await self._progress()
        return {part: value for part, value in updates.items() if part is not self._token or value != token}

    async def _progress(self, error: ChatError | None = None) -> ComponentUpdates:
        allowed = self._context.access.may_manage() and self._context.overviews.runs_models
        statuses = await asyncio.to_thread(self._downloads.all) if allowed else []
        waiting = [status for status in statuses if status.needs_token]
        has_token = await asyncio.to_thread(self._has_token)
        return {
            self._list: downloads_view.downloads(statuses, error),
            self._token: downloads_view.token_part(has_token, waiting),
            self._timer: gr.Timer(active=any(status.progress.state == "running" for status in statuses)),
        }

    def _has_token(self) -> bool:
        return self._downloads.tokens.of(request_context.login()).read() is not None

    def _hub(self) -> Hub:
        """The Hub with the user's token, and with a cache of the user's own."""
        user = request_context.login()
        with self._lock:
            hub = self._hubs.pop(user, None) or Hub(token=self._downloads.tokens.of(user).read())
            self._hubs[user] = hub
            while len(self._hubs) > MAX_HUBS:
                self._hubs.popitem(last=False)
        return hub

    def _forget_hub(self, user: str) -> None:
        """Forget the user's answers of the Hub, after a change of the token."""
        with self._lock:
            self._hubs.pop(user, None)

    def _check_runs_models(self) -> None:
        """Raise ModelError where the server runs no models of its own."""
        if not self._context.overviews.runs_models:
            raise ModelError(*NO_OWN_MODELS)

    def _devices(self) -> tuple[Device, ...]:
        return self._context.overviews.read(self._context.backend.models(), rescan=False).devices

    def _remember(self, number: str) -> None:
        tab = request_context.tab()
        self._last_requests[tab] = number
        self._last_requests.move_to_end(tab)
        while len(self._last_requests) > MAX_TABS:
            self._last_requests.popitem(last=False)

    def _is_last_request(self, number: str) -> bool:
        return self._last_requests.get(request_context.tab()) == number
