"""What is made of a GGUF file is kept, found again by its contents, made anew when damaged, and limited in size."""

import copy
import os
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from transformers import PreTrainedModel

from chatui.engine.batching import compiling
from chatui.engine.batching.attention_probe import probe_layout
from chatui.engine.batching.forward import DecodeStep
from chatui.engine.batching.kv_cache import KVCache
from chatui.engine.kernels.levels import GgufLevels, LevelsFile
from chatui.engine.kernels.quantized import linear_layers
from chatui.engine.loading import conversions, embedded
from chatui.engine.loading.conversions import find_conversion, keep_conversion
from chatui.engine.loading.loaded_model import LoadedModel
from chatui.engine.loading.loader import load
from chatui.engine.loading.model_files import Files
from chatui.model_spec import ModelSpec
from chatui.settings import DEFAULT_MODEL, AppSettings
from tests import models
from tests.integration.test_quantized import write_gguf


def of_gguf(path: Path, seed: int = 0) -> tuple[Files, PreTrainedModel]:
    """A GGUF file, and the model with the weights of the file's tensors."""
    model = copy.deepcopy(models.model(seed=seed)).bfloat16()
    layers = {name: layer for name, layer in linear_layers(model).items() if layer.in_features % 32 == 0}
    read = write_gguf(path, {name: ("Q8_0", layer.weight.detach().float()) for name, layer in layers.items()})
    for name, layer in layers.items():
        layer.weight.data = read[name].bfloat16()
    return Files(path.parent, path.name), model


def keep(source: Files, model: PreTrainedModel, cache_dir: Path) -> Files:
    return keep_conversion(source, cache_dir, model, models.tokenizer(), lambda _: None)


def test_it_is_found_by_the_files_contents(tmp_path: Path) -> None:
    source, model = of_gguf(tmp_path / "a.gguf")
    assert find_conversion(source, tmp_path) is None
    kept = keep(source, model, tmp_path)
    moved = Files(tmp_path, (tmp_path / "a.gguf").rename(tmp_path / "b.gguf").name)
    found = find_conversion(moved, tmp_path)
    assert found is not None
    assert found.levels == kept.levels
    assert found.revision == moved.revision
    of_file = GgufLevels(moved.path, {name: layer.weight for name, layer in linear_layers(model).items()})
    assert found.levels is not None
    levels = LevelsFile(found.levels)
    assert levels.label == of_file.label == "Q8_0"
    assert set(levels) == set(of_file)
    for name in levels:
        assert torch.equal(levels[name].nibbles, of_file[name].nibbles)
    dense, own = models.loaded(found.folder).model.state_dict(), model.state_dict()
    assert all(torch.equal(dense[name], own[name]) for name in own)
    (tmp_path / "b.gguf").write_bytes((tmp_path / "b.gguf").read_bytes() + b"\0")
    assert find_conversion(moved, tmp_path) is None


def test_a_damaged_one_is_made_anew(tmp_path: Path) -> None:
    source, model = of_gguf(tmp_path / "a.gguf")
    weights = keep(source, model, tmp_path).levels
    assert weights is not None
    whole = weights.read_bytes()
    weights.write_bytes(whole[:-1] + bytes([whole[-1] ^ 1]))
    assert find_conversion(source, tmp_path) is None
    keep(source, model, tmp_path)
    assert find_conversion(source, tmp_path) is not None
    assert weights.read_bytes() == whole


def test_what_was_used_longest_ago_goes_first(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    made = [of_gguf(tmp_path / f"{seed}.gguf", seed) for seed in range(3)]
    for age, (source, model) in enumerate(made[:2]):
        levels = keep(source, model, tmp_path).levels
        assert levels is not None
        os.utime(levels.parent, (1000 + age, 1000 + age))
    (tmp_path / "gguf" / "x.tmp-1").mkdir()
    assert find_conversion(made[0][0], tmp_path) is not None, "which is its use"
    held = sum(file.stat().st_size for file in (tmp_path / "gguf").rglob("*"))
    monkeypatch.setattr(conversions, "MAX_BYTES", held)
    keep(*made[2], tmp_path)
    assert [find_conversion(source, tmp_path) is not None for source, _ in made] == [True, False, True]
    assert not list((tmp_path / "gguf").glob("*.tmp-*"))


@pytest.mark.parametrize("obstacle", ["the limit", "the disk", "a file", "no levels"])
def test_where_it_cannot_be_kept_the_file_is_read_at_each_start(
    obstacle: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    source, model = of_gguf(tmp_path / "a.gguf")
    if obstacle == "the limit":
        monkeypatch.setattr(conversions, "MAX_BYTES", 1000)
    elif obstacle == "the disk":
        usage = SimpleNamespace(free=conversions.FREE_BYTES)
        monkeypatch.setattr("shutil.disk_usage", lambda _: usage)
    elif obstacle == "a file":
        (tmp_path / "gguf").write_text("")
    else:
        model = model.float()
        for layer in linear_layers(model).values():
            layer.weight.data += 1
    assert keep(source, model, tmp_path) == source
    assert find_conversion(source, tmp_path) is None


@pytest.mark.exhaustive  # unpacks the whole default model: a minute
def test_the_default_models_file_given_by_its_path(tmp_path: Path) -> None:
    """It is the default model, tokenizer and sampling included, at the first start and the next."""
    package = embedded.find()
    assert package is not None

    def start(name: str, cache_dir: Path) -> LoadedModel:
        return load(ModelSpec(name, device_map="cpu", compile="off"), cache_dir, lambda _: None)

    def digest(one: LoadedModel) -> str:
        shape = probe_layout(one.model)
        assert shape is not None
        step = DecodeStep(one.model)
        return compiling.compiled_folder(step, KVCache.allocate(shape, 1, one.model.device), tmp_path).name

    default = start(DEFAULT_MODEL, AppSettings().cache_dir)
    text = "It's 2024, isn't it?\n\n\n42 and\t\t漢字 x<=y"
    facts, digests = [], []
    for _ in range(2):
        one = start(str(package), tmp_path)
        facts.append((one.info.source, one.info.notes, one.info.precision, one.info.template, one.stop_ids))
        assert one.info.revision == default.info.revision
        assert one.info.defaults == default.info.defaults
        assert one.tokenizer.encode(text) == default.tokenizer.encode(text)
        assert one.tokenizer.chat_template == default.tokenizer.chat_template
        own, others = one.model.state_dict(), default.model.state_dict()
        assert own.keys() == others.keys()
        assert all(torch.equal(own[name], others[name]) for name in own)
        digests.append(digest(one))
        del one
    assert facts[0] == facts[1]
    assert digests[0] == digests[1], "so what was compiled is found"
