"""Logins outlive the server and hold on all servers of a database, until somebody logs out or a password changes."""

import time
from collections.abc import Callable, Mapping
from contextlib import ExitStack
from datetime import timedelta
from pathlib import Path

import pytest
from fastapi import FastAPI
from starlette.testclient import TestClient

from chatui.errors import StoreError
from chatui.owners import Cookies
from chatui.server import build_app
from chatui.settings import AppSettings
from chatui.store import logins as kept
from chatui.store.logins import Logins
from chatui.store.rows import now
from chatui.store.store import Store
from chatui.ui.gradio_compat import login_tokens as shown
from chatui.uvicorn_protocol import WAIT_PATH
from tests.databases import Server, ask
from tests.fakes import FakeBackend

PASSWORDS = {"ada": "secret", "bob": "other"}
AUTH = "ada:secret\nbob:other\n"


def test_a_token_stands_for_its_user_on_every_server(store: Store) -> None:
    Logins(store.database, PASSWORDS).add("token", "ada")
    for passwords in (PASSWORDS, {"ada": "secret"}, {**PASSWORDS, "bob": "changed"}):
        assert Logins(store.database, passwords).user("token") == "ada"
    assert Logins(store.database, PASSWORDS).user("made-up") is None


@pytest.mark.parametrize("passwords", [{}, {"ada": "changed"}, {"bob": "secret"}, {"ada": ""}])
def test_a_password_that_changes_or_goes_ends_its_logins(store: Store, passwords: Mapping[str, str]) -> None:
    Logins(store.database, PASSWORDS).add("token", "ada")
    assert Logins(store.database, passwords).user("token") is None


def test_who_logs_out_is_out_everywhere_and_alone(store: Store) -> None:
    logins = Logins(store.database, PASSWORDS)
    for token, name in (("one", "ada"), ("two", "ada"), ("three", "bob")):
        logins.add(token, name)
    Logins(store.database, PASSWORDS).remove("one")
    assert [logins.user(token) for token in ("one", "two", "three")] == [None, "ada", "bob"]


def test_a_login_that_is_not_used_ends(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    logins, start = Logins(store.database, PASSWORDS), now()
    logins.add("used", "ada")
    logins.add("unused", "ada")
    for day in range(1, 41, 10):
        monkeypatch.setattr(kept, "now", lambda day=day: start + timedelta(days=day))
        assert logins.user("used") == "ada"
    assert logins.user("unused") is None


def test_the_database_tells_neither_token_nor_password(store: Store) -> None:
    Logins(store.database, PASSWORDS).add("the-token", "ada")
    with store.database.reading() as connection:
        row = connection.exec_driver_sql("SELECT * FROM logins").one()
    assert "the-token" not in str(row)
    assert "secret" not in str(row)


# --- The page's logins ---


@pytest.fixture
def settings(settings: AppSettings, tmp_path: Path) -> AppSettings:
    (tmp_path / "auth").write_text(AUTH)
    return settings.model_copy(update={"auth": str(tmp_path / "auth")})


def browser(app: FastAPI, cookies: Mapping[str, str] | None = None) -> TestClient:
    client = TestClient(app, base_url="http://127.0.0.1:7860", raise_server_exceptions=False)
    client.headers["cookie"] = "; ".join(f"{name}={value}" for name, value in (cookies or {}).items())
    return client


def log_in(app: FastAPI, user: str = "ada", password: str = "secret") -> dict[str, str]:
    answer = browser(app).post("/login", data={"username": user, "password": password})
    assert answer.status_code == 200
    return dict(answer.cookies)


def is_in(app: FastAPI, cookies: Mapping[str, str]) -> bool:
    statuses = [browser(app, cookies).get(path).status_code for path in ("/config", "/chats/export")]
    assert statuses in ([200, 200], [401, 404])
    return statuses[0] == 200


def test_a_restart_and_another_server_keep_everyone_in(settings: AppSettings, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(shown, "CACHE_SECONDS", 0.0)
    before = build_app(FakeBackend(), settings)
    cookies = log_in(before)
    after = build_app(FakeBackend(), settings)
    assert is_in(before, cookies)
    assert is_in(after, cookies)
    secure = {name: value for name, value in cookies.items() if "unsecure" not in name}
    assert not secure or is_in(after, secure)
    out = browser(after, cookies).post("/logout")
    assert out.status_code == 204
    assert {line.partition("=")[0] for line in out.headers.get_list("set-cookie")} >= set(cookies)
    assert not is_in(after, cookies)
    assert not is_in(before, cookies)
    Path(settings.auth or "").write_text(AUTH.replace("secret", "changed"))
    bobs, adas = log_in(before, "bob", "other"), log_in(before)
    changed = build_app(FakeBackend(), settings)
    assert is_in(changed, bobs)
    assert not is_in(changed, adas)


def test_who_logs_out_is_out_on_the_other_server_at_once(
    postgresql: Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(shown, "CACHE_SECONDS", 1e9)
    url = postgresql.migrated()
    settings = AppSettings(data_dir=tmp_path, database_url=url, auth="ada:secret")
    with ExitStack() as stack:
        here, there = (stack.enter_context(browser(build_app(FakeBackend(), settings))) for _ in range(2))
        app = there.app
        assert isinstance(app, FastAPI)
        cookies = log_in(app)
        kept = log_in(app)
        assert is_in(app, cookies)
        here.headers["cookie"] = "; ".join(f"{name}={value}" for name, value in cookies.items())
        assert here.post("/logout").status_code == 204
        until(lambda: browser(app, cookies).get("/config").status_code == 401)
        assert not is_in(app, cookies)
        assert is_in(app, kept)
    postgresql.give_back(url)


def until(true: Callable[[], object]) -> None:
    start = time.monotonic()
    while not true():
        assert time.monotonic() - start < 60
        time.sleep(0.01)


@pytest.fixture(scope="module")
def app(tmp_path_factory: pytest.TempPathFactory) -> FastAPI:
    """One for all: each test logs in anew."""
    return build_app(FakeBackend(), AppSettings(data_dir=tmp_path_factory.mktemp("app"), auth="ada:secret"))


@pytest.mark.parametrize("path", ["/logout", "/logout/", "//logout", "/gradio_api/logout"])
@pytest.mark.parametrize("method", ["GET", "HEAD", "OPTIONS"])
def test_no_link_and_no_picture_logs_anyone_out(app: FastAPI, path: str, method: str) -> None:
    cookies = log_in(app)
    browser(app, cookies).request(method, path, follow_redirects=False)
    assert is_in(app, cookies)


@pytest.mark.parametrize("headers", [{"sec-fetch-site": "cross-site"}, {"origin": "https://evil.example"}])
def test_no_other_site_logs_anyone_out(app: FastAPI, headers: dict[str, str]) -> None:
    cookies = log_in(app)
    assert browser(app, cookies).post("/logout", headers=headers).status_code == 403
    assert is_in(app, cookies)


def test_a_login_holds_while_the_database_is_away(app: FastAPI, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(shown, "CACHE_SECONDS", 0.0)
    cookies = log_in(app)

    def fails(*_: object) -> None:
        raise StoreError("The disk is full.")

    with monkeypatch.context() as away:
        for name in ("user", "remove", "add"):
            away.setattr(Logins, name, fails)
        assert browser(app, cookies).get("/config").status_code == 200
        assert browser(app, dict.fromkeys(cookies, "made-up")).get("/config").status_code == 401
        assert browser(app, dict.fromkeys(cookies, "made-up")).get(f"{WAIT_PATH}?session_hash=tab").status_code == 503
        refused = browser(app, cookies).post("/logout")
        assert "The disk is full." in refused.json()["detail"]
        assert browser(app, log_in(app)).get("/config").status_code == 200
    assert is_in(app, cookies)
    assert browser(app, dict.fromkeys(cookies, "made-up")).get(f"{WAIT_PATH}?session_hash=tab").status_code == 404


def test_servers_on_one_host_leave_each_others_logins_alone(tmp_path: Path) -> None:
    apps = [build_app(FakeBackend(), AppSettings(data_dir=tmp_path / name, auth="ada:secret")) for name in "ab"]
    jar = log_in(apps[0]) | log_in(apps[1])
    assert all(is_in(app, jar) for app in apps)


def test_the_page_has_a_way_out_where_there_is_a_login(tmp_path: Path) -> None:
    for auth in (None, "ada:secret"):
        app = build_app(FakeBackend(), AppSettings(data_dir=tmp_path, auth=auth))
        config = browser(app, log_in(app) if auth else None).get("/config").json()
        ids = [part["props"].get("elem_id") for part in config["components"]]
        assert ("log-out" in ids) == (auth is not None)


def test_what_a_guest_had_is_offered_at_the_first_page_after_the_login(tmp_path: Path) -> None:
    store = Store.open(AppSettings(data_dir=tmp_path))
    cookies = Cookies(store.cookie_secret())
    guest = cookies.issue()
    store.for_owner(cookies.owner(guest) or "").start_turn(ask("before"))
    app = build_app(FakeBackend(), AppSettings(data_dir=tmp_path, auth="ada:secret"))
    login = log_in(app)
    page = browser(app, {**login, cookies.name: guest}).get("/", headers={"accept": "text/html"}).text
    assert "1 chat was made here before there were logins" in page
    assert "before" not in browser(app, {**login, cookies.name: guest}).get("/chats/export").text
    assert "made here" not in browser(app, login).get("/", headers={"accept": "text/html"}).text
    assert "made here" not in browser(app, {cookies.name: guest}).get("/", headers={"accept": "text/html"}).text
    store.close()
