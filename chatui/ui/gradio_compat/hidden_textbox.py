"""Hidden textboxes by which the page's scripts and the server exchange messages.

Reached: `visible="hidden"`, which keeps a component in the document, and the `textarea` within its `elem_id`.
Why: Gradio's own way for a script to reach the server, `js=`, needs `unsafe-eval`, which our Content-Security-Policy
does not allow.
Upstream: `gr.Textbox` in `gradio/components/textbox.py` is a `textarea` from two lines up, and takes an `input` event.
"""

import gradio as gr


def hidden_textbox(name: str, value: str = "") -> gr.Textbox:
    """Render a hidden textbox with `name` as its id.

    It always has two lines: Gradio measures a box that may grow again and again, and a single line has no line breaks.
    """
    # The class hides it too: Gradio shows a hidden component again with the column around it.
    return gr.Textbox(
        value, visible="hidden", elem_id=name, elem_classes="hidden-textbox", label=name, lines=2, max_lines=2
    )
