"""A page's configuration is Gradio's own, and is built once."""

import copy
import json
from pathlib import Path
from typing import Any

import gradio as gr
import pytest
from starlette.testclient import TestClient

from chatui.server import build_app
from chatui.settings import AppSettings
from chatui.ui.gradio_compat.lazy_config import LazyConfig
from tests.fakes import FakeBackend


@pytest.fixture
def built(monkeypatch: pytest.MonkeyPatch) -> list[gr.Blocks]:
    """The blocks whose configuration has been built."""
    built: list[gr.Blocks] = []
    build = gr.Blocks.get_config_file

    def count(blocks: gr.Blocks) -> Any:
        built.append(blocks)
        return build(blocks)

    monkeypatch.setattr(gr.Blocks, "get_config_file", count)
    return built


def test_a_server_builds_it_once(built: list[gr.Blocks], tmp_path: Path) -> None:
    client = TestClient(build_app(FakeBackend(), AppSettings(data_dir=tmp_path)), base_url="http://127.0.0.1")
    assert not built
    first, second = (client.get("/", headers={"accept": "text/html"}) for _ in range(2))
    assert (first.status_code, second.status_code) == (200, 200)
    assert len(built) == 1
    page = built[0]
    assert json.dumps(page.config, default=str) == json.dumps(gr.Blocks.get_config_file(page), default=str)


def test_it_is_built_anew_once_it_is_set(built: list[gr.Blocks]) -> None:
    with LazyConfig() as page:
        gr.Textbox("one")
    assert page.config is page.config
    with page:
        gr.Textbox("two")
    assert {"one", "two"} <= {part["props"].get("value") for part in page.config["components"]}
    assert built == [page, page]


def test_its_parts_are_shared_but_for_files() -> None:
    with LazyConfig() as page:
        gr.Textbox("one").change(lambda: None)
        gr.File(__file__)
    copied = copy.deepcopy(page.config)
    same = {
        part["type"]: part is before
        for part, before in zip(copied["components"], page.config["components"], strict=True)
    }
    assert (same["textbox"], same["file"]) == (True, False)
    assert copied["dependencies"][0] is page.config["dependencies"][0]
