"""Requests of the person who runs the server, at this computer, are told from all others."""

import os
import socket
import subprocess
import sys
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest
from starlette.datastructures import Headers

from chatui import peers
from chatui.peers import OwnAccount

LINUX = Path("/proc/net/tcp").exists()
NOBODY = 65534


@pytest.fixture(params=["127.0.0.1", "::1", "mapped"])
def connected(request: pytest.FixtureRequest) -> Iterator[tuple[Any, Any, socket.socket]]:
    """Both ends' names of a connection of our own, as a server is told of them, and its client."""
    with ExitStack() as stack:
        host = "127.0.0.1" if request.param == "mapped" else request.param
        family = socket.AF_INET6 if host == "::1" else socket.AF_INET
        listener = stack.enter_context(socket.socket(family))
        listener.bind((host, 0))
        listener.listen()
        port = listener.getsockname()[1]
        if request.param == "mapped":
            client = stack.enter_context(socket.socket(socket.AF_INET6))
            client.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 0)
            client.connect(("::ffff:127.0.0.1", port))
        else:
            client = stack.enter_context(socket.create_connection((host, port)))
        stack.enter_context(listener.accept()[0])
        yield ("127.0.0.1" if request.param == "mapped" else host, client.getsockname()[1]), (host, port), client


def scope(client: Any = ("127.0.0.1", 5), server: Any = ("127.0.0.1", 7860), **headers: str) -> dict[str, Any]:
    named = {"host": "localhost:7860", **{name.replace("_", "-"): value for name, value in headers.items()}}
    return {"type": "http", "client": client, "server": server, "headers": Headers(named).raw}


@pytest.mark.skipif(not LINUX, reason="only Linux tells the account")
def test_our_own_connection_is_ours_as_long_as_it_is_open(connected: tuple[Any, Any, socket.socket]) -> None:
    client, server, sock = connected
    assert OwnAccount(strict=True).is_sender(scope(client, server))
    assert not OwnAccount(strict=True).is_sender(scope(("127.0.0.2", client[1]), server))
    assert not OwnAccount(strict=True).is_sender(scope((client[0], client[1] + 1), server))
    sock.close()
    assert not OwnAccount(strict=False).is_sender(scope((*client,), server))


@pytest.mark.parametrize("server", [None, ("", None), ("/run/chatui.sock", None), ("localhost", 7860)], ids=repr)
def test_a_server_without_an_address_has_no_requests_of_its_own(server: Any) -> None:
    assert not OwnAccount(strict=True).is_sender(scope(server=server))


@pytest.mark.skipif(not LINUX, reason="only Linux tells the account")
def test_the_short_way_to_the_account_says_what_the_lists_say(
    connected: tuple[Any, Any, socket.socket], monkeypatch: pytest.MonkeyPatch
) -> None:
    client, server, sock = connected
    found = peers._netlink_account([client, server])
    if found is None:
        pytest.skip("this system has the lists only")
    assert found == os.geteuid()
    assert peers._netlink_account([client, (server[0], server[1] ^ 1)]) is None
    with monkeypatch.context() as without_lists:
        without_lists.setattr(Path, "read_text", None)
        assert OwnAccount(strict=True).is_sender(scope(client, server))
    monkeypatch.setattr(peers, "_netlink_account", lambda _: None)
    assert OwnAccount(strict=True).is_sender(scope(client, server))
    sock.close()
    monkeypatch.undo()
    assert peers._netlink_account([client, server]) is None


@pytest.mark.skipif(not LINUX, reason="only Linux tells the account")
@pytest.mark.parametrize("host", ["127.0.0.1", "::1"])
def test_who_listens_where_a_connection_would_come_from_is_not_who_asks(host: str) -> None:
    with socket.socket(socket.AF_INET6 if ":" in host else socket.AF_INET) as listener:
        listener.bind((host, 0))
        listener.listen()
        ends = [listener.getsockname()[:2], (host, 1)]
        assert peers._netlink_account(ends) is None
        assert not list(peers._accounts(ends))


OTHERS_CLIENT = """
import os, socket, sys
"here".encode("idna")  # what it needs is loaded while it may read it
os.setuid(65534)
client = socket.create_connection(("127.0.0.1", int(sys.argv[1])))
print(client.getsockname()[1], flush=True)
sys.stdin.read()
"""


@pytest.mark.skipif(not LINUX or os.geteuid() != 0, reason="only root on Linux can be another account")
def test_another_account_of_this_computer_is_somebody_else(monkeypatch: pytest.MonkeyPatch) -> None:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        port = listener.getsockname()[1]
        command = [sys.executable, "-c", OTHERS_CLIENT, str(port)]
        with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as other:
            assert other.stdout is not None
            client = ("127.0.0.1", int(other.stdout.readline()))
            assert not OwnAccount(strict=False).is_sender(scope(client, ("127.0.0.1", port)))
            monkeypatch.setattr(os, "geteuid", lambda: NOBODY)
            assert OwnAccount(strict=False).is_sender(scope(client, ("127.0.0.1", port)))
            other.communicate("")


def test_a_system_that_tells_no_account_is_trusted_unless_sure(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(peers, "TABLES", (Path("/not/there"),))
    assert OwnAccount(strict=False).is_sender(scope())
    assert not OwnAccount(strict=True).is_sender(scope())


@pytest.mark.parametrize(
    "headers",
    [
        {"host": "example.org"},
        {"host": "127.0.0.1.example.org"},
        {"host": ""},
        {"x_forwarded_for": "127.0.0.1"},
        {"x_forwarded_proto": "https"},
        {"forwarded": "for=127.0.0.1"},
        {"x_real_ip": "127.0.0.1"},
        {"via": "1.1 proxy"},
        {"cf_connecting_ip": "127.0.0.1"},
        {"sec_fetch_site": "cross-site", "sec_fetch_mode": "no-cors"},
        {"sec_fetch_site": "same-site", "sec_fetch_mode": "cors"},
        {"sec_fetch_site": "same-origin", "origin": "https://example.org"},
        {"origin": "null"},
        {"origin": "http://["},
    ],
)
def test_what_comes_through_a_proxy_another_name_or_another_site_is_somebody_else(
    headers: dict[str, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(peers, "TABLES", ())
    assert not OwnAccount(strict=False).is_sender(scope(**headers))
    assert not OwnAccount(strict=False).is_sender(scope(client=("192.168.1.5", 5)))
    assert not OwnAccount(strict=False).is_sender(scope(client=None))
    for fine in ({}, {"origin": "http://[::1]:7860"}, {"sec_fetch_site": "cross-site", "sec_fetch_mode": "navigate"}):
        assert OwnAccount(strict=False).is_sender(scope(**fine))


def test_a_connection_is_looked_up_once(connected: tuple[Any, Any, socket.socket], monkeypatch: Any) -> None:
    client, server, _ = connected
    account = OwnAccount(strict=False)
    assert account.is_sender(scope(client, server))
    monkeypatch.setattr(OwnAccount, "_is_own", lambda *_: False)
    assert account.is_sender(scope(client, server))
    assert not account.is_sender(scope((*client,), server))
