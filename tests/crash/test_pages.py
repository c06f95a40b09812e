"""Two page servers on one PostgreSQL behind nginx: what people see while every part is killed or restarted in turn."""

import asyncio
import random
import signal
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path

import pytest

from tests.abuse.pages import config_of
from tests.crash.page_servers import CADDY, NGINX, WORDS_PER_SECOND, Caddy, Nginx, PageServers
from tests.crash.page_users import Found, User, check
from tests.databases import Server, postgresql_server
from tests.ports import reserved_port

MOST_LOST_WORDS = WORDS_PER_SECOND
"""Words of a killed server's reply that were shown and not kept yet: it is written every half second."""


class Installation:
    """All parts, and what can happen to each."""

    def __init__(
        self, folder: Path, database: Server, ports: Sequence[int], proxy: type[Nginx] | type[Caddy] = Nginx
    ) -> None:
        self.database, self.database_url = database, database.migrated()
        options = {"data_dir": str(folder / "data"), "database_url": self.database_url, "allowed_hosts": "*"}
        self.servers = PageServers(ports[1:], folder, **options, graceful_timeout=30)
        self.proxy = proxy(ports[0], ports[1:], folder)

    def kill_first(self) -> None:
        self._restart(0, signal.SIGKILL)

    def kill_second(self) -> None:
        self._restart(1, signal.SIGKILL)

    def restart_in_turn(self) -> None:
        for number in (0, 1):
            self._restart(number, signal.SIGTERM)

    def kill_nginx(self) -> None:
        assert isinstance(self.proxy, Nginx)
        self.proxy.kill()
        self.proxy.start()

    def kill_database(self) -> None:
        self.database.kill()
        self.database.go_on()

    def _restart(self, number: int, how: signal.Signals) -> None:
        self.servers.end(number, how)
        self.servers.start(number)

    def close(self) -> None:
        self.proxy.kill()
        self.servers.close()


@contextmanager
def installed(folder: Path, proxy: type[Nginx] | type[Caddy]) -> Iterator[Installation]:
    with ExitStack() as stack:
        database = stack.enter_context(postgresql_server())
        ports = [stack.enter_context(reserved_port()) for _ in range(3)]
        installation = Installation(folder, database, ports, proxy)
        stack.callback(installation.close)
        yield installation


@pytest.fixture
def installation(tmp_path: Path) -> Iterator[Installation]:
    if NGINX is None:
        pytest.skip("nginx is not installed")
    with installed(tmp_path, Nginx) as installation:
        yield installation


@pytest.fixture
def behind_caddy(tmp_path: Path) -> Iterator[Installation]:
    if CADDY is None:
        pytest.skip("Caddy is not installed")
    with installed(tmp_path, Caddy) as installation:
        yield installation


async def chats_during(installation: Installation, count: int, faults: Sequence[Callable[[], None]]) -> Found:
    """So many users chat while this happens, each at a random moment after a tenth of them, one at least, were shown a
    whole reply.

    Returns what is there at the end.
    """
    seed = random.SystemRandom().getrandbits(32)
    chance = random.Random(seed)
    config = await config_of(installation.proxy.url)
    users = [User(installation.proxy.url, config, number) for number in range(count)]
    chatting = [asyncio.create_task(user.chat()) for user in users]
    for fault in faults:
        before = sum(len(user.finished) for user in users)
        while sum(len(user.finished) for user in users) < before + max(1, count // 10):
            await asyncio.sleep(0.1)
            assert not any(task.done() for task in chatting)
        await asyncio.sleep(chance.uniform(0.5, 3.0))
        await asyncio.to_thread(fault)
    for user in users:
        user.end()
    await asyncio.gather(*chatting)
    found = await check(installation.database_url, users)
    finished, broken = sum(len(user.finished) for user in users), sum(user.broken for user in users)
    print(  # noqa: T201
        f"seed {seed}: {count} users, {len(faults)} faults, {found.questions} questions: {finished} replies were shown"
        f" to their end, {found.finished} are there, {found.interrupted} were interrupted and can be continued;"
        f" {broken} broken connections, {found.sent_again} questions sent again;"
        f" at most {found.lost_words} words of a reply were shown and are not there"
    )
    assert finished
    return found


async def test_nothing_is_lost_by_killing_a_server_or_the_proxy(installation: Installation) -> None:
    found = await chats_during(installation, 6, [installation.kill_first, installation.kill_nginx])
    assert found.lost_words <= MOST_LOST_WORDS


async def test_restarting_the_servers_in_turn_cuts_no_reply(installation: Installation) -> None:
    found = await chats_during(installation, 6, [installation.restart_in_turn])
    assert (found.lost_words, found.interrupted) == (0, 0)


@pytest.mark.exhaustive
async def test_nothing_is_lost_behind_caddy_by_kills_and_a_restart(behind_caddy: Installation) -> None:
    faults = [behind_caddy.kill_first, behind_caddy.restart_in_turn, behind_caddy.kill_second]
    found = await chats_during(behind_caddy, 6, faults)
    assert found.lost_words <= MOST_LOST_WORDS


@pytest.mark.exhaustive
async def test_nothing_is_lost_by_kills_of_each_part_in_turn_at_fifty_points(installation: Installation) -> None:
    each = [installation.kill_first, installation.kill_second, installation.kill_nginx, installation.kill_database]
    # While the database is away, words of running replies are shown as not saved: how many are lost has no limit here.
    await chats_during(installation, 100, (each * 13)[:50])


@pytest.mark.exhaustive
async def test_ten_restarts_with_many_users_cut_no_reply(installation: Installation) -> None:
    found = await chats_during(installation, 100, [installation.restart_in_turn] * 10)
    assert (found.lost_words, found.interrupted) == (0, 0)
