"""Two real server processes on one PostgreSQL: wrong clocks, kills, pauses, cut cables, a database gone or full."""

import contextlib
import signal
import subprocess
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest

from tests.crash.peers import FAKETIME, ServerProcess, TcpProxy
from tests.crash.test_kill import text
from tests.databases import Server, postgresql_server

pytest_plugins = ("tests.databases",)
LONG = 100_000
GONE_SECONDS = 10.0
Start = Callable[..., ServerProcess]


def until(happens: Callable[[], Any], seconds: float = 120.0) -> Any:
    end = time.monotonic() + seconds
    while not (found := happens()):
        assert time.monotonic() < end, "it did not happen"
        time.sleep(0.05)
    return found


@pytest.fixture
def url(postgresql: Server) -> str:
    return postgresql.fresh()


@pytest.fixture
def start() -> Iterator[Start]:
    """Server processes, ended after the test."""
    with ExitStack() as stack:

        def start(url: str, ahead: int = 0) -> ServerProcess:
            peer = ServerProcess(url, ahead)
            stack.callback(peer.end)
            peer.tell("titles")
            return peer

        yield start


def ask(peer: ServerProcess, words: int = LONG, **where: Any) -> Any:
    asked = peer.tell("ask", words=words, **where)
    assert "failed" not in asked
    until(lambda: peer.tell("look", reply=asked["reply"])["words"] > 2)
    return asked


def state(peer: ServerProcess, asked: Any) -> str:
    return str(peer.tell("read", reply=asked["reply"]).get("state"))


def stays_running(one: ServerProcess, other: ServerProcess, asked: Any, seconds: float) -> None:
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        assert state(other, asked) == "running"
        time.sleep(0.2)
    assert one.tell("look", reply=asked["reply"])["state"] == "running"


AHEAD = [6, pytest.param(-6, marks=pytest.mark.exhaustive)]
AHEAD += [pytest.param(seconds, marks=pytest.mark.exhaustive) for seconds in (-60, 60)]


@pytest.mark.skipif(FAKETIME is None, reason="libfaketime is not installed: apt-get install faketime")
@pytest.mark.parametrize("ahead", AHEAD)
def test_a_clock_that_is_wrong_changes_nothing(url: str, start: Start, ahead: int) -> None:
    right, wrong = start(url), start(url, ahead)
    by_right, by_wrong = ask(right), ask(wrong)
    stays_running(right, wrong, by_right, 8)
    stays_running(wrong, right, by_wrong, 0.1)
    for one, other, asked in ((right, wrong, by_right), (wrong, right, by_wrong)):
        other.tell("stop", chat=asked["chat"])
        assert one.tell("look", reply=asked["reply"])["state"] == "stopped"
        assert state(other, asked) == "stopped"
    last = ask(right, 5)
    assert right.tell("titles")["titles"][0] == "5/50"
    until(lambda: state(wrong, last) == "finished")
    killed = ask(wrong)
    wrong.signal(signal.SIGKILL)
    until(lambda: state(right, killed) == "interrupted")


def test_stop_delete_and_send_reach_the_other_server(url: str, start: Start) -> None:
    one, two = start(url), start(url)
    took = []
    for way in ("stop", "delete", "ask"):
        asked = ask(one)
        began = time.monotonic()
        more = {"words": 3, "parent": asked["reply"]} if way == "ask" else {}
        done = two.tell(way, chat=asked["chat"], **more)
        assert "failed" not in done
        assert one.tell("look", reply=asked["reply"])["state"] == "stopped"
        took.append(time.monotonic() - began)
        # The other server knows that it is saved as soon as the database does, and this one when that has answered.
        until(lambda asked=asked: one.tell("look", reply=asked["reply"])["kept"])  # type: ignore[misc]
        if way == "ask":
            until(lambda done=done: state(one, done) == "finished")  # type: ignore[misc]
            assert one.tell("read", reply=done["reply"])["text"] == text(3)
    print(f"stop, delete and send took {', '.join(f'{seconds:.2f} s' for seconds in took)}")  # noqa: T201


def test_a_server_that_is_killed_or_paused(url: str, start: Start) -> None:
    one, two, killed = start(url), start(url), start(url)
    asked, lost = ask(one), ask(killed)
    killed.signal(signal.SIGKILL)
    one.signal(signal.SIGSTOP)
    began = time.monotonic()
    until(lambda: state(two, asked) == "interrupted" and state(two, lost) == "interrupted")
    print(f"noticed after {time.monotonic() - began:.1f} s")  # noqa: T201
    time.sleep(max(0.0, GONE_SECONDS - (time.monotonic() - began)))
    one.signal(signal.SIGCONT)
    look = until(lambda: (look := one.tell("look", reply=asked["reply"]))["state"] != "running" and look)
    assert look["state"] == "interrupted"
    assert "could not reach the database" in look["error"]
    assert look["words"] == two.tell("read", reply=asked["reply"])["words"]
    again = ask(one, 5)
    until(lambda: state(two, again) == "finished")


@pytest.mark.exhaustive
def test_a_cable_that_is_cut(postgresql: Server, url: str, start: Start) -> None:
    cable = TcpProxy(postgresql.port)
    one, two = start(url.replace(f":{postgresql.port}/", f":{cable.port}/")), start(url)
    asked = ask(one)
    cable.cut()
    look = until(lambda: (look := one.tell("look", reply=asked["reply"]))["unkept"] and look)
    assert look["state"] == "running"
    until(lambda: state(two, asked) == "interrupted")
    cable.reconnect()
    look = until(lambda: (look := one.tell("look", reply=asked["reply"]))["state"] != "running" and look)
    assert (look["state"], look["kept"]) == ("interrupted", True)
    assert look["words"] == two.tell("read", reply=asked["reply"])["words"]
    again = ask(one, 5)
    until(lambda: state(two, again) == "finished")
    cable.close()


def _is_complete(peer: ServerProcess, asked: Any, words: int) -> bool:
    read = peer.tell("read", reply=asked["reply"])
    return bool(read.get("state") == "finished" and read["text"] == text(words))


def test_a_database_that_is_gone_for_a_while(start: Start) -> None:
    with postgresql_server() as server:
        url = server.fresh()
        one, two = start(url), start(url)
        words = 300
        replies = [ask(peer, words) for peer in (one, two)]
        server.kill()
        gone = time.monotonic()
        for peer, asked in zip((one, two), replies, strict=True):
            until(lambda peer=peer, asked=asked: peer.tell("look", reply=asked["reply"])["unkept"])  # type: ignore[misc]
        temporary = one.tell("ask", words=3, temporary=True)
        until(lambda: one.tell("look", reply=temporary["reply"])["kept"])
        until(lambda: one.tell("look", reply=replies[0]["reply"])["state"] == "finished")
        time.sleep(max(0.0, GONE_SECONDS - (time.monotonic() - gone)))
        server.go_on()
        back = time.monotonic()
        for peer, asked in zip((two, one), replies, strict=True):
            until(lambda peer=peer, asked=asked: _is_complete(peer, asked, words))  # type: ignore[misc]
        print(f"all was kept {time.monotonic() - back:.1f} s after the database was back")  # noqa: T201
        look = one.tell("look", reply=replies[0]["reply"])
        assert (look["kept"], look["unkept"]) == (True, "")


@contextlib.contextmanager
def small_disk(size: str) -> Iterator[Path]:
    """A disk that is soon full, which only root may make."""
    folder = Path(tempfile.mkdtemp(prefix="chatui-small-"))
    try:
        if subprocess.run(["mount", "-t", "tmpfs", "-o", f"size={size}", "tmpfs", folder], check=False).returncode:
            pytest.skip("a small disk cannot be mounted here")
        try:
            folder.chmod(0o777)
            yield folder
        finally:
            subprocess.run(["umount", "-l", folder], check=True)
    finally:
        folder.rmdir()


def fills_and_is_freed(peer: ServerProcess, asked: Any, words: int, disk: Path) -> None:
    """Meanwhile the reply is written on, and a temporary chat does not notice."""
    ballast = disk / "ballast"
    with ballast.open("wb", buffering=0) as file, contextlib.suppress(OSError):
        while True:
            file.write(bytes(4096))
    unkept = until(lambda: peer.tell("look", reply=asked["reply"])["unkept"])
    assert "full" in unkept
    temporary = peer.tell("ask", words=3, temporary=True)
    until(lambda: peer.tell("look", reply=temporary["reply"])["kept"])
    until(lambda: peer.tell("look", reply=asked["reply"])["state"] == "finished")
    assert not peer.tell("look", reply=asked["reply"])["kept"]
    ballast.unlink()
    until(lambda: _is_complete(peer, asked, words))


@pytest.mark.exhaustive
def test_a_database_whose_disk_is_full(start: Start) -> None:
    with small_disk("64m") as disk, postgresql_server(disk) as server:
        peer = start(server.fresh())
        words = 15_000
        asked = ask(peer, words, pace=3000)
        fills_and_is_freed(peer, asked, words, disk)


@pytest.mark.exhaustive
def test_an_sqlite_file_whose_disk_is_full(start: Start) -> None:
    with small_disk("3m") as disk:
        peer = start(f"sqlite:///{disk}/chats.db")
        words = 15_000
        asked = ask(peer, words, pace=3000)
        fills_and_is_freed(peer, asked, words, disk)
