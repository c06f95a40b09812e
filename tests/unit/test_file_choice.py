import pytest

from chatui.errors import HubError
from chatui.models.file_choice import GgufChoice, files_to_fetch, gguf_choices
from chatui.models.hub import HubFile

SMALL = ["config.json", "generation_config.json", "tokenizer.json", "tokenizer_config.json", "chat_template.jinja"]
OTHER = [
    ".gitattributes",
    "README.md",
    "LICENSE",
    "pytorch_model.bin",
    "pytorch_model.bin.index.json",
    "tf_model.h5",
    "flax_model.msgpack",
    "onnx/model.onnx",
    "onnx/config.json",
    "original/consolidated.00.pth",
    "consolidated.safetensors",
    "model.fp16.safetensors",
    "picture.png",
    "modeling_own.py",
]


def files(*paths: str) -> list[HubFile]:
    return [HubFile(path, 1000 * index, "0" * 40) for index, path in enumerate(paths, 1)]


def chosen(*paths: str, gguf: str = "") -> set[str]:
    return {file.path for file in files_to_fetch("owner/model", files(*paths), gguf)}


@pytest.mark.parametrize(
    "weights",
    [
        ["model.safetensors"],
        ["model-00001-of-00002.safetensors", "model-00002-of-00002.safetensors", "model.safetensors.index.json"],
    ],
)
def test_safetensors_with_what_the_tokenizer_needs_and_nothing_else(weights: list[str]) -> None:
    more = ["vocab.json", "merges.txt", "tokenizer.model", "additional_chat_templates/tools.jinja"]
    assert chosen(*OTHER, *SMALL, *more, *weights, "m-Q4_0.gguf") == {*SMALL, *more, *weights}


def test_an_adapter_and_weights_under_another_name() -> None:
    assert chosen("adapter_config.json", "adapter_model.safetensors", "adapter_model.bin") == {
        "adapter_config.json",
        "adapter_model.safetensors",
    }
    assert chosen("config.json", "weights.safetensors") == {"config.json", "weights.safetensors"}


@pytest.mark.parametrize(
    ("offered", "precision", "expected"),
    [
        (["Q2_K", "Q4_K_M", "Q8_0"], "", "Q4_K_M"),
        (["Q2_K", "Q8_0", "Q4_0"], "", "Q4_0"),
        (["Q2_K", "IQ3_XXS"], "", "IQ3_XXS"),
        (["Q2_K", "Q4_K_M", "Q8_0"], "q8_0", "Q8_0"),
        (["Q2_K", "BF16"], "m-BF16.gguf", "BF16"),
    ],
)
def test_one_gguf_file(offered: list[str], precision: str, expected: str) -> None:
    paths = [f"m-{name}.gguf" for name in offered]
    others = ["config.json", "mmproj-m-F16.gguf", "m.imatrix.gguf", "m-Q4_K_M-00001-of-00002.gguf"]
    assert chosen(*paths, *others, gguf=precision) == {f"m-{expected}.gguf"}


@pytest.mark.parametrize(
    ("paths", "gguf", "says"),
    [
        (["config.json", "pytorch_model.bin"], "", "only as pickles"),
        (["m-00001-of-00002.gguf", "m-00002-of-00002.gguf"], "", "in parts"),
        (["README.md"], "", "no weights"),
        (["m-Q4_0.gguf", "m-F16.gguf"], "Q8_0", r"no GGUF file 'Q8_0' .* Q4_0 \(1 kB, small loss"),
        (["model.safetensors"], "Q8_0", "It offers: none"),
    ],
)
def test_nothing_that_can_be_run(paths: list[str], gguf: str, says: str) -> None:
    with pytest.raises(HubError, match=says) as raised:
        chosen(*paths, gguf=gguf)
    assert raised.value.kind == "unsuitable"


@pytest.mark.parametrize(
    ("name", "quantization", "quality"),
    [
        ("Llama-3.2-1B-Instruct-Q4_K_M.gguf", "Q4_K_M", "small loss, the usual choice"),
        ("qwen2.5-0.5b-instruct-q8_0.gguf", "Q8_0", "nearly no loss"),
        ("Q6_K/model-Q6_K.gguf", "Q6_K", "hardly any loss"),
        ("model.IQ2_XXS.gguf", "IQ2_XXS", "heavy loss"),
        ("model-f16.gguf", "F16", "no loss"),
        ("smollm.gguf", "", ""),
    ],
)
def test_the_quantization_is_in_the_name(name: str, quantization: str, quality: str) -> None:
    (choice,) = gguf_choices(files(name))
    assert choice == GgufChoice(files(name)[0], quantization)
    assert (choice.quality, str(choice).startswith(quantization or name)) == (quality, True)
