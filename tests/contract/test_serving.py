from pathlib import Path

from fastapi import FastAPI
from starlette.middleware.cors import CORSMiddleware
from starlette.routing import Mount
from starlette.testclient import TestClient

from tests.contract.upstream import find, needs, needs_parameters, needs_source

MODULE = "serving"
APPEARANCE = (
    *("theme", "head", "footer_links", "run_history", "favicon_path", "show_error"),
    *("enable_monitoring", "max_file_size"),
)
"""What chatui/ui/page/page.py passes to both."""


def test_gradio_takes_what_we_pass() -> None:
    needs_parameters("gradio:mount_gradio_app", ["app", "blocks", "path", "auth", "root_path", *APPEARANCE], MODULE)
    launch = ["auth", "app_kwargs", "state_session_capacity", *APPEARANCE]
    needs_parameters("gradio:Blocks.launch", launch, MODULE)
    needs_parameters(
        "gradio.networking:setup_tunnel",
        ["local_host", "local_port", "share_token", "share_server_address", "share_server_tls_certificate"],
        MODULE,
        only=True,
    )


def test_the_cors_layer_of_launch_is_found_by_its_name() -> None:
    find("gradio.routes:CustomCORSMiddleware", MODULE)
    needs_source(
        "gradio.routes:App.create_app",
        r"app\.add_middleware\( ?CustomCORSMiddleware,",
        "App.create_app no longer adds its CORS layer by the name CustomCORSMiddleware of gradio.routes",
        MODULE,
    )


def test_a_page_can_be_built_without_an_app() -> None:
    import gradio as gr

    from chatui.ui.gradio_compat import serving

    with serving.without_apps(), gr.Blocks(analytics_enabled=False) as page:
        gr.ChatInterface(lambda message, history: message)
    page.queue()
    needs(page.app is not None, "Blocks.queue no longer makes an app", MODULE)
    with serving.without_apps():
        page.queue()
    needs(page.app is None, "Blocks.queue no longer makes its app by the name App of gradio.blocks", MODULE)


def test_a_parent_app_with_a_cors_layer_has_the_last_word(tmp_path: Path) -> None:
    import gradio as gr

    with gr.Blocks(analytics_enabled=False) as page:
        gr.Textbox()
    app = FastAPI()
    app.add_middleware(CORSMiddleware, allow_origins=[])
    gr.mount_gradio_app(app, page, path="/")
    mounts = [route for route in app.routes if isinstance(route, Mount)]
    needs(len(mounts) == 1, "mount_gradio_app no longer adds one Mount", MODULE)
    needs(hasattr(mounts[0].app, "state_holder"), "What mount_gradio_app mounts is no longer Gradio's App", MODULE)
    answer = TestClient(app, base_url="http://chat.example").get("/config", headers={"origin": "http://evil.example"})
    granted = answer.headers.get("access-control-allow-origin")
    needs(granted is None, f"Gradio grants the origin {granted} although the parent app grants none", MODULE)


def test_the_paths_of_files_are_checked_once_a_page_has_launched() -> None:
    import gradio as gr

    needs(hasattr(gr.Blocks(), "has_launched"), "Blocks has no has_launched any more", MODULE)
    needs_source(
        "gradio.processing_utils:_check_allowed",
        r"has_launched",
        "The paths that a client names are no longer checked by Blocks.has_launched",
        MODULE,
    )


def test_gradios_icon_has_the_address_that_we_take() -> None:
    from chatui.ui.gradio_compat.serving import icon_route

    path = icon_route(Path("x")).path
    needs_source("gradio.routes:App.create_app", rf"\"{path}\"", f"Gradio no longer serves an icon at {path}", MODULE)


def test_the_queue_runs_validators_by_the_app_of_the_page() -> None:
    needs_source(
        "gradio.queueing:Queue.push",
        r"app=self\.blocks\.app",
        "Queue.push no longer runs an event's validator by Blocks.app, which a mount leaves at another app",
        MODULE,
    )
    needs_source(
        "gradio.blocks:Blocks.launch",
        r"self\.server_app = self\.app = App\.create_app\(",
        "Blocks.launch no longer sets Blocks.app to the app that serves",
        MODULE,
    )
