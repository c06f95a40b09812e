"""Headers of real files, and the arithmetic of sizes."""

import struct
from dataclasses import replace
from pathlib import Path

import gguf
import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from safetensors.torch import save_file

from chatui.errors import ModelError
from chatui.gguf_file import read_gguf_fields, read_gguf_header
from chatui.settings import Dtype, Quantization
from chatui.stored_tensors import StoredTensor, read_header, weight_bytes


@pytest.fixture
def weights(tmp_path: Path) -> Path:
    path = tmp_path / "model.safetensors"
    save_file(
        {"a.weight": torch.zeros(3, 4, dtype=torch.bfloat16), "scale": torch.zeros(5), "n": torch.zeros(())}, path
    )
    return path


@pytest.fixture
def gguf_weights(tmp_path: Path) -> Path:
    path = tmp_path / "model.gguf"
    writer = gguf.GGUFWriter(path, "llama")
    writer.add_context_length(128)
    writer.add_float32("some.float", 1.5)
    writer.add_token_list(["a", "bc", "é"])
    writer.add_array("some.numbers", [1, 2, 3])
    writer.add_bool("some.flag", True)
    writer.add_tensor("a.weight", np.zeros((3, 4), dtype=np.float32))
    writer.add_tensor("b.weight", np.zeros(32, dtype=np.float32))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return path


def test_safetensors_header_as_the_library_wrote_it(weights: Path) -> None:
    assert sorted(read_header(weights), key=lambda tensor: tensor.name) == [
        StoredTensor("a.weight", "BF16", (3, 4)),
        StoredTensor("n", "F32", ()),
        StoredTensor("scale", "F32", (5,)),
    ]


def test_gguf_header_as_the_library_wrote_it(gguf_weights: Path) -> None:
    assert [(tensor.name, tensor.elements) for tensor in read_gguf_header(gguf_weights)] == [
        ("a.weight", 12),
        ("b.weight", 32),
    ]


@pytest.mark.parametrize("kept", [0, 3, 8, 40, -1])
def test_a_cut_off_safetensors_file_is_refused(weights: Path, kept: int) -> None:
    weights.write_bytes(weights.read_bytes()[:kept])
    with pytest.raises(ModelError, match=r"model\.safetensors is incomplete"):
        read_header(weights)


def test_gguf_fields_as_the_library_wrote_them(gguf_weights: Path) -> None:
    fields = read_gguf_fields(gguf_weights)
    assert (
        fields.items()
        >= {
            "general.architecture": "llama",
            "llama.context_length": 128,
            "some.float": 1.5,
            "some.flag": True,
            "some.numbers": (1, 2, 3),
            "tokenizer.ggml.tokens": ("a", "bc", "é"),
        }.items()
    )


def test_the_vocabulary_of_a_gguf_file_is_left_out(tmp_path: Path) -> None:
    path = tmp_path / "model.gguf"
    writer = gguf.GGUFWriter(path, "llama")
    writer.add_token_list([str(number) for number in range(2000)])
    writer.add_array("some.scores", [0.5] * 2000)
    writer.add_string("last", "read")
    writer.add_tensor("a.weight", np.zeros((3, 4), dtype=np.float32))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    fields = read_gguf_fields(path)
    assert fields["last"] == "read"
    assert not {"tokenizer.ggml.tokens", "some.scores"} & fields.keys()
    assert [tensor.shape for tensor in read_gguf_header(path)] == [(4, 3)]


@pytest.mark.parametrize("kept", [0, 3, 8, 40, 150, -129])
def test_a_cut_off_gguf_file_is_refused(gguf_weights: Path, kept: int) -> None:
    gguf_weights.write_bytes(gguf_weights.read_bytes()[:kept])
    with pytest.raises(ModelError, match=r"model\.gguf is incomplete"):
        read_gguf_header(gguf_weights)


@given(st.binary(max_size=200), st.booleans())
def test_garbage_is_refused_and_nothing_else_is_raised(
    tmp_path_factory: pytest.TempPathFactory, data: bytes, as_gguf: bool
) -> None:
    path = tmp_path_factory.getbasetemp() / "garbage"
    path.write_bytes((b"GGUF\x03\0\0\0" if as_gguf else struct.pack("<Q", len(data))) + data)
    with pytest.raises(ModelError, match="incomplete or damaged"):
        (read_gguf_header if as_gguf else read_header)(path)


@pytest.mark.parametrize(
    "header", [b"[]", b"{}x", b'{"a":1}', b'{"a":{"dtype":"F32"}}', b'{"a":{"data_offsets":"xy"}}']
)
def test_headers_that_are_json_but_not_a_header_are_refused(tmp_path: Path, header: bytes) -> None:
    path = tmp_path / "model.safetensors"
    path.write_bytes(struct.pack("<Q", len(header)) + header)
    with pytest.raises(ModelError, match="incomplete or damaged"):
        read_header(path)


MATRIX = StoredTensor("layers.0.q_proj.weight", "BF16", (64, 64))
EMBEDDING = StoredTensor("embed_tokens.weight", "BF16", (100, 64))
NORM = StoredTensor("norm.weight", "F32", (64,))
HEAD = StoredTensor("lm_head.weight", "BF16", (100, 64))
MISFIT = StoredTensor("layers.0.odd.weight", "BF16", (24, 64))
Q4_1 = StoredTensor("blk.0.attn_q.weight", "GGUF-3", (32, 64))
Q6_K = StoredTensor("output.weight", "GGUF-14", (256, 64))
Q2_K = StoredTensor("output.weight", "GGUF-10", (256, 64))
TOKEN_EMBD = StoredTensor("token_embd.weight", "GGUF-8", (32, 160))
PACKED = StoredTensor("layers.0.q_proj.qweight", "I32", (8, 64))


@pytest.mark.parametrize(
    ("tensors", "dtype", "quantization", "expected"),
    [
        ([], "auto", "none", 0),
        ([MATRIX, EMBEDDING, NORM], "auto", "none", 64 * 64 * 2 + 100 * 64 * 2 + 64 * 4),
        ([MATRIX, NORM], "float32", "none", 64 * 64 * 4 + 64 * 4),
        ([MATRIX, EMBEDDING], "auto", "8bit", 64 * 64 + 100 * 64 * 2),
        ([MATRIX, NORM], "bfloat16", "4bit", int(64 * 64 * 0.5625) + 64 * 2),
        ([MATRIX, NORM], "bfloat16", "int4", 64 * 64 * 5 // 8 + 64 * 2),
        ([MATRIX, HEAD], "bfloat16", "int4", 64 * 64 * 5 // 8 + 100 * (64 + 2)),
        ([MATRIX, replace(HEAD, shape=(128, 64))], "bfloat16", "int4", 64 * 64 * 5 // 8 + 128 * 64 * 9 // 8),
        ([MATRIX, HEAD], "bfloat16", "int8", 64 * 64 * 9 // 8 + 100 * (64 + 2)),
        ([EMBEDDING], "bfloat16", "int8", 100 * 64 * 2 + 100 * (64 + 2)),
        ([MISFIT, PACKED], "bfloat16", "int4", 24 * 64 * 2 + 8 * 64 * 4),
        ([Q4_1, Q6_K], "bfloat16", "auto", 64 * 32 * 5 // 8 + 64 * 256 * 9 // 8),
        ([Q4_1, Q2_K], "bfloat16", "auto", 64 * 32 * 5 // 8 + 64 * 256 * 2),
        ([Q4_1, Q6_K], "bfloat16", "none", 64 * (32 + 256) * 2),
        ([TOKEN_EMBD], "bfloat16", "auto", 160 * 32 * 2 + 160 * 32 * 5 // 4),
        ([PACKED], "float32", "none", 8 * 64 * 4),
        ([StoredTensor("fp8", "F8_E4M3", (10,))], "auto", "none", 10),
    ],
)
def test_weight_bytes(tensors: list[StoredTensor], dtype: Dtype, quantization: Quantization, expected: int) -> None:
    assert weight_bytes(tensors, dtype, quantization) == expected
