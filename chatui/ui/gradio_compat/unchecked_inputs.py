"""Components whose values come to our functions as the browser sent them: chatui checks them itself.

Replaced: `preprocess` of `gr.Slider`, `gr.Number` and `gr.Dropdown`, and `postprocess` of the last.
Why: they refuse a value out of range with a message that names no setting, and a choice that the page's first choices
did not have; each user's choices differ, and Gradio forgets them when it is restarted.
Upstream: a class with `is_template` is drawn as its direct base class (`Block.get_block_name` in `gradio/blocks.py`).
`Blocks.preprocess_data` calls `preprocess` with what the browser sent.
"""

from typing import Any

import gradio as gr


class UncheckedSlider(gr.Slider):
    """A slider that gives any value as it came."""

    is_template = True

    def preprocess(self, payload: Any) -> Any:
        """The value as it came."""
        return payload


class UncheckedNumber(gr.Number):
    """A number box that gives any value as it came."""

    is_template = True

    def preprocess(self, payload: Any) -> Any:
        """The value as it came."""
        return payload


class UncheckedDropdown(gr.Dropdown):
    """A dropdown that takes any text as its choice."""

    is_template = True

    def preprocess(self, payload: Any) -> Any:
        """The choice as it came. Raises ValueError where it is no text."""
        if payload is not None and not isinstance(payload, str):
            raise ValueError("a choice is text")
        return payload

    def postprocess(self, value: Any) -> Any:
        """The choice as it is."""
        return value
