import inspect
from pathlib import Path

import pytest

from tests.contract.upstream import find, needs, needs_parameters, needs_source

MODULE = "upload_button"


def test_gradio_copies_uploads_where_we_stop_it() -> None:
    path = "gradio.blocks:Block.async_move_resource_to_block_cache"
    needs_parameters(path, ["url_or_file_path"], MODULE, only=True)
    needs(inspect.iscoroutinefunction(find(path, MODULE)), "async_move_resource_to_block_cache is not async", MODULE)
    needs_source(
        "gradio.processing_utils:async_move_files_to_cache",
        r"block\.async_move_resource_to_block_cache\(",
        "async_move_files_to_cache no longer takes a file by the block's async_move_resource_to_block_cache",
        MODULE,
    )
    needs(issubclass(find("gradio.exceptions:InvalidPathError", MODULE), ValueError), "InvalidPathError moved", MODULE)


def test_a_subclass_is_drawn_as_the_component_it_comes_from() -> None:
    needs_source(
        "gradio.blocks:Block.get_block_name",
        r"hasattr\(self, \"is_template\"\)",
        "Block.get_block_name no longer draws a class with is_template as its parent",
        MODULE,
    )


def test_the_folder_of_uploads_follows_the_environment(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("GRADIO_TEMP_DIR", str(tmp_path))
    found = find("gradio.utils:get_upload_folder", "serving")()
    needs(found == str(tmp_path), "get_upload_folder() no longer follows GRADIO_TEMP_DIR", "serving")


async def test_a_path_outside_the_folder_of_uploads_is_refused(tmp_path: Path) -> None:
    from gradio.exceptions import InvalidPathError

    from chatui.ui.gradio_compat.upload_button import UploadButton

    with pytest.raises(InvalidPathError):
        await UploadButton("x").async_move_resource_to_block_cache("/etc/hostname")
