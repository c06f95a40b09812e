"""Text boxes that nobody sees, by which the page's script and the server exchange messages.

Reached: `visible="hidden"`, which keeps a component in the document, and the `textarea` within its `elem_id`.
Why: Gradio's own way for a script to reach the server, `js=`, needs `unsafe-eval`, which our Content-Security-Policy
does not grant.
Upstream: `gr.Textbox` in `gradio/components/textbox.py` is a `textarea` from two lines up, and takes an `input` event.
"""

import gradio as gr


def hidden_textbox(name: str, value: str = "") -> gr.Textbox:
    """A box of this id, rendered where it is called.

    It has two lines always: Gradio measures a box that may grow, again and again, and one of a single line would lose
    the ends of lines.
    """
    return gr.Textbox(value, visible="hidden", elem_id=name, label=name, lines=2, max_lines=2)
