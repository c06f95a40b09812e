"""LoRA adapters: the logits of peft's own model, with the base's weights shared and unchanged."""

import gc
import json
import shutil
from pathlib import Path
from typing import Any

import peft
import pytest
import torch
from safetensors.torch import load_file, save_file

from chatui.chat import ChatRequest, Message
from chatui.engine.kernels.quantized import PackedLinear
from chatui.engine.loading import loader, lora
from chatui.engine.loading.loaded_model import LoadedModel
from chatui.engine.runners.batch_runner import BatchRunner
from chatui.engine.runners.open_model import open_model
from chatui.errors import ModelError
from chatui.generation_settings import GenerationSettings
from chatui.model_spec import ModelSpec, find_models, is_adapter, with_bases
from tests import models

IDS = torch.tensor([[5, 17, 80, 33, 9, 101]])


def peft_logits(base: Path, folder: Path, kind: str = "llama") -> torch.Tensor:
    adapted = peft.PeftModel.from_pretrained(models.model(kind).__class__.from_pretrained(base), str(folder)).eval()
    with torch.inference_mode():
        logits: torch.Tensor = adapted(input_ids=IDS).logits
    return logits


def logits_of(loaded: LoadedModel) -> torch.Tensor:
    with torch.inference_mode():
        outputs: Any = loaded.model(input_ids=IDS)
    logits: torch.Tensor = outputs.logits
    return logits


def load(folder: Path, **spec: Any) -> LoadedModel:
    return loader.load(ModelSpec(str(folder), compile="off", **spec), folder, lambda _: None)


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return models.save(tmp_path_factory.mktemp("models") / "base")


@pytest.fixture
def adapter(base: Path, tmp_path: Path) -> Path:
    return models.save_adapter(base, tmp_path / "adapter")


@pytest.mark.parametrize(
    "config",
    [
        {},
        {"use_rslora": True},
        {"rank_pattern": {"q_proj": 2}, "alpha_pattern": {"layers.0.self_attn.v_proj": 3}},
        {"target_modules": [*models.PROJECTIONS, "embed_tokens", "lm_head"]},
        {"modules_to_save": ["lm_head", "norm"]},
        {"lora_bias": True},
    ],
    ids=["plain", "rslora", "patterns", "embedding", "saved modules", "bias"],
)
def test_its_logits_are_those_of_peft(base: Path, tmp_path: Path, config: dict[str, Any]) -> None:
    folder = models.save_adapter(base, tmp_path / "adapter", **config)
    before = logits_of(load(base))
    found = logits_of(load(folder))
    torch.testing.assert_close(found, peft_logits(base, folder), atol=1e-4, rtol=1e-4)
    assert not torch.allclose(found, before, atol=0.1)
    torch.testing.assert_close(logits_of(load(base)), before)


def test_the_layers_of_gpt2(tmp_path: Path) -> None:
    base = models.save(tmp_path / "base", "gpt2")
    folder = models.save_adapter(base, tmp_path / "adapter", "gpt2", target_modules=["c_attn"], fan_in_fan_out=True)
    torch.testing.assert_close(logits_of(load(folder)), peft_logits(base, folder, "gpt2"), atol=1e-4, rtol=1e-4)


def test_the_base_is_in_memory_once_and_stays_as_it_is(base: Path, adapter: Path) -> None:
    whole = load(base)
    before = logits_of(whole)
    on_top, again = load(adapter), load(base)
    assert again is whole
    assert on_top.shares is whole
    own = {tensor.data_ptr() for tensor in whole.model.parameters()}
    extra = [tensor for tensor in on_top.model.parameters() if tensor.data_ptr() not in own]
    assert sum(tensor.numel() for tensor in extra) == lora.read_adapter("a", adapter).elements
    assert on_top.info.weight_bytes - whole.info.weight_bytes == sum(tensor.nbytes for tensor in extra)
    torch.testing.assert_close(logits_of(whole), before)


def test_memory_is_given_back(base: Path, adapter: Path) -> None:
    spec = ModelSpec(str(base), compile="off", slots=3)
    on_top = loader.load(ModelSpec(str(adapter), compile="off", slots=3, base=spec), base, lambda _: None)
    assert loader.is_loaded(spec)
    del on_top
    gc.collect()
    assert not loader.is_loaded(spec)


def test_packed_layers_keep_their_levels(base: Path, adapter: Path) -> None:
    whole, on_top = load(base, quantization="int8"), load(adapter, quantization="int8")
    assert on_top.shares is whole
    name = "model.layers.0.self_attn.q_proj"
    packed, changed = whole.model.get_submodule(name), on_top.model.get_submodule(name)
    assert isinstance(packed, PackedLinear)
    assert isinstance(changed, lora.LoraLinear)
    assert changed.layer.levels.data_ptr() == packed.levels.data_ptr()  # type: ignore[operator]
    x = torch.randn(3, 32, dtype=torch.bfloat16)
    change = lora.read_adapter("a", adapter).changes[name]
    wanted = packed(x).float() + change.scale * x.float() @ change.a.T @ change.b.T
    torch.testing.assert_close(changed(x).float(), wanted, atol=0.1, rtol=0.05)
    torch.testing.assert_close(
        changed.weight, packed.weight + (change.scale * change.b @ change.a).bfloat16(), atol=0.05, rtol=0.05
    )


def reply_ids(model: Any, text: str) -> list[int]:
    """The tokens of a greedy reply, as the engine makes them."""
    settings = GenerationSettings(temperature=0, max_new_tokens=6)
    prepared = model.prepare(ChatRequest((Message("user", text),), settings, trace=True))
    handle = model.begin(prepared, 0.0, lambda: False)
    snapshot = None
    for _ in range(40):
        for of, delta in model.step():
            assert of is handle
            snapshot = delta.snapshot or snapshot
            if delta.finish is not None:
                assert snapshot is not None
                return list(snapshot().traces.chosen_ids)
    raise AssertionError("the reply does not end")


def test_replies_of_base_and_adapter_by_turns(base: Path, adapter: Path) -> None:
    """Both keep their own keys and values: what one has read is no beginning for the other."""
    opened = {
        folder: open_model(ModelSpec(str(folder), compile="off"), folder, lambda _: None) for folder in (base, adapter)
    }
    assert all(isinstance(model, BatchRunner) for model in opened.values())
    first = {folder: reply_ids(model, "Hello there") for folder, model in opened.items()}
    assert first[base] != first[adapter]
    for folder in (adapter, base, adapter):
        assert reply_ids(opened[folder], "Hello there") == first[folder]
    reference = peft.PeftModel.from_pretrained(models.model().__class__.from_pretrained(base), str(adapter)).eval()
    prompt = models.prompt_ids(models.tokenizer(), [{"role": "user", "content": "Hello there"}])
    assert first[adapter] == models.generate(reference, prompt, 6)  # type: ignore[arg-type]


def test_a_served_model_is_the_base_whatever_its_folder(base: Path, adapter: Path) -> None:
    config = json.loads((adapter / "adapter_config.json").read_text())
    for named in ("someone/BASE", "/elsewhere/base", str(base)):
        (adapter / "adapter_config.json").write_text(json.dumps({**config, "base_model_name_or_path": named}))
        whole, on_top = with_bases([ModelSpec(str(base)), ModelSpec(str(adapter))])
        assert on_top.base == whole, named
        assert whole.base is None


def test_adapters_in_a_folder_of_models(base: Path, adapter: Path, tmp_path: Path) -> None:
    assert is_adapter(adapter)
    assert not is_adapter(base)
    assert adapter in find_models(tmp_path)


def test_an_adapter_that_came_with_the_config_of_its_model(base: Path, adapter: Path) -> None:
    shutil.copy(base / "config.json", adapter)
    torch.testing.assert_close(logits_of(load(adapter)), peft_logits(base, adapter), atol=1e-4, rtol=1e-4)


def spoil(folder: Path, **config: Any) -> None:
    known = json.loads((folder / "adapter_config.json").read_text())
    (folder / "adapter_config.json").write_text(json.dumps({**known, **config}))


def rename_layer(folder: Path, name: str) -> None:
    tensors = load_file(folder / "adapter_model.safetensors")
    save_file(
        {key.replace("q_proj", name): tensor for key, tensor in tensors.items()}, folder / "adapter_model.safetensors"
    )


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda folder: spoil(folder, use_dora=True), "use_dora"),
        (lambda folder: spoil(folder, peft_type="IA3"), "IA3"),
        (lambda folder: spoil(folder, base_model_name_or_path=None), "does not say which model"),
        (lambda folder: spoil(folder, base_model_name_or_path="/nowhere/at-all"), "which is not here"),
        (lambda folder: spoil(folder, lora_alpha="x"), "damaged"),
        (lambda folder: (folder / "adapter_config.json").write_text("{"), "no valid JSON"),
        (lambda folder: (folder / "adapter_model.safetensors").write_bytes(b"x"), "incomplete or damaged"),
        (lambda folder: (folder / "adapter_model.safetensors").rename(folder / "adapter_model.bin"), "safetensors"),
        (lambda folder: rename_layer(folder, "x_proj"), "it has no model.layers.0.self_attn.x_proj"),
        (lambda folder: rename_layer(folder, "k_proj"), "another shape"),
    ],
    ids=["dora", "ia3", "no base", "base away", "alpha", "json", "cut", "pickle", "other layers", "other shapes"],
)
def test_what_cannot_be_applied_is_told(adapter: Path, change: Any, message: str) -> None:
    change(adapter)
    with pytest.raises(ModelError, match=message) as error:
        load(adapter)
    assert error.value.remedy


def test_its_own_chat_template(adapter: Path, base: Path) -> None:
    (adapter / "chat_template.jinja").write_text(models.ZEPHYR)
    on_top = load(adapter)
    assert on_top.tokenizer.chat_template == models.ZEPHYR
    assert load(base).tokenizer.chat_template == models.CHATML
    shutil.rmtree(adapter)
