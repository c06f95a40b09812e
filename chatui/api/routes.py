"""The /v1 routes for any backend: parse requests, stream replies, stop for clients that disconnect."""

import asyncio
import contextlib
import logging
import re
import time
from collections.abc import AsyncGenerator, Callable, Mapping, Sequence
from functools import partial
from typing import TypeVar

from starlette.datastructures import Headers
from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect, Request
from starlette.responses import Response, StreamingResponse
from starlette.routing import Mount, Route, Router
from starlette.types import Receive, Scope, Send

from chatui import tracing
from chatui.api.access import Access
from chatui.api.logprobs import LogprobsReader
from chatui.api.model_events import KEEP_ALIVE, KEEP_ALIVE_SECONDS, model_events
from chatui.api.openapi import document
from chatui.api.reply_stream import ClientGoneError, ReplyStream
from chatui.api.requests import LoadBody, ModelBody, ParsedRequest, find_model, read_chat, read_model
from chatui.api.responses import (
    ApiError,
    ChatCompletionWriter,
    Fields,
    ReadLogprobs,
    describe_error,
    describe_model,
    to_json,
)
from chatui.api.tokenize_requests import describe_tokens, read_detokenize, read_tokenize
from chatui.backend import Backend
from chatui.body_limit import MAX_BODY_BYTES, RefusedError, decompress
from chatui.chat import ModelStatus, ReplyDelta
from chatui.errors import ChatError, unexpected
from chatui.metrics import Metrics
from chatui.setting_values import shorten
from chatui.settings import AppSettings
from chatui.token_limits import TokenUsage

log = logging.getLogger(__name__)

T = TypeVar("T")

# The response starts only after the prompt was accepted, or after this time in the queue, so that a refused prompt is
# answered with its HTTP status.
HOLD_SECONDS = 10.0
TOKENIZERS = 2
"""Texts that are tokenized at a time. Others wait, so that replies keep the processor."""


NO_STORE = {"Cache-Control": "no-store"}


class EventStream(StreamingResponse):
    """A reply as server-sent events. `first` are the deltas received before the response started."""

    def __init__(
        self,
        reply: ChatCompletionWriter,
        incoming: ReplyStream,
        first: list[ReplyDelta],
        headers: Mapping[str, str],
    ) -> None:
        headers = {**NO_STORE, **headers}
        super().__init__(self._events(reply, incoming, first), headers=headers, media_type="text/event-stream")
        self._incoming = incoming

    async def __call__(self, _scope: Scope, _receive: Receive, send: Send) -> None:
        """Send the events. Does not use Starlette's own disconnect check, which notices later than ReplyStream."""
        with contextlib.suppress(OSError):
            async with contextlib.aclosing(self._incoming):
                await self.stream_response(send)

    async def _events(
        self, reply: ChatCompletionWriter, incoming: ReplyStream, deltas: list[ReplyDelta]
    ) -> AsyncGenerator[bytes]:
        yield reply.first_event()
        try:
            while not (deltas and deltas[-1].finish):
                if event := await _write(reply, reply.delta_event, deltas):
                    yield event
                deltas = await incoming.batch(KEEP_ALIVE_SECONDS)
                if not deltas:
                    yield KEEP_ALIVE
            yield await _write(reply, reply.delta_event, deltas) + reply.last_events(deltas[-1].finish)
        except ClientGoneError:
            return
        except Exception as error:
            yield reply.error_event(_as_chat_error(error))


class Api:
    """The ASGI application under /v1. All responses, errors too, have OpenAI's format."""

    def __init__(
        self,
        backend: Backend,
        access: Access,
        root_path: str = "",
        metrics: Metrics | None = None,
        usage: TokenUsage | None = None,
    ) -> None:
        """`usage` counts the tokens of callers, where these have limits."""
        self._backend, self._usage = backend, usage
        self._metrics = metrics or Metrics()
        self._access = access
        self._started = int(time.time())
        self._tokenizing = asyncio.Semaphore(TOKENIZERS)
        routes = [
            Route("/openapi.json", self._openapi, methods=["GET"]),
            Route("/models", self._models, methods=["GET"]),
            Route("/models/", self._models, methods=["GET"]),
            Route("/models/load", self._load, methods=["POST"]),
            Route("/models/unload", self._unload, methods=["POST"]),
            Route("/models/sse", self._model_events, methods=["GET"]),
            Route("/models/{name:path}", self._model, methods=["GET"]),
            Route("/metrics", self._metrics_text, methods=["GET"]),
            Route("/tokenize", self._tokenize, methods=["POST"]),
            Route("/detokenize", self._detokenize, methods=["POST"]),
            Route("/chat/completions", self._chat, methods=["POST"]),
            Route("/chat/completions/", self._chat, methods=["POST"]),
        ]
        self._router = Router(routes, redirect_slashes=False)
        self._served_routes = ", ".join(_display_path(route) for route in routes if not route.path.endswith("/"))
        self._description = document(routes, f"{root_path}/v1", access.has_key)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Check access, handle the request, and turn errors into responses."""
        try:
            if scope["type"] == "http":
                scope["chatui.caller"] = self._access.check(Headers(scope=scope), _address(scope))
            await self._router(scope, receive, send)
        except (ClientDisconnect, ClientGoneError):
            log.debug("a client left before its answer")
        except Exception as error:
            if isinstance(error, HTTPException):
                error = self._route_error(error, scope)
            status, body, headers = describe_error(_as_chat_error(error))
            await _json(body, status, headers)(scope, receive, send)

    def _route_error(self, error: HTTPException, scope: Scope) -> ApiError:
        """The error for an unknown route or method, with the list of routes."""
        requested = f"{scope['method'][:20]} {shorten(scope['path'])}"
        code = "unknown_url" if error.status_code == 404 else "method_not_allowed"
        return ApiError(
            error.status_code,
            f"{requested} is not served here. There is: {self._served_routes}.",
            code=code,
            headers=error.headers,
        )

    async def _openapi(self, _: Request) -> Response:
        return _json(self._description)

    async def _models(self, _: Request) -> Response:
        await asyncio.to_thread(self._backend.refresh)
        return _json({"object": "list", "data": [describe_model(m, self._started) for m in self._backend.models()]})

    async def _model(self, request: Request) -> Response:
        if request.path_params["name"] in ("load", "unload"):
            raise self._route_error(HTTPException(405, headers={"Allow": "POST"}), request.scope)
        model = find_model(self._backend.models(), request.path_params["name"])
        return _json(describe_model(model, self._started))

    async def _load(self, request: Request) -> Response:
        model, body = read_model(LoadBody, await _body(request), self._backend.models())
        self._backend.load(model.name, body.options())
        return _json({"success": True})

    async def _unload(self, request: Request) -> Response:
        model, _ = read_model(ModelBody, await _body(request), self._backend.models())
        self._backend.unload(model.name)
        return _json({"success": True})

    async def _model_events(self, request: Request) -> Response:
        kind = "text/event-stream"
        if request.method == "HEAD":
            return Response(headers=NO_STORE, media_type=kind)
        return StreamingResponse(model_events(self._backend), headers=NO_STORE, media_type=kind)

    async def _metrics_text(self, request: Request) -> Response:
        text, kind = self._metrics.exposition(request.headers.get("accept", ""))
        return Response(text, headers={**NO_STORE, "Content-Type": kind})

    async def _tokenize(self, request: Request) -> Response:
        body, models = await _body(request), self._backend.models()
        asked, names = read_tokenize(body, models)
        status = find_model(models, asked.model)
        _check_first_loading(status, models)
        async with self._tokenizing:
            if status.info is None:  # what its chat template takes is not known
                await self._backend.ensure_loaded(status.name)
                asked, names = read_tokenize(body, self._backend.models())
            tokens = await self._backend.tokenize(asked)
        info = find_model(self._backend.models(), asked.model).info
        return _json(describe_tokens(tokens, info.context_length if info else 0, names))

    async def _detokenize(self, request: Request) -> Response:
        models = self._backend.models()
        ids, model = read_detokenize(await _body(request), models)
        _check_first_loading(find_model(models, model), models)
        async with self._tokenizing:
            return _json({"prompt": await self._backend.detokenize(ids, model)})

    async def _chat(self, request: Request) -> Response:
        models = self._backend.models()
        body, caller = await _body(request), request.scope["chatui.caller"]
        parsed = read_chat(body, models, caller, self._access.has_key)
        status = find_model(models, parsed.request.model)
        _check_first_loading(status, models)
        reply = ChatCompletionWriter(status.name, parsed.include_usage, self._logprobs(parsed, status.name))
        deltas = (
            self._backend.stream(parsed.request) if status.info else self._load_and_stream(status.name, body, caller)
        )
        traced = tracing.traced(status.name, deltas, tracing.parent_of(request.headers))
        incoming = ReplyStream(traced, request.receive)
        async with contextlib.AsyncExitStack() as closing:
            await closing.enter_async_context(contextlib.aclosing(incoming))
            if not parsed.stream:
                written = await _write(reply, reply.completion, await _all_deltas(incoming))
                return _json(written, headers=self._limit_headers(caller))
            response = EventStream(reply, incoming, await _first_deltas(incoming), self._limit_headers(caller))
            closing.pop_all()
            return response

    def _limit_headers(self, caller: str) -> dict[str, str]:
        """What is left of the caller's tokens, in OpenAI's headers; empty without a limit.

        https://platform.openai.com/docs/guides/rate-limits#rate-limits-in-headers
        """
        left = self._usage.remaining(caller) if self._usage is not None else None
        if left is None:
            return {}
        values = {"limit": left.limit, "remaining": left.tokens, "reset": f"{left.seconds}s"}
        return {f"x-ratelimit-{name}-tokens": str(value) for name, value in values.items()}

    def _logprobs(self, parsed: ParsedRequest, model: str) -> ReadLogprobs | None:
        if parsed.top_logprobs is None:
            return None
        return LogprobsReader(parsed.top_logprobs, partial(self._backend.decode_tokens, model=model)).read

    async def _load_and_stream(self, model: str, body: bytes, caller: str) -> AsyncGenerator[ReplyDelta]:
        """Load a model that was never loaded, and generate the reply with its own defaults."""
        await self._backend.ensure_loaded(model)
        parsed = read_chat(body, self._backend.models(), caller, self._access.has_key)
        async with contextlib.aclosing(self._backend.stream(parsed.request)) as deltas:
            async for delta in deltas:
                yield delta


async def _write(reply: ChatCompletionWriter, write: Callable[[list[ReplyDelta]], T], deltas: list[ReplyDelta]) -> T:
    """What the reply's writer makes of the deltas, in a thread if that includes log probabilities, which takes long."""
    return await asyncio.to_thread(write, deltas) if reply.has_logprobs else write(deltas)


def _display_path(route: Route) -> str:
    methods = " ".join(sorted((route.methods or set()) - {"HEAD"}))
    return f"{methods} /v1{route.path_format}"


def mounts(
    backend: Backend, settings: AppSettings, metrics: Metrics | None = None, usage: TokenUsage | None = None
) -> list[Mount]:
    """The API under /v1, and /tokenize, /detokenize and /metrics beside it, where vLLM has them.

    Unlike Starlette's own pattern, that of /v1 matches /v1 itself, and paths with line ends.
    """
    api = Api(backend, Access(settings), settings.root_path, metrics, usage)
    under_v1, beside = Mount("/v1", api), Mount("", api)
    under_v1.path_regex = re.compile("^/v1(?![^/])/?(?P<path>.*)$", re.DOTALL)
    beside.path_regex = re.compile("^/(?P<path>(de)?tokenize|metrics)$")
    return [under_v1, beside]


def _check_first_loading(model: ModelStatus, models: Sequence[ModelStatus]) -> None:
    """Raises ApiError while the only model is loading for the first time."""
    if model.state == "loading" and model.info is None and len(models) == 1:
        raise ApiError(503, f"The model is still loading ({model.phase}).", headers={"Retry-After": "5"})


async def _body(request: Request) -> bytes:
    """The decompressed body. Raises ApiError if it is larger than MAX_BODY_BYTES or not application/json.

    The content type matters because browsers let other sites' pages send any type but JSON without a CORS preflight.
    """
    kind = request.headers.get("content-type", "").partition(";")[0].strip().lower()
    if kind != "application/json":
        raise ApiError(415, "Send JSON, with Content-Type: application/json.", code="unsupported_media_type")
    body = bytearray()
    async for piece in request.stream():
        if len(body) + len(piece) > MAX_BODY_BYTES:
            raise _too_large()
        body += piece
    try:
        return decompress(bytes(body), request.headers.get("content-encoding", "identity"))
    except RefusedError as error:
        raise ApiError(error.status, str(error)) from None


def _too_large() -> ApiError:
    return ApiError(413, f"The body has more than {MAX_BODY_BYTES:,} bytes.", code="body_too_large")


async def _first_deltas(incoming: ReplyStream) -> list[ReplyDelta]:
    """The deltas up to the first that is not a queue position, or those of HOLD_SECONDS."""
    deltas: list[ReplyDelta] = []
    deadline = time.monotonic() + HOLD_SECONDS
    while all(delta.queue_position is not None for delta in deltas) and (timeout := deadline - time.monotonic()) > 0:
        deltas += await incoming.batch(timeout)
    return deltas


async def _all_deltas(incoming: ReplyStream) -> list[ReplyDelta]:
    deltas: list[ReplyDelta] = []
    while not (deltas and deltas[-1].finish):
        deltas += await incoming.batch()
    return deltas


def _as_chat_error(error: Exception) -> ChatError:
    """The error as a ChatError that clients may see. Unexpected ones are logged."""
    if isinstance(error, ChatError):
        return error
    log.error("a call of /v1 failed", exc_info=error)
    return unexpected(error)


def _address(scope: Scope) -> str:
    """The client's address, from a trusted proxy if there is one."""
    return scope["client"][0] if scope.get("client") else ""


def _json(body: Fields, status: int = 200, headers: dict[str, str] | None = None) -> Response:
    return Response(to_json(body), status, {**NO_STORE, **(headers or {})}, media_type="application/json")
