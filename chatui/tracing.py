"""Traces of replies for OpenTelemetry (OTLP), from the click to the last token.

Off by default: then nothing is imported, and each call costs next to nothing. Attributes never have texts of chats or
names of users. https://opentelemetry.io/docs/concepts/signals/traces/
"""

import logging
import os
import time
from collections.abc import AsyncGenerator, Iterator, Mapping
from contextlib import AbstractContextManager, aclosing, contextmanager, nullcontext
from typing import Any

from chatui import __version__
from chatui.chat import Finish, ReplyDelta
from chatui.errors import SettingsError

log = logging.getLogger(__name__)

STANDARD_VARIABLES = ("OTEL_EXPORTER_OTLP_ENDPOINT", "OTEL_EXPORTER_OTLP_TRACES_ENDPOINT")
"""What OpenTelemetry itself reads. One of them turns traces on, as --otlp-endpoint does."""
EXPORT_SECONDS = 5
"""How long one request to the collector may take, also when the server stops."""
NANOSECONDS = 10**9
OFF = nullcontext()

_provider: Any = None
_tracer: Any = None


def start(endpoint: str | None, exporter: Any = None) -> None:
    """Turn traces on if there is an `endpoint` of a collector, or a standard variable names one.

    Raises SettingsError if the packages of the extra `tracing` are needed and not installed. `exporter` takes the
    spans instead of the collector.
    """
    global _provider, _tracer
    if endpoint is None and exporter is None and not any(map(os.environ.get, STANDARD_VARIABLES)):
        return
    try:
        from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
        from opentelemetry.sdk.resources import Resource
        from opentelemetry.sdk.trace import TracerProvider
        from opentelemetry.sdk.trace.export import BatchSpanProcessor
    except ImportError:
        if endpoint is None:  # the variable may be there for other programs
            log.warning("OTEL_* variables ask for traces, but the packages are missing: requirements-tracing.txt")
            return
        remedy = "Install them: pip install -r requirements-tracing.txt."
        raise SettingsError("otlp_endpoint", "the packages that send traces are not installed.", remedy) from None
    if exporter is None:
        url = f"{endpoint.rstrip('/')}/v1/traces" if endpoint else None
        exporter = OTLPSpanExporter(endpoint=url, timeout=EXPORT_SECONDS)
    resource = Resource.create(
        {"service.name": os.environ.get("OTEL_SERVICE_NAME", "chatui"), "service.version": __version__}
    )
    _provider = TracerProvider(resource=resource)
    _provider.add_span_processor(BatchSpanProcessor(exporter))
    _tracer = _provider.get_tracer("chatui", __version__)


def stop() -> None:
    """Send what is left, and turn traces off."""
    global _provider, _tracer
    provider, _provider, _tracer = _provider, None, None
    if provider is not None:
        provider.shutdown()


def span(name: str, **attributes: str | int | float | bool) -> AbstractContextManager[Any]:
    """A span in a `with` block, within the current one. Spans inside, and of tasks started inside, are its children.

    Never wrap a `yield` that returns to another task's context.
    """
    return OFF if _tracer is None else _recording(name, attributes)


@contextmanager
def _recording(name: str, attributes: Mapping[str, Any], parent: Any = None) -> Iterator[Any]:
    """A span whose error is the type of the exception: the text of one may quote a chat."""
    from opentelemetry.trace import Status, StatusCode, use_span

    recorded = _tracer.start_span(name, context=parent, attributes=_named(attributes))
    with use_span(recorded, end_on_exit=True, record_exception=False, set_status_on_exception=False):
        try:
            yield recorded
        except Exception as error:
            recorded.set_status(Status(StatusCode.ERROR, type(error).__name__))
            raise


def record(name: str, start: int, end: int, parent: Any = None, **attributes: str | int | float | bool) -> None:
    """Record a span that has already ended. Times are nanoseconds of time.time_ns(), `parent` is from `current`."""
    if _tracer is not None:
        _tracer.start_span(name, context=parent, start_time=start, attributes=_named(attributes)).end(end)


def current() -> Any:
    """The context of the current span, as the parent of a later one; None if traces are off."""
    if _tracer is None:
        return None
    from opentelemetry.context import get_current

    return get_current()


def headers() -> dict[str, str]:
    """The headers (W3C traceparent) by which the server of a request continues this trace. Empty if traces are off."""
    found: dict[str, str] = {}
    if _tracer is not None:
        from opentelemetry.trace.propagation.tracecontext import TraceContextTextMapPropagator

        TraceContextTextMapPropagator().inject(found)
    return found


def parent_of(received: Mapping[str, str]) -> Any:
    """The context that the headers of a request name; None if they name none, or if traces are off."""
    if _tracer is None or "traceparent" not in received:
        return None
    from opentelemetry.trace.propagation.tracecontext import TraceContextTextMapPropagator

    return TraceContextTextMapPropagator().extract({"traceparent": received["traceparent"]})


def ids() -> dict[str, str]:
    """The ids of the current trace and span in hexadecimal, for logs. Empty without a current span."""
    if _tracer is None:
        return {}
    from opentelemetry.trace import format_span_id, format_trace_id, get_current_span

    context = get_current_span().get_span_context()
    if not context.is_valid:
        return {}
    return {"trace_id": format_trace_id(context.trace_id), "span_id": format_span_id(context.span_id)}


class ReplySpan:
    """The span of a reply, which its deltas give events, children and attributes."""

    def __init__(self, recorded: Any) -> None:
        self._recorded = recorded
        self._started = time.time_ns()
        self._writing = False

    def add(self, delta: ReplyDelta) -> None:
        """Note the prompt, the first token and the end."""
        if self._recorded is None:
            return
        if delta.prompt is not None:
            self._recorded.set_attribute("chatui.prompt_tokens", len(delta.prompt.token_ids))
        if delta.tokens and not self._writing:
            self._writing = True
            self._recorded.add_event("first token")
        if delta.finish is not None:
            self._finish(delta.finish)

    def _finish(self, finish: Finish) -> None:
        self._recorded.set_attributes(
            _named(
                {
                    "finish_reason": finish.reason,
                    "prompt_tokens": finish.told_prompt_tokens,
                    "completion_tokens": finish.completion_tokens,
                    "cached_tokens": finish.told_cached_tokens,
                }
            )
        )
        at, parent = self._started, current()
        phases = {"queue": finish.queue_seconds, "prefill": finish.prefill_seconds, "decode": finish.decode_seconds}
        for name, seconds in phases.items():
            record(name, at, end := at + round(seconds * NANOSECONDS), parent)
            at = end


@contextmanager
def reply(model: str, parent: Any = None) -> Iterator[ReplySpan]:
    """The span of a reply of this model in a `with` block, a child of `parent` or else of the current span."""
    if _tracer is None:
        yield ReplySpan(None)
        return
    with _recording("reply", {"model": model}, parent) as recorded:
        yield ReplySpan(recorded)


def traced(model: str, deltas: AsyncGenerator[ReplyDelta], parent: Any = None) -> AsyncGenerator[ReplyDelta]:
    """The same deltas within the span of their reply. One task must read them all, and close them."""
    return deltas if _tracer is None else _traced(model, deltas, parent)


async def _traced(model: str, deltas: AsyncGenerator[ReplyDelta], parent: Any) -> AsyncGenerator[ReplyDelta]:
    with reply(model, parent) as recorded:
        async with aclosing(deltas):
            async for delta in deltas:
                recorded.add(delta)
                yield delta


def _named(attributes: Mapping[str, Any]) -> dict[str, Any]:
    return {f"chatui.{name}": value for name, value in attributes.items() if value is not None}
