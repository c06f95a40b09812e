"""What is no model is told for what it is, and nobody is told to delete what is whole."""

from pathlib import Path

import gguf
import pytest
from transformers import AutoModel, AutoModelForSequenceClassification

from chatui.engine.loading import loader
from chatui.errors import ModelError
from chatui.model_spec import ModelSpec, display_name
from tests import models

POINTER = "version https://git-lfs.github.com/spec/v1\noid sha256:4d7a214614ab2935c943f9e0ff69d22e\nsize 12345\n"


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return models.save(tmp_path / "tiny")


def refusal(name: Path, cache: Path) -> str:
    """Why it is not loaded; never with the advice to delete it."""
    with pytest.raises(ModelError) as caught:
        loader.load(ModelSpec(str(name)), cache, lambda _: None)
    assert "Delete" not in str(caught.value)
    assert "damaged" not in str(caught.value)
    assert caught.value.remedy
    return str(caught.value)


def written(path: Path, architecture: str = "llama", **facts: object) -> Path:
    """A GGUF file of one tensor."""
    import numpy as np

    writer = gguf.GGUFWriter(path, architecture)
    for key, value in facts.items():
        name = key.replace("__", ".")
        if isinstance(value, int):
            writer.add_uint16(name, value)
        else:
            writer.add_string(name, str(value))
    writer.add_tensor("token_embd.weight", np.zeros((4, 32), dtype=np.float32))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return path


def test_a_part_of_a_split_file(tmp_path: Path) -> None:
    by_name = written(tmp_path / "big-00002-of-00003.gguf")
    assert "part 2 of 3" in refusal(by_name, tmp_path)
    by_facts = written(tmp_path / "renamed.gguf", split__count=4, split__no=0)
    message = refusal(by_facts, tmp_path)
    assert "part 1 of 4" in message
    assert "llama-gguf-split --merge" in message


@pytest.mark.parametrize(
    ("facts", "says"),
    [({"general__type": "adapter"}, "LoRA"), ({"general__type": "imatrix"}, "statistics")],
)
def test_gguf_files_of_other_kinds(tmp_path: Path, facts: dict[str, str], says: str) -> None:
    assert says in refusal(written(tmp_path / "x.gguf", **facts), tmp_path)


def test_the_part_of_a_model_that_sees_pictures(tmp_path: Path) -> None:
    assert "pictures" in refusal(written(tmp_path / "mmproj.gguf", "clip"), tmp_path)


def test_a_format_from_before_gguf(tmp_path: Path) -> None:
    (tmp_path / "old.gguf").write_bytes(b"tjgg" + bytes(100))
    assert "before GGUF" in refusal(tmp_path / "old.gguf", tmp_path)


@pytest.mark.parametrize("name", ["model.safetensors", "tokenizer.json", "config.json"])
def test_a_git_lfs_pointer_in_a_folder(folder: Path, tmp_path: Path, name: str) -> None:
    (folder / name).write_text(POINTER)
    message = refusal(folder, tmp_path)
    assert name in message
    assert "git lfs pull" in message


def test_a_git_lfs_pointer_for_a_gguf_file(tmp_path: Path) -> None:
    (tmp_path / "m.gguf").write_text(POINTER)
    assert "git lfs pull" in refusal(tmp_path / "m.gguf", tmp_path)


def test_a_web_page_saved_as_a_model(tmp_path: Path) -> None:
    (tmp_path / "m.gguf").write_text("<!DOCTYPE html><html>404</html>")
    assert "web page" in refusal(tmp_path / "m.gguf", tmp_path)


def test_a_reward_model(folder: Path, tmp_path: Path) -> None:
    AutoModelForSequenceClassification.from_config(models.CONFIGS["llama"]).save_pretrained(folder)
    assert "LlamaForSequenceClassification" in refusal(folder, tmp_path)


def test_a_model_without_an_output_layer(folder: Path, tmp_path: Path) -> None:
    AutoModel.from_config(models.CONFIGS["llama"]).save_pretrained(folder)
    assert "no output layer" in refusal(folder, tmp_path)


@pytest.mark.parametrize("marker", ["model_index.json", "modules.json"])
def test_folders_of_other_libraries(tmp_path: Path, marker: str) -> None:
    other = tmp_path / "other"
    other.mkdir()
    (other / marker).write_text("{}")
    assert "does not write text" in refusal(other, tmp_path)


def test_models_in_the_hubs_cache_have_their_repositorys_or_files_name(tmp_path: Path) -> None:
    cached = tmp_path / "models--owner--some-model"
    snapshot, blob = cached / "snapshots" / ("a" * 40), cached / "blobs" / ("b" * 64)
    snapshot.mkdir(parents=True)
    blob.parent.mkdir()
    blob.write_bytes(b"GGUF")
    link = snapshot / "model.Q4_K_M.gguf"
    link.symlink_to(blob)
    assert display_name(snapshot) == "owner/some-model"
    assert display_name(link) == display_name(blob) == "model.Q4_K_M.gguf"
    assert display_name(tmp_path / "models--owner--some-model") == "owner/some-model"


def test_other_models_have_the_name_that_they_were_given(tmp_path: Path) -> None:
    folder = tmp_path / "my-model"
    folder.mkdir()
    link = tmp_path / "link.gguf"
    link.symlink_to(folder / "file")
    assert display_name(folder) == display_name(folder / ".." / "my-model" / ".") == "my-model"
    assert display_name(link) == "link.gguf"


def load_error(name: Path, cache: Path) -> tuple[str, str]:
    """What is the matter and the remedy; never the advice to delete anything."""
    with pytest.raises(ModelError) as caught:
        loader.load(ModelSpec(str(name)), cache, lambda _: None)
    assert "Delete" not in str(caught.value)
    return str(caught.value), caught.value.remedy


def test_a_folder_of_gguf_files_tells_how_to_name_one(folder: Path, tmp_path: Path) -> None:
    for parent in (tmp_path / "only.gguf", folder):
        parent.mkdir(exist_ok=True)
        (parent / "model.safetensors").unlink(missing_ok=True)
        for name in ("b-Q8_0.gguf", "a-Q4_0.GGUF"):
            written(parent / name)
        message, remedy = load_error(parent, tmp_path)
        assert "a-Q4_0.GGUF, b-Q8_0.gguf" in message
        assert str(parent / "a-Q4_0.GGUF") in remedy


def test_a_folder_with_the_model_inside_tells_where(folder: Path, tmp_path: Path) -> None:
    snapshot = tmp_path / "hub" / "models--owner--name" / "snapshots" / ("a" * 40)
    snapshot.parent.mkdir(parents=True)
    folder.rename(snapshot)
    for outer in (*snapshot.parents[:3],):
        message, remedy = load_error(outer, tmp_path)
        assert "there is one in it" in message
        assert str(snapshot) in remedy


@pytest.mark.parametrize(
    ("file", "says"),
    [
        ("model.safetensors.incomplete", "not downloaded to its end"),
        ("model.safetensors.crdownload", "not downloaded to its end"),
        ("model-00001-of-00003.safetensors", "model.safetensors.index.json is missing"),
        ("consolidated.safetensors", "consolidated.safetensors, where transformers does not look"),
        ("weights.safetensors", "weights.safetensors, where transformers does not look"),
    ],
)
def test_weights_under_other_names(folder: Path, tmp_path: Path, file: str, says: str) -> None:
    (folder / "model.safetensors").rename(folder / file)
    assert says in load_error(folder, tmp_path)[0]


@pytest.mark.parametrize("name", ["model.safetensors", "config.json", "tokenizer.json"])
def test_a_link_to_what_is_not_there(folder: Path, tmp_path: Path, name: str) -> None:
    (folder / name).unlink()
    (folder / name).symlink_to("../../blobs/gone")
    assert f"{name} is missing or unfinished" in load_error(folder, tmp_path)[0]


@pytest.mark.parametrize("name", ["config.json", "tokenizer.json"])
def test_a_web_page_saved_as_a_file_of_a_model(folder: Path, tmp_path: Path, name: str) -> None:
    (folder / name).write_text("<!DOCTYPE html><html>404</html>")
    assert f"{name} is a web page" in refusal(folder, tmp_path)


def test_a_folder_may_be_called_like_a_file(folder: Path, tmp_path: Path) -> None:
    odd = folder.rename(tmp_path / "mödel 1.gguf")
    assert loader.load(ModelSpec(f"{odd}/"), tmp_path, lambda _: None).info.name == "mödel 1.gguf"
