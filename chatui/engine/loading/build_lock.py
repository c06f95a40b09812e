"""Lets transformers build one model at a time: meanwhile torch's default dtype is that model's, for all threads."""

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from transformers import modeling_utils

BUILD_LOCK = threading.RLock()
"""Held while the modules of a model are made, not while their weights are read."""

_original: Any = modeling_utils.local_torch_dtype


@contextmanager
def _locked_torch_dtype(dtype: torch.dtype, model_class_name: str | None = None) -> Iterator[None]:
    """As transformers' local_torch_dtype, in one thread at a time.

    Two at once may restore each other's default dtype, so that it stays what it was inside.
    """
    with BUILD_LOCK, _original(dtype, model_class_name):
        yield


def install() -> None:
    """Take the place of the function by which from_config() and from_pretrained() change the default dtype."""
    modeling_utils.local_torch_dtype = _locked_torch_dtype
