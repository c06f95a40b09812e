"""Large files are read in a process of their own, as they would be here; what ends that process is told."""

import json
import subprocess
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest

from chatui.errors import TransferError
from chatui.store import import_limits
from chatui.store.exporting import as_json
from chatui.store.imports import import_process, importing
from chatui.store.imports.importing import FileSource
from chatui.store.records import Tree
from chatui.subprocesses import module_command, module_environment
from tests.integration.test_import_merge import long_chat
from tests.unit.test_formats import KNOWN
from tests.unit.test_transfer import chat, zipped

NOW = datetime(2026, 11, 24, 12, tzinfo=UTC)


@pytest.fixture(autouse=True)
def everything_is_large(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(import_process, "IN_PROCESS_BYTES", 0)


def write_file(tmp_path: Path, value: Any) -> Path:
    file = tmp_path / "chats"
    file.write_bytes(value if isinstance(value, bytes) else json.dumps(value).encode())
    return file


def untimed(trees: list[Tree]) -> list[Any]:
    """What does not depend on the moment at which a file without times is read."""
    return [[(one.id, one.parent, one.role, one.content, one.reasoning) for one in tree.messages] for tree in trees]


def every_format() -> bytes:
    """A file that has a conversation of each of the programs, and one that nobody knows."""
    return json.dumps([*(value for value, _ in KNOWN.values()), {"title": "X"}]).encode()


@pytest.mark.parametrize("wrap", [bytes, lambda data: zipped({"conversations": data})])
def test_all_that_is_read_here_is_read_there(tmp_path: Path, wrap: Any) -> None:
    data = wrap(every_format())
    here, there = importing.read(data), import_process.open_import(write_file(tmp_path, data))
    assert isinstance(there, import_process.ImportProcess)
    assert untimed(list(there)) == untimed(list(here))
    assert (there.skipped, there.done, there.total) == (here.skipped, here.done, here.total)
    assert here.total == here.done == len(KNOWN) + 1
    assert here.skipped[-1].title.endswith("“X”")


def test_our_own_format_loses_nothing(tmp_path: Path) -> None:
    trees = [chat("u: one", "a: two"), chat("u: Gr\u00fc\u00dfe \U0001f600", id="d")]
    assert list(import_process.open_import(write_file(tmp_path, "".join(as_json(iter(trees))).encode()))) == trees


def test_long_conversations_come_in_pieces(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    sent: list[int] = []
    received = import_process._receive

    def counted(file: Any) -> Any:
        got = received(file)
        sent.extend([len(got)] if isinstance(got, list) else [])
        return got

    monkeypatch.setattr(import_process, "_receive", counted)
    (tree,) = import_process.open_import(write_file(tmp_path, long_chat(950)))
    assert len(tree.messages) == 950
    assert sent == [200, 200, 200, 200, 150]


@pytest.mark.parametrize("data", [b"{", b"", b"PK\x03\x04damaged", b'"text"', b"\xff\xfe\xff"])
def test_what_is_wrong_with_a_file_is_told_as_it_would_be_here(tmp_path: Path, data: bytes) -> None:
    errors = []
    for reading in (importing.read(data), import_process.open_import(write_file(tmp_path, data))):
        with pytest.raises(TransferError) as caught:
            list(reading)
        errors.append((caught.value.message, caught.value.remedy))
    assert errors[0] == errors[1]


def test_a_process_that_is_ended_is_told_after_what_came_before(tmp_path: Path) -> None:
    file = write_file(tmp_path, [long_chat(300) | {"conversation_id": str(number)} for number in range(40)])
    reading = import_process.open_import(file)
    trees = iter(reading)
    next(trees)
    assert isinstance(reading, import_process.ImportProcess)
    assert reading._process is not None
    reading._process.kill()
    with pytest.raises(TransferError, match="more memory than there is"):
        list(trees)


def test_no_more_is_read_than_is_wanted(tmp_path: Path) -> None:
    """One who takes no more ends the process; also one who says so before anything has come."""
    file = write_file(tmp_path, [long_chat(300) | {"conversation_id": str(number)} for number in range(40)])
    left, stopped, unread = (import_process.ImportProcess(file) for _ in range(3))
    trees = iter(left)
    next(trees)
    trees.close()  # type: ignore[attr-defined]
    came = 0
    for _ in stopped:
        came += 1
        stopped.stop()
    assert came < 40
    unread.stop()
    assert list(unread) == []
    assert [each._process.poll() is not None for each in (left, stopped, unread) if each._process] == [True] * 3


def test_the_process_ends_when_nobody_listens(tmp_path: Path) -> None:
    """As where the server was killed."""
    file = write_file(tmp_path, [long_chat(300) | {"conversation_id": str(number)} for number in range(40)])
    with file.open("rb") as opened:
        process = subprocess.Popen(
            module_command("chatui.store.imports.import_process"),
            stdin=opened,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            env=module_environment(),
        )
    assert process.stdout
    assert process.stderr
    assert process.stdout.read(1)
    process.stdout.close()
    assert process.wait(60) is not None
    assert b"Traceback" not in process.stderr.read()


def test_small_files_are_read_here_and_too_large_ones_not_at_all(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    file = write_file(tmp_path, long_chat(3))
    monkeypatch.setattr(import_process, "IN_PROCESS_BYTES", file.stat().st_size)
    assert isinstance(import_process.open_import(file), FileSource)
    assert isinstance(import_process.open_import(write_file(tmp_path, b"PK\x03\x04")), import_process.ImportProcess)
    monkeypatch.setattr(import_limits, "MAX_BYTES", 3)
    with pytest.raises(TransferError, match="at most 3 are allowed"):
        import_process.open_import(file)


def test_a_file_of_nothing_but_what_cannot_be_read_names_the_first_ones(tmp_path: Path) -> None:
    reading = import_process.open_import(write_file(tmp_path, [0] * 5_000))
    assert list(reading) == []
    assert (len(reading.skipped), reading.unlisted) == (importing.MAX_SKIPPED, 5_000 - importing.MAX_SKIPPED)
