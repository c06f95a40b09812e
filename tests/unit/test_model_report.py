"""What `explain` says of models that are not loaded: folders, files, names on the Hub, and what is none of these."""

import json
import re
import shutil
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import gguf
import pytest
import torch
from huggingface_hub import errors
from huggingface_hub.utils import httpx  # httpx or httpx2, whose errors it raises
from transformers import AutoConfig

from chatui import cli, estimates, model_report
from chatui.engine import outline
from chatui.engine.loading import bandwidth, embedded, loader
from chatui.engine.loading.loaded_model import LoadedModel
from chatui.engine.runners import batch_runner
from chatui.engine.runners.open_model import open_model
from chatui.errors import ModelError
from chatui.estimates import ATTENTION_BLOCK
from chatui.model_spec import ModelSpec
from chatui.settings import DEFAULT_MODEL, AppSettings, Dtype, KvDtype, Quantization
from tests import models
from tests.configs import PUBLISHED

PRECISIONS = ("float32", "bfloat16", "int8", "int4")
GB = 10**9
REQUEST = httpx.Request("GET", "https://huggingface.co/api/models/owner/model")


@pytest.fixture(scope="module")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return models.save(tmp_path_factory.mktemp("tiny"))


@pytest.fixture
def llama(tmp_path: Path) -> Path:
    """A folder with nothing but the config of an 8B model."""
    folder = tmp_path / "Llama-3.1-8B"
    AutoConfig.for_model(**PUBLISHED["meta-llama/Llama-3.1-8B"].config, dtype="bfloat16").save_pretrained(folder)
    return folder


@pytest.fixture
def roomy(monkeypatch: pytest.MonkeyPatch) -> None:
    machine(monkeypatch, free=10**15)


def machine(monkeypatch: pytest.MonkeyPatch, free: int, speed: float = 40e9) -> None:
    monkeypatch.setattr(outline, "free_memory", lambda device_map: free)
    monkeypatch.setattr(bandwidth, "measure_bandwidth", lambda device, size: speed)


def explain(model: object, **settings: Any) -> str:
    text = model_report.report(AppSettings(model=(str(model),), **settings))
    assert max(map(len, text.splitlines())) <= max(100, len(str(model)))
    return text


def rows(text: str) -> dict[str, list[str]]:
    """The cells by precision, which is marked with a star where it is asked for."""
    found = re.findall(r"^(\w+(?: \*)?) {2,}(\S+ \wB) +(\S+ \w?B) +(\S+ \w?B) +(\S+ tokens/s) {3}(.*)$", text, re.M)
    return {name: cells for name, *cells in found}


def needed(loaded: LoadedModel) -> int:
    return sum(weight.nbytes for weight in loaded.model.parameters())


@pytest.mark.usefixtures("roomy")
def test_a_model_of_8b_parameters_of_which_only_the_config_is_there(llama: Path) -> None:
    text = explain(llama, slots=2)
    assert "Parameters  8,030,261,248 (8.03B)\n" in text
    assert "Layers      32\n" in text
    assert "Context     131,072 tokens\n" in text
    assert "K/V         131,072 bytes for each token in bfloat16" in text
    assert "There are no weights in safetensors format in this folder." in text
    assert rows(text) == {
        "float32": ["32.1 GB", "68.7 GB", "103.6 GB", "1.3 tokens/s", "all"],
        "bfloat16 *": ["16.1 GB", "34.4 GB", "51.8 GB", "2.7 tokens/s", "all"],
        "int8": ["9.5 GB", "34.4 GB", "45.2 GB", "4.7 tokens/s", "all"],
        "int4": ["6.0 GB", "34.4 GB", "41.7 GB", "8.1 tokens/s", "all"],
    }
    assert "Weights                16.1 GB = 8,030,261,248 parameters × 2 B\n" in text
    assert "Keys and values        34.4 GB = 2 conversations × 131,072 tokens × 131,072 B\n" in text
    assert "Ceiling           2.7 tokens/s = 40.0 GB/s ÷ 15.0 GB\n" in text


@pytest.mark.usefixtures("roomy")
def test_a_mixture_of_experts_says_what_one_token_uses(tmp_path: Path) -> None:
    AutoConfig.for_model(**PUBLISHED["mistralai/Mixtral-8x7B-v0.1"].config).save_pretrained(tmp_path)
    text = explain(tmp_path)
    assert "Parameters  46,702,792,704 (46.7B)\n" in text
    assert "Active      12,879,925,248 (12.9B) for each token\n" in text


@pytest.mark.usefixtures("roomy")
@pytest.mark.parametrize("kind", ["gemma3", "deepseek_v3", "mamba2", "lfm2", "llama4", "gpt2"])
def test_models_of_every_kind_whose_replies_share_steps_or_not(tmp_path: Path, kind: str) -> None:
    text = explain(models.save(tmp_path, kind))
    conversations = 1 if kind == "llama4" else 16
    assert f"Memory with {conversations} conversation" in text
    assert {name.removesuffix(" *") for name in rows(text)} == set(PRECISIONS)


@pytest.mark.parametrize(
    ("quantization", "kv_dtype"),
    [("none", "auto"), ("int8", "auto"), ("int4", "auto"), ("none", "int8"), ("int4", "int8")],
)
def test_the_figures_are_those_of_the_loaded_model(tiny: Path, quantization: Quantization, kv_dtype: KvDtype) -> None:
    spec = ModelSpec(str(tiny), dtype="auto", quantization=quantization, slots=3, kv_memory=500_000, kv_dtype=kv_dtype)
    found = outline.outline(spec)
    loaded = models.loaded(tiny, quantization=quantization)
    model = batch_runner.open_batch_runner(loaded, spec)
    assert model is not None
    known = found.anatomy_in(found.asked)
    assert model.info.anatomy is not None
    assert known.weights == model.info.anatomy.weights
    assert known.kv_per_token == model.info.anatomy.kv_per_token == model.batch.forward.cache.bytes_per_token
    assert (known.parameters, found.context_length) == (loaded.info.parameters, loaded.info.context_length)
    assert found.kv_capacity(found.asked) == (model.info.kv_tokens, model.info.context_length)
    assert found.stored == (tiny / "model.safetensors").stat().st_size


@pytest.mark.usefixtures("roomy")
def test_in_a_window_the_figures_are_those_of_the_loaded_model_too(tmp_path: Path) -> None:
    folder = models.save(tmp_path, "mistral_100")
    spec = ModelSpec(str(folder), slots=3, kv_memory=10**6)
    found, model = outline.outline(spec), batch_runner.open_batch_runner(models.loaded(folder), spec)
    assert model is not None
    assert found.kv_capacity(found.asked) == (model.info.kv_tokens, model.info.context_length) == (3 * 448, 2048)
    assert model.info.anatomy is not None
    taken = 3 * 448 * model.info.anatomy.kv_per_token
    assert found.needed_bytes() == found.anatomy.weights[found.asked] + taken
    text = explain(folder)
    assert "each token sees 100 at most, and others are not kept" in " ".join(text.split())
    assert "Context     2,048 tokens\n" in text
    assert "16 conversations × 448 tokens × 256 B" in text
    assert rows(text)["float32 *"][-1] == "all"


@pytest.mark.usefixtures("roomy")
@pytest.mark.parametrize("kv_dtype", ["auto", "int8"])
@pytest.mark.parametrize("kv_memory", [10**7, 400_000, 100_000])
def test_where_some_layers_have_a_window_too(tmp_path: Path, kv_memory: int, kv_dtype: KvDtype) -> None:
    folder = models.save(tmp_path, "gemma3_65")
    spec = ModelSpec(str(folder), slots=2, kv_memory=kv_memory, kv_dtype=kv_dtype)
    found, model = outline.outline(spec), batch_runner.open_batch_runner(models.loaded(folder), spec)
    assert model is not None
    info, cache = model.info, model.batch.forward.cache
    assert found.kv_capacity(found.asked) == (info.kv_tokens, info.context_length)
    known = found.anatomy_in(found.asked)
    assert cache.windowed is not None
    assert known.windowed is not None
    assert known.windowed.kv_per_token == cache.windowed.bytes_per_token
    assert info.windowed_tokens == ATTENTION_BLOCK * cache.windowed.blocks
    tokens = info.kv_tokens + ATTENTION_BLOCK, info.windowed_tokens + ATTENTION_BLOCK  # block 0 as well
    assert info.anatomy is not None
    predicted = estimates.kv_cache(info.anatomy, *tokens)
    assert predicted == estimates.kv_cache(known, *tokens)
    assert info.kv_bytes == predicted.value <= kv_memory
    text = " ".join(explain(folder).split())
    assert "are of layers that see 65 tokens at most, and keep no others" in text


@pytest.mark.usefixtures("roomy")
def test_the_type_of_keys_and_values_is_told(tiny: Path) -> None:
    assert "128 bytes for each token in bfloat16" in explain(tiny)
    # Two layers of two heads, whose 8 numbers have a scale of 2 bytes, for keys and for values.
    assert f"{2 * 2 * 2 * (8 + 2)} bytes for each token in int8" in explain(tiny, kv_dtype="int8")


@pytest.mark.usefixtures("roomy")
def test_weights_are_not_read(tiny: Path, tmp_path: Path) -> None:
    folder = Path(shutil.copytree(tiny, tmp_path / "holes"))
    path = folder / "model.safetensors"
    size, header = path.stat().st_size, path.read_bytes()[:8]
    length = 8 + int.from_bytes(header, "little")
    path.write_bytes(path.read_bytes()[:length])
    with path.open("r+b") as file:
        file.truncate(size)
    assert explain(folder).replace(str(folder), "") == explain(tiny).replace(str(tiny), "")


class TestGguf:
    @pytest.fixture
    def path(self, tmp_path: Path) -> Path:
        """A tiny one, of which the output layer is the table of embeddings."""
        path = tmp_path / "tiny.gguf"
        writer = gguf.GGUFWriter(path, "llama")
        writer.add_name("tiny")
        writer.add_context_length(512)
        writer.add_embedding_length(32)
        writer.add_block_count(1)
        writer.add_feed_forward_length(256)
        writer.add_head_count(4)
        writer.add_head_count_kv(2)
        writer.add_layer_norm_rms_eps(1e-5)
        writer.add_vocab_size(288)
        weights = {
            "token_embd.weight": (288, 32, "Q8_0"),
            **{f"blk.0.attn_{name}.weight": (rows, 32, "Q4_1") for name, rows in zip("qkv", (32, 16, 16), strict=True)},
            "blk.0.attn_output.weight": (32, 32, "Q4_1"),
            "blk.0.ffn_gate.weight": (256, 32, "Q4_1"),
            "blk.0.ffn_up.weight": (256, 32, "Q4_1"),
            "blk.0.ffn_down.weight": (32, 256, "Q4_1"),
        }
        for name, (rows, columns, kind) in weights.items():
            quantized = getattr(gguf.GGMLQuantizationType, kind)
            data = gguf.quants.quantize(torch.randn(rows, columns).numpy(), quantized)
            writer.add_tensor(name, data, raw_dtype=quantized)
        for name in ("blk.0.attn_norm", "blk.0.ffn_norm", "output_norm"):
            writer.add_tensor(f"{name}.weight", torch.ones(32).numpy())
        writer.write_header_to_file()
        writer.write_kv_data_to_file()
        writer.write_tensors_to_file()
        writer.close()
        return path

    # What is 4-bit levels, the table twice as such, dense numbers that are no matrix.
    MATRICES, TABLE, NORMS = 32 * (32 + 16 + 16 + 32 + 3 * 256), 288 * 32, 3 * 32

    def test_its_own_levels_are_a_precision(self, path: Path) -> None:
        found = outline.outline(ModelSpec(str(path)))
        assert found.asked == "Q4_1"
        assert found.anatomy.parameters == self.MATRICES + self.TABLE + self.NORMS
        levels = self.MATRICES * 5 // 8 + self.TABLE * 5 // 4 + self.NORMS * 2
        assert found.anatomy.read["Q4_1"] == levels
        assert found.anatomy.weights["Q4_1"] == levels + self.TABLE * 2
        assert found.anatomy.weights["bfloat16"] == found.anatomy.parameters * 2
        assert (found.stored, found.context_length) == (path.stat().st_size, 512)

    @pytest.mark.usefixtures("roomy")
    def test_they_are_advised_since_nothing_is_lost(self, path: Path) -> None:
        text = explain(path)
        assert list(rows(text))[-1] == "Q4_1 *"
        assert text.endswith("Advised: Q4_1, as the file has it, so that nothing is lost.")

    @pytest.mark.usefixtures("roomy")
    def test_the_default_model_is_what_its_package_has(self, path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(embedded, "find", lambda: path)
        monkeypatch.setattr(embedded, "converted", None)
        assert "Q4_1 *" in rows(explain(DEFAULT_MODEL))
        assert "int8 *" in rows(explain(DEFAULT_MODEL, quantization="int8"))
        assert "bfloat16 *" in rows(explain(DEFAULT_MODEL, quantization="none"))


@pytest.mark.real
@pytest.mark.skipif(embedded.find() is None, reason=f"needs the default model: {embedded.INSTALL}")
def test_the_default_model_takes_what_is_explained() -> None:
    found = outline.outline(ModelSpec(DEFAULT_MODEL, device_map="cpu"))
    info = loader.load(ModelSpec(DEFAULT_MODEL, device_map="cpu"), AppSettings().cache_dir, lambda _: None).info
    assert found.asked == info.precision == "Q4_1"
    assert found.anatomy.parameters == info.parameters == 134_515_008
    assert found.anatomy.weights["Q4_1"] == pytest.approx(info.weight_bytes, rel=0.001)
    assert found.anatomy.read["Q4_1"] == pytest.approx(info.read_bytes, rel=0.001)


class TestHub:
    """Names that are no folder: what the Hub is asked for, and what it may answer."""

    @pytest.fixture(autouse=True)
    def hub(self, tiny: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> SimpleNamespace:
        """A Hub that has the config and the headers of one model."""
        folder = tmp_path / "snapshots" / "0123"
        folder.mkdir(parents=True)
        shutil.copy(tiny / "config.json", folder)
        asked = SimpleNamespace(folder=folder, patterns=None, error=None, metadata_error=None)
        tensor = SimpleNamespace(data_offsets=(100, 1_000_100))

        def download(name: str, revision: str | None, allow_patterns: list[str]) -> str:
            asked.patterns = allow_patterns
            if asked.error:
                raise asked.error
            return str(folder)

        def metadata(name: str, revision: str | None) -> object:
            if asked.metadata_error:
                raise asked.metadata_error
            return SimpleNamespace(files_metadata={"a": SimpleNamespace(tensors={"x": tensor, "y": tensor})})

        monkeypatch.setattr(outline, "snapshot_download", download)
        monkeypatch.setattr(outline, "get_safetensors_metadata", metadata)
        return asked

    @pytest.mark.usefixtures("roomy")
    def test_config_and_headers_are_all_that_is_asked_for(self, hub: SimpleNamespace) -> None:
        text = explain("owner/model")
        assert hub.patterns == ["config.json"]
        assert "Files       2 MB\n" in text
        assert "float32 *" in rows(text)

    def test_its_code_is_fetched_only_where_it_is_trusted(self, hub: SimpleNamespace) -> None:
        explain("owner/model", trust_remote_code=True)
        assert hub.patterns == ["config.json", "*.py"]

    @pytest.mark.parametrize(
        ("error", "expected"),
        [
            (errors.NotASafetensorsRepoError("no"), "no weights in safetensors format on the Hub, so it cannot be run"),
            (httpx.ConnectError("no"), "Files       of unknown size"),
            (errors.OfflineModeIsEnabled("no"), "Files       of unknown size"),
        ],
    )
    def test_without_headers_the_config_is_enough(self, hub: SimpleNamespace, error: Exception, expected: str) -> None:
        hub.metadata_error = error
        assert expected in explain("owner/model")

    @pytest.mark.parametrize(
        ("error", "expected"),
        [
            (errors.LocalEntryNotFoundError("no"), "is not on this computer, and the Hub cannot be reached"),
            (
                errors.RepositoryNotFoundError("no", response=httpx.Response(404, request=REQUEST)),
                "There is no model 'owner/model'",
            ),
            (errors.GatedRepoError("no", response=httpx.Response(403, request=REQUEST)), "is gated"),
        ],
    )
    def test_what_cannot_be_fetched_is_one_line(
        self, hub: SimpleNamespace, error: Exception, expected: str, capsys: pytest.CaptureFixture[str]
    ) -> None:
        hub.error = error
        assert cli.main(["explain", "owner/model"]) == 2
        output = capsys.readouterr()
        assert expected in output.err
        assert (output.err.count("\n"), output.out) == (1, "")

    def test_without_a_config_there_is_no_model(self, hub: SimpleNamespace) -> None:
        (hub.folder / "config.json").unlink()
        with pytest.raises(ModelError, match=r"owner/model has no config\.json"):
            explain("owner/model")


class TestRoom:
    def test_what_does_not_fit_says_what_would(self, llama: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        machine(monkeypatch, free=20 * GB)
        shown = rows(explain(llama))
        assert [cells[-1] for cells in shown.values()] == [
            "not its weights",
            "7,424 tokens in all",
            "19,968 tokens in all",
            "26,624 tokens in all",
        ]

    def test_the_memory_for_conversations_is_what_was_asked_for(
        self, llama: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        machine(monkeypatch, free=20 * GB)
        shown = rows(explain(llama, slots=1, kv_memory=1.0))
        assert shown["int4"][-1] == "7,552 tokens in all"

    @pytest.mark.parametrize(
        ("free", "speed", "advised"),
        [
            (1000 * GB, 500e9, "bfloat16 (--dtype bfloat16 --quantization none), the most exact that fits"),
            (1000 * GB, 110e9, "int8 (--quantization int8), the most exact that fits and is faster than one reads"),
            (1000 * GB, 30e9, "int4 (--quantization int4), the fastest that fits, but slower than one reads"),
            (14 * GB, 500e9, "int8 (--quantization int8), the most exact that fits"),
            (8 * GB, 500e9, "int4 (--quantization int4), the most exact that fits"),
            (6 * GB, 500e9, "a smaller model. None of these fits this machine."),
        ],
    )
    def test_the_advice(
        self, llama: Path, monkeypatch: pytest.MonkeyPatch, free: int, speed: float, advised: str
    ) -> None:
        machine(monkeypatch, free, speed)
        assert f"Advised: {advised}" in explain(llama).replace("\n", " ")

    def test_a_gpu_has_other_precisions(self, llama: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        machine(monkeypatch, 14 * GB, 3000e9)
        monkeypatch.setattr(torch.accelerator, "is_available", lambda: True)
        monkeypatch.setattr(torch.accelerator, "current_accelerator", lambda: torch.device("cuda"))
        text = explain(llama)
        assert set(rows(text)) == {"float32", "bfloat16 *", "8bit", "4bit"}
        assert "Advised: 8bit (--quantization 8bit), the most exact that fits" in text


@pytest.mark.usefixtures("roomy")
class TestFlags:
    @pytest.mark.parametrize(
        ("settings", "asked"),
        [
            ({}, "float32"),
            ({"dtype": "bfloat16"}, "bfloat16"),
            ({"dtype": "float16"}, "float16"),
            ({"quantization": "int4"}, "int4"),
            ({"quantization": "8bit"}, "8bit"),
            ({"quantization": "4bit"}, "4bit"),
        ],
    )
    def test_what_they_ask_for_is_marked(self, tiny: Path, settings: dict[str, Any], asked: str) -> None:
        shown = rows(explain(tiny, **settings))
        assert [name for name in shown if name.endswith("*")] == [f"{asked} *"]
        assert {name.removesuffix(" *") for name in shown} == {*PRECISIONS, asked}

    def test_a_checkpoint_that_is_quantized_says_so(self, tiny: Path, tmp_path: Path) -> None:
        config = json.loads((tiny / "config.json").read_text())
        config["quantization_config"] = {"quant_method": "gptq", "bits": 4}
        (tmp_path / "config.json").write_text(json.dumps(config))
        assert "The files are quantized already (gptq)" in explain(tmp_path)


class TestCommand:
    def test_the_model_comes_first_or_by_its_flag(self, tiny: Path, capsys: pytest.CaptureFixture[str]) -> None:
        for arguments in ([str(tiny), "--slots", "2"], ["--model", str(tiny), "--slots=2"]):
            assert cli.main(["explain", *arguments]) == 0
            output = capsys.readouterr().out
            assert output.startswith(f"{tiny}\n\nKind        llama\n")
            assert "Memory with 2 conversations of 512 tokens" in output

    @pytest.mark.parametrize(
        ("arguments", "expected"),
        [
            (["nowhere.gguf"], "There is no file nowhere.gguf"),
            (["/no/such/folder"], "There is no model folder"),
            (["a b//c"], "neither a folder here nor a name that the Hub allows"),
            (["."], "config.json is missing"),
            (["x", "--slots", "0"], "slots"),
            (["x", "--dtype", "int3"], "dtype"),
            ([""], "model"),
        ],
    )
    def test_what_is_wrong_is_one_line(
        self,
        arguments: list[str],
        expected: str,
        tmp_path: Path,
        monkeypatch: pytest.MonkeyPatch,
        capsys: pytest.CaptureFixture[str],
    ) -> None:
        monkeypatch.chdir(tmp_path)
        assert cli.main(["explain", *arguments]) == 2
        output = capsys.readouterr()
        assert output.err.startswith("chatui: ")
        assert expected in output.err
        assert (output.err.count("\n"), output.out) == (1, "")

    def test_weights_that_are_cut_off_are_found(
        self, tiny: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
    ) -> None:
        folder = Path(shutil.copytree(tiny, tmp_path / "cut"))
        path = folder / "model.safetensors"
        path.write_bytes(path.read_bytes()[:-100])
        assert cli.main(["explain", str(folder)]) == 2
        assert "model.safetensors is incomplete or damaged" in capsys.readouterr().err

    def test_a_model_that_is_none_for_chatting_is_refused(
        self, tiny: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
    ) -> None:
        config = json.loads((tiny / "config.json").read_text())
        (tmp_path / "config.json").write_text(json.dumps({**config, "model_type": "zorp"}))
        assert cli.main(["explain", str(tmp_path)]) == 2
        assert "is of a kind that transformers" in capsys.readouterr().err


@pytest.mark.parametrize(("dtype", "kv_dtype"), [("float32", "auto"), ("bfloat16", "auto"), ("float32", "int8")])
def test_the_bytes_predicted_before_loading_are_those_of_the_loaded_model(
    tiny: Path, dtype: Dtype, kv_dtype: KvDtype
) -> None:
    spec = ModelSpec(str(tiny), device_map="cpu", dtype=dtype, kv_dtype=kv_dtype, compile="off")
    info = open_model(spec, tiny, lambda _: None).info
    assert info.anatomy is not None
    conversation = info.context_length * info.anatomy.kv_per_token
    assert info.context_length < outline.SHORT_CONTEXT
    assert outline.outline(spec).needed_bytes() == pytest.approx(info.weight_bytes + conversation, rel=0.01)
    limited = replace(spec, kv_memory=100_000)
    assert outline.outline(limited).needed_bytes() == pytest.approx(info.weight_bytes + 100_000, rel=0.01)
