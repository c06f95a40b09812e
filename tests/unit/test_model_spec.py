"""Which models the settings name, and how they are told apart from other programs' names."""

from pathlib import Path

import pytest

from chatui.engine.loading import model_files
from chatui.errors import ModelError, SettingsError
from chatui.model_spec import ModelSpec, check_name, parse_model_name
from chatui.settings import AppSettings


def test_a_spec_takes_every_model_setting() -> None:
    settings = AppSettings(
        model=("a/b",), revision="r", dtype="float16", device_map="cpu", quantization="8bit", trust_remote_code=True
    )
    assert ModelSpec.from_settings(settings) == ModelSpec("a/b", "r", "float16", "cpu", "8bit", True)


def test_the_models_of_the_folder_come_after_those_that_are_named(tmp_path: Path) -> None:
    for name in ("b", "a", "no-model"):
        (tmp_path / name).mkdir()
    for name in ("a/config.json", "b/config.json", "c.gguf", "notes.txt"):
        (tmp_path / name).touch()
    settings = AppSettings(model=("x/y", str(tmp_path / "b")), models_dir=tmp_path, revision="r")
    specs = ModelSpec.all_from_settings(settings)
    assert [spec.name for spec in specs] == ["x/y", *(str(tmp_path / name) for name in ("b", "a", "c.gguf"))]
    assert [spec.revision for spec in specs] == ["r", None, None, None]
    with pytest.raises(SettingsError, match=r"models_dir: .*missing cannot be read"):
        ModelSpec.all_from_settings(AppSettings(models_dir=tmp_path / "missing"))


@pytest.mark.parametrize(
    ("given", "name", "revision"),
    [
        ("owner/name", "owner/name", None),
        ("owner/name/", "owner/name", None),
        ("https://huggingface.co/owner/name", "owner/name", None),
        ("https://huggingface.co/owner/name/?library=transformers#use", "owner/name", None),
        ("http://www.huggingface.co/owner/na.me/tree/v1.0", "owner/na.me", "v1.0"),
        ("huggingface.co/owner/name/tree/main/", "owner/name", "main"),
        ("hf.co/owner/name", "owner/name", None),
        ("file:///a%20b/model", "/a b/model", None),
        ("/srv/models/x/", "/srv/models/x/", None),
        ("gpt2", "gpt2", None),
    ],
)
def test_the_address_of_a_models_page_names_the_model(given: str, name: str, revision: str | None) -> None:
    assert parse_model_name(given) == (name, revision)
    spec = ModelSpec.from_settings(AppSettings(model=(given,)))
    assert (spec.name, spec.revision) == (name, revision)
    assert ModelSpec.from_settings(AppSettings(model=(given,), revision="mine")).revision == "mine"


@pytest.mark.parametrize(
    ("name", "says", "remedy"),
    [
        ("owner/name:Q4_K_M", "Ollama and llama.cpp", "hf download owner/name --include '*Q4_K_M*.gguf'"),
        ("hf.co/owner/name:Q8_0", "Ollama and llama.cpp", "hf download owner/name --include '*Q8_0*.gguf'"),
        ("llama3.2:3b", "Ollama's", "owner/name"),
        ("owner/name@v1.0", "with @", "--model owner/name --revision v1.0"),
        ("owner/name/x-Q4_0.gguf", "a file on the Hub", "hf download owner/name x-Q4_0.gguf"),
        ("https://huggingface.co/o/n/blob/main/sub/x.gguf", "a file on the Hub", "hf download o/n sub/x.gguf"),
        ("https://hf.co/o/n/resolve/main/x.gguf?download=true", "a file on the Hub", "hf download o/n x.gguf"),
        (r"C:\models\x", "no model folder", "path"),
    ],
)
def test_names_of_other_programs_are_told_with_what_to_say_instead(name: str, says: str, remedy: str) -> None:
    with pytest.raises(ModelError, match=says) as caught:
        check_name(name)
    assert remedy in caught.value.remedy
    with pytest.raises(ModelError, match=says):
        model_files.on_disk(ModelSpec(name))


@pytest.mark.parametrize("name", ["owner/name", "gpt2", "owner/some.name-1_2", "a b//c"])
def test_names_that_the_hub_may_know_are_asked_for_there(name: str) -> None:
    check_name(name)
