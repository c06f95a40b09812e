import json
import socket
import threading
import time
from collections.abc import Iterator

import httpx
import pytest
import uvicorn
from fastapi import FastAPI
from starlette.testclient import TestClient

from chatui import server
from chatui.chat import ModelStatus
from chatui.errors import ModelError
from chatui.settings import AppSettings
from tests.fakes import FakeBackend

ORIGINS = ["https://evil.example", "null", "https://huggingface.co"]
HOSTS = ["me-space.hf.space", "x.gradio.live", "localhost:7860", "evil.example"]


def app_for(backend: FakeBackend, **settings: object) -> FastAPI:
    return server.build_app(backend, AppSettings.model_validate(settings))


@pytest.fixture
def client() -> Iterator[TestClient]:
    with TestClient(app_for(FakeBackend()), raise_server_exceptions=False) as client:
        yield client


def test_healthz_tells_the_state() -> None:
    backend = FakeBackend()
    client = TestClient(app_for(backend))
    assert client.get("/healthz").json() == {"status": "ready", "model": "fake/echo"}
    backend.status = ModelStatus("m", "loading", "reading")
    assert client.get("/healthz").json() == {"status": "loading", "model": "m", "phase": "reading"}
    backend.status = ModelStatus("m", "failed", error=ModelError("Too big.", "Buy memory."))
    assert client.get("/healthz").json() == {"status": "failed", "model": "m", "error": "Too big. Buy memory."}


@pytest.mark.parametrize("host", HOSTS)
@pytest.mark.parametrize("origin", ORIGINS)
def test_no_foreign_origin_is_granted_on_any_route(client: TestClient, origin: str, host: str) -> None:
    paths = ["/", "/healthz", "/config", "/gradio_api/info", "/gradio_api/queue/data", "/theme.css", "/nothing"]
    for path in [*paths, "/chatui-assets/chatui.css", "/gradio_api/startup-events", "/manifest.json"]:
        for method in ("GET", "OPTIONS"):
            headers = {"Origin": origin, "Host": host, "Access-Control-Request-Method": "POST"}
            response = client.request(method, path, headers=headers, params={"session_hash": "x"})
            granted = [name for name in response.headers if name.startswith("access-control-allow")]
            assert not granted, f"{method} {path}: {granted}"
            assert "content-security-policy" in response.headers


@pytest.mark.parametrize("path", ["/gradio_api/queue/join", "/gradio_api/run/chat", "/gradio_api/cancel", "/login"])
def test_other_sites_cannot_post(client: TestClient, path: str) -> None:
    for headers in ({"Origin": "https://evil.example"}, {"Sec-Fetch-Site": "cross-site"}):
        for body in ({"data": json.dumps({})}, {"json": {"data": ["hi"]}}):
            assert client.post(path, headers=headers, **body).status_code == 403


@pytest.mark.parametrize(
    "path", ["../pyproject.toml", "%2e%2e/pyproject.toml", "//etc/passwd", "/etc/passwd", "pyproject.toml", "app.py"]
)
def test_files_of_this_machine_are_not_served(client: TestClient, path: str) -> None:
    for route in ("/gradio_api/file=", "/chatui-assets/", "/static/", "/assets/"):
        assert client.get(route + path).status_code in (400, 403, 404)


def test_the_page_loads_only_from_here(client: TestClient) -> None:
    policy = client.get("/").headers["content-security-policy"]
    sources = {word for rule in policy.split(";") for word in rule.split()[1:]}
    assert sources <= {"'self'", "'none'", "'unsafe-inline'", "data:", "blob:"}


def test_assets_are_served(client: TestClient) -> None:
    for name in ("chatui.css", "chatui.js", "favicon.svg", "inter-latin-wght-normal.woff2"):
        assert client.get(f"/chatui-assets/{name}").status_code == 200


def test_a_login_closes_the_page_and_its_api_but_not_healthz() -> None:
    with TestClient(app_for(FakeBackend(), auth="ada:secret")) as client:
        assert client.get("/healthz").status_code == 200
        assert client.get("/config").status_code == 401
        assert client.post("/gradio_api/queue/join", json={"data": []}).status_code == 401
        assert client.get("/gradio_api/info").status_code == 401
        assert client.post("/login", data={"username": "ada", "password": "wrong"}).status_code == 400
        assert client.post("/login", data={"username": "ada", "password": "secret"}).status_code == 200
        assert client.get("/config").status_code == 200


def test_the_internal_listeners_are_not_public_endpoints(client: TestClient) -> None:
    named = client.get("/gradio_api/info").json()["named_endpoints"]
    assert list(named) == ["/chat"]


@pytest.mark.parametrize("root_path", ["", "/chat"])
def test_behind_a_proxy_the_page_finds_its_parts(root_path: str) -> None:
    with TestClient(app_for(FakeBackend(), root_path=root_path)) as client:
        config = client.get("/config", headers={"Host": "example.org"}).json()
        assert config["root"].endswith(root_path)


def test_no_tunnel_leaves_the_page_alone(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    from chatui.ui import page

    def refuse(_: int) -> str:
        raise RuntimeError("Could not get share link from Gradio API Server.\nmore")

    monkeypatch.setattr(page, "share", refuse)
    server._share(1)
    said = capsys.readouterr().out
    assert said.count("\n") == 1
    assert "no public link" in said
    monkeypatch.setattr(page, "share", lambda port: f"https://x.gradio.live/{port}")
    server._share(5)
    assert "https://x.gradio.live/5" in capsys.readouterr().out


def test_a_running_server_ends_in_time() -> None:
    with socket.socket() as listening:
        listening.bind(("127.0.0.1", 0))
        port = listening.getsockname()[1]
        running = uvicorn.Server(uvicorn.Config(app_for(FakeBackend()), log_level="error", timeout_graceful_shutdown=1))
        thread = threading.Thread(target=running.run, kwargs={"sockets": [listening]})
        thread.start()
        deadline = time.monotonic() + 30
        while not running.started and time.monotonic() < deadline:
            time.sleep(0.02)
        with httpx.stream("GET", f"http://127.0.0.1:{port}/gradio_api/heartbeat/x", timeout=5) as response:
            assert response.status_code == 200
            running.should_exit = True
            thread.join(20)
        assert not thread.is_alive()
