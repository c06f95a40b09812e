from tests.contract.upstream import needs, routes

MODULE = "request_turns"


def test_events_start_at_the_address_that_takes_turns() -> None:
    from chatui.ui.gradio_compat.request_turns import JOIN

    needs(JOIN in routes(), f"Gradio has no route {JOIN} any more", MODULE)
