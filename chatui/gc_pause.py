"""Pauses garbage collection while large libraries are imported."""

import contextlib
import gc
from collections.abc import Iterator


@contextlib.contextmanager
def gc_paused() -> Iterator[None]:
    """Context manager without garbage collection. At the end garbage is collected once, and all other existing objects
    are excluded from further collections (`gc.freeze`).

    Modules and classes live as long as the program, but the collector visits all of them again and again while their
    number grows. That was a fifth of the time that the import of gradio, torch and transformers takes. A pause within
    another one ends with the outer one.
    """
    was_enabled = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        gc.collect()  # frozen garbage would stay: 14 MB of it come from importing torch and transformers
        gc.freeze()
        if was_enabled:
            gc.enable()
