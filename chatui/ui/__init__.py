"""The page: the only room that builds Gradio components."""

import inspect

from chatui.gc_pause import gc_paused


def _import_gradio_without_stubs() -> None:
    """Import Gradio, but do not let it write editor stubs (`.pyi`) for every component class.

    It parses its 81 components for that at each start, half of its import time, and would write one beside our own
    components too (gradio/component_meta.py). A class without a file is left alone, so for that time they have none.
    """
    getfile = inspect.getfile

    def no_file_for_components(thing: object) -> str:
        if str(getattr(thing, "__module__", "")).startswith("gradio."):
            raise OSError("no stub is wanted")
        return getfile(thing)  # type: ignore[arg-type]

    inspect.getfile = no_file_for_components  # type: ignore[assignment]
    try:
        with gc_paused():
            from gradio import component_meta
    finally:
        inspect.getfile = getfile
    component_meta.create_or_modify_pyi = lambda *_: None


_import_gradio_without_stubs()
