"""Products of levels in C++: as exact as PyTorch's own, the same for a row whatever others there are, dispensable."""

import platform
import subprocess
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from transformers import AutoModelForCausalLM, LlamaConfig

from chatui.engine.kernels import ops, processors
from chatui.engine.kernels.levels import GROUP, Levels
from chatui.engine.kernels.quantized import (
    Int4Linear,
    Int8GroupLinear,
    Int8Linear,
    PackedLinear,
    in_8_bits,
    of_levels,
    quantize,
)
from chatui.engine.kernels.rounding import rounded
from chatui.engine.loading import anatomy
from chatui.settings import AppSettings
from tests.examples import some_of
from tests.models import SMALL, two_planes

Product = Callable[[torch.Tensor, torch.Tensor, torch.Tensor], torch.Tensor]


@pytest.fixture(scope="module")
def built() -> None:
    ops.load(AppSettings().cache_dir)  # once for each version of their sources
    if not ops.name():
        pytest.skip("there is no C++ compiler here")


@pytest.fixture(params=[ops.int4mm, ops.int8mm])
def product(request: pytest.FixtureRequest, built: None) -> Product:
    """Each of the products."""
    chosen: Product = request.param
    return chosen


def levels_of(outputs: int, inputs: int, seed: int) -> Levels:
    return rounded(torch.randn(outputs, inputs, generator=torch.Generator().manual_seed(seed)))


def layer_of(
    outputs: int, inputs: int, seed: int, product: Product = ops.int4mm
) -> tuple[Int4Linear | Int8GroupLinear, torch.Tensor]:
    """A layer with levels for this product, and the weight that they stand for: float32 [out, in]."""
    if product is ops.int8mm:
        drawn = torch.randint(-128, 128, (outputs, inputs), generator=torch.Generator().manual_seed(seed))
        levels = two_planes(drawn, seed)
        return of_levels(levels, inputs), levels.dequantized(inputs)
    levels = levels_of(outputs, inputs, seed)
    return Int4Linear(levels, inputs), levels.dequantized(inputs)


def numbers(rows: int, inputs: int, seed: int) -> torch.Tensor:
    """Activations with some outliers, as models have them."""
    generator = torch.Generator().manual_seed(seed)
    x = torch.randn(rows, inputs, generator=generator)
    return (x * (1 + 30 * (torch.rand(1, inputs, generator=generator) > 0.97))).bfloat16()


@pytest.mark.usefixtures("built")
def test_a_cpu_that_can_run_one_can_run_all_that_a_step_needs() -> None:
    assert ops.takes(ops.BLOCK)
    assert all(ops.function(name) is not None for name in ops.ATTEND.values())
    assert ops.function("chatui_top_logits") is not None


SHAPES = st.tuples(st.integers(1, 40), st.integers(1, 6), st.integers(1, 9), st.integers(0, 1000))


EXTREME = {"any": (-128, 128), "lowest": (-128, -127), "highest": (127, 128), "none": (0, 1), "ends": (0, 2)}


@pytest.mark.usefixtures("built")
@given(shape=SHAPES, kind=st.sampled_from(list(EXTREME)), steady=st.booleans())
@settings(max_examples=some_of(60), deadline=None)
def test_levels_of_8_bits_err_by_the_rounding_of_activations(
    shape: tuple[int, int, int, int], kind: str, steady: bool
) -> None:
    rows, blocks, groups, seed = shape
    outputs, inputs = blocks * ops.BLOCK, groups * GROUP
    generator = torch.Generator().manual_seed(seed)
    drawn = torch.randint(*EXTREME[kind], (outputs, inputs), generator=generator)
    levels = two_planes(255 * drawn - 128 if kind == "ends" else drawn, seed)
    layer = of_levels(levels, inputs)
    assert isinstance(layer, Int8GroupLinear)
    # Where all numbers are the same, each becomes the largest there is: sums are as large as they can be.
    x = torch.full((rows, inputs), -3.0).bfloat16() if steady else numbers(rows, inputs, seed)
    weight = levels.dequantized(inputs).double()
    exact = x.double() @ weight.T
    found = ops.int8mm(x, layer.packed, layer.scales_and_zeros)
    # Sums of a group's activations, which zeros are multiplied by, may be rounded to bfloat16.
    totals, zero = x.double().unflatten(-1, (-1, GROUP)).sum(-1).abs(), layer.scales_and_zeros[..., 1].double().abs()
    bound = rounding_error(x, weight) + 2**-8 * (totals + GROUP * steps(x)) @ zero
    assert ((found.double() - exact).abs() <= 2**-8 * exact.abs() + 1.01 * bound + 1e-4).all()


def steps(x: torch.Tensor) -> torch.Tensor:
    """How far numbers of each group [rows, groups] may be off: half a step, of which 127 reach to the largest one."""
    largest: torch.Tensor = x.double().abs().unflatten(-1, (-1, GROUP)).amax(-1)
    return largest / 127 / 2


def rounding_error(x: torch.Tensor, weight: torch.Tensor) -> torch.Tensor:
    """How far products [rows, out] may be off by that."""
    sums: torch.Tensor = weight.double().abs().unflatten(-1, (-1, GROUP)).sum(-1)
    return steps(x) @ sums.T


@pytest.mark.usefixtures("built")
@given(shape=SHAPES | st.tuples(st.integers(1, 9), st.just(1), st.integers(15, 40), st.integers(0, 1000)))
@settings(max_examples=some_of(60), deadline=None)
def test_levels_of_4_bits_err_by_the_rounding_of_activations(shape: tuple[int, int, int, int]) -> None:
    rows, blocks, groups, seed = shape
    outputs, inputs = blocks * ops.BLOCK, groups * GROUP
    layer, weight = layer_of(outputs, inputs, seed)
    x = numbers(rows, inputs, seed)
    exact = x.double() @ weight.double().T
    found = ops.int4mm(x, layer.packed, layer.scales_and_zeros)
    bound = rounding_error(x, weight)
    assert ((found.double() - exact).abs() <= 2**-8 * exact.abs() + 1.01 * bound + 1e-4).all()


@pytest.mark.parametrize("inputs", [GROUP, 3 * GROUP, 40 * GROUP])
@pytest.mark.parametrize("threads", [1, 2, 3])
def test_a_row_is_the_same_alone_and_among_others(product: Product, inputs: int, threads: int) -> None:
    layer, _ = layer_of(192, inputs, threads, product)
    x = numbers(100, inputs, threads)
    before = torch.get_num_threads()
    torch.set_num_threads(threads)
    try:
        alone = torch.cat([product(row[None], layer.packed, layer.scales_and_zeros) for row in x])
        for rows in (*range(2, 41), 100):
            together = product(x[:rows], layer.packed, layer.scales_and_zeros)
            assert torch.equal(together, alone[:rows]), rows
            last = product(x[-rows:], layer.packed, layer.scales_and_zeros)
            assert torch.equal(last, alone[-rows:]), rows
    finally:
        torch.set_num_threads(before)


def test_a_row_is_the_same_among_more_than_are_worked_on_together(product: Product) -> None:
    inputs = 1000 * GROUP
    layer, _ = layer_of(64, inputs, 0, product)
    x = numbers(23, inputs, 0)
    together = product(x, layer.packed, layer.scales_and_zeros)
    for row in (0, 5, 6, 11, 22):
        assert torch.equal(product(x[row, None], layer.packed, layer.scales_and_zeros)[0], together[row]), row


@pytest.mark.parametrize("bad", [float("nan"), float("inf"), -float("inf")])
@pytest.mark.parametrize("rows", [3, 20])
def test_what_is_no_number_stays_in_its_row(product: Product, bad: float, rows: int) -> None:
    layer, _ = layer_of(64, 96, 0, product)
    x = numbers(rows, 96, 0)
    wanted = product(x, layer.packed, layer.scales_and_zeros)
    x[1, 40] = bad
    found = product(x, layer.packed, layer.scales_and_zeros)
    assert found[1].isnan().all()
    others = [row for row in range(rows) if row != 1]
    assert torch.equal(found[others], wanted[others])


def test_rows_of_zeros_and_of_strides_are_taken(product: Product) -> None:
    layer, weight = layer_of(64, 64, 0, product)
    assert not product(torch.zeros(2, 64).bfloat16(), layer.packed, layer.scales_and_zeros).any()
    x = numbers(4, 128, 1)[:, ::2]
    found, exact = product(x, layer.packed, layer.scales_and_zeros).float(), x.float() @ weight.T
    assert (found - exact).norm() <= 0.02 * exact.norm()


@pytest.mark.usefixtures("built")
def test_layers_use_it_for_the_outputs_it_takes(monkeypatch: pytest.MonkeyPatch) -> None:
    called: list[Any] = []

    def int4mm(*given: Any) -> torch.Tensor:
        called.append(given)
        return torch.zeros(1)

    monkeypatch.setattr(ops, "int4mm", int4mm)
    layer_of(64, 64, 0)[0]._product(numbers(1, 64, 0))
    assert len(called) == 1
    layer_of(80, 64, 0)[0]._product(numbers(1, 64, 0))
    assert len(called) == 1


@pytest.mark.parametrize("rows", [1, 9])
def test_a_kernel_that_computes_something_else_is_not_used(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, product: Product, rows: int
) -> None:
    file, name = Path(next(iter(ops._loaded.values()))._name), product.__name__
    monkeypatch.setattr(ops, "_loaded", {})
    monkeypatch.setattr(ops, "_built", lambda *_: file)
    monkeypatch.setattr(ops, name, lambda x, *rest: product(x, *rest) * (2 if len(x) == rows else 1))
    ops.load(tmp_path)
    assert ops.name() == ""
    monkeypatch.setattr(ops, name, product)
    ops.load(tmp_path)
    assert ops.name() == file.stem


@pytest.mark.parametrize("fault", ["no compiler", "refuses", "no processor", "nowhere to write"])
def test_without_it_the_products_are_pytorchs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, fault: str) -> None:
    monkeypatch.setattr(ops, "_loaded", {})
    folder = tmp_path
    if fault == "no compiler":
        monkeypatch.setattr(ops, "compiler", lambda: None)
    elif fault == "refuses":
        monkeypatch.setattr(ops, "compiler", lambda: "false")
    elif fault == "no processor":
        monkeypatch.setattr(torch.backends.cpu, "get_cpu_capability", lambda: "ZVECTOR")
        monkeypatch.setattr(platform, "machine", lambda: "s390x")
        monkeypatch.setattr(ops, "_built", lambda *_: pytest.fail("built for a CPU that cannot run it"))
    else:
        folder = tmp_path / "file"
        folder.write_text("")
    ops.load(folder)
    assert ops.name() == ""
    assert not ops.takes(64)
    x = numbers(3, 64, 0)
    for product in (ops.int4mm, ops.int8mm):
        layer, weight = layer_of(64, 64, 0, product)
        assert isinstance(layer, Int4Linear)
        expected = x.float() @ weight.T
        torch.testing.assert_close(layer(x).float(), expected, atol=0.02 * float(expected.abs().max()), rtol=0.02)
    with pytest.raises(RuntimeError, match="not loaded"):
        ops.int8mm(x, torch.zeros(64 * 64, dtype=torch.int8), torch.zeros(2, 64, 2).bfloat16())


@pytest.mark.usefixtures("built")
@pytest.mark.parametrize("fault", ["none", "scale", "middle", "nan", "outputs"])
def test_planes_that_are_no_halves_stay_planes(fault: str) -> None:
    outputs = 80 if fault == "outputs" else 64
    levels = two_planes(torch.randint(-128, 128, (outputs, 64), generator=torch.Generator().manual_seed(0)), 0)
    if fault == "scale":
        levels.scales_and_zeros[0, 3, 0] *= 2
    elif fault == "middle":
        levels.scales_and_zeros[2, 3, 1] *= 2
    elif fault == "nan":
        levels.scales_and_zeros[:, 3] = float("nan")
    layer = of_levels(levels, 64)
    assert isinstance(layer, Int8GroupLinear if fault == "none" else Int4Linear)
    x = numbers(3, 64, 0)
    exact = x.float() @ levels.dequantized(64).T
    torch.testing.assert_close(
        layer(x).float(), exact, atol=0.02 * float(exact.nan_to_num().abs().max()), rtol=0.02, equal_nan=True
    )


@pytest.mark.usefixtures("built")
@pytest.mark.parametrize("fault", ["none", "outputs", "slower", "not loaded"])
def test_what_is_rounded_to_8_bits_takes_our_kernel_where_that_is_faster(
    monkeypatch: pytest.MonkeyPatch, fault: str
) -> None:
    monkeypatch.setattr(ops, "is_faster_in_8_bits", lambda *_: fault != "slower")
    ops._is_faster_in_8_bits.cache_clear()
    if fault == "not loaded":
        monkeypatch.setattr(ops, "_loaded", {})
    dense = torch.nn.Linear(64, 80 if fault == "outputs" else 64)
    layer = in_8_bits(dense.weight, dense.bias)
    ops._is_faster_in_8_bits.cache_clear()
    assert isinstance(layer, Int8GroupLinear if fault == "none" else Int8Linear)
    x = numbers(3, 64, 0)
    exact = dense(x.float()).detach()
    torch.testing.assert_close(layer(x).float(), exact, atol=0.02 * float(exact.abs().max()), rtol=0.02)


@pytest.mark.usefixtures("built")
def test_it_is_measured_which_product_of_8_bits_is_faster() -> None:
    assert ops.pays_in_8_bits(64) is ops._is_faster_in_8_bits(ops.name())
    assert not ops.pays_in_8_bits(80)


@pytest.mark.usefixtures("built")
@pytest.mark.parametrize("kind", ["int4", "int8"])
def test_a_packed_model_takes_the_bytes_that_are_counted(monkeypatch: pytest.MonkeyPatch, kind: Any) -> None:
    monkeypatch.setattr(ops, "pays_in_8_bits", ops.takes)
    sizes: dict[str, Any] = {
        "hidden_size": 64,
        "intermediate_size": 128,
        "vocab_size": 320,
        "tie_word_embeddings": True,
    }
    config = LlamaConfig(**{**SMALL, **sizes, "num_attention_heads": 8, "num_key_value_heads": 4})
    counted = anatomy.of(anatomy.blank(config, torch.bfloat16))
    model = AutoModelForCausalLM.from_config(config).bfloat16()
    quantize(model, kind, None, lambda _: None)
    assert isinstance(model.lm_head, Int8GroupLinear)
    packed = [module for module in model.modules() if isinstance(module, PackedLinear)]
    held = [*model.parameters(), *(buffer for module in packed for buffer in module.buffers())]
    assert counted.weights[kind] == sum(tensor.nbytes for tensor in held)
    assert {type(module) for module in packed} > {Int8GroupLinear}, "keys have 32 outputs"


def fake_compiler(folder: Path, says: str = "") -> str:
    """A program that is a compiler as far as it goes; each run adds a line to `runs`."""
    program = folder / "g++"
    program.write_text(
        f"#!/bin/sh\necho run >> {folder}/runs\n"
        f'while [ $# -gt 0 ]; do [ "$1" = -o ] && echo library > "$2"; shift; done\necho "{says}"\n'
    )
    program.chmod(0o755)
    return str(program)


def test_it_is_built_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ops, "compiler", lambda: fake_compiler(tmp_path))
    first = ops._built(tmp_path / "cache", processors.AVX2)
    monkeypatch.setattr(subprocess, "run", lambda *_, **__: pytest.fail("built again"))
    assert ops._built(tmp_path / "cache", processors.AVX2) == first


@pytest.mark.parametrize("refuses", [False, True])
def test_it_may_be_built_ahead(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, refuses: bool) -> None:
    monkeypatch.setattr(ops, "_loaded", {})
    monkeypatch.setattr(ops, "compiler", lambda: "false" if refuses else fake_compiler(tmp_path))
    ops.build_ahead(tmp_path)
    for thread in threading.enumerate():
        if thread.name == "chatui-build":
            thread.join(10)
    monkeypatch.setattr(subprocess, "run", lambda *_, **__: pytest.fail("built again"))
    folder = tmp_path / "compiled"
    if refuses:
        assert not list(folder.glob("*/*.so"))
    else:
        assert ops._built(folder, processors.required()).read_text() == "library\n"


def test_a_damaged_library_is_built_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ops, "compiler", lambda: fake_compiler(tmp_path))
    library = ops._built(tmp_path / "cache", processors.AVX2)
    assert library.read_text() == "library\n"
    library.write_text("lib")
    assert ops._built(tmp_path / "cache", processors.AVX2) == library
    assert library.read_text() == "library\n"


def test_clang_is_not_taken(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What it compiles needs LLVM's OpenMP, a second one in a process whose PyTorch brings GCC's."""
    monkeypatch.setattr(ops, "compiler", lambda: fake_compiler(tmp_path, "#define __clang__ 1"))
    with pytest.raises(RuntimeError, match="second one"):
        ops._built(tmp_path / "cache", processors.AVX2)
    assert (tmp_path / "runs").read_text() == "run\n"


def test_a_compiler_that_does_not_end_is_given_up(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    waiting = tmp_path / "g++"
    waiting.write_text("#!/bin/sh\nexec sleep 600\n")
    waiting.chmod(0o755)
    monkeypatch.setattr(ops, "compiler", lambda: str(waiting))
    monkeypatch.setattr(ops, "BUILD_SECONDS", 0.05)
    monkeypatch.setattr(ops, "_loaded", {})
    ops.load(tmp_path / "cache")
    assert ops.name() == ""
