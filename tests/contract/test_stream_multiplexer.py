from tests.contract.upstream import frontend, needs, routes

MODULE = "stream_multiplexer"


def test_a_tab_lives_by_the_heartbeat_that_we_answer() -> None:
    from chatui.ui.gradio_compat.stream_multiplexer import HEARTBEAT_PATH

    path = "/gradio_api/heartbeat/{session_hash}"
    needs(path in routes(), f"Gradio has no route {path} any more", MODULE)
    assert HEARTBEAT_PATH.match(path)


def test_gradios_page_asks_for_both_streams_where_connections_js_takes_them() -> None:
    script = frontend(".js")
    needs("heartbeat" in script, "Gradio's page no longer asks for heartbeat", MODULE)
    needs("queue/data" in script, "Gradio's page no longer asks for queue/data", MODULE)
    needs("new Request(" in script, "Gradio's page no longer fetches its streams by a Request", MODULE)
