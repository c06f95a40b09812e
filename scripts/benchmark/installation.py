"""A whole installation on this computer: an engine that answers from a script, PostgreSQL, page servers and nginx.

Each part is a process of its own, whose processor time, memory and files can be read.
"""

import os
import re
import shutil
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path

import httpx
import psutil
import psycopg

from scripts.benchmark.server_process import started_process
from scripts.benchmark.target import BenchError
from tests.crash.page_servers import NGINX, Nginx
from tests.databases import Server
from tests.ports import reserved_port

PAGES = 2
START_SECONDS = 90.0
QUIET = {"CHATUI_ALLOWED_HOSTS": "*", "HF_HUB_OFFLINE": "1", "PYTHONUNBUFFERED": "1"}
DURABLE = "-c shared_preload_libraries=pg_stat_statements -c max_connections=100"
"""PostgreSQL as it is delivered, which waits for the disk at each commit, and counts statements."""


class DurableServer(Server):
    """A PostgreSQL server with its own defaults."""

    def go_on(self) -> None:
        """Start it."""
        options = f"-c listen_addresses=127.0.0.1 -c unix_socket_directories={self.folder} -p {self.port} {DURABLE}"
        self._run("pg_ctl", "-D", self._data, "-l", self.folder / "log", "-o", options, "-w", "start")

    @property
    def pid(self) -> int:
        """The process that all others of it are children of."""
        return int((self._data / "postmaster.pid").read_text().split()[0])


@dataclass(frozen=True)
class Usage:
    """What a part has used and holds: processor seconds, bytes of memory, open files, sockets and threads."""

    seconds: float
    memory: int
    files: int
    sockets: int
    threads: int


@dataclass(frozen=True)
class DatabaseUsage:
    """What PostgreSQL has done and holds: committed transactions, statements, bytes of its log, of its tables, and
    connections.
    """

    commits: int
    statements: int
    log_bytes: int
    bytes: int
    connections: int


@dataclass(frozen=True)
class Installation:
    """The parts. `pids` has those of `page 1` ..., `proxy`, `database` and `engine`; `url` is that of the proxy."""

    url: str
    urls: Sequence[str]
    pids: Mapping[str, int]
    database: str

    @property
    def pages(self) -> list[str]:
        """The names of the page servers."""
        return [name for name in self.pids if name.startswith("page")]

    def usage(self, part: str) -> Usage:
        """What a part has used until now, with its child processes."""
        process = psutil.Process(self.pids[part])
        family = [process, *process.children(recursive=True)]
        found = [Usage(0.0, 0, 0, 0, 0)]
        for each in family:
            with_ended = each.cpu_times()
            # Processes of connections that have ended count in their parent.
            own = with_ended.user + with_ended.system + with_ended.children_user + with_ended.children_system
            found.append(Usage(own, _memory(each), each.num_fds(), len(each.net_connections()), each.num_threads()))
        return Usage(*(sum(values) for values in zip(*(vars(each).values() for each in found), strict=True)))

    def database_usage(self) -> DatabaseUsage:
        """What the database has done until now."""
        with psycopg.connect(self.database, autocommit=True) as connection:
            row = connection.execute(
                "SELECT (SELECT xact_commit FROM pg_stat_database WHERE datname = current_database()),"
                " (SELECT coalesce(sum(calls), 0) FROM pg_stat_statements),"
                " pg_current_wal_lsn() - '0/0'::pg_lsn, pg_database_size(current_database()),"
                " (SELECT count(*) FROM pg_stat_activity WHERE datname = current_database())"
            ).fetchone()
        assert row is not None
        return DatabaseUsage(*map(int, row))


@contextmanager
def installed(flags: Sequence[str] = ()) -> Iterator[Installation]:
    """All parts, with page servers that have these flags, for the time of a measurement. Raises BenchError."""
    with ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="chatui-bench-")))
        database = stack.enter_context(_database())
        pids = {"database": database.pid}
        engine = [sys.executable, "-m", "scripts.benchmark.scripted_vllm"]
        pids["engine"], port = _start(stack, folder, "engine", engine, r"^(\d+)")
        url = database.migrated()
        with psycopg.connect(url, autocommit=True) as connection:
            connection.execute("CREATE EXTENSION pg_stat_statements")
        told = ["--backend", f"http://127.0.0.1:{port}/v1,name=engine,max-requests=4096", "--queue", "4096"]
        command = [sys.executable, "app.py", *told, "--database-url", url, "--port", "0", *flags]
        urls = []
        for name in (f"page {number}" for number in range(1, PAGES + 1)):
            own = [*command, "--data-dir", str(folder / name)]
            pids[name], found = _start(stack, folder, name, own, r"is at (http://\S+)")
            urls.append(found)
        for each in urls:
            _wait(each)
        nginx = stack.enter_context(_proxy(urls, folder))
        pids["proxy"] = nginx.pid
        yield Installation(nginx.url, urls, pids, url)


@contextmanager
def _database() -> Iterator[DurableServer]:
    programs = [*sorted(Path("/usr/lib/postgresql").glob("*/bin/initdb"), reverse=True), shutil.which("initdb")]
    if programs[0] is None:
        raise BenchError("PostgreSQL is not installed: apt-get install postgresql")
    server = DurableServer(Path(programs[0]).parent)
    server.start()
    try:
        yield server
    finally:
        server.stop()


def _start(stack: ExitStack, folder: Path, name: str, command: Sequence[str], ready: str) -> tuple[int, str]:
    """(pid, what the pattern finds in the output) of a process that is ended with the stack. Raises BenchError."""
    log = stack.enter_context((folder / f"{name}.txt").open("w+"))
    process = stack.enter_context(started_process(command, {**os.environ, **QUIET}, log))
    deadline = time.monotonic() + START_SECONDS
    while time.monotonic() < deadline and process.poll() is None:
        if found := re.search(ready, (folder / f"{name}.txt").read_text(), re.MULTILINE):
            return process.pid, found[1]
        time.sleep(0.1)
    raise BenchError(f"{name} did not start: {(folder / f'{name}.txt').read_text()[-500:]}")


def _wait(url: str) -> None:
    """Return when a page has its model."""
    deadline = time.monotonic() + START_SECONDS
    while time.monotonic() < deadline:
        if httpx.get(f"{url}/healthz", timeout=5).json().get("status") == "ready":
            return
        time.sleep(0.1)
    raise BenchError(f"{url} has no model")


@contextmanager
def _proxy(urls: Sequence[str], folder: Path) -> Iterator[Nginx]:
    if NGINX is None:
        raise BenchError("nginx is not installed")
    with reserved_port() as port:
        nginx = Nginx(port, [int(url.rpartition(":")[2]) for url in urls], folder)
        try:
            yield nginx
        finally:
            nginx.kill()


def _memory(process: psutil.Process) -> int:
    """Bytes that the process alone holds, or shares in proportion."""
    return int(process.memory_full_info().pss)
