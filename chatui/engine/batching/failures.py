"""What a failure of the model while it writes means to a user."""

import logging

import torch

from chatui.errors import ChatError, GenerationError

log = logging.getLogger(__name__)


def to_generation_error(error: Exception) -> ChatError:
    """The error for a user when the model fails while it writes. What is not known is logged."""
    if isinstance(error, ChatError):
        return error
    if isinstance(error, MemoryError | torch.OutOfMemoryError) or "allocate memory" in str(error):
        if torch.cuda.is_available():
            torch.cuda.empty_cache()
        return GenerationError("There was not enough memory for this conversation.", "Shorten it, or start a new chat.")
    log.error("a reply failed", exc_info=error)
    return GenerationError(
        f"The model failed while writing ({type(error).__name__}).", "Try again; the console has the details."
    )
