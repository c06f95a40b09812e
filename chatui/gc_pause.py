"""Importing large libraries without the pauses of the garbage collector."""

import contextlib
import gc
from collections.abc import Iterator


@contextlib.contextmanager
def gc_paused() -> Iterator[None]:
    """Inside, nothing is collected; what was made there is never looked at again.

    Modules and classes live as long as the program, but the collector goes through all of them again and again while
    their number grows: a fifth of the time that importing gradio, torch and transformers takes (measured).
    """
    gc.disable()
    try:
        yield
    finally:
        gc.freeze()
        gc.enable()
