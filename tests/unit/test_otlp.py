"""One trace leads from the click to the last token; it is off by default, and never has a text of a chat."""

import asyncio
import http.server
import logging
import subprocess
import sys
import threading
from collections.abc import AsyncIterator, Iterator
from types import SimpleNamespace
from typing import Any

import pytest
from starlette.applications import Starlette
from starlette.testclient import TestClient

from chatui import tracing
from chatui.api import routes
from chatui.chat import ChatRequest, Finish, ReplyDelta
from chatui.errors import GenerationError, SettingsError
from chatui.generation_settings import GenerationSettings
from chatui.personas import PRESETS
from chatui.runner import Runner
from chatui.settings import AppSettings
from chatui.store.records import Author, NewTurn
from chatui.store.store import Store
from chatui.ui.chat import event_runner
from tests.fakes import FakeBackend

SECRET = "xyzzy-secret-text"
FINISH = Finish("length", 4, 2, 7, queue_seconds=0.5, prefill_seconds=1.5, decode_seconds=0.25, cached_tokens=1)
REPLY = [ReplyDelta(SECRET, tokens=1), ReplyDelta("b", tokens=1), ReplyDelta(finish=FINISH)]


class Spans(list[Any]):
    """The spans that were sent, as an exporter."""

    def export(self, spans: Any) -> object:
        from opentelemetry.sdk.trace.export import SpanExportResult

        self.extend(spans)
        return SpanExportResult.SUCCESS

    def shutdown(self) -> None:
        pass

    def force_flush(self, timeout_millis: int = 0) -> bool:
        return True

    def by_name(self) -> dict[str, Any]:
        tracing.stop()
        return {span.name: span for span in self}


@pytest.fixture
def spans() -> Iterator[Spans]:
    pytest.importorskip("opentelemetry.sdk")
    sent = Spans()
    tracing.start(None, sent)
    yield sent
    tracing.stop()


def turn() -> NewTurn:
    return NewTurn(None, None, SECRET, Author("m", "r", SECRET, GenerationSettings(), seed=7), PRESETS[0])


async def run_reply(*script: Any) -> None:
    runner = Runner(FakeBackend(script, rate=1e6), Store.in_memory(), Store.in_memory())
    with tracing.span("page.event"):
        reply = await runner.start_reply("a", turn())
    while not reply.saved:
        await asyncio.sleep(0.005)
    await runner.close()


async def test_a_reply_is_one_trace_from_the_click_to_the_store(spans: Spans) -> None:
    await run_reply(*REPLY)
    found = spans.by_name()
    assert found.keys() == {"page.event", "store.start_turn", "reply", "queue", "prefill", "decode", "store.save"}
    assert len({span.context.trace_id for span in spans}) == 1
    parents = {name: span.parent and span.parent.span_id for name, span in found.items()}
    click, reply = found["page.event"].context.span_id, found["reply"].context.span_id
    assert parents == {
        "page.event": None,
        "store.start_turn": click,
        "reply": click,
        "queue": reply,
        "prefill": reply,
        "decode": reply,
        "store.save": reply,
    }
    seconds = {name: (span.end_time - span.start_time) / 1e9 for name, span in found.items()}
    assert (seconds["queue"], seconds["prefill"], seconds["decode"]) == (0.5, 1.5, 0.25)
    assert found["prefill"].start_time == found["queue"].end_time
    attributes = dict(found["reply"].attributes)
    assert attributes["chatui.model"] == "m"
    assert attributes["chatui.completion_tokens"] == 2
    assert attributes["chatui.finish_reason"] == "length"
    assert [event.name for event in found["reply"].events] == ["first token"]


async def test_an_event_of_the_page_is_the_root(spans: Spans, monkeypatch: pytest.MonkeyPatch) -> None:
    async def shown(*_: object) -> AsyncIterator[object]:
        yield {}

    async def action(_: object) -> None:
        with tracing.span("within"):
            pass

    monkeypatch.setattr(event_runner, "current_tab", lambda *_: "tab")
    page: Any = SimpleNamespace(show=shown)
    events = event_runner.EventRunner(page, page, page)
    assert [update async for update in events.run_and_show([], action)] == [{}]
    found = spans.by_name()
    assert found["page.event"].parent is None
    assert found["within"].parent.span_id == found["page.event"].context.span_id


async def test_no_text_of_a_chat_is_sent(spans: Spans) -> None:
    await run_reply(*REPLY)
    await run_reply("a", GenerationError(SECRET))
    await run_reply("a", RuntimeError(SECRET))
    tracing.stop()
    assert not [span.name for span in spans if SECRET in span.to_json()]
    failed = [span.status.description for span in spans if span.name == "reply"]
    assert failed == [None, "GenerationError", "RuntimeError"]


def test_a_program_and_a_backend_share_the_trace(spans: Spans) -> None:
    seen: list[dict[str, str]] = []

    def reply(_: object) -> list[ReplyDelta]:
        seen.append(tracing.headers())
        return REPLY

    app = Starlette(routes=routes.mounts(FakeBackend(reply), AppSettings()))
    client = TestClient(app, "http://localhost:7860", client=("127.0.0.1", 5))
    parent = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"
    body = {"messages": [{"role": "user", "content": "Hi"}]}
    assert client.post("/v1/chat/completions", json=body, headers={"traceparent": parent}).status_code == 200
    found = spans.by_name()
    assert f"{found['reply'].context.trace_id:032x}" == "0af7651916cd43dd8448eb211c80319c"
    assert f"{found['reply'].parent.span_id:016x}" == "b7ad6b7169203331"
    assert seen == [{"traceparent": f"00-0af7651916cd43dd8448eb211c80319c-{found['reply'].context.span_id:016x}-01"}]


def test_a_collector_gets_them_by_otlp() -> None:
    pytest.importorskip("opentelemetry.exporter.otlp.proto.http")
    from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest

    received: list[tuple[str, bytes]] = []

    class Collector(http.server.BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            received.append((self.path, self.rfile.read(int(self.headers["Content-Length"]))))
            self.send_response(200)
            self.end_headers()

        def log_message(self, *_: object) -> None:
            pass

    with http.server.HTTPServer(("127.0.0.1", 0), Collector) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        tracing.start(f"http://127.0.0.1:{server.server_address[1]}/")
        with tracing.span("page.event", model="m"):
            assert tracing.ids().keys() == {"trace_id", "span_id"}
        tracing.stop()
        server.shutdown()
    [(path, body)] = received
    assert path == "/v1/traces"
    [resource] = ExportTraceServiceRequest.FromString(body).resource_spans
    named = {each.key: each.value.string_value for each in resource.resource.attributes}
    assert named["service.name"] == "chatui"
    [span] = resource.scope_spans[0].spans
    assert (span.name, span.attributes[0].key) == ("page.event", "chatui.model")


async def test_it_is_off_by_default() -> None:
    tracing.start(None)
    assert tracing.span("a") is tracing.OFF
    deltas = FakeBackend().stream(ChatRequest((), GenerationSettings()))
    assert tracing.traced("m", deltas) is deltas
    assert (tracing.headers(), tracing.ids(), tracing.current(), tracing.parent_of({"traceparent": "x"})) == (
        {},
        {},
        None,
        None,
    )
    await run_reply(*REPLY)
    script = "import sys, chatui.tracing; print([n for n in sys.modules if n.startswith('opentelemetry')])"
    output = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    assert output.stdout.strip() == "[]"


def test_packages_that_are_missing_are_told(monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture) -> None:
    monkeypatch.setitem(sys.modules, "opentelemetry.exporter.otlp.proto.http.trace_exporter", None)
    with pytest.raises(SettingsError, match=r"requirements-tracing\.txt"):
        tracing.start("http://localhost:4318")
    monkeypatch.setenv("OTEL_EXPORTER_OTLP_ENDPOINT", "http://localhost:4318")
    with caplog.at_level(logging.WARNING):
        tracing.start(None)
    assert "requirements-tracing.txt" in caplog.text
    assert tracing.current() is None
