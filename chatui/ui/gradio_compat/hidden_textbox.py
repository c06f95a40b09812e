"""Boxes that nobody sees, through which the page's script and the server tell each other things."""

import gradio as gr


def hidden_textbox(name: str, value: str = "") -> gr.Textbox:
    """A box of this id, rendered where it is called.

    It has two lines always: Gradio measures a box that may grow, again and again, and one of a single line would lose
    the ends of lines.
    """
    return gr.Textbox(value, visible="hidden", elem_id=name, label=name, lines=2, max_lines=2)
