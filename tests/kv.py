"""Waits for the files of K/V blocks."""

from chatui.engine.batching.kv_files import KVFiles


def flush(files: KVFiles | None) -> None:
    """Wait until all that was to be written is."""
    assert files is not None
    files._writer.submit(lambda: None).result()
