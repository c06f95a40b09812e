"""Whatever is started, restarted and visited, and under whatever name: who has said something finds it again."""

from collections import defaultdict
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest
from hypothesis import given
from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as st
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse
from starlette.routing import Route
from starlette.testclient import TestClient

from chatui import peers
from chatui.owners import COOKIE, LOCAL, OWNER, Cookies, OwnerMiddleware
from chatui.peers import OwnAccount
from chatui.server import build_app
from chatui.settings import AppSettings
from chatui.store.adoptions import Adoptions
from chatui.store.store import Store
from tests.databases import ask
from tests.examples import some_of
from tests.fakes import FakeBackend
from tests.visitors import served

PAGE = {"accept": "text/html"}


@pytest.fixture(autouse=True, scope="module")
def no_accounts() -> Iterator[None]:
    """The connections of TestClient are none, so no account is told."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(peers, "TABLES", ())
        yield


class Server:
    """The owners' middleware over a store; says things and lists what its visitor has."""

    def __init__(self) -> None:
        self.store = Store.in_memory()
        self.cookies = Cookies(self.store.cookie_secret())

    def visit(self, jar: dict[str, str], host: str, local: bool, keeps: bool = True) -> TestClient:
        """The page opened by a browser with these cookies, in which it keeps what it is given."""
        routes = [Route("/", self._list), Route("/say", self._say, methods=["POST"])]
        is_local = OwnAccount(strict=False).is_sender if local else lambda _: False
        app = OwnerMiddleware(Starlette(routes=routes), self.cookies, Adoptions(self.store.database), is_local)

        def browser() -> TestClient:
            sent = {"cookie": "; ".join(f"{name}={value}" for name, value in jar.items())}
            return TestClient(app, base_url=f"http://{host}", client=("127.0.0.1", 5), headers=sent)

        given = browser().get("/", headers=PAGE).cookies
        jar.update(dict(given) if keeps else {})
        return browser()

    async def _say(self, request: Request) -> JSONResponse:
        owner = request.scope[OWNER]
        return JSONResponse(self.store.for_owner(owner).start_turn(ask("said")).conversation.id if owner else None)

    async def _list(self, request: Request) -> JSONResponse:
        owner = request.scope[OWNER]
        return JSONResponse([one.id for one in self.store.for_owner(owner).conversations(1000)] if owner else [])


Step = tuple[int, str, bool, bool, bool]
STEPS = st.tuples(
    st.integers(0, 2), st.sampled_from(["localhost", "127.0.0.1"]), st.booleans(), st.booleans(), st.booleans()
)


@hypothesis_settings(deadline=None, max_examples=some_of(30))
@given(st.lists(STEPS, max_size=12))
def test_every_cookie_there_ever_was_keeps_its_chats(steps: list[Step]) -> None:
    server = Server()
    jars: dict[tuple[int, str], dict[str, str]] = defaultdict(dict)
    said_in: dict[tuple[int, str], set[str]] = defaultdict(set)
    said_with: dict[str, set[str]] = defaultdict(set)
    for browser, host, local, keeps, renamed in steps:
        jar = jars[browser, host]
        if renamed and server.cookies.name in jar:  # as a version before had it
            jar[COOKIE] = jar.pop(server.cookies.name)
        page = server.visit(jar, host, local, keeps)
        assert said_in[browser, host] <= set(page.get("/").json())
        chat = page.post("/say").json()
        if chat:
            for value in jar.values():
                said_with[value].add(chat)
            said_in[browser, host] |= {chat} if jar else set()
    for value, chats in said_with.items():
        for name in (COOKIE, server.cookies.name):
            for local in (True, False):
                assert chats <= set(server.visit({name: value}, "127.0.0.1", local).get("/").json())


@hypothesis_settings(deadline=None, max_examples=some_of(30))
@given(st.lists(STEPS, max_size=8))
def test_strangers_stay_strangers_where_the_server_is_shown_to_others(steps: list[Step]) -> None:
    server = Server()
    jars: dict[tuple[int, str], dict[str, str]] = defaultdict(dict)
    said_in: dict[tuple[int, str], set[str]] = defaultdict(set)
    for browser, host, _, keeps, _ in steps:
        page = server.visit(jars[browser, host], host, False, keeps)
        chat = page.post("/say").json()
        said_in[browser, host] |= {chat} if chat else set()
        assert set(page.get("/").json()) == said_in[browser, host]


def served_owners(settings: AppSettings, **headers: str) -> list[str | None]:
    """Whose the cookies are that a real server gives by its names, to one who sends these headers."""
    if settings.allowed_hosts == "*":  # as all tests have it
        settings = settings.model_copy(update={"allowed_hosts": ""})
    store = Store.open(settings)
    cookies, owners = Cookies(store.cookie_secret()), []
    with served(build_app(FakeBackend(), settings)) as url:
        for name in ("127.0.0.1", "localhost"):
            with httpx.Client(trust_env=False) as browser:
                browser.get(url.replace("127.0.0.1", name), headers={**PAGE, **headers})
                owners.append(cookies.owner(browser.cookies[cookies.name]))
    store.close()
    return owners


@pytest.mark.parametrize("sees_accounts", [True, False])
def test_on_this_computer_alone_there_is_one_owner(
    tmp_path: Path, sees_accounts: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    if sees_accounts:
        monkeypatch.setattr(peers, "TABLES", (Path("/proc/net/tcp"), Path("/proc/net/tcp6")))
    assert served_owners(AppSettings(data_dir=tmp_path)) == [LOCAL, LOCAL]


@pytest.mark.parametrize(
    "settings", [{"host": "0.0.0.0"}, {"root_path": "/chat"}, {"allowed_hosts": "x.org"}, {"auth": "ada:secret"}]
)
def test_shown_to_others_each_browser_is_another_owner(tmp_path: Path, settings: dict[str, str]) -> None:
    owners = served_owners(AppSettings.model_validate({"data_dir": tmp_path, **settings}))
    assert len(set(owners)) == 2
    assert LOCAL not in owners


def test_through_a_proxy_each_browser_is_another_owner(tmp_path: Path) -> None:
    owners = served_owners(AppSettings(data_dir=tmp_path), **{"X-Forwarded-For": "203.0.113.9"})
    assert len(set(owners)) == 2
    assert LOCAL not in owners


def test_a_database_that_several_computers_share_has_no_one_owner(settings: AppSettings) -> None:
    owners = served_owners(settings)
    assert (owners == [LOCAL, LOCAL]) == (settings.database_url is None)
