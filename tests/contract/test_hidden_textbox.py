from tests.contract.upstream import frontend, needs, needs_parameters

MODULE = "hidden_textbox"


def test_a_box_can_be_on_the_page_and_unseen() -> None:
    import gradio as gr

    needs_parameters("gradio:Textbox.__init__", ["value", "visible", "elem_id", "label", "lines", "max_lines"], MODULE)
    with gr.Blocks() as page:
        gr.Textbox(visible="hidden")
    props = page.config["components"][0]["props"]
    needs(props["visible"] == "hidden", 'A component no longer takes visible="hidden"', MODULE)
    needs('"hidden"' in frontend(".js"), 'Gradio\'s page no longer knows visible="hidden"', MODULE)
