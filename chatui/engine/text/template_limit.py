"""Templates that do not come to an end: what they may compute is counted in lines, not in seconds."""

import sys
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType
from typing import Any

from chatui.errors import ModelError

TEMPLATE_FILE = "<template>"
"""What Jinja calls the Python code that it makes of a template given as text."""
MAX_LINES = 1_000_000
"""Many times what the longest templates need for all conversations that they are tried on: those stay below 50,000."""


class _Endless(BaseException):
    """Passes by all that takes a template's failures for a refusal."""


@contextmanager
def enforced(max_lines: int = MAX_LINES) -> Iterator[None]:
    """Ends what templates compute inside, in this thread, after so many lines. Raises ModelError then."""
    lines = 0

    def count(_: FrameType, event: str, __: Any) -> Any:
        nonlocal lines
        lines += event == "line"
        if lines > max_lines:
            raise _Endless
        return count

    def trace(frame: FrameType, _: str, __: Any) -> Any:
        return count if frame.f_code.co_filename == TEMPLATE_FILE else None

    before = sys.gettrace()
    sys.settrace(trace)
    try:
        yield
    except _Endless:
        raise ModelError(
            "This model's chat template does not work: it computes without coming to an end.",
            "Try another model or revision, or give a template with --chat-template FILE.",
        ) from None
    finally:
        sys.settrace(before)
