from tests.contract.upstream import needs, needs_source

MODULE = "login_tokens"
CREATE_APP = "gradio.routes:App.create_app"


def test_gradio_keeps_logins_where_we_replace_them() -> None:
    for pattern, says in (
        (r"self\.tokens = \{\}", "App no longer keeps its logins in the dict `tokens`"),
        (r"self\.cookie_id = ", "App no longer names its cookies by `cookie_id`"),
    ):
        needs_source("gradio.routes:App.__init__", pattern, says, MODULE)
    for pattern, says in (
        (r"app\.tokens\[token\] = username", "A login is no longer put into App.tokens"),
        (r"return app\.tokens\.get\(token\)", "A request's user is no longer looked up in App.tokens"),
        (r"f\"access-token-\{app\.cookie_id\}\"", "The cookie of a login is no longer access-token-ID"),
        (r"f\"access-token-unsecure-\{app\.cookie_id\}\"", "The other cookie is no longer access-token-unsecure-ID"),
    ):
        needs_source(CREATE_APP, pattern, says, MODULE)


def test_gradios_way_out_is_found() -> None:
    import gradio as gr
    from gradio.routes import App

    with gr.Blocks() as page:
        gr.Textbox()
    page.auth = [("ada", "secret")]
    app = App.create_app(page)
    ways = [route for route in app.router.routes if getattr(route, "path", "") == "/logout"]
    needs(len(ways) == 1, "Gradio no longer has its one route /logout, which must be taken away", MODULE)
    needs(hasattr(app, "tokens"), "Gradio's App has no tokens any more", MODULE)

    from chatui.ui.gradio_compat.login_tokens import cookie_names

    app.cookie_id = "x"
    assert cookie_names(app) == ("access-token-x", "access-token-unsecure-x")
