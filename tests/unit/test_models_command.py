"""`chatui models explain` and `list`: names, folders, the HF cache and the default model, as text and as JSON."""

import json
import struct
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from chatui import cli
from chatui.models import catalogue, command
from chatui.models.facts import from_config
from chatui.models.fit import Device, Machine, recommend
from chatui.models.hub import Hub, HubModel
from chatui.models.listing import as_table, model_list
from chatui.settings import DEFAULT_MODEL
from tests.configs import PUBLISHED, dense

GB = 10**9
MACHINE = Machine((Device("cpu", 12 * GB, 16 * GB, 40e9),))
LLAMA: dict[str, Any] = dense("llama", 64, 96, 2, 4, 2, 128, False, max_position_embeddings=512)


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty HF cache."""
    folder = tmp_path / "cache"
    folder.mkdir()
    monkeypatch.setattr(catalogue, "_cache", lambda: folder)
    monkeypatch.delenv("CHATUI_MODELS_DIR", raising=False)
    return folder


def save(folder: Path, kept: int | None = None) -> Path:
    """Write a model with a chat template, of whose weights file the first `kept` bytes are there."""
    folder.mkdir(parents=True)
    (folder / "config.json").write_text(json.dumps(LLAMA))
    (folder / "chat_template.jinja").write_text("{{ messages }}")
    (folder / "README.md").write_text("---\nlicense: mit\n---\n")
    shapes = {"model.embed_tokens.weight": (128, 64), "model.layers.0.q.weight": (64, 64), "lm_head.weight": (128, 64)}
    header, end = {}, 0
    for name, (rows, columns) in shapes.items():
        start, end = end, end + 2 * rows * columns
        header[name] = {"dtype": "BF16", "shape": [rows, columns], "data_offsets": [start, end]}
    text = json.dumps(header).encode()
    data = struct.pack("<Q", len(text)) + text + bytes(end)
    (folder / "model.safetensors").write_bytes(data[:kept])
    return folder


PARAMETERS = 128 * 64 * 2 + 64 * 64


def run(*arguments: object, machine: Machine = MACHINE) -> str:
    return command.run(list(map(str, arguments)), lambda: machine, lambda login, data_dir: [])


class TestExplain:
    def test_a_name_that_is_not_here_is_explained_by_itself(self) -> None:
        text = run("explain", "mistralai/Mixtral-8x7B-v0.1")
        assert "8x7B: eight experts; 56B by the tutorial's rule of thumb (8 × 7)" in text
        assert "This is what its name says. " in text
        assert "It is not on this machine." in run("explain", "a name: of nothing")

    def test_a_model_on_the_hub_is_explained_by_its_config_and_count(self, monkeypatch: pytest.MonkeyPatch) -> None:
        published = PUBLISHED["mistralai/Mixtral-8x7B-v0.1"]
        model = HubModel("owner/Some-8x7B", licence="mit", gated=True, parameters={"BF16": published.parameters})
        monkeypatch.setattr(Hub, "model", lambda self, name: model)
        monkeypatch.setattr(Hub, "config", lambda self, asked: published.config)
        text = run("explain", "owner/Some-8x7B")
        assert "46.7B by its headers, 12.9B active for each token." in text
        assert "Gated          yes" in text
        assert "too large" in text
        assert "It does not fit. Least lacks in int4 on cpu." in text
        assert "80.1 GB more of free memory would do." in text
        found = json.loads(run("explain", "owner/Some-8x7B", "--json"))
        assert (found["gated"], found["license"], found["is_exact"]) == (True, "mit", False)

    def test_a_page_on_the_hub_is_a_name(self) -> None:
        assert run("explain", "https://huggingface.co/Qwen/Qwen3-4B").startswith("Qwen/Qwen3-4B\n")

    def test_a_folder_is_explained_with_formulas(self, tmp_path: Path) -> None:
        folder = save(tmp_path / "Tiny-20K-Instruct")
        text = run("explain", folder)
        assert f"Parameters     {PARAMETERS:,}" in text
        assert "Licence        mit" in text
        assert "Chat template  yes" in text
        assert "cpu: 12.0 GB of 16.0 GB free, read at 40.0 GB/s; for one conversation of 512 tokens" in text
        assert f"= {PARAMETERS:,} parameters × 2 B" in text
        assert "Best here: bfloat16 on cpu." in text

    def test_as_json(self, tmp_path: Path) -> None:
        found = json.loads(run("explain", save(tmp_path / "tiny"), "--json", "--context", "256"))
        assert (found["parameters"], found["is_exact"], found["context_length"]) == (PARAMETERS, True, 512)
        assert [fit["precision"] for fit in found["fits"]] == ["float32", "bfloat16", "int8", "int4"]
        assert {fit["context"] for fit in found["fits"]} == {256}
        assert found["best"]["weights"]["value"] == 2 * PARAMETERS
        assert found["best"]["verdict"] == "fits"
        assert json.loads(run("explain", "owner/Some-7B", "--json"))["name"] == "owner/Some-7B"

    def test_keys_and_values_may_be_int8(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        folder = save(tmp_path / "tiny")

        def taken(*flags: str) -> int:
            return int(json.loads(run("explain", folder, "--json", *flags))["best"]["kv"]["value"])

        plain, int8 = taken(), taken("--kv-dtype", "int8")
        assert int8 < plain
        monkeypatch.setenv("CHATUI_KV_DTYPE", "int8")
        assert taken() == int8
        assert taken("--kv-dtype", "auto") == plain

    def test_a_model_in_the_cache_is_found_by_its_name(self, cache: Path) -> None:
        commit = "0123456789abcdef0123456789abcdef01234567"
        repository = cache / "models--owner--tiny"
        save(repository / "snapshots" / commit)
        (repository / "refs").mkdir()
        (repository / "refs" / "main").write_text(commit)
        text = run("explain", "owner/tiny")
        assert text.startswith("owner/tiny\n")
        assert f"Parameters     {PARAMETERS:,}" in text

    def test_what_is_damaged_is_one_line(self, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
        assert cli.main(["models", "explain", str(save(tmp_path / "tiny", kept=100))]) == 2
        error = capsys.readouterr().err
        assert "model.safetensors is incomplete or damaged" in error
        assert error.count("\n") == 1


class TestList:
    def test_models_are_ranked_and_one_is_recommended(self, tmp_path: Path) -> None:
        save(tmp_path / "models" / "tiny")
        save(tmp_path / "models" / "broken", kept=100)
        text = run("list", tmp_path / "models")
        (row,) = [line for line in text.splitlines() if line.startswith(str(tmp_path / "models" / "tiny"))]
        assert row.split()[1] == f"{PARAMETERS:,}"
        assert row.endswith("fits")
        assert "Recommended for this machine: " in text
        assert "broken is not listed: " in text

    def test_as_json(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setenv("CHATUI_MODELS_DIR", str(tmp_path / "models"))
        folder = save(tmp_path / "models" / "tiny")
        found = json.loads(run("list", "--json"))
        assert [model["name"] for model in found["models"]] == [str(folder)]
        assert found["models"][0]["best"]["precision"] == "bfloat16"
        assert found["recommended"]["model"] == str(folder)
        assert found["devices"][0]["free"] == 12 * GB

    def test_the_default_model_is_listed_if_its_package_is_there(self, tmp_path: Path) -> None:
        machine = Machine(MACHINE.devices, save(tmp_path / "package"))
        assert f"\n{DEFAULT_MODEL} " in run("list", machine=machine)
        assert run("explain", DEFAULT_MODEL, machine=machine).startswith(f"{DEFAULT_MODEL}\n")

    def test_there_may_be_none(self) -> None:
        assert "There are no models here." in run("list")
        assert json.loads(run("list", "--json"))["recommended"] is None

    def test_the_best_are_on_top(self) -> None:
        names = ["meta-llama/Llama-3.1-70B", "Qwen/Qwen3-0.6B", "Qwen/Qwen3-4B"]
        models = [from_config(name, PUBLISHED[name].config, parameters=PUBLISHED[name].parameters) for name in names]
        models.append(from_config("owner/unknown", {}))
        text = model_list(models, MACHINE.devices, 4096, recommend(models, MACHINE.devices))
        rows = [line.split()[0] for line in text.splitlines() if "/" in line.split("  ")[0]][1:5]
        assert rows == ["Qwen/Qwen3-4B", "Qwen/Qwen3-0.6B", "meta-llama/Llama-3.1-70B", "owner/unknown"]
        assert "too large by " in text


@pytest.mark.parametrize(
    "arguments", [[], ["frobnicate"], ["explain"], ["list", "--context", "many"], ["list", "--context", "0"]]
)
def test_wrong_arguments_exit_with_2(arguments: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as caught:
        run(*arguments)
    assert caught.value.code == 2
    assert "usage: chatui models" in capsys.readouterr().err


def test_help_of_the_subcommands_loads_nothing_heavy() -> None:
    script = (
        "import sys; from chatui.cli import main\n"
        "try: main(['models', 'list', '--help'])\n"
        "except SystemExit: pass\n"
        "print([name for name in ('torch', 'transformers', 'gradio', 'huggingface_hub') if name in sys.modules])"
    )
    output = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True).stdout
    assert "--context TOKENS" in output
    assert output.endswith("[]\n")


def test_columns_of_numbers_are_aligned_to_the_right() -> None:
    assert as_table(("A", "B"), [("x", "1"), ("yy", "22")]) == "A    B\nx    1\nyy  22"
