"""Components that pass values on without validation, because chatui validates them itself.

Replaced: `preprocess` of `gr.Slider`, `gr.Number` and `gr.Dropdown`, and `postprocess` of the last.
Why: they refuse a value out of range with a message that names no setting. They refuse a choice that the page was not
built with, but each user has other choices, and Gradio forgets updated ones when it is restarted.
Upstream: a class with `is_template` is rendered as its direct base class (`Block.get_block_name` in
`gradio/blocks.py`). `Blocks.preprocess_data` calls `preprocess` with what the browser sent.
"""

from typing import Any

import gradio as gr


class UncheckedSlider(gr.Slider):
    """A slider that accepts any value."""

    is_template = True

    def preprocess(self, payload: Any) -> Any:
        """The value as the client sent it."""
        return payload


class UncheckedNumber(gr.Number):
    """A number box that accepts any value."""

    is_template = True

    def preprocess(self, payload: Any) -> Any:
        """The value as the client sent it."""
        return payload


class UncheckedDropdown(gr.Dropdown):
    """A dropdown that accepts any string as its choice."""

    is_template = True

    def preprocess(self, payload: Any) -> Any:
        """The choice as the client sent it. Raises ValueError if it is not a string."""
        if payload is not None and not isinstance(payload, str):
            raise ValueError("a choice must be a string")
        return payload

    def postprocess(self, value: Any) -> Any:
        """The choice unchanged."""
        return value
