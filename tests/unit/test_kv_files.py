"""Files of K/V blocks: what was written comes back or nothing does, only its owner may read it, and it goes in time."""

import gc
import logging
import os
import shutil
import stat
import threading
import time
from pathlib import Path

import pytest

from chatui.engine.batching import kv_files
from chatui.engine.batching.kv_files import MAX_AGE_SECONDS, KVFiles, sweep
from tests.kv import flush

LIMIT = 10**9
DATA = bytes(range(256)) * 4


def files_of(root: Path, fingerprint: str = "a") -> KVFiles:
    return KVFiles(root, fingerprint, LIMIT)


def write(files: KVFiles, name: str = "block", data: bytes = DATA) -> Path:
    files.write(name, memoryview(data))
    flush(files)
    return files._path(name)


def read(files: KVFiles, name: str = "block", size: int = len(DATA)) -> bytes | None:
    found = files.read(name, size).result(60)
    return None if found is None else bytes(found)


def put(root: Path, name: str, size: int, age: float) -> Path:
    """A file of so many bytes that was used so many seconds ago."""
    path = root / "kv-a" / name
    path.parent.mkdir(exist_ok=True)
    path.write_bytes(bytes(size))
    os.utime(path, (time.time() - age,) * 2)
    return path


def test_what_was_written_is_read_after_a_restart(tmp_path: Path) -> None:
    files = files_of(tmp_path)
    assert "block" not in files
    write(files)
    for each in (files, files_of(tmp_path)):
        assert "block" in each
        assert read(each) == DATA


@pytest.mark.skipif(os.name != "posix", reason="has no such modes")
def test_only_this_account_may_read_it(tmp_path: Path) -> None:
    (tmp_path / "root" / "kv-a").mkdir(mode=0o755, parents=True)
    path = write(files_of(tmp_path / "root"))
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert stat.S_IMODE(path.parent.stat().st_mode) == 0o700
    write(files_of(tmp_path / "made"))
    assert stat.S_IMODE((tmp_path / "made").stat().st_mode) == 0o700


@pytest.mark.skipif(os.name != "posix", reason="links need rights elsewhere")
def test_a_link_in_place_of_the_folder_is_refused(tmp_path: Path) -> None:
    (tmp_path / "elsewhere").mkdir()
    (tmp_path / "kv-a").symlink_to(tmp_path / "elsewhere")
    with pytest.raises(OSError, match="another account"):
        files_of(tmp_path)


def damage(path: Path, kind: str) -> None:
    content = path.read_bytes()
    if kind == "renamed":
        path.with_name("other.kv").rename(path)
    elif kind == "of another model":
        shutil.copy(path.parents[1] / "kv-b" / path.name, path)
    else:
        changed = {
            "empty": b"",
            "cut off": content[:-1],
            "longer": content + b"x",
            "changed": content[:-1] + bytes([content[-1] ^ 1]),
            "with another checksum": bytes([content[0] ^ 1]) + content[1:],
            "all zeros": bytes(len(content)),
        }
        path.write_bytes(changed[kind])


@pytest.mark.parametrize(
    "kind",
    ["empty", "cut off", "longer", "changed", "with another checksum", "all zeros", "renamed", "of another model"],
)
def test_a_file_that_is_not_what_was_written_is_removed(tmp_path: Path, kind: str) -> None:
    files = files_of(tmp_path)
    path = write(files)
    write(files, "other", DATA)
    write(files_of(tmp_path, "b"))
    damage(path, kind)
    files = files_of(tmp_path)
    assert read(files) is None
    assert "block" not in files
    assert not path.exists()
    write(files)
    assert read(files) == DATA


def test_a_file_that_is_gone_is_nothing(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    files = files_of(tmp_path)
    write(files).unlink()
    assert read(files) is None
    assert "block" not in files
    assert not caplog.records


def test_a_file_that_cannot_be_read_now_stays(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    files = files_of(tmp_path)
    path = write(files)
    with monkeypatch.context() as patched:
        patched.setattr(Path, "open", lambda *_, **__: os.open("/", os.O_WRONLY))
        assert read(files) is None
    assert "block" not in files
    assert path.exists()


def test_its_threads_end_with_it(tmp_path: Path) -> None:
    files = files_of(tmp_path)
    write(files)
    assert read(files) == DATA
    threads = [*files._writer._threads, *files._readers._threads]
    assert threads
    del files
    gc.collect()
    for thread in threads:
        thread.join(60)
        assert not thread.is_alive()


def test_what_is_removed_is_gone(tmp_path: Path) -> None:
    files = files_of(tmp_path)
    path = write(files)
    files.remove(["block", "never written"])
    assert "block" not in files
    flush(files)
    assert not path.exists()


def test_a_full_disk_is_told_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(kv_files, "FREE_BYTES", 2**62)
    files = files_of(tmp_path)
    with caplog.at_level(logging.WARNING):
        for name in ("one", "two"):
            assert not write(files, name).exists()
            assert name not in files
    assert len(caplog.records) == 1
    assert not files.full


def test_a_failure_to_write_leaves_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    files = files_of(tmp_path)
    shutil.rmtree(tmp_path / "kv-a")
    write(files)
    assert "block" not in files
    (tmp_path / "kv-a").mkdir()

    def refuse(*_: object) -> None:
        raise OSError("no")

    monkeypatch.setattr(Path, "replace", refuse)
    write(files)
    assert not list((tmp_path / "kv-a").iterdir())


def test_no_more_waits_to_be_written_than_memory_allows(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(kv_files, "MAX_QUEUED_BYTES", len(DATA))
    files, go_on = files_of(tmp_path), threading.Event()
    files._writer.submit(go_on.wait, 60)
    assert not files.full
    files.write("block", memoryview(DATA))
    assert files.full
    go_on.set()
    flush(files)
    assert not files.full


def test_what_is_told_first_is_used_last(tmp_path: Path) -> None:
    files = files_of(tmp_path)
    paths = [write(files, name) for name in "abc"]
    files.touch(["a", "b", "c", "never written"])
    flush(files)
    times = [path.stat().st_mtime_ns for path in paths]
    assert times == sorted(times, reverse=True)
    assert len(set(times)) == 3


def test_what_is_gone_may_be_written_again_once_it_is_used(tmp_path: Path) -> None:
    files = files_of(tmp_path)
    write(files).unlink()
    assert "block" in files
    files.touch(["block"])
    flush(files)
    assert "block" not in files


class TestSweep:
    def test_what_was_not_used_for_a_week_goes(self, tmp_path: Path) -> None:
        old, new = put(tmp_path, "a.kv", 9, MAX_AGE_SECONDS + 9), put(tmp_path, "b.kv", 9, MAX_AGE_SECONDS - 9)
        sweep(tmp_path, LIMIT)
        assert not old.exists()
        assert new.exists()

    def test_beyond_the_limit_the_oldest_go(self, tmp_path: Path) -> None:
        paths = [put(tmp_path, f"{age}.kv", 100, age) for age in range(10)]
        sweep(tmp_path, 2000)
        assert all(path.exists() for path in paths)
        sweep(tmp_path, 500)
        assert [path.exists() for path in paths] == [True] * 4 + [False] * 6

    def test_what_was_cut_off_goes_after_a_while(self, tmp_path: Path) -> None:
        old, new = put(tmp_path, "a.tmp", 9, 4000), put(tmp_path, "b.tmp", 9, 0)
        sweep(tmp_path, LIMIT)
        assert not old.exists()
        assert new.exists()

    def test_files_of_others_stay(self, tmp_path: Path) -> None:
        other, note = tmp_path / "notes" / "a.kv", put(tmp_path, "note.txt", 9, MAX_AGE_SECONDS + 9)
        other.parent.mkdir()
        other.write_bytes(b"x")
        os.utime(other, (0, 0))
        sweep(tmp_path, 1)
        assert other.exists()
        assert note.exists()

    def test_it_happens_as_soon_as_much_was_written(self, tmp_path: Path) -> None:
        files = KVFiles(tmp_path, "a", 40 * len(DATA))
        for number in range(60):
            write(files, f"{number:02}")
        deadline = time.monotonic() + 60
        while (held := len(list((tmp_path / "kv-a").glob("*.kv")))) > 40 and time.monotonic() < deadline:
            time.sleep(0.01)
        assert held <= 40
        assert held > 20
