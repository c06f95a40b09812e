from tests.contract.upstream import find, needs, needs_parameters, needs_source

MODULE = "sessions"


def test_gradio_makes_its_sessions_where_we_replace_them() -> None:
    find("gradio.routes:StateHolder", MODULE)
    needs_source(
        "gradio.routes:App.__init__",
        r"self\.state_holder = StateHolder\(\)",
        "App no longer makes its state_holder by the name StateHolder of gradio.routes",
        MODULE,
    )
    needs_source(
        "gradio.state_holder:StateHolder.__getitem__",
        r"self\.session_data\[session_id\] = SessionState\(self\.blocks\)",
        "StateHolder no longer makes a SessionState for a session that it does not know",
        MODULE,
    )
    needs_source(
        "gradio.state_holder:StateHolder.set_blocks",
        r"self\.capacity = blocks\.state_session_capacity",
        "StateHolder no longer takes its capacity from Blocks.state_session_capacity",
        MODULE,
    )


def test_a_session_has_the_parts_that_ours_has() -> None:
    import gradio as gr

    state_type = find("gradio.state_holder:SessionState", MODULE)
    needs_parameters("gradio.state_holder:SessionState.__init__", ["blocks"], MODULE, only=True)
    needs_parameters("gradio.state_holder:SessionState.__setitem__", ["key", "value"], MODULE, only=True)
    needs_parameters("gradio.state_holder:SessionState._update_config", ["key"], MODULE, only=True)
    needs_parameters("gradio.state_holder:SessionState._update_value_in_config", ["key", "value"], MODULE, only=True)
    with gr.Blocks() as page:
        gr.Textbox()
    theirs = set(vars(state_type(page)))

    from chatui.ui.gradio_compat.sessions import Session

    ours = set(vars(Session(page)))
    needs(not theirs - ours, f"SessionState has {', '.join(sorted(theirs - ours))} as well now", MODULE)
    needs(not ours - theirs, f"SessionState has no {', '.join(sorted(ours - theirs))} any more", MODULE)


def test_a_session_keeps_no_copy_of_the_page() -> None:
    import gradio as gr

    from chatui.ui.gradio_compat.sessions import Session

    with gr.Blocks() as page:
        box = gr.Textbox()
    session = Session(page)
    session._update_value_in_config(box._id, "a secret")
    session[box._id] = box
    assert session.config_values == {}
