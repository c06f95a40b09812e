"""Files that a user gives to the page: taken once, and then gone from the disk.

Replaced: `Block.async_move_resource_to_block_cache` (`gradio/blocks.py`) and `UploadButton.preprocess`.
Why: Gradio copies each upload once more into a cache that it never empties; where it is mounted, it copies any file,
and fetches any address, that a client names.
Upstream: `async_move_files_to_cache` in `gradio/processing_utils.py` takes each file of a value by that method. A
class with `is_template` is drawn as the component that it comes from (`Block.get_block_name`).
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
    """A button that gives the path of the uploaded file, and leaves no second, empty file behind.

    Where it is mounted, Gradio itself would take a copy of any file, and of any address, that a client names.
    """

    is_template = True

    async def async_move_resource_to_block_cache(self, url_or_file_path: str | Path | None) -> str | None:
        """The path, which must be that of an upload."""
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
    """An uploaded file, to be read within this; it is removed then. Raises TransferError where there is none."""
    file = Path(path or "")
    if not os.path.isfile(file):  # noqa: PTH113 - Path's own raises where a name is too long
        raise TransferError("The file did not arrive.", "Choose it again.")
    try:
        with reading(file):
            yield file
    finally:
        with contextlib.suppress(OSError):
            file.unlink()


def uploaded(path: str | None, most: int) -> bytes:
    """The content of an uploaded file, of which no more than `most` bytes and one are read. The file is removed.

    Raises TransferError where there is none.
    """
    with take_upload(path) as file, file.open("rb") as opened:
        return opened.read(most + 1)
