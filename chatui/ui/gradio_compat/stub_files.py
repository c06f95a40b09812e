"""Imports Gradio without writing an editor stub (`.pyi`) for every component class.

Replaced: `create_or_modify_pyi` in `gradio/component_meta.py`, and `inspect.getfile` while Gradio is imported.
Why: stubs take half of Gradio's import time, and would be written beside each component class of ours.
Upstream: `ComponentMeta.__new__` calls `create_or_modify_pyi(component_class, name, events)` for each class. It parses
the file that `inspect.getfile` names, and does nothing for a class without one (`OSError`). There is no setting.
"""

import inspect

from chatui.gc_pause import gc_paused


def import_gradio() -> None:
    """Import Gradio, and write no stubs now or for component classes defined later."""
    getfile = inspect.getfile

    def getfile_except_components(thing: object) -> str:
        if str(getattr(thing, "__module__", "")).startswith("gradio."):
            raise OSError("no stub files")
        return getfile(thing)  # type: ignore[arg-type]

    inspect.getfile = getfile_except_components  # type: ignore[assignment]
    try:
        with gc_paused():
            from gradio import component_meta
    finally:
        inspect.getfile = getfile
    component_meta.create_or_modify_pyi = lambda *_: None
