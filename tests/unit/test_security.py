from pathlib import Path

import pytest
from starlette.applications import Starlette
from starlette.datastructures import Headers
from starlette.requests import Request
from starlette.responses import PlainTextResponse
from starlette.routing import Route
from starlette.testclient import TestClient

from chatui.errors import SettingsError
from chatui.security import SecurityMiddleware, asking_address, is_foreign, read_login

GENEROUS = {"Access-Control-Allow-Origin": "https://evil.example", "Access-Control-Allow-Credentials": "true"}


def answer(_: Request) -> PlainTextResponse:
    return PlainTextResponse("hello", headers=GENEROUS)


@pytest.fixture
def client() -> TestClient:
    app = Starlette(routes=[Route("/", answer, methods=["GET", "POST"])])
    app.add_middleware(SecurityMiddleware)
    return TestClient(app)


def test_no_origin_is_ever_granted_and_a_policy_is_set(client: TestClient) -> None:
    response = client.get("/", headers={"Origin": "https://evil.example"})
    assert not [name for name in response.headers if name.startswith("access-control-allow")]
    assert "default-src 'self'" in response.headers["content-security-policy"]
    assert response.headers["x-content-type-options"] == "nosniff"


@pytest.mark.parametrize(
    ("headers", "status"),
    [
        ({}, 200),
        ({"Origin": "http://testserver"}, 200),
        ({"Origin": "https://page.hf.space", "Host": "page.hf.space"}, 200),
        ({"Origin": "https://page.example", "X-Forwarded-Host": "page.example"}, 200),
        ({"Sec-Fetch-Site": "same-origin"}, 200),
        ({"Sec-Fetch-Site": "none"}, 200),
        ({"Origin": "https://evil.example"}, 403),
        ({"Origin": "null"}, 403),
        ({"Origin": "http://testserver.evil.example"}, 403),
        ({"Origin": "http://testserver:81"}, 403),
        ({"Sec-Fetch-Site": "cross-site"}, 403),
        ({"Sec-Fetch-Site": "same-site"}, 403),
        ({"Sec-Fetch-Site": "cross-site", "Origin": "http://testserver"}, 403),
    ],
)
def test_other_sites_cannot_send(client: TestClient, headers: dict[str, str], status: int) -> None:
    response = client.post("/", headers=headers)
    assert response.status_code == status
    assert "content-security-policy" in response.headers


def test_what_is_inside_knows_who_asks() -> None:
    app = Starlette(routes=[Route("/", lambda _: PlainTextResponse(asking_address.get()))])
    app.add_middleware(SecurityMiddleware)
    for address in ("203.0.113.9", "2001:db8::1"):
        assert TestClient(app, client=(address, 5)).get("/").text == address
    assert asking_address.get() == ""


def test_an_empty_host_matches_nothing() -> None:
    assert is_foreign(Headers({"origin": "null", "host": ""}))


def test_login_from_a_pair_and_from_a_file(tmp_path: Path) -> None:
    check = read_login("ada:pass:word")
    assert check is not None
    assert check("ada", "pass:word")
    assert not any(check(*pair) for pair in [("ada", "x"), ("bob", "pass:word"), ("", ""), ("ada", "")])
    file = tmp_path / "users"
    file.write_text("ada:one\n\nbob:zwei ü\n")
    check = read_login(str(file))
    assert check is not None
    assert check("bob", "zwei ü")
    assert not check("bob", "one")


@pytest.mark.parametrize("auth", ["nocolon", ":x", "x:", ""])
def test_bad_logins_are_refused_at_start(auth: str, tmp_path: Path) -> None:
    with pytest.raises(SettingsError, match="auth"):
        read_login(auth)
    file = tmp_path / "users"
    file.write_text(auth + "\n")
    with pytest.raises(SettingsError, match="auth"):
        read_login(str(file))


def test_no_login_is_asked_for_by_default() -> None:
    assert read_login(None) is None


LOGINS = "ada:secret\r\nbob:hunter2\r\n"


@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16"])
def test_a_file_of_logins_may_have_a_byte_order_mark(tmp_path: Path, encoding: str) -> None:
    file = tmp_path / "logins"
    file.write_bytes(LOGINS.encode(encoding))
    login = read_login(str(file))
    assert login is not None
    assert login("ada", "secret")
    assert login("bob", "hunter2")
    assert not login("ada", "hunter2")


def test_a_file_of_logins_that_is_no_text_is_refused(tmp_path: Path) -> None:
    file = tmp_path / "logins"
    file.write_bytes(b"ada:\xff\xfe\xfa")
    with pytest.raises(SettingsError, match="not UTF-8"):
        read_login(str(file))


def test_a_user_name_may_begin_with_a_tilde() -> None:
    login = read_login("~nobody-of-that-name:secret")
    assert login is not None
    assert login("~nobody-of-that-name", "secret")
