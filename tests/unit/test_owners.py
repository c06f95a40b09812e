import re
from http.cookies import SimpleCookie

import pytest
from hypothesis import given
from hypothesis import strategies as st
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import PlainTextResponse
from starlette.routing import Route
from starlette.testclient import TestClient

from chatui.errors import StoreError
from chatui.owners import COOKIE, LOCAL, OPERATOR, OWNER, Cookies, OwnerMiddleware, login_owner

SECRET = b"s" * 32
PAGE = {"accept": "text/html"}


class Adoptions:
    """Notes who went to whom; `broken` while the disk is full."""

    def __init__(self) -> None:
        self.went: list[tuple[str, str]] = []
        self.broken = False

    def adopt(self, source: str, target: str) -> None:
        if self.broken:
            raise StoreError("The disk is full.")
        self.went.append((source, target))

    def adopted(self, source: str, target: str) -> bool:
        if self.broken:
            raise StoreError("The disk is full.")
        return (source, target) in self.went


def client(secret: bytes = SECRET, adoptions: Adoptions | None = None, is_local: bool = False) -> TestClient:
    async def who(request: Request) -> PlainTextResponse:
        return PlainTextResponse(str(request.scope[OWNER]))

    app = Starlette(routes=[Route("/", who, methods=["GET", "POST"])])
    return TestClient(OwnerMiddleware(app, Cookies(secret), adoptions, lambda _: is_local))


def test_a_page_gives_a_cookie_that_stays() -> None:
    browser = client()
    first = browser.get("/", headers={"accept": "text/html"})
    assert first.text.startswith("guest:")
    cookie = first.headers["set-cookie"]
    assert "HttpOnly" in cookie
    assert "SameSite=Lax" in cookie
    assert "Secure" not in cookie
    again = browser.get("/", headers={"accept": "text/html"})
    assert again.text == first.text
    assert browser.post("/").text == first.text


def test_whoever_comes_back_keeps_the_cookie_for_another_year() -> None:
    browser = client()
    given = browser.get("/", headers=PAGE).headers["set-cookie"]
    assert "Max-Age=31536000" in given
    for renewed in (browser.get("/", headers=PAGE), browser.post("/")):
        assert renewed.headers["set-cookie"] == given
    assert "set-cookie" not in browser.get("/").headers
    assert "set-cookie" not in client().post("/").headers


def test_servers_on_one_host_leave_each_others_cookies_alone() -> None:
    """Browsers send a host's cookies to all of its ports and paths."""
    jar: dict[str, str] = {}
    owners = []
    for _ in range(2):
        for secret in (SECRET, b"t" * 32):
            sent = "; ".join(f"{name}={value}" for name, value in jar.items())
            answer = client(secret).get("/", headers={**PAGE, "cookie": sent})
            owners.append(answer.text)
            jar |= dict(answer.cookies)
    assert owners[:2] == owners[2:]
    assert len(set(owners)) == len(jar) == 2


def test_a_cookie_of_the_old_name_is_honoured_and_goes_on_under_the_new_one() -> None:
    cookies = Cookies(SECRET)
    old, other = cookies.issue(), Cookies(b"t" * 32).issue()
    browser = client()
    assert browser.post("/", headers={"cookie": f"{COOKIE}={other}; {COOKIE}={old}"}).text == cookies.owner(old)
    browser.get("/", headers={**PAGE, "cookie": f"{COOKIE}={old}"})
    assert browser.cookies[cookies.name] == old
    later = cookies.issue()
    both = f"{COOKIE}={later}; {cookies.name}={old}"
    assert client().post("/", headers={"cookie": both}).text == cookies.owner(old)


def test_the_person_at_this_computer_is_one_whatever_the_browser() -> None:
    adoptions = Adoptions()
    assert client(adoptions=adoptions, is_local=True).get("/", headers=PAGE).text == LOCAL
    assert client(adoptions=adoptions, is_local=True).post("/").text == LOCAL
    assert adoptions.went == []


@pytest.mark.parametrize("name", [COOKIE, Cookies(SECRET).name])
def test_the_person_at_this_computer_takes_the_chats_of_past_cookies_along(name: str) -> None:
    adoptions, cookies = Adoptions(), Cookies(SECRET)
    value = cookies.issue()
    browser = client(adoptions=adoptions, is_local=True)
    for _ in range(2):
        answer = browser.get("/", headers={**PAGE, "cookie": f"{name}={value}"})
        assert answer.text == LOCAL
        assert cookies.owner(answer.cookies[cookies.name]) == LOCAL
    assert adoptions.went == [(cookies.owner(value), LOCAL)]


def test_where_the_server_is_shown_to_others_the_cookies_of_that_person_still_tell() -> None:
    adoptions, cookies = Adoptions(), Cookies(SECRET)
    past, stranger = cookies.issue(), cookies.issue()
    at_home = client(adoptions=adoptions, is_local=True)
    at_home.cookies.set(COOKIE, past)
    at_home.get("/", headers=PAGE)
    elsewhere = client(adoptions=adoptions)
    for value, owner in (
        (at_home.cookies[cookies.name], LOCAL),
        (past, LOCAL),
        (stranger, cookies.owner(stranger)),
    ):
        for _ in range(2):
            assert elsewhere.post("/", headers={"cookie": f"{cookies.name}={value}"}).text == owner


def test_a_full_disk_delays_the_adoption_to_a_later_page() -> None:
    adoptions, value = Adoptions(), Cookies(SECRET).issue()
    browser = client(adoptions=adoptions, is_local=True)
    sent = {**PAGE, "cookie": f"{COOKIE}={value}"}
    adoptions.broken = True
    assert browser.get("/", headers=sent).text == LOCAL
    assert client(adoptions=adoptions).get("/", headers=sent).text == Cookies(SECRET).owner(value)
    adoptions.broken = False
    assert browser.get("/", headers=sent).text == LOCAL
    assert len(adoptions.went) == 1


def test_behind_https_the_cookie_works_in_a_frame_and_stays_secure() -> None:
    cookie = client().get("/", headers={"accept": "text/html", "x-forwarded-proto": "https"}).headers["set-cookie"]
    assert re.search("SameSite=None; Secure; Partitioned", cookie)


@pytest.mark.parametrize("headers", [{"accept": "*/*"}, {"accept": "application/json"}, {}])
def test_only_a_page_gives_one(headers: dict[str, str]) -> None:
    response = client().get("/", headers=headers)
    assert response.text == "None"
    assert "set-cookie" not in response.headers


def test_two_browsers_are_two_owners() -> None:
    assert (
        client().get("/", headers={"accept": "text/html"}).text
        != client().get("/", headers={"accept": "text/html"}).text
    )


def test_another_servers_cookie_is_no_owner() -> None:
    value = Cookies(b"t" * 32).issue()
    assert Cookies(SECRET).owner(value) is None
    response = client().post("/", headers={"cookie": f"{COOKIE}={value}"})
    assert response.text == "None"


@given(st.text())
def test_no_made_up_value_is_an_owner(value: str) -> None:
    assert Cookies(SECRET).owner(value) is None


@given(st.integers(0, 10_000), st.characters(codec="ascii"))
def test_a_changed_value_is_no_owner(index: int, character: str) -> None:
    value = Cookies(SECRET).issue()
    index %= len(value)
    changed = value[:index] + character + value[index + 1 :]
    assert (Cookies(SECRET).owner(changed) is not None) == (changed == value)


def test_a_broken_cookie_header_is_none() -> None:
    for line in ('chatui_owner="', "; ;=;", "chatui_owner", "a b c=\x7f"):
        assert client().post("/", headers={"cookie": line}).text == "None"


def test_a_value_is_a_cookie_as_it_is() -> None:
    value = Cookies(SECRET).issue()
    assert SimpleCookie(f"{COOKIE}={value}")[COOKIE].value == value


def test_a_login_is_never_a_guest() -> None:
    assert not login_owner("guest:x").startswith("guest:")


def test_only_the_server_says_who_is_its_operator() -> None:
    async def who(request: Request) -> PlainTextResponse:
        return PlainTextResponse(str(request.scope[OPERATOR]))

    app = Starlette(routes=[Route("/", who)])
    claims = {OPERATOR: "1", "x-operator": "1", "cookie": f"{OPERATOR}=1"}
    assert TestClient(OwnerMiddleware(app, Cookies(SECRET))).get("/", headers=claims).text == "False"
    operated = OwnerMiddleware(app, Cookies(SECRET), is_operator=lambda scope: scope["path"] == "/")
    assert TestClient(operated).get("/").text == "True"
