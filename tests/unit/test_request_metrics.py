"""Requests are counted by kind of route and status, tabs by their heartbeats, the store by its writes."""

from pathlib import Path

import pytest
from starlette.applications import Starlette
from starlette.responses import Response
from starlette.routing import Route
from starlette.testclient import TestClient

from chatui import request_metrics
from chatui.errors import StoreError
from chatui.metrics import Metrics
from chatui.request_metrics import RequestMetrics, kind_of
from chatui.settings import AppSettings
from chatui.store.store import Store


def value(metrics: Metrics, name: str, **labels: str) -> float | None:
    return metrics.registry.get_sample_value(f"chatui:{name}", labels)


@pytest.mark.parametrize(
    ("path", "kind"),
    [
        ("/", "page"),
        ("/login", "page"),
        ("/v1/chat/completions", "api"),
        ("/v1", "api"),
        ("/metrics", "api"),
        ("/gradio_api/queue/join", "event"),
        ("/gradio_api/queue/data", "stream"),
        ("/gradio_api/heartbeat/abc", "stream"),
        ("/gradio_api/changes", "stream"),
        ("/livez", "health"),
        ("/assets/index.js", "asset"),
        ("/favicon.ico", "asset"),
        ("/v1x", "other"),
        ("/wp-admin.php", "other"),
    ],
)
def test_kinds(path: str, kind: str) -> None:
    assert kind_of(path) == kind


def served(metrics: Metrics) -> TestClient:
    async def answer(request: object) -> Response:
        return Response(status_code=204)

    async def broken(request: object) -> Response:
        raise RuntimeError

    routes = [
        Route("/livez", answer),
        Route("/v1", broken),
        Route("/gradio_api/heartbeat/{tab}", answer, methods=["POST"]),
    ]
    app = Starlette(routes=routes)
    return TestClient(RequestMetrics(app, metrics), raise_server_exceptions=False, root_path="/chat")


def test_requests_are_counted() -> None:
    metrics = Metrics()
    client = served(metrics)
    for path in ("/livez", "/livez", "/v1", "/nowhere"):
        client.get(f"/chat{path}")
    assert value(metrics, "http_requests_total", route="health", code="204") == 2
    assert value(metrics, "http_requests_total", route="api", code="500") == 1
    assert value(metrics, "http_requests_total", route="other", code="404") == 1


def test_tabs_are_counted_until_they_close_or_are_silent(monkeypatch: pytest.MonkeyPatch) -> None:
    metrics = Metrics()
    client = served(metrics)
    for tab in ("a", "b", "c", "a"):
        client.post(f"/chat/gradio_api/heartbeat/{tab}")
    assert value(metrics, "page_tabs") == 3
    client.post("/chat/gradio_api/heartbeat/b?closed=1")
    assert value(metrics, "page_tabs") == 2
    monkeypatch.setattr(request_metrics, "MAX_TABS", 2)
    client.post("/chat/gradio_api/heartbeat/d")
    assert value(metrics, "page_tabs") == 2
    monkeypatch.setattr(request_metrics, "TAB_SECONDS", -1)
    assert value(metrics, "page_tabs") == 0


def test_the_store_tells_its_writes_and_errors(tmp_path: Path) -> None:
    metrics = Metrics()
    store = Store.open(AppSettings(data_dir=tmp_path))
    metrics.watch_server(lambda: 3, store.database)
    assert value(metrics, "page_replies_running") == 3
    with store.database.writing():
        pass
    assert value(metrics, "store_write_seconds_count") == 1
    assert value(metrics, "store_errors_total") == 0
    with pytest.raises(StoreError), store.database.writing() as connection:
        connection.exec_driver_sql("SELECT * FROM nothing")
    assert value(metrics, "store_write_seconds_count") == 1
    assert value(metrics, "store_errors_total") == 1
    store.close()
