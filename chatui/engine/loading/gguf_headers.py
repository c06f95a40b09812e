"""Lets transformers read the header of a GGUF file once.

transformers 5.23 reads it for the config, for the tokenizer and for the weights, each time some seconds of Python, and
makes the table of tensor names anew for each module of the model. `load_gguf_checkpoint` and `get_gguf_hf_weights_map`
take both functions from the package `gguf` when they are called.
"""

import functools
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import gguf

_module: Any = gguf
_lock = threading.RLock()


@contextmanager
def read_once() -> Iterator[None]:
    """Inside, what was read of a file, and each table of names, is used again. Files must not change meanwhile."""
    with _lock:
        saved = _module.GGUFReader, _module.get_tensor_name_map
        _module.GGUFReader, _module.get_tensor_name_map = (functools.cache(each) for each in saved)
        try:
            yield
        finally:
            _module.GGUFReader, _module.get_tensor_name_map = saved
