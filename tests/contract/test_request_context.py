from contextvars import ContextVar

from tests.contract.upstream import find, needs, needs_source

MODULE = "request_context"


def test_an_event_knows_who_asked_for_it() -> None:
    for name in ("request", "blocks"):
        variable = find(f"gradio.context:LocalContext.{name}", MODULE)
        needs(isinstance(variable, ContextVar), f"LocalContext.{name} is no ContextVar any more", MODULE)
    needs_source(
        "gradio.utils:get_function_with_locals",
        r"LocalContext\.blocks\.set\(blocks\).*LocalContext\.request\.set\(request\)",
        "A running event no longer finds its request and page in LocalContext",
        MODULE,
    )


def test_a_request_has_the_parts_that_are_read() -> None:
    import gradio as gr
    from starlette.requests import Request

    headers = [(b"cookie", b"chatui_minutes_ahead=90")]
    scope = {"type": "http", "method": "GET", "path": "/", "query_string": b"a=b", "headers": headers}
    request = gr.Request(Request({**scope, "client": ("1.2.3.4", 5)}), username="ada", session_hash="tab")
    needs(request.username == "ada", "gr.Request has no username any more", MODULE)
    needs(request.session_hash == "tab", "gr.Request has no session_hash any more", MODULE)
    needs(request.request is not None, "gr.Request no longer keeps Starlette's request", MODULE)
    needs(dict(request.query_params) == {"a": "b"}, "gr.Request no longer has the page's query_params", MODULE)
    needs("chatui_minutes_ahead" in request.cookies, "gr.Request no longer has the cookies", MODULE)
    needs(request.client.host == "1.2.3.4", "gr.Request no longer has the client's address", MODULE)

    from chatui.ui.gradio_compat import request_context

    token = find("gradio.context:LocalContext.request", MODULE).set(request)
    try:
        assert request_context.login() == "ada"
        assert request_context.tab() == "tab"
        assert request_context.utc_offset_minutes() == 90
    finally:
        find("gradio.context:LocalContext.request", MODULE).reset(token)


async def test_what_is_kept_of_a_tab_can_be_dropped() -> None:
    import gradio as gr

    holder = find("gradio.state_holder:StateHolder", MODULE)()
    for name in ("session_data", "time_last_used"):
        needs(isinstance(getattr(holder, name, None), dict), f"StateHolder has no dict {name} any more", MODULE)
    with gr.Blocks() as page:
        gr.Textbox()
    holder.set_blocks(page)
    needs(page.state_holder is holder, "Blocks no longer has its state_holder", MODULE)
