"""The Models view: how it is opened and closed, and what it says about the models on this machine."""

import json
from pathlib import Path

import pytest
from playwright.sync_api import expect

from chatui import server
from chatui.models.fit import Device, Machine
from chatui.settings import AppSettings
from tests.browser.conftest import OpenChat, Serve
from tests.browser.pages import PATIENCE
from tests.fakes import FakeBackend

pytestmark = pytest.mark.browser

GB = 10**9


@pytest.fixture
def machine(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """A machine with a known memory, and an empty HF cache."""
    monkeypatch.setattr(server, "_machine", lambda: Machine((Device("cpu", 8 * GB, 16 * GB, 20e9),)))
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path / "cache"))


def write_model(folder: Path, width: int) -> None:
    """A folder with a Llama config and the header of its weights; the weights themselves are a hole in the file."""
    folder.mkdir(parents=True)
    config = {"architectures": ["LlamaForCausalLM"], "model_type": "llama", "hidden_size": width}
    config |= {"num_hidden_layers": 1, "num_attention_heads": 8, "num_key_value_heads": 8, "vocab_size": 1000}
    config |= {"intermediate_size": 4 * width, "max_position_embeddings": 2048}
    (folder / "config.json").write_text(json.dumps(config))
    (folder / "chat_template.jinja").write_text("{{ messages }}")
    shapes = {"model.embed_tokens.weight": [1000, width]}
    for name in ("q", "k", "v", "o"):
        shapes[f"model.layers.0.self_attn.{name}_proj.weight"] = [width, width]
    shapes |= {f"model.layers.0.mlp.{name}_proj.weight": [4 * width, width] for name in ("gate", "up")}
    header, end = {}, 0
    for name, shape in shapes.items():
        size = 2 * shape[0] * shape[1]
        header[name] = {"dtype": "BF16", "shape": shape, "data_offsets": [end, end + size]}
        end += size
    encoded = json.dumps(header).encode()
    with (folder / "model.safetensors").open("wb") as file:
        file.write(len(encoded).to_bytes(8, "little") + encoded)
        file.truncate(8 + len(encoded) + end)


@pytest.mark.usefixtures("machine")
def test_the_view_is_a_dialog_with_an_address(serve: Serve, open_chat: OpenChat, tmp_path: Path) -> None:
    write_model(tmp_path / "models" / "small-<b>1M", 512)
    settings = AppSettings(data_dir=tmp_path / "data", models_dir=tmp_path / "models")
    chat = open_chat(serve(backend=FakeBackend(["Fine."]), settings=settings))
    page, view = chat.page, chat.page.get_by_role("dialog", name="Models", exact=True)
    link = page.get_by_role("link", name="Models", exact=True)
    chat.say("Hello")
    link.press("Enter")
    expect(view).to_contain_text("small-<b>1M", timeout=PATIENCE)
    expect(view).to_contain_text("Recommended for this machine")
    assert page.url.endswith("#models")
    page.keyboard.press("Escape")
    expect(view).to_be_hidden()
    expect(link).to_be_focused()
    expect(chat.questions).to_have_count(1)
    assert "#" not in page.url
    page.go_forward()
    expect(view).to_be_visible()
    page.go_back()
    expect(view).to_be_hidden()
    page.goto(f"{page.url}#models")
    expect(view).to_be_visible()
    page.reload()
    expect(view).to_contain_text("small-<b>1M", timeout=PATIENCE)
    page.get_by_role("button", name="Close", exact=True).click()
    expect(view).to_be_hidden()
    expect(chat.questions).to_have_count(1)
