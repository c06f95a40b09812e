from pathlib import Path

import pytest
from starlette.applications import Starlette
from starlette.datastructures import Headers
from starlette.requests import Request
from starlette.responses import PlainTextResponse
from starlette.routing import Route
from starlette.testclient import TestClient

from chatui.errors import SettingsError
from chatui.security import (
    AllowedHosts,
    ClientAddress,
    SecurityMiddleware,
    client_address,
    cross_site_reason,
    is_local,
    parse_ip,
    read_login,
)

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
    app = Starlette(routes=[Route("/", lambda _: PlainTextResponse(client_address.get()))])
    app.add_middleware(SecurityMiddleware)
    for address in ("203.0.113.9", "2001:db8::1"):
        assert TestClient(app, client=(address, 5)).get("/").text == address
    assert client_address.get() == ""


def test_an_empty_host_matches_nothing() -> None:
    assert cross_site_reason(Headers({"origin": "null", "host": ""}))


def test_behind_a_proxy_that_drops_the_port_the_browser_is_believed() -> None:
    behind = {"host": "x.org", "origin": "https://x.org:8443"}
    assert cross_site_reason(Headers({**behind, "sec-fetch-site": "same-origin"})) is None
    for site in ({}, {"sec-fetch-site": "none"}):
        reason = cross_site_reason(Headers({**behind, **site})) or ""
        for hint in ("x.org:8443", "'x.org'", "proxy_set_header Host $http_host", "X-Forwarded-Host"):
            assert hint in reason
    assert cross_site_reason(Headers({**behind, "sec-fetch-site": "same-site"}))
    assert cross_site_reason(Headers({"host": "X.org", "origin": "https://x.ORG"})) is None
    assert cross_site_reason(Headers({"host": "x.org", "origin": "https://[x"}))


LOCAL = ["localhost", "LOCALHOST:80", "localhost.", "127.0.0.1:7860", "127.1.2.3", "[::1]:7860", "chat.localhost", ""]
FOREIGN = [
    "evil.example",
    "evil.example:7860",
    "localhost.evil.example",
    "127.0.0.1.nip.io",
    "10.0.0.1",
    "[2001:db8::1]",
]


def status_for_host(hosts: AllowedHosts, host: str) -> int:
    app = Starlette(routes=[Route("/", answer, methods=["GET", "POST"])])
    app.add_middleware(SecurityMiddleware, hosts=hosts)
    statuses = {TestClient(app).request(method, "/", headers={"host": host}).status_code for method in ("GET", "POST")}
    (status,) = statuses
    return status


@pytest.mark.parametrize("listens", ["127.0.0.1", "localhost", "::1", "127.0.0.5", "::ffff:127.0.0.1"])
def test_a_server_for_this_computer_answers_to_its_names_only(listens: str) -> None:
    assert [status_for_host(AllowedHosts(listens), host) for host in LOCAL] == [200] * len(LOCAL)
    assert [status_for_host(AllowedHosts(listens), host) for host in FOREIGN] == [403] * len(FOREIGN)
    assert [status_for_host(AllowedHosts(listens, ["*"]), host) for host in FOREIGN] == [200] * len(FOREIGN)


def test_other_names_are_allowed_by_the_operator() -> None:
    hosts = AllowedHosts("127.0.0.1", ["Chat.example.org", "*.example.net"])
    for host in ("chat.example.org", "CHAT.EXAMPLE.ORG:8443", "chat.example.org.", "a.b.example.net", "localhost"):
        assert status_for_host(hosts, host) == 200
    for host in ("example.org", "a.chat.example.org", "example.net", "evilexample.net"):
        assert status_for_host(hosts, host) == 403
    assert status_for_host(AllowedHosts("0.0.0.0", ["chat.example.org"]), "evil.example") == 403


@pytest.mark.parametrize("listens", ["0.0.0.0", "::", "192.168.1.5", "box.local"])
def test_a_server_for_others_answers_to_any_name(listens: str) -> None:
    assert {status_for_host(AllowedHosts(listens), host) for host in [*LOCAL, *FOREIGN]} == {200}


def test_a_shared_link_is_answered() -> None:
    hosts = AllowedHosts("127.0.0.1", share=True)
    assert status_for_host(hosts, "0123.gradio.live") == 200
    assert status_for_host(hosts, "share.example.org") == 403
    hosts.add("share.example.org")
    assert status_for_host(hosts, "share.example.org") == 200


def test_addresses_of_ipv4_are_known_in_ipv6_as_well() -> None:
    assert str(parse_ip("::ffff:203.0.113.9")) == str(parse_ip("64:ff9b::cb00:7109")) == "203.0.113.9"
    assert str(parse_ip("2001:db8::1")) == "2001:db8::1"
    assert parse_ip("testclient") is None
    assert is_local("::ffff:127.0.0.1")


@pytest.mark.parametrize(
    ("peer", "proxies", "forwarded", "client"),
    [
        ("127.0.0.1", ["127.0.0.1"], "203.0.113.9", "203.0.113.9"),
        ("::ffff:127.0.0.1", ["127.0.0.1"], "203.0.113.9", "203.0.113.9"),
        ("10.1.2.3", ["10.0.0.0/8"], "198.51.100.7, 203.0.113.9, 10.9.9.9", "203.0.113.9"),
        ("10.1.2.3", ["127.0.0.1"], "203.0.113.9", "10.1.2.3"),
        ("10.1.2.3", ["*"], "203.0.113.9", "203.0.113.9"),
        ("::ffff:203.0.113.9", ["127.0.0.1"], "198.51.100.7", "203.0.113.9"),
    ],
)
def test_proxies_that_are_known_tell_who_asks(peer: str, proxies: list[str], forwarded: str, client: str) -> None:
    app = Starlette(routes=[Route("/", lambda _: PlainTextResponse(client_address.get()))])
    app.add_middleware(SecurityMiddleware)
    app.add_middleware(ClientAddress, proxies=proxies)
    text = TestClient(app, client=(peer, 5)).get("/", headers={"x-forwarded-for": forwarded}).text
    assert text == client


def test_login_from_a_pair_and_from_a_file(tmp_path: Path) -> None:
    known = read_login("ada:pass:word")
    assert known is not None
    assert known.check("ada", "pass:word")
    assert not any(known.check(*pair) for pair in [("ada", "x"), ("bob", "pass:word"), ("", ""), ("ada", "")])
    file = tmp_path / "users"
    file.write_text("ada:one\n\nbob:zwei ü\n")
    known = read_login(str(file))
    assert known is not None
    assert known.check("bob", "zwei ü")
    assert not known.check("bob", "one")


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
    assert login.check("ada", "secret")
    assert login.check("bob", "hunter2")
    assert not login.check("ada", "hunter2")


def test_a_file_of_logins_that_is_no_text_is_refused(tmp_path: Path) -> None:
    file = tmp_path / "logins"
    file.write_bytes(b"ada:\xff\xfe\xfa")
    with pytest.raises(SettingsError, match="not UTF-8"):
        read_login(str(file))


def test_a_user_name_may_begin_with_a_tilde() -> None:
    login = read_login("~nobody-of-that-name:secret")
    assert login is not None
    assert login.check("~nobody-of-that-name", "secret")


def test_an_auth_file_may_have_comments_and_spaces(tmp_path: Path) -> None:
    file = tmp_path / "users"
    file.write_bytes(b"# who may in: all of us\r\n\r\n  ada : pass:word \r\n#bob:gone\r\neve:#1")
    assert read_login(str(file)) == {"ada": " pass:word", "eve": "#1"}
    assert read_login("#ada:secret") == {"#ada": "secret"}


def test_a_user_who_is_named_twice_is_told(tmp_path: Path) -> None:
    file = tmp_path / "users"
    file.write_text("ada:old\nbob:secret\nada:new\n")
    with pytest.raises(SettingsError, match="names ada twice"):
        read_login(str(file))


def test_an_auth_file_that_cannot_be_read_is_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(SettingsError, match="is a folder"):
        read_login(str(tmp_path))
    file = tmp_path / "users"
    file.write_text("ada:secret\n")

    def denied(_: Path) -> bytes:
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(Path, "read_bytes", denied)
    with pytest.raises(SettingsError, match="cannot be read: Permission denied"):
        read_login(str(file))
