"""What uploaded files take on the disk until they are read."""

import asyncio
import contextlib
import itertools
import os
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import httpx
import pytest
from starlette.formparsers import MultiPartException
from starlette.types import Message, Receive, Scope, Send

from chatui.body_limit import UPLOAD, BodyLimit, RefusedError
from chatui.server import build_app
from chatui.settings import MB, AppSettings
from chatui.upload_folder import MAX_AGE_SECONDS, MIN_AGE_SECONDS, MIN_FILE_BYTES, UploadFolder, reading
from tests.fakes import FakeBackend
from tests.visitors import served


def put(folder: Path, name: str, age: float = 0.0, size: int = 1000) -> Path:
    file = folder / name
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_bytes(b"x" * size)
    os.utime(file, (time.time() - age,) * 2)
    return file


def remaining_files(folder: Path) -> list[str]:
    return sorted(str(file.relative_to(folder)) for file in folder.rglob("*") if file.is_file())


def test_what_nobody_came_for_goes_also_what_was_broken_off(tmp_path: Path) -> None:
    for name in ("a/x.json", "tmpbroken"):
        put(tmp_path, name, MAX_AGE_SECONDS + 10)
        put(tmp_path, f"{name}.new", MAX_AGE_SECONDS - 60)
    used = put(tmp_path, "b/used.json", MAX_AGE_SECONDS + 10)
    folder = UploadFolder(tmp_path, 0)
    with reading(used):
        folder.sweep()
    assert remaining_files(tmp_path) == ["a/x.json.new", "b/used.json", "tmpbroken.new"]
    folder.sweep()
    assert remaining_files(tmp_path) == ["a/x.json.new", "tmpbroken.new"]


def test_the_oldest_make_room_but_neither_those_just_come_nor_those_being_read(tmp_path: Path) -> None:
    files = [put(tmp_path, f"{number}/x", MIN_AGE_SECONDS * (4.5 - number), MIN_FILE_BYTES) for number in range(5)]
    folder = UploadFolder(tmp_path, 5 * MIN_FILE_BYTES)
    with reading(files[0]):
        asyncio.run(folder.expect(2 * MIN_FILE_BYTES))
    assert remaining_files(tmp_path) == ["0/x", "3/x", "4/x"]
    with pytest.raises(RefusedError, match=r"Try again in a few minutes.*--max-uploads") as refused:
        asyncio.run(folder.expect(5 * MIN_FILE_BYTES))
    assert refused.value.status == 507
    assert remaining_files(tmp_path) == ["4/x"]
    asyncio.run(folder.expect(4 * MIN_FILE_BYTES))


def test_small_files_take_room_too(tmp_path: Path) -> None:
    for number in range(10):
        put(tmp_path, f"{number}/x", size=1)
    with pytest.raises(RefusedError):
        asyncio.run(UploadFolder(tmp_path, 10 * MIN_FILE_BYTES).expect(1))


def test_one_that_can_never_fit_is_told_so(tmp_path: Path) -> None:
    with pytest.raises(RefusedError, match="larger than the 2 MB") as refused:
        asyncio.run(UploadFolder(tmp_path, 2 * MB).expect(2 * MB + 1))
    assert refused.value.status == 413


def test_what_comes_unannounced_ends_where_the_room_does(tmp_path: Path) -> None:
    folder = UploadFolder(tmp_path, 10_000)
    asyncio.run(folder.expect(0))
    folder.add(9_000)
    with pytest.raises(RefusedError):
        folder.add(2_000)
    folder.end(11_000, complete=False)
    asyncio.run(folder.expect(9_000))


async def test_those_that_come_together_are_not_all_refused(tmp_path: Path) -> None:
    """Each of eight has come half when the room is full; what one that is refused had is there for the others."""
    names = itertools.count()

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        file, more = put(tmp_path, f"{next(names)}", size=0), True
        try:
            while more:
                message = await receive()
                file.write_bytes(file.read_bytes() + message["body"])
                more = message["more_body"]
        except MultiPartException:
            file.unlink()
            raise

    async def upload() -> None:
        pieces = [b"x" * 50_000] * 10

        async def receive() -> Message:
            await asyncio.sleep(0)
            return {"type": "http.request", "body": pieces.pop(), "more_body": bool(pieces)}

        async def send(message: Message) -> None:
            pass

        headers = [(b"content-type", b"multipart/form-data; boundary=x"), (b"transfer-encoding", b"chunked")]
        scope = {"type": "http", "method": "POST", "path": UPLOAD, "headers": headers}
        await limited(scope, receive, send)

    limited = BodyLimit(app, UploadFolder(tmp_path, 2 * MB))
    results = await asyncio.gather(*(upload() for _ in range(8)), return_exceptions=True)
    refused = [result for result in results if result is not None]
    assert all(isinstance(error, MultiPartException | RefusedError) for error in refused)
    assert [file.stat().st_size for file in tmp_path.iterdir()] == (8 - len(refused)) * [500_000]
    assert 0 < 8 - len(refused) <= 4


def test_empty_folders_go(tmp_path: Path) -> None:
    put(tmp_path, "old/x").unlink()
    put(tmp_path, "new/x").unlink()
    old = time.time() - MIN_AGE_SECONDS - 10
    os.utime(tmp_path / "old", (old, old))
    UploadFolder(tmp_path, 0).sweep()
    assert [path.name for path in tmp_path.iterdir()] == ["new"]


def test_no_limit_is_none(tmp_path: Path) -> None:
    put(tmp_path, "a", MIN_AGE_SECONDS + 1)
    folder = UploadFolder(tmp_path, 0)
    asyncio.run(folder.expect(10**12))
    folder.add(10**12)
    assert remaining_files(tmp_path) == ["a"]


def test_a_folder_that_is_not_there_yet_is_empty(tmp_path: Path) -> None:
    asyncio.run(UploadFolder(tmp_path / "none", 1000).expect(1000))


def held_bytes(folder: Path) -> int:
    """The size of all files in a folder, of which some may be removed meanwhile."""
    total = 0
    for file in folder.rglob("*"):
        with contextlib.suppress(FileNotFoundError):
            total += file.stat().st_size if file.is_file() else 0
    return total


def test_one_user_cannot_fill_the_disk(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    uploads = tmp_path / "uploads"
    monkeypatch.setenv("GRADIO_TEMP_DIR", str(uploads))
    together = threading.Barrier(8)
    with served(build_app(FakeBackend(), AppSettings(data_dir=tmp_path, max_uploads=2))) as url:

        def send(number: int) -> httpx.Response:
            together.wait(30)
            content = bytes([number]) * 500_000
            return httpx.post(f"{url}{UPLOAD}", files={"files": (f"{number}.json", content)}, timeout=60)

        with ThreadPoolExecutor(8) as threads:
            answers = list(threads.map(send, range(8)))
        assert {answer.status_code for answer in answers} == {200, 507}
        deadline = time.monotonic() + 30
        while not 0 < held_bytes(uploads) <= 2 * MB:  # what a refused one had written goes after its answer
            assert time.monotonic() < deadline, f"{held_bytes(uploads)} bytes stay"
            time.sleep(0.02)
        refused = next(answer for answer in answers if answer.status_code == 507)
        assert "--max-uploads" in refused.text
        for file in uploads.rglob("*.json"):
            os.utime(file, (time.time() - MIN_AGE_SECONDS - 10,) * 2)
        assert httpx.post(f"{url}{UPLOAD}", files={"files": ("x.json", b"{}" * 500_000)}).status_code == 200
        for language, message in (("en", "The file is larger than the 2 MB"), ("de", "größer als die 2 MB")):
            large = httpx.post(
                f"{url}{UPLOAD}",
                files={"files": ("x.json", b"{}" * 1_500_000)},
                headers={"accept-language": language},
            )
            assert (large.status_code, message in large.text, "{" in large.text) == (413, True, False)
