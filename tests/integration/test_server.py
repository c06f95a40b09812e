import asyncio
import json
import socket
import threading
import time
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import httpx
import httpx2
import pytest
import uvicorn
from fastapi import FastAPI
from starlette.routing import Mount
from starlette.testclient import TestClient

from chatui import attempt_limiter, server
from chatui.chat import ModelStatus
from chatui.errors import ModelError
from chatui.generation_settings import GenerationSettings
from chatui.owners import Cookies
from chatui.personas import PRESETS
from chatui.security import AllowedHosts
from chatui.settings import AppSettings
from chatui.store.records import Author, NewTurn
from chatui.store.store import Store
from chatui.ui.gradio_compat.sessions import Sessions
from tests.fakes import FakeBackend
from tests.visitors import served

ORIGINS = ["https://evil.example", "null", "https://huggingface.co"]
HOSTS = ["me-space.hf.space", "x.gradio.live", "localhost:7860", "evil.example"]


def app_for(backend: FakeBackend, **settings: object) -> FastAPI:
    return server.build_app(backend, AppSettings.model_validate(settings))


@pytest.fixture(scope="module")
def shared_client() -> Iterator[TestClient]:
    with TestClient(app_for(FakeBackend()), raise_server_exceptions=False) as client:
        yield client


@pytest.fixture
def client(shared_client: TestClient) -> TestClient:
    """A browser that was never here, before a server that has been asked things before."""
    shared_client.cookies.clear()
    return shared_client


def test_healthz_tells_the_state() -> None:
    backend = FakeBackend()
    client = TestClient(app_for(backend))
    assert client.get("/healthz").json() == {"status": "ready", "model": "fake/echo"}
    backend.status = ModelStatus("m", "loading", "reading")
    loading = client.get("/healthz")
    assert loading.json() == {"status": "loading", "model": "m", "phase": "reading"}
    assert (loading.status_code, loading.headers["retry-after"]) == (503, "5")
    backend.status = ModelStatus("m", "failed", error=ModelError("Too big.", "Buy memory."))
    failed = client.get("/healthz")
    assert failed.json() == {"status": "failed", "model": "m", "error": "Too big. Buy memory."}
    assert failed.status_code == 503
    assert client.get("/livez").status_code == 200, "the process lives, whatever its model does"


@pytest.mark.parametrize(
    ("host", "printed"),
    [
        ("127.0.0.1", "http://127.0.0.1:7860"),
        ("0.0.0.0", "http://127.0.0.1:7860"),
        ("::", "http://127.0.0.1:7860"),
        ("::1", "http://[::1]:7860"),
        ("fe80::1", "http://[fe80::1]:7860"),
        ("my.host", "http://my.host:7860"),
    ],
)
def test_the_printed_address_opens_in_a_browser(host: str, printed: str) -> None:
    assert server.browser_url(host, 7860) == printed


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


def test_a_page_that_points_its_own_name_here_gets_nothing() -> None:
    """DNS rebinding."""
    app = app_for(FakeBackend(), allowed_hosts="")
    with TestClient(app, "http://localhost:7860") as client:
        assert client.get("/healthz").status_code == 200
        paths = {str(getattr(route, "path", "")) for route in app.routes} | {"/", "/config", "/gradio_api/queue/join"}
        for path in paths | {"/v1/models", "/v1/chat/completions", "/nothing", "/gradio_api/info"}:
            for method in ("GET", "POST", "OPTIONS", "HEAD"):
                answer = client.request(method, path, headers={"Host": "evil.example:7860"}, json={})
                assert answer.status_code == 403, path
        assert "--allowed-hosts evil.example" in client.get("/", headers={"Host": "evil.example"}).json()["detail"]
    with TestClient(app_for(FakeBackend(), allowed_hosts="", host="0.0.0.0"), "http://chat.example.org") as client:
        assert client.get("/healthz").status_code == 200


# --- Guessing passwords ---


def log_in(app: FastAPI, password: str, address: str = "203.0.113.9", user: str = "ada") -> httpx2.Response:
    return TestClient(app, client=(address, 5)).post("/login", data={"username": user, "password": password})


def test_guessing_passwords_ends_by_the_tenth(monkeypatch: pytest.MonkeyPatch) -> None:
    app = app_for(FakeBackend(), auth="ada:secret")
    now = time.monotonic()
    monkeypatch.setattr(time, "monotonic", lambda: now)
    assert [log_in(app, f"guess-{number}").status_code for number in range(12)] == [400] * 9 + [429] * 3
    locked = log_in(app, "secret")
    assert locked.status_code == 429
    assert 1 <= int(locked.headers["retry-after"]) <= 61
    assert "set-cookie" not in locked.headers
    assert log_in(app, "secret", "203.0.113.10").status_code == 200
    now += 61
    assert log_in(app, "secret").status_code == 200
    for number in range(10):
        log_in(app, "wrong", f"2001:db8::{number}")
    assert log_in(app, "secret", "2001:db8::ffff").status_code == 429
    assert log_in(app, "secret", "2001:db8:0:1::1").status_code == 200


@pytest.fixture
def two_users(tmp_path: Path) -> FastAPI:
    (tmp_path / "users").write_text("ada:secret\nbob:hunter2\n")
    return app_for(FakeBackend(), auth=str(tmp_path / "users"), data_dir=tmp_path)


@pytest.mark.parametrize("address", ["203.0.113.9", "::ffff:203.0.113.9", "2001:db8::1"])
def test_who_guesses_at_one_user_closes_no_door_to_another(two_users: FastAPI, address: str) -> None:
    for number in range(30):
        log_in(two_users, f"guess-{number}", address)
        log_in(two_users, "guess", address, f"nobody-{number}")
    assert log_in(two_users, "secret", address).status_code == 429
    assert log_in(two_users, "hunter2", address, "bob").status_code == 200
    assert log_in(two_users, "secret", "203.0.113.77").status_code == 200


def test_addresses_of_ipv4_on_a_server_of_ipv6_are_not_one(two_users: FastAPI) -> None:
    for number in range(12):
        log_in(two_users, f"guess-{number}", "::ffff:203.0.113.9")
    assert log_in(two_users, "secret", "203.0.113.9").status_code == 429
    assert log_in(two_users, "secret", "::ffff:203.0.113.10").status_code == 200


def test_each_guess_after_a_wait_doubles_the_next(two_users: FastAPI, monkeypatch: pytest.MonkeyPatch) -> None:
    now = 1000.0
    monkeypatch.setattr(time, "monotonic", lambda: now)
    waits = []
    for _ in range(9):
        log_in(two_users, "wrong")
    for _ in range(9):
        answer = log_in(two_users, "wrong")
        waits.append(int(answer.headers["retry-after"]))
        assert f"Wait {waits[-1]:,} seconds" in answer.json()["detail"]
        now += waits[-1]
    assert waits == [60, 120, 240, 480, 960, 1920, 3600, 3600, 3600]
    now += attempt_limiter.MAX_WAIT + 1
    assert [log_in(two_users, "wrong").status_code for _ in range(10)] == [400] * 9 + [429]


def test_made_up_names_look_like_real_ones_and_make_nothing_forgotten(
    two_users: FastAPI, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(attempt_limiter, "MAX_CLIENTS", 5)
    real, made_up = ([log_in(two_users, "x", user=name).status_code for _ in range(12)] for name in ("ada", "eve"))
    assert real == made_up == [400] * 9 + [429] * 3
    for number in range(20):
        log_in(two_users, "x", user=f"nobody-{number}")
    assert log_in(two_users, "secret").status_code == 429


def test_a_good_login_makes_wrong_ones_forgotten() -> None:
    app = app_for(FakeBackend(), auth="ada:secret")
    passwords = ["wrong"] * 9 + ["secret"] * 3 + ["wrong"] * 9 + ["secret"]
    assert [log_in(app, password).status_code for password in passwords] == [400] * 9 + [200] * 3 + [400] * 9 + [200]


def test_who_is_logged_in_stays_so_while_others_guess_at_the_same_address() -> None:
    app = app_for(FakeBackend(), auth="ada:secret")
    with TestClient(app, client=("203.0.113.9", 5)) as inside:
        inside.post("/login", data={"username": "ada", "password": "secret"})
        statuses = {log_in(app, "wrong").status_code for _ in range(12)}
        assert statuses == {400, 429}
        assert inside.get("/config").status_code == 200
        assert inside.get("/chats/export").status_code == 200


async def test_many_guesses_at_once_are_no_more_than_in_a_row() -> None:
    app = app_for(FakeBackend(), auth="ada:secret")
    transport = httpx.ASGITransport(app, client=("203.0.113.9", 5))
    async with httpx.AsyncClient(transport=transport, base_url="http://testserver") as client:
        guesses = [{"username": "ada", "password": f"guess-{number}"} for number in range(50)]
        answers = await asyncio.gather(*(client.post("/login", data=guess) for guess in guesses))
    assert sorted(answer.status_code for answer in answers) == [400] * 9 + [429] * 41


def test_behind_a_proxy_of_this_computer_each_client_counts_for_itself() -> None:
    with served(app_for(FakeBackend(), auth="ada:secret")) as url:

        def attempt(password: str, client: str) -> int:
            data = {"username": "ada", "password": password}
            return httpx.post(f"{url}/login", data=data, headers={"X-Forwarded-For": client}).status_code

        assert [attempt("wrong", "203.0.113.9") for _ in range(10)] == [400] * 9 + [429]
        assert attempt("secret", "203.0.113.9") == 429
        assert attempt("secret", "203.0.113.10") == 200


# --- Whose conversations may be taken away ---


def add_conversation(data: Path, owner: str) -> str:
    """Keep a conversation of this owner in the application's database; returns its id."""
    store = Store.open(AppSettings(data_dir=data))
    author = Author("m", "r", "", GenerationSettings(), seed=7)
    started = store.for_owner(owner).start_turn(NewTurn(None, None, "a secret", author, PRESETS[0]))
    store.close()
    return started.conversation.id


def owner_by(client: TestClient, data: Path) -> str:
    """The owner that the page's cookie stands for."""
    client.get("/", headers={"accept": "text/html"})
    store = Store.open(AppSettings(data_dir=data))
    cookies = Cookies(store.cookie_secret())
    owner = cookies.owner(client.cookies[cookies.name])
    store.close()
    assert owner is not None
    return owner


def test_a_browser_gets_its_own_conversations_only(tmp_path: Path) -> None:
    app = app_for(FakeBackend(), data_dir=tmp_path)
    other = TestClient(app)
    with TestClient(app) as mine:
        chat = add_conversation(tmp_path, owner_by(mine, tmp_path))
        assert owner_by(other, tmp_path) != owner_by(mine, tmp_path)
        address = f"/chats/export?format=md&chat={chat}"
        assert "a secret" in mine.get(address).text
        assert other.get(address).status_code == 404
        assert "a secret" not in other.get("/chats/export").text
        other.cookies.clear()
        assert other.get("/chats/export").status_code == 404


def test_the_owner_outlives_the_server(tmp_path: Path) -> None:
    with TestClient(app_for(FakeBackend(), data_dir=tmp_path)) as before:
        chat = add_conversation(tmp_path, owner_by(before, tmp_path))
    with TestClient(app_for(FakeBackend(), data_dir=tmp_path), cookies=dict(before.cookies)) as after:
        assert after.get(f"/chats/export?chat={chat}").status_code == 200


def test_behind_a_login_the_name_owns_and_no_cookie_does(tmp_path: Path) -> None:
    with TestClient(app_for(FakeBackend(), auth="ada:secret", data_dir=tmp_path)) as client:
        guest, named = add_conversation(tmp_path, owner_by(client, tmp_path)), add_conversation(tmp_path, "login:ada")
        for chat in (guest, named):
            assert client.get(f"/chats/export?chat={chat}").status_code == 404
        client.post("/login", data={"username": "ada", "password": "secret"})
        assert client.get(f"/chats/export?chat={guest}").status_code == 404
        assert client.get(f"/chats/export?chat={named}").status_code == 200
        assert "a secret" in client.get("/chats/export").text


def test_the_internal_listeners_are_not_public_endpoints(client: TestClient) -> None:
    named = client.get("/gradio_api/info").json()["named_endpoints"]
    assert list(named) == ["/chat"]


@pytest.mark.parametrize("root_path", ["", "/chat"])
def test_behind_a_proxy_the_page_finds_its_parts(root_path: str) -> None:
    with TestClient(app_for(FakeBackend(), root_path=root_path)) as client:
        config = client.get("/config", headers={"Host": "example.org"}).json()
        assert config["root"].endswith(root_path)


def test_no_tunnel_leaves_the_page_alone(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    from chatui.ui.gradio_compat import serving

    def refuse(*_: object) -> str:
        raise RuntimeError("Could not get share link from Gradio API Server.\nmore")

    monkeypatch.setattr(serving, "share", refuse)
    hosts = AllowedHosts("127.0.0.1")
    server._share("127.0.0.1", 1, hosts)
    output = capsys.readouterr().out
    assert output.count("\n") == 1
    assert "no public link" in output
    addresses = []

    def link(*address: object) -> str:
        addresses.append(address)
        return "https://share.example.org/5"

    monkeypatch.setattr(serving, "share", link)
    assert "share.example.org" not in hosts
    for host in ("127.0.0.1", "0.0.0.0", "::", "::1", "192.168.1.5"):
        server._share(host, 5, hosts)
    assert [host for host, _ in addresses] == ["127.0.0.1", "127.0.0.1", "127.0.0.1", "::1", "192.168.1.5"]
    assert "https://share.example.org/5" in capsys.readouterr().out
    assert "share.example.org" in hosts


def first_event_response(url: str, tab: str) -> httpx.Response:
    """The answer to the first event of a new tab."""
    config = httpx.get(f"{url}/config").json()
    event = next(found for found in config["dependencies"] if found["api_name"] == "begin")
    body = {"data": [None], "fn_index": event["id"], "session_hash": tab, "event_data": None, "trigger_id": None}
    return httpx.post(f"{url}/gradio_api/run/predict", json=body)


def gradio_app_of(app: FastAPI) -> Any:
    """Gradio's app, which is mounted last."""
    return next(route.app for route in reversed(app.routes) if isinstance(route, Mount))


def test_validators_use_the_sessions_of_the_app_that_serves() -> None:
    gradio_app = gradio_app_of(app_for(FakeBackend()))
    page = gradio_app.get_blocks()
    assert any(event.validator for event in page.fns.values())
    assert page.app is gradio_app  # the queue runs validators by it
    assert isinstance(page.app.state_holder, Sessions)


def tabs_of(app: FastAPI) -> Mapping[str, object]:
    """What Gradio keeps of each tab."""
    gradio_app = gradio_app_of(app)
    kept: Mapping[str, object] = gradio_app.state_holder.session_data
    return kept


def test_a_closed_tab_leaves_nothing_in_memory() -> None:
    app = app_for(FakeBackend())
    with served(app) as url, httpx.stream("GET", f"{url}/gradio_api/heartbeat/tab") as heartbeat:
        assert heartbeat.status_code == 200
        assert first_event_response(url, "tab").status_code == 200
        assert first_event_response(url, "other").status_code == 200
        assert len(tabs_of(app)) == 2
        heartbeat.close()
        deadline = time.monotonic() + 30
        while len(tabs_of(app)) == 2 and time.monotonic() < deadline:
            time.sleep(0.02)
        assert [name.partition(".")[0] for name in tabs_of(app)] == ["other"]
        assert first_event_response(url, "tab").status_code == 200


def test_no_more_than_so_many_tabs_are_kept_in_memory(monkeypatch: pytest.MonkeyPatch) -> None:
    from chatui.ui.gradio_compat import sessions

    monkeypatch.setattr(sessions, "MAX_TABS", 3)
    app = app_for(FakeBackend())
    with served(app) as url:
        for number in range(6):
            assert first_event_response(url, f"tab{number}").status_code == 200
    assert [name.partition(".")[0] for name in tabs_of(app)] == ["tab3", "tab4", "tab5"]


def test_a_running_server_ends_in_time() -> None:
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        port = listener.getsockname()[1]
        running = uvicorn.Server(uvicorn.Config(app_for(FakeBackend()), log_level="error", timeout_graceful_shutdown=1))
        thread = threading.Thread(target=running.run, kwargs={"sockets": [listener]})
        thread.start()
        deadline = time.monotonic() + 30
        while not running.started and time.monotonic() < deadline:
            time.sleep(0.02)
        with httpx.stream("GET", f"http://127.0.0.1:{port}/gradio_api/heartbeat/x", timeout=5) as response:
            assert response.status_code == 200
            running.should_exit = True
            thread.join(20)
        assert not thread.is_alive()


def test_several_keys_with_names_and_limits(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CHATUI_API_KEY", "sesame-open\nada:secret-of-ada,tokens-per-minute=6,tokens-per-day=0")
    backend = FakeBackend(["a", "b"])
    client = TestClient(app_for(backend), "http://localhost:7860")

    def ask(key: str) -> httpx2.Response:
        body = {"messages": [{"role": "user", "content": "Hi"}], "user": f"someone {len(backend.requests)}"}
        return client.post("/v1/chat/completions", json=body, headers={"Authorization": f"Bearer {key}"})

    assert "x-ratelimit-limit-tokens" not in ask("sesame-open").headers
    first, second, third = (ask("secret-of-ada") for _ in range(3))
    assert (first.headers["x-ratelimit-limit-tokens"], first.headers["x-ratelimit-remaining-tokens"]) == ("6", "1")
    assert (second.status_code, third.status_code) == (200, 429)
    assert 1 <= int(third.headers["retry-after"]) <= 60
    assert ask("ada:secret-of-ada").status_code == 401
    assert ask("sesame-open").status_code == 200
    callers = [request.user.partition("\n")[0] for request in backend.requests]
    assert callers == ["api:testclient", "api:ada", "api:ada", "api:testclient"]
