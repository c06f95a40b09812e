from tests.contract.upstream import needs, needs_parameters, needs_source

MODULE = "chat_interface"


def test_the_events_of_a_chat_are_connected_where_we_replace_them() -> None:
    needs_parameters("gradio:ChatInterface._setup_events", [], MODULE, only=True)
    needs_source(
        "gradio:ChatInterface.__init__",
        r"self\._setup_events\(\)",
        "ChatInterface's constructor no longer calls _setup_events",
        MODULE,
    )
    needs_parameters(
        "gradio:ChatInterface.__init__",
        [
            *("fn", "chatbot", "textbox", "additional_inputs", "additional_outputs", "examples"),
            *("api_name", "editable", "concurrency_limit"),
        ],
        MODULE,
    )


def test_the_components_of_a_chat_are_there_when_its_events_are_connected() -> None:
    import gradio as gr

    from chatui.ui.gradio_compat.chat_interface import ChatInterface

    found: list[bool] = []
    parts = ("chatbot", "textbox", "chatbot_state", "fake_api_btn", "api_response", "additional_outputs", "api_name")

    class Chat(ChatInterface):
        def setup_events(self) -> None:
            found.extend(hasattr(self, name) for name in parts)

    with gr.Blocks():
        Chat(lambda message, history: message)
    lacking = [name for name, there in zip(parts, found, strict=True) if not there]
    needs(not lacking, f"ChatInterface has no {', '.join(lacking)} when it connects its events", MODULE)
