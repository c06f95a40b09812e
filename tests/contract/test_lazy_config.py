import json

import pytest
from fastapi import FastAPI
from starlette.testclient import TestClient

from tests.contract.upstream import needs, needs_parameters, needs_source

MODULE = "lazy_config"

STEPS = {
    "gradio.blocks:Blocks.__exit__": r"self\.config = self\.get_config_file\(\)",
    "gradio.blocks:Blocks.launch": r"self\.config = self\.get_config_file\(\)",
    "gradio:mount_gradio_app": r"blocks\.config = blocks\.get_config_file\(\)",
    "gradio.routes:App.setup_mcp_server": r"blocks\.config = \( ?blocks\.get_config_file\(\) ?\)",
}
"""The steps of a start that build the configuration, and how."""


@pytest.mark.parametrize("path", STEPS)
def test_each_step_sets_config_to_what_it_is_now(path: str) -> None:
    name = path.partition(":")[2]
    needs_source(path, STEPS[path], f"{name} no longer sets Blocks.config by Blocks.get_config_file", MODULE)


def test_the_methods_that_we_replace_take_what_ours_take() -> None:
    needs_parameters("gradio.blocks:Blocks.get_config_file", [], MODULE, only=True)
    ssr_mode = ["ssr_mode", "disable_when_multi_page"]
    needs_parameters("gradio.blocks:Blocks._resolve_ssr_mode", ssr_mode, MODULE, only=True)
    needs_source(
        "gradio.blocks:Blocks._resolve_ssr_mode",
        r"if disable_when_multi_page and len\(self\.config\.get\(\"pages\", \[\]\)\) > 1:",
        "Blocks._resolve_ssr_mode reads more of the configuration than the pages, or asks for it in another way",
        MODULE,
    )


def test_a_mounted_page_is_configured_at_the_last_step_and_read_by_nothing_before() -> None:
    import gradio as gr

    from chatui.ui.gradio_compat.lazy_config import LazyConfig

    with LazyConfig(analytics_enabled=False) as page, gr.Row():
        gr.ChatInterface(lambda message, history: message, textbox=gr.Textbox(label="Say"))
    gr.mount_gradio_app(FastAPI(), page, path="/", footer_links=["api"], theme=gr.themes.Soft())
    needs(page._config is None, "A step of mounting a page reads Blocks.config", MODULE)
    needs(page.config["footer_links"] == ["api"], "mount_gradio_app no longer configures what it is given", MODULE)
    expected = gr.Blocks.get_config_file(page)
    assert json.dumps(page.config, default=str) == json.dumps(expected, default=str)


def test_a_page_view_copies_the_parts_and_changes_nothing_within_them() -> None:
    import gradio as gr

    from chatui.ui.gradio_compat.lazy_config import LazyConfig, SharedPart

    needs_source(
        "gradio.routes:App.create_app",
        r"utils\.safe_deepcopy\(page_components\)",
        "The page's route no longer copies the components by safe_deepcopy",
        MODULE,
    )
    needs_source(
        "gradio.utils:safe_deepcopy", r"copy\.deepcopy\(obj\)", "safe_deepcopy is no deepcopy any more", MODULE
    )
    with LazyConfig(analytics_enabled=False) as page:
        box = gr.Textbox(label="Say")
        box.submit(str.upper, box, box, api_name="say")
        gr.File(__file__)
    app = FastAPI()
    gr.mount_gradio_app(app, page, path="/", allowed_paths=[__file__])
    before = json.dumps(page.config, default=str)
    with TestClient(app) as client:
        for path, host in (("/", "a.example"), ("/config", "b.example"), ("/gradio_api/info", "c.example")):
            assert client.get(path, headers={"host": host}).status_code == 200
    needs(json.dumps(page.config, default=str) == before, "A page view changes the configuration of all others", MODULE)
    shared = {part["type"]: isinstance(part, SharedPart) for part in page.config["components"]}
    assert (shared["textbox"], shared["file"]) == (True, False)
