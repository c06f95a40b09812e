"""What is found out about a model, and one clear error for every model that cannot be used."""

import errno
import hashlib
import json
import shutil
import sys
import warnings
from collections.abc import Callable
from itertools import islice
from pathlib import Path
from typing import Any, NoReturn

import psutil
import pytest
import safetensors.torch
import torch
from huggingface_hub import constants, errors
from huggingface_hub.utils import httpx  # httpx or httpx2, whose errors it raises
from safetensors import SafetensorError
from transformers import (
    AutoModelForCausalLM,
    AutoModelForMaskedLM,
    AutoModelForSeq2SeqLM,
    BartConfig,
    BertConfig,
    GenerationConfig,
    LlamaConfig,
    PretrainedConfig,
    T5Config,
)

from chatui.engine import outline
from chatui.engine.loading import embedded, load_arguments, loader, model_files, weights
from chatui.engine.loading.failures import to_model_error
from chatui.engine.loading.loaded_model import LoadedModel
from chatui.engine.runners.serial_runner import generate_ids
from chatui.engine.sampling.sampler import Sampler
from chatui.errors import ModelError
from chatui.generation_settings import GenerationSettings
from chatui.model_spec import ModelSpec
from chatui.settings import DEFAULT_MODEL, AppSettings
from chatui.stored_tensors import weight_bytes
from tests import models

Change = Callable[[Path], object]


@pytest.fixture(scope="session")
def good(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return models.save(tmp_path_factory.mktemp("good"))


@pytest.fixture
def folder(good: Path, tmp_path: Path) -> Path:
    """A copy that a test may spoil."""
    return Path(shutil.copytree(good, tmp_path / "tiny"))


def load(name: object, **spec: Any) -> LoadedModel:
    return loader.load(ModelSpec(str(name), **spec), AppSettings().cache_dir, lambda _: None)


def failure(name: object, **spec: Any) -> str:
    """The message of the ModelError, which always has a remedy."""
    with pytest.raises(ModelError) as caught:
        load(name, **spec)
    assert caught.value.remedy
    assert "\n" not in str(caught.value)
    return str(caught.value)


def change_json(path: Path, **values: Any) -> None:
    path.write_text(json.dumps({**json.loads(path.read_text()), **values}))


def set_config(**values: Any) -> Change:
    return lambda folder: change_json(folder / "config.json", **values)


def remove(*names: str) -> Change:
    def change(folder: Path) -> None:
        for name in names:
            (folder / name).unlink()

    return change


def write(name: str, content: bytes) -> Change:
    return lambda folder: (folder / name).write_bytes(content)


def sentencepiece_only(folder: Path) -> None:
    (folder / "tokenizer.json").rename(folder / "tokenizer.model")


def cut_off(folder: Path) -> None:
    path = folder / "model.safetensors"
    path.write_bytes(path.read_bytes()[:-100])


def without_a_tensor(folder: Path) -> None:
    path = folder / "model.safetensors"
    tensors = safetensors.torch.load_file(path)
    del tensors["model.layers.1.mlp.up_proj.weight"]
    safetensors.torch.save_file(tensors, path, metadata={"format": "pt"})


def without_a_shard(folder: Path) -> None:
    path = folder / "model.safetensors"
    names = list(safetensors.torch.load_file(path))
    first, second = "model-00001-of-00002.safetensors", "model-00002-of-00002.safetensors"
    path.rename(folder / first)
    weight_map = {name: second if number == 0 else first for number, name in enumerate(names)}
    (folder / "model.safetensors.index.json").write_text(json.dumps({"metadata": {}, "weight_map": weight_map}))


def pickled(folder: Path) -> None:
    remove("model.safetensors")(folder)
    torch.save({}, folder / "pytorch_model.bin")


def replaced_by(make: Callable[[PretrainedConfig], Any], config: PretrainedConfig) -> Change:
    return lambda folder: make(config).save_pretrained(folder)


BERT = BertConfig(vocab_size=265, hidden_size=32, num_hidden_layers=1, num_attention_heads=2, intermediate_size=32)
T5 = T5Config(vocab_size=265, d_model=32, d_ff=32, num_layers=1, num_heads=2, d_kv=8)
BART = BartConfig(
    vocab_size=265,
    d_model=32,
    encoder_layers=1,
    decoder_layers=1,
    encoder_attention_heads=2,
    decoder_attention_heads=2,
    encoder_ffn_dim=32,
    decoder_ffn_dim=32,
)

BAD_FOLDERS: dict[str, tuple[Change, str]] = {
    "no config": (remove("config.json"), "config.json is missing"),
    "config not JSON": (write("config.json", b'{"a":'), "is damaged"),
    "config not an object": (write("config.json", b"[]"), "is of a kind that transformers"),
    "unknown kind": (set_config(model_type="zorp"), "is of a kind that transformers"),
    "no tokenizer": (remove("tokenizer.json", "tokenizer_config.json"), "tokenizer of"),
    "no tokenizer.json": (remove("tokenizer.json"), "tokenizer of"),
    "empty tokenizer.json": (write("tokenizer.json", b"{}"), "tokenizer of"),
    "cut off tokenizer.json": (write("tokenizer.json", b'{"version": "1.0", "mod'), "tokenizer of"),
    "tokenizer_config not JSON": (write("tokenizer_config.json", b"{"), "tokenizer of"),
    "tokenizer.model without its package": (sentencepiece_only, "tokenizer.model could not be converted"),
    "no template": (remove("chat_template.jinja"), "no chat template"),
    "template with a syntax error": (write("chat_template.jinja", b"{% for %}"), "chat template does not work"),
    "pickled weights": (pickled, "only pickled ones, which could run code"),
    "no weights": (remove("model.safetensors"), "no weights in safetensors format"),
    "cut off weights": (cut_off, "model.safetensors is incomplete or damaged"),
    "garbage for weights": (write("model.safetensors", b"\xff" * 1000), "model.safetensors is incomplete or damaged"),
    "empty weights": (write("model.safetensors", b""), "model.safetensors is incomplete or damaged"),
    "a tensor missing": (without_a_tensor, "1 tensors are missing"),
    "a shard missing": (without_a_shard, r"model-00002-of-00002.safetensors is missing"),
    "other shapes": (set_config(hidden_size=64), "other shapes"),
    "BERT": (replaced_by(AutoModelForMaskedLM.from_config, BERT), "of the kind bert"),
    "T5": (replaced_by(AutoModelForSeq2SeqLM.from_config, T5), "of the kind t5"),
    "BART": (replaced_by(AutoModelForSeq2SeqLM.from_config, BART), "of the kind bart"),
}


@pytest.mark.parametrize("case", BAD_FOLDERS)
def test_bad_folders(folder: Path, case: str) -> None:
    spoil, says = BAD_FOLDERS[case]
    spoil(folder)
    message = failure(folder)
    assert says in message
    assert "Hub" not in message or case == "no config", "a folder's fault is no fault of the network"


@pytest.mark.parametrize(
    ("file", "written"),
    [
        ("own.jinja", models.CHATML.encode()),
        ("own.jinja", b"\xef\xbb\xbf" + models.CHATML.encode()),
        ("tokenizer_config.json", json.dumps({"chat_template": models.CHATML}).encode()),
    ],
)
def test_the_operators_chat_template_takes_the_place_of_the_models(
    folder: Path, tmp_path: Path, file: str, written: bytes
) -> None:
    remove("chat_template.jinja")(folder)
    own = tmp_path / file
    own.write_bytes(written)
    info = load(folder, chat_template=own).info
    assert info.template is not None
    assert info.template.text == models.CHATML
    assert info.template.replaced


@pytest.mark.parametrize(
    ("names", "replaced"),
    [(("default", "tool_use"), False), (("chat", "rag"), True), (("rag",), True)],
)
def test_of_several_templates_the_one_for_chats_is_taken(folder: Path, names: tuple[str, ...], replaced: bool) -> None:
    remove("chat_template.jinja")(folder)
    texts = [models.CHATML, *("{{ messages[-1].content }}" for _ in names[1:])]
    several = [{"name": name, "template": text} for name, text in zip(names, texts, strict=True)]
    change_json(folder / "tokenizer_config.json", chat_template=several)
    template = load(folder).info.template
    assert template is not None
    assert (template.text, template.replaced) == (models.CHATML, replaced)


def test_of_several_templates_none_is_guessed(folder: Path) -> None:
    remove("chat_template.jinja")(folder)
    several = [{"name": name, "template": models.CHATML} for name in ("rag", "tool_use")]
    change_json(folder / "tokenizer_config.json", chat_template=several)
    assert "multiple chat templates" in failure(folder)


def test_a_template_that_only_the_processor_has_is_taken(folder: Path) -> None:
    (folder / "chat_template.jinja").unlink()
    (folder / "chat_template.json").write_text(json.dumps({"chat_template": models.CHATML}))
    template = load(folder).info.template
    assert template is not None
    assert (template.text, template.replaced) == (models.CHATML, True)


@pytest.mark.parametrize(
    ("file", "written", "says"),
    [
        ("own.jinja", None, "cannot be read"),
        ("own.jinja", b"\xff\xfe", "not UTF-8"),
        ("own.jinja", b" \n", "is empty"),
        ("own.jinja", b"{% for %}", "does not work"),
        ("own.json", b"[]", "holds no chat_template"),
        ("own.json", b"{", "holds no chat_template"),
    ],
)
def test_a_chat_template_that_cannot_be_used(
    folder: Path, tmp_path: Path, file: str, written: bytes | None, says: str
) -> None:
    own = tmp_path / file
    if written is not None:
        own.write_bytes(written)
    assert says in failure(folder, chat_template=own)


@pytest.mark.parametrize(
    ("name", "says"),
    [
        ("/no/such/folder", "There is no model folder"),
        ("./nowhere", "There is no model folder"),
        ("~nobody/nowhere", "There is no model folder"),
        ("nowhere.gguf", "There is no file nowhere.gguf"),
        ("some-owner/some-model", "not on this computer, and the Hub cannot be reached"),
        ("a b//c", "neither a folder here nor a name that the Hub allows"),
        ("a/" + "b" * 100, "neither a folder here nor a name that the Hub allows"),
        ("x" * 300, "File name too long"),
        ("\0", "neither a folder here nor a name that the Hub allows"),
    ],
)
def test_bad_names(name: str, says: str) -> None:
    assert says in failure(name)


def test_a_file_that_is_no_gguf(folder: Path) -> None:
    assert "not in GGUF format" in failure(folder / "model.safetensors")


@pytest.mark.parametrize("content", [b"", b"garbage" * 100, b"GGUF\x03\0\0\0" + b"\0" * 8, b"GGUF" + b"\xff" * 60])
def test_bad_gguf_files(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "model.gguf").write_bytes(content)
    assert "model.gguf is incomplete or damaged" in failure(tmp_path / "model.gguf")


def test_a_gguf_file_cannot_be_quantized_again(tmp_path: Path) -> None:
    (tmp_path / "model.gguf").write_bytes(b"")
    assert "quantized already" in failure(tmp_path / "model.gguf", quantization="4bit")


@pytest.mark.parametrize(("model_type", "loads"), [("evil", False), ("llama", True)])
def test_code_in_a_model_is_not_run(folder: Path, tmp_path: Path, model_type: str, loads: bool) -> None:
    (folder / "evil.py").write_text(
        f"open({str(tmp_path / 'ran')!r}, 'w')\n"
        "from transformers import LlamaConfig, LlamaForCausalLM\n"
        "class EvilConfig(LlamaConfig):\n    model_type = 'evil'\n"
        "class EvilModel(LlamaForCausalLM):\n    config_class = EvilConfig\n"
    )
    change_json(
        folder / "config.json",
        model_type=model_type,
        auto_map={"AutoConfig": "evil.EvilConfig", "AutoModelForCausalLM": "evil.EvilModel"},
    )
    if loads:
        assert type(load(folder).model).__name__ == "LlamaForCausalLM"
    else:
        message = failure(folder)
        assert "brings Python code of its own" in message
        assert "--trust-remote-code" in message
    assert not (tmp_path / "ran").exists()


def test_code_in_a_model_runs_where_the_operator_trusts_it(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("transformers.dynamic_module_utils.HF_MODULES_CACHE", str(tmp_path / "modules"))
    monkeypatch.setattr(sys, "path", [*sys.path])
    (folder / "own.py").write_text(
        "from transformers import LlamaConfig, LlamaForCausalLM\n"
        "class OwnConfig(LlamaConfig):\n    model_type = 'own'\n"
        "class OwnModel(LlamaForCausalLM):\n    config_class = OwnConfig\n"
    )
    change_json(
        folder / "config.json",
        model_type="own",
        auto_map={"AutoConfig": "own.OwnConfig", "AutoModelForCausalLM": "own.OwnModel"},
    )
    assert type(load(folder, trust_remote_code=True).model).__name__ == "OwnModel"


class TestMemory:
    def test_too_big(self, good: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(weights, "free_memory", lambda device_map: 100_000)
        message = failure(good)
        assert "needs 130 kB of memory for its weights; 100 kB are free" in message
        assert "--quantization int4 (about 65 kB)" in message

    def test_far_too_big(self, good: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(weights, "free_memory", lambda device_map: 10)
        assert "Choose a smaller model." in failure(good)

    def test_the_config_says_how_wide_the_weights_will_be(self, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(weights, "free_memory", lambda device_map: 100_000)
        set_config(dtype="bfloat16")(folder)
        assert load(folder).model.dtype == torch.bfloat16

    def test_cached_files_in_a_container_count_as_free(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(weights, "CGROUP", tmp_path)
        before = weights.free_memory("cpu")
        for name, content in {
            "memory.max": "1000\n",
            "memory.current": "900\n",
            "memory.stat": "anon 200\ninactive_file 500\nactive_file 100\n",
        }.items():
            (tmp_path / name).write_text(content)
        assert weights.free_memory("cpu") == 700
        (tmp_path / "memory.max").write_text("max\n")
        monkeypatch.setattr(psutil, "virtual_memory", lambda: type("Memory", (), {"available": 12345}))
        assert weights.free_memory("cpu") == 12345
        assert before > 0


def response(status: int) -> Any:
    return httpx.Response(status, request=httpx.Request("GET", "https://huggingface.co/api/models/a/b"))


def caused_by(error: Exception, cause: Exception) -> Exception:
    error.__cause__ = cause
    return error


@pytest.mark.parametrize(
    ("error", "says"),
    [
        (errors.GatedRepoError("no", response=response(403)), "gated: its authors"),
        (errors.RepositoryNotFoundError("no", response=response(404)), "no model 'a/b' on the Hub, or it is private"),
        (errors.RevisionNotFoundError("no", response=response(404)), "has no revision 'v9'"),
        (errors.HfHubHTTPError("no", response=response(401)), "does not let you read a/b (HTTP 401)"),
        (errors.HfHubHTTPError("no", response=response(403)), "does not let you read a/b (HTTP 403)"),
        (errors.HfHubHTTPError("no", response=response(503)), "could not deliver a/b (HTTP 503)"),
        (
            caused_by(errors.LocalEntryNotFoundError("no"), errors.HfHubHTTPError("no", response=response(429))),
            "could not deliver a/b (HTTP 429)",
        ),
        (errors.LocalEntryNotFoundError("no"), "a/b (revision v9) is not on this computer"),
        (errors.OfflineModeIsEnabled("no"), "the Hub cannot be reached"),
        (httpx.ConnectError("no"), "the Hub cannot be reached"),
        (httpx.ReadTimeout("no"), "the Hub cannot be reached"),
        (errors.IncompleteSnapshotError("no", snapshot_path="x"), "downloaded in part only"),
        (OSError(errno.ENOSPC, "No space left on device"), "disk is full"),
        (RuntimeError("IO error: No space left on device (os error 28)"), "disk is full"),
        (PermissionError(errno.EACCES, "Permission denied", "config.json"), "Permission denied (config.json)"),
        (MemoryError(), "not enough memory"),
        (torch.OutOfMemoryError("CUDA out of memory"), "not enough memory"),
        (RuntimeError("DefaultCPUAllocator: can't allocate memory: you tried"), "not enough memory"),
        (
            ImportError("bitsandbytes is missing\nmore"),
            "needs a package that is not installed: bitsandbytes is missing",
        ),
        (SafetensorError("header too small"), "incomplete or damaged (header too small)"),
    ],
)
def test_what_the_libraries_raise(error: Exception, says: str, monkeypatch: pytest.MonkeyPatch) -> None:
    def download(*_: object, **__: object) -> NoReturn:
        raise error

    monkeypatch.setattr(model_files, "snapshot_download", download)
    assert says in failure("a/b", revision="v9")


def test_a_full_disk_names_the_folder_that_is_full() -> None:
    assert constants.HF_HOME in to_model_error(ModelSpec("a/b"), OSError(errno.ENOSPC, "full")).remedy


def test_the_unknown_is_logged(caplog: pytest.LogCaptureFixture) -> None:
    error = to_model_error(ModelSpec("a/b"), ZeroDivisionError("surprise\nand more"))
    assert error.message == "a/b could not be loaded: surprise."
    assert "console" in error.remedy
    assert "ZeroDivisionError" in caplog.text


def test_without_package_and_hub_the_default_model_says_how_to_get_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(embedded, "find", lambda: None)
    assert embedded.INSTALL in failure(DEFAULT_MODEL)


def test_a_revision_of_the_default_model_comes_from_the_hub() -> None:
    assert "(revision v9) is not on this computer" in failure(DEFAULT_MODEL, revision="v9")


def test_the_revision_is_that_of_the_hub_or_of_a_gguf_file(
    good: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert load(good).info.revision == ""
    commit = "0123456789abcdef0123456789abcdef01234567"
    snapshot = shutil.copytree(good, tmp_path / "snapshots" / commit)
    monkeypatch.setattr(model_files, "snapshot_download", lambda *_, **__: str(snapshot))
    assert load("a/b", revision="main").info.revision == commit
    package = tmp_path / "model.gguf"
    package.write_bytes(b"GGUF and more")
    monkeypatch.setattr(embedded, "find", lambda: package)
    monkeypatch.setattr(embedded, "converted", lambda *_: good)
    digest = hashlib.sha256(b"GGUF and more").hexdigest()
    assert load(DEFAULT_MODEL, quantization="none").info.revision == f"sha256:{digest[:12]}"


def checkpoint(folder: Path, dtype: torch.dtype) -> Path:
    """A model whose layers fit the kernels, in files of this type."""
    sizes = {**models.SMALL, "hidden_size": 64, "intermediate_size": 128, "head_dim": 16}
    models.save(folder)
    model = AutoModelForCausalLM.from_config(LlamaConfig(**sizes), dtype=dtype)
    model.save_pretrained(folder)
    return folder


def test_a_float16_checkpoint_is_held_in_bfloat16_on_the_cpu_unless_asked_otherwise(tmp_path: Path) -> None:
    folder = checkpoint(tmp_path, torch.float16)
    auto, kept = load(folder), load(folder, dtype="float16")
    assert (auto.info.precision, auto.model.dtype) == ("bfloat16", torch.bfloat16)
    assert ["float16 weights" in note for note in auto.info.notes] == [True]
    assert (kept.info.precision, kept.info.notes) == ("float16", ())
    predicted = outline.outline(ModelSpec(str(folder), device_map="cpu"))
    assert (predicted.asked, predicted.notes) == ("bfloat16", auto.info.notes)
    assert load(checkpoint(tmp_path / "b", torch.bfloat16)).info.notes == ()


def test_the_default_model_is_int4_from_the_hub_as_well(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = checkpoint(tmp_path, torch.bfloat16)
    monkeypatch.setattr(load_arguments, "DEFAULT_MODEL", str(folder))
    auto = load(folder)
    assert auto.info.precision == "int4"
    assert ["rounded to int4" in note for note in auto.info.notes] == [True]
    predicted = outline.outline(ModelSpec(str(folder), device_map="cpu"))
    assert (predicted.asked, predicted.notes) == ("int4", auto.info.notes)
    for asked in ({"dtype": "bfloat16"}, {"quantization": "none"}):
        loaded = load(folder, **asked)
        assert (loaded.info.precision, loaded.info.notes) == ("bfloat16", ())


@pytest.mark.parametrize("device_map", ["cuda", "cuda:1"])
def test_a_device_that_is_not_there(good: Path, device_map: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.accelerator, "is_available", lambda: False)
    assert f"finds no {device_map} device" in failure(good, device_map=device_map)


def test_a_device_map_that_means_nothing(good: Path) -> None:
    assert "device" in failure(good, device_map="elsewhere")


@pytest.mark.parametrize("dtype", ["float32", "bfloat16", "float16"])
def test_every_dtype_decodes(good: Path, dtype: str) -> None:
    loaded = load(good, dtype=dtype)
    assert loaded.info.precision == dtype
    assert loaded.model.dtype == getattr(torch, dtype)
    assert loaded.info.weight_bytes == loaded.info.parameters * loaded.model.dtype.itemsize + BUFFERS
    assert len(tokens(loaded)) == 3


@pytest.mark.parametrize(
    ("spec", "says"),
    [
        ({"quantization": "int4", "dtype": "float32"}, "int4 works in bfloat16, not in float32"),
        ({"quantization": "int8", "dtype": "float16"}, "int8 works in bfloat16, not in float16"),
    ],
)
def test_packed_weights_are_bfloat16(good: Path, spec: dict[str, Any], says: str) -> None:
    assert says in failure(good, **spec)


def test_packed_weights_are_for_the_cpu(good: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.accelerator, "is_available", lambda: True)
    with pytest.raises(ModelError, match="int4 is for the CPU only") as caught:
        load(good, quantization="int4")
    assert "--quantization 4bit" in caught.value.remedy


@pytest.mark.parametrize("quantization", ["int8", "int4"])
def test_packed_models_decode_and_say_what_they_hold(
    good: Path, quantization: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    predicted: list[int] = []

    def count(*arguments: Any) -> int:
        predicted.append(weight_bytes(*arguments))
        return predicted[-1]

    monkeypatch.setattr(weights, "weight_bytes", count)
    info = (loaded := load(good, quantization=quantization)).info
    assert info.precision == quantization
    assert info.parameters == models.model("llama").num_parameters()
    assert info.weight_bytes == pytest.approx(predicted[0], rel=0.1)
    assert len(tokens(loaded)) == 3


@pytest.mark.parametrize("quantization", ["8bit", "4bit"])
def test_quantized_models_decode_without_noise(
    tmp_path: Path, quantization: str, capfd: pytest.CaptureFixture[str]
) -> None:
    # bitsandbytes' kernel for CPUs with AVX-512 wants widths that its blocks of 64 divide.
    config = LlamaConfig(**{**models.SMALL, "hidden_size": 64, "intermediate_size": 128, "head_dim": 16})
    AutoModelForCausalLM.from_config(config).save_pretrained(tmp_path)
    models.tokenizer().save_pretrained(tmp_path)
    with warnings.catch_warnings(record=True) as caught:
        loaded = load(tmp_path, quantization=quantization)
        assert loaded.model.is_quantized
        assert loaded.info.precision == f"{quantization} bitsandbytes"
        capfd.readouterr()
        assert len(tokens(loaded)) == 3
    noise = capfd.readouterr()
    assert noise.out + noise.err == ""
    assert [str(warning.message) for warning in caught if "bitsandbytes" in warning.filename] == []


# Two float32 buffers of the rotary embedding, with a number for each pair of the head's 8 dimensions.
BUFFERS = 2 * 4 * 4


def tokens(loaded: LoadedModel) -> list[int]:
    return list(islice(generate_ids(loaded.model, [1, 2, 3], Sampler(GenerationSettings(), 0)), 3))


def test_what_is_known_about_a_model(good: Path) -> None:
    phases: list[str] = []
    loaded = loader.load(ModelSpec(str(good)), AppSettings().cache_dir, phases.append)
    assert phases == ["reading the tokenizer", "building the kernels", "loading the weights"]
    info = loaded.info
    assert (info.name, info.precision, info.device, info.context_length) == (good.name, "float32", "cpu", 512)
    assert info.parameters == models.model("llama").num_parameters()
    assert info.notes == ()
    assert not loaded.model.training


def test_the_name_of_the_folder_one_stands_in(good: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(good)
    assert load(".").info.name == good.name


def test_defaults_are_the_models_own(folder: Path) -> None:
    GenerationConfig(do_sample=True, temperature=0.6, top_k=20, repetition_penalty=1.1).save_pretrained(folder)
    defaults = load(folder).info.defaults
    assert (defaults.temperature, defaults.top_k, defaults.repetition_penalty) == (0.6, 20, 1.1)


def test_what_the_operator_sets_replaces_the_models_own_defaults(folder: Path) -> None:
    GenerationConfig(do_sample=True, temperature=0.6, top_k=20, repetition_penalty=1.1).save_pretrained(folder)
    defaults = load(folder, generation=GenerationSettings(top_k=0, repetition_penalty=1.0)).info.defaults
    assert (defaults.temperature, defaults.top_k, defaults.repetition_penalty) == (0.6, 0, 1.0)


def test_stop_ids_come_from_everywhere(folder: Path) -> None:
    set_config(eos_token_id=11)(folder)
    GenerationConfig(eos_token_id=[12, 13]).save_pretrained(folder)
    change_json(folder / "tokenizer_config.json", eos_token="<|endoftext|>")
    loaded = load(folder)
    of_tokenizer = loaded.tokenizer.convert_tokens_to_ids(["<|endoftext|>", "<|im_end|>"])
    assert isinstance(of_tokenizer, list)
    assert loaded.stop_ids == {11, 12, 13, *of_tokenizer}


def test_special_tokens_are_hidden_but_thinking_tags_are_not(folder: Path) -> None:
    loaded = load(folder)
    ids = loaded.tokenizer.encode("<think>a</think><|im_end|>b", add_special_tokens=False)
    assert loaded.decode(ids) == "<think>a</think>b"


@pytest.mark.parametrize("kind", ["qwen3", "gemma3", "mamba2", "lfm2"])
def test_other_kinds_load(tmp_path: Path, kind: str) -> None:
    loaded = models.loaded(models.save(tmp_path, kind))
    assert type(loaded.model) is type(models.model(kind))


def test_a_gguf_style_folder_in_shards_loads(folder: Path) -> None:
    AutoModelForCausalLM.from_pretrained(folder).save_pretrained(folder, max_shard_size="40KB")
    (folder / "model.safetensors").unlink()
    assert len(list(folder.glob("*.safetensors"))) > 1
    assert load(folder).info.parameters == models.model("llama").num_parameters()


@pytest.mark.parametrize(
    ("config", "longest", "expected"),
    [
        ({"max_position_embeddings": 2048}, 10**30, 2048),
        ({"n_positions": 1024}, 512, 1024),
        ({"max_seq_len": 4096}, 10**30, 4096),
        ({"max_position_embeddings": None, "seq_length": 64}, 10**30, 64),
        ({"max_position_embeddings": -1}, 512, 512),
        ({}, 10**30, 8192),
        ({}, 77, 77),
    ],
)
def test_context_length(config: dict[str, Any], longest: int, expected: int) -> None:
    tokenizer = models.tokenizer(model_max_length=longest)
    assert load_arguments.context_length(type("Config", (), config)(), tokenizer) == expected
