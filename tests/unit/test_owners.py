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

from chatui.owners import COOKIE, OWNER, Cookies, OwnerMiddleware, named

SECRET = b"s" * 32


def client(secret: bytes = SECRET) -> TestClient:
    async def who(request: Request) -> PlainTextResponse:
        return PlainTextResponse(str(request.scope[OWNER]))

    app = Starlette(routes=[Route("/", who, methods=["GET", "POST"])])
    return TestClient(OwnerMiddleware(app, Cookies(secret)))


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
    assert "set-cookie" not in again.headers
    assert browser.post("/").text == first.text


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
def test_a_changed_value_is_no_owner(place: int, character: str) -> None:
    value = Cookies(SECRET).issue()
    place %= len(value)
    changed = value[:place] + character + value[place + 1 :]
    assert (Cookies(SECRET).owner(changed) is not None) == (changed == value)


def test_a_broken_cookie_header_is_none() -> None:
    for line in ('chatui_owner="', "; ;=;", "chatui_owner", "a b c=\x7f"):
        assert client().post("/", headers={"cookie": line}).text == "None"


def test_a_value_is_a_cookie_as_it_is() -> None:
    value = Cookies(SECRET).issue()
    assert SimpleCookie(f"{COOKIE}={value}")[COOKIE].value == value


def test_a_login_is_never_a_guest() -> None:
    assert not named("guest:x").startswith("guest:")
