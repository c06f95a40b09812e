"""Uploaded files: read once, and then deleted from disk.

Replaced: `Block.async_move_resource_to_block_cache` (`gradio/blocks.py`) and `UploadButton.preprocess`.
Why: Gradio copies each upload into a cache that it never empties. If it is mounted, it copies any file and fetches any
URL that a client sends.
Upstream: `async_move_files_to_cache` in `gradio/processing_utils.py` takes each file of a value by that method. A
class with `is_template` is rendered as its direct base class (`Block.get_block_name`).
"""

import contextlib
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import gradio as gr
from gradio.exceptions import InvalidPathError
from gradio.utils import get_upload_folder

from chatui.errors import TransferError
from chatui.upload_folder import reading


class UploadButton(gr.UploadButton):
    """A button whose value is the path of the uploaded file, without a copy of it."""

    is_template = True

    async def async_move_resource_to_block_cache(self, url_or_file_path: str | Path | None) -> str | None:
        """The path. Raises InvalidPathError if it is not that of an upload."""
        if url_or_file_path is None:
            return None
        path = Path(url_or_file_path).resolve()
        if not path.is_relative_to(Path(get_upload_folder()).resolve()):
            raise InvalidPathError("This file was not uploaded.")
        return str(path)

    def preprocess(self, payload: Any) -> Any:
        """The path, or None."""
        return payload.path if payload else None


@contextlib.contextmanager
def take_upload(path: str | None) -> Iterator[Path]:
    """A context in which an uploaded file can be read; then it is deleted. Raises TransferError if there is none."""
    file = Path(path or "")
    if not os.path.isfile(file):  # noqa: PTH113 - Path.is_file raises if a name is too long
        raise TransferError("The file did not arrive.", "Choose it again.")
    try:
        with reading(file):
            yield file
    finally:
        with contextlib.suppress(OSError):
            file.unlink()


def read_upload(path: str | None, max_bytes: int) -> bytes:
    """The content of an uploaded file, of which at most `max_bytes` + 1 bytes are read. The file is deleted.

    Raises TransferError if there is none.
    """
    with take_upload(path) as file, file.open("rb") as opened:
        return opened.read(max_bytes + 1)
