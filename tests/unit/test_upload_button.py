import os
from pathlib import Path

import pytest
from gradio.data_classes import FileData
from gradio.exceptions import InvalidPathError

from chatui.errors import TransferError
from chatui.ui.gradio_compat.upload_button import UploadButton, read_upload, take_upload
from chatui.upload_folder import UploadFolder


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Where uploads are."""
    folder = tmp_path / "uploads"
    (folder / "abc").mkdir(parents=True)
    monkeypatch.setenv("GRADIO_TEMP_DIR", str(folder))
    return folder


async def test_an_upload_is_taken_where_it_is(folder: Path) -> None:
    file = folder / "abc" / "x.json"
    file.write_text("{}")
    button = UploadButton()
    assert await button.async_move_resource_to_block_cache(str(file)) == str(file)
    assert button.preprocess(FileData(path=str(file))) == str(file)
    assert sorted(folder.rglob("*.*")) == [file]


async def test_nothing_else_can_be_named(folder: Path, tmp_path: Path) -> None:
    secret = tmp_path / "secret.json"
    secret.write_text("{}")
    link = folder / "abc" / "link.json"
    link.symlink_to(secret)
    button = UploadButton()
    for path in (
        str(secret),
        f"{folder}/abc/../../secret.json",
        str(link),
        "http://127.0.0.1/x",
        "https://x.test/y",
        "x",
    ):
        with pytest.raises(InvalidPathError):
            await button.async_move_resource_to_block_cache(path)
    assert secret.exists()


def test_no_file_is_none() -> None:
    assert UploadButton().preprocess(None) is None


@pytest.mark.parametrize(("size", "read"), [(0, 0), (10, 10), (11, 11), (5_000, 11)])
def test_a_file_is_read_once_and_no_further_than_wanted(tmp_path: Path, size: int, read: int) -> None:
    file = tmp_path / "x"
    file.write_bytes(b"x" * size)
    assert read_upload(str(file), 10) == b"x" * read
    assert not file.exists()


def test_a_file_that_is_not_there_is_said_to_be_missing(tmp_path: Path) -> None:
    for path in (None, "", str(tmp_path / "gone"), str(tmp_path)):
        with pytest.raises(TransferError):
            read_upload(path, 10)
    assert tmp_path.exists()


def test_a_file_that_is_being_read_is_not_swept(folder: Path) -> None:
    file = folder / "abc" / "x.json"
    file.write_text("{}")
    os.utime(file, (0, 0))
    with take_upload(str(file)):
        UploadFolder(folder, 0).sweep()
        assert file.exists()
    assert not file.exists()
