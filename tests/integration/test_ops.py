"""The kernels in C++: as exact as PyTorch's own, the same for a row whatever others there are, and dispensable."""

import platform
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from chatui.engine.kernels import ops
from chatui.engine.kernels.int8_kv import from_stored, to_stored
from chatui.engine.kernels.levels import GROUP, Levels, rounded, unpacked
from chatui.engine.kernels.quantized import Int4Linear, reading_prompts
from chatui.settings import AppSettings
from tests.examples import some_of

Product = Callable[[torch.Tensor, torch.Tensor, torch.Tensor], torch.Tensor]


@pytest.fixture(scope="module")
def built() -> None:
    ops.load(AppSettings().cache_dir)  # once for each version of their sources
    if not ops.name():
        pytest.skip("there is no C++ compiler here")


@pytest.fixture
def built_for_prompts(built: None) -> None:
    if not ops.takes(ops.BLOCK, prefill=True):
        pytest.skip("this CPU has AVX-512, or no AVX2")


@pytest.fixture(params=[ops.int4mm, ops.int4mm_prefill])
def product(request: pytest.FixtureRequest, built: None) -> Product:
    """Each of the products that this CPU can run."""
    if not ops.takes(ops.BLOCK, prefill=request.param is ops.int4mm_prefill):
        pytest.skip("this CPU has AVX-512, or no AVX2")
    chosen: Product = request.param
    return chosen


def levels_of(outputs: int, inputs: int, seed: int) -> Levels:
    return rounded(torch.randn(outputs, inputs, generator=torch.Generator().manual_seed(seed)))


def layer_of(outputs: int, inputs: int, seed: int) -> tuple[Int4Linear, torch.Tensor]:
    """A layer, and the weight that its levels stand for: float32 [out, in]."""
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


@pytest.mark.usefixtures("built")
@given(shape=SHAPES)
@settings(max_examples=some_of(60), deadline=None)
def test_it_is_as_exact_as_pytorchs_own(shape: tuple[int, int, int, int]) -> None:
    rows, blocks, groups, seed = shape
    outputs, inputs = blocks * ops.BLOCK, groups * GROUP
    layer, weight = layer_of(outputs, inputs, seed)
    x = numbers(rows, inputs, seed)
    exact = x.double() @ weight.double().T
    found = ops.int4mm(x, layer.packed, layer.scales_and_zeros)
    packed = ops.pack(unpacked(levels_of(outputs, inputs, seed).nibbles).int(), own=False)
    theirs = torch.ops.aten._weight_int4pack_mm_for_cpu(x, packed, GROUP, layer.scales_and_zeros)
    # One rounding of the sum to bfloat16, and of each input to a 30,000th of the largest.
    step = 2**-8 * exact.abs() + 1e-4 * x.double().abs().amax() * weight.double().abs().sum(1)
    assert ((found.double() - exact).abs() <= step).all()
    assert (found.double() - exact).norm() <= 1.1 * (theirs.double() - exact).norm() + 1e-6


@pytest.mark.usefixtures("built_for_prompts")
@given(shape=SHAPES | st.tuples(st.integers(1, 9), st.just(1), st.integers(15, 40), st.integers(0, 1000)))
@settings(max_examples=some_of(60), deadline=None)
def test_the_product_for_prompts_errs_by_the_rounding_of_its_activations(shape: tuple[int, int, int, int]) -> None:
    rows, blocks, groups, seed = shape
    outputs, inputs = blocks * ops.BLOCK, groups * GROUP
    layer, weight = layer_of(outputs, inputs, seed)
    x = numbers(rows, inputs, seed)
    exact = x.double() @ weight.double().T
    found = ops.int4mm_prefill(x, layer.packed, layer.scales_and_zeros)
    # Each is off by half a step, of which 255 reach from the lowest to the highest of its group.
    grouped = x.double().unflatten(-1, (-1, GROUP))
    step = (grouped.amax(-1) - grouped.amin(-1)) / 255 / 2
    bound = step @ weight.double().abs().unflatten(-1, (-1, GROUP)).sum(-1).T
    assert ((found.double() - exact).abs() <= 2**-8 * exact.abs() + 1.01 * bound + 1e-4).all()


@pytest.mark.parametrize("inputs", [GROUP, 3 * GROUP, 40 * GROUP])
@pytest.mark.parametrize("threads", [1, 2, 3])
def test_a_row_is_the_same_alone_and_among_others(product: Product, inputs: int, threads: int) -> None:
    layer, _ = layer_of(192, inputs, threads)
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


@pytest.mark.parametrize("bad", [float("nan"), float("inf"), -float("inf")])
@pytest.mark.parametrize("rows", [3, 20])
def test_what_is_no_number_stays_in_its_row(product: Product, bad: float, rows: int) -> None:
    layer, _ = layer_of(64, 96, 0)
    x = numbers(rows, 96, 0)
    wanted = product(x, layer.packed, layer.scales_and_zeros)
    x[1, 40] = bad
    found = product(x, layer.packed, layer.scales_and_zeros)
    assert found[1].isnan().all()
    others = [row for row in range(rows) if row != 1]
    assert torch.equal(found[others], wanted[others])


def test_rows_of_zeros_and_of_strides_are_taken(product: Product) -> None:
    layer, weight = layer_of(64, 64, 0)
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


def test_prompts_are_read_with_a_product_of_their_own_whatever_their_length(
    product: Product, monkeypatch: pytest.MonkeyPatch
) -> None:
    called: list[Any] = []
    layer, is_for_prompts = layer_of(64, 64, 0)[0], product is ops.int4mm_prefill

    def counted(*given: Any) -> torch.Tensor:
        called.append(given)
        return product(*given)

    monkeypatch.setattr(ops, product.__name__, counted)
    for rows in (1, 20):
        if is_for_prompts:
            with reading_prompts():
                layer(numbers(rows, 64, 0))
        layer(numbers(rows, 64, 0))
    assert len(called) == 2


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
    assert not ops.takes(64, prefill=True)
    layer, weight = layer_of(64, 64, 0)
    x = numbers(3, 64, 0)
    torch.testing.assert_close(layer(x).float(), x.float() @ weight.T, atol=0.5, rtol=0.02)


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
    first = ops._built(tmp_path / "cache", ops.AVX2)
    monkeypatch.setattr(subprocess, "run", lambda *_, **__: pytest.fail("built again"))
    assert ops._built(tmp_path / "cache", ops.AVX2) == first


def test_a_damaged_library_is_built_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ops, "compiler", lambda: fake_compiler(tmp_path))
    library = ops._built(tmp_path / "cache", ops.AVX2)
    assert library.read_text() == "library\n"
    library.write_text("lib")
    assert ops._built(tmp_path / "cache", ops.AVX2) == library
    assert library.read_text() == "library\n"


def test_clang_is_not_taken(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What it compiles needs LLVM's OpenMP, a second one in a process whose PyTorch brings GCC's."""
    monkeypatch.setattr(ops, "compiler", lambda: fake_compiler(tmp_path, "#define __clang__ 1"))
    with pytest.raises(RuntimeError, match="second one"):
        ops._built(tmp_path / "cache", ops.AVX2)
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


PLACES = st.lists(st.integers(0, 4 * ops.BLOCK - 1), min_size=1, max_size=6)
HEADS = st.tuples(st.integers(1, 3), st.integers(1, 9), st.integers(1, 70), st.integers(1, 9))
TABLES = torch.randperm(24, generator=torch.Generator().manual_seed(5)).view(6, 4)


def cached_tensors(
    shared: int, size: int, width: int, seed: int, in_int8: bool = False
) -> tuple[torch.Tensor, torch.Tensor]:
    """Keys and values of six sequences of 256 tokens, in blocks as in TABLES."""
    generator = torch.Generator().manual_seed(seed)
    keys = torch.randn(24, shared, size, ops.BLOCK, generator=generator).bfloat16()
    values = torch.randn(24, shared, ops.BLOCK, width, generator=generator).bfloat16()
    if in_int8:
        return to_stored(keys.transpose(2, 3), torch.int8).transpose(2, 3).contiguous(), to_stored(values, torch.int8)
    return keys, values


@pytest.mark.usefixtures("built")
@given(
    shape=HEADS, places=PLACES, window=st.none() | st.integers(1, 300), seed=st.integers(0, 1000), in_int8=st.booleans()
)
def test_attention_is_as_exact_as_its_rounding(
    shape: tuple[int, int, int, int], places: list[int], window: int | None, seed: int, in_int8: bool
) -> None:
    shared, group, size, parts = shape
    keys, values = cached_tensors(shared, size, parts * ops.LANES, seed, in_int8)
    query = torch.randn(len(places), shared, group, size, generator=torch.Generator().manual_seed(seed)).bfloat16()
    tables, positions = TABLES[: len(places)], torch.tensor(places)
    for table, position in zip(tables, places, strict=True):  # nobody has written behind it yet
        block, at = table[position // ops.BLOCK], position % ops.BLOCK
        nothing = -1 if in_int8 else float("nan")  # a scale of such bytes is NaN
        keys[block, :, :, at + 1 :] = values[block, :, at + 1 :] = nothing
        keys[table[position // ops.BLOCK + 1 :]] = nothing
        values[table[position // ops.BLOCK + 1 :]] = nothing
    assert ops.attends(query, keys, values)
    found = ops.attend(query, keys, values, tables, positions, window)
    for row, (table, position) in enumerate(zip(tables, places, strict=True)):
        seen = slice(0 if window is None else max(0, position + 1 - window), position + 1)
        key = from_stored(keys[table].permute(1, 2, 0, 3).flatten(2), torch.float32, 1)[:, :, seen].double()
        value = from_stored(values[table].transpose(0, 1).flatten(1, 2), torch.float32)[:, seen].double()
        exact = (query[row].double() @ key).softmax(-1) @ value
        assert ((found[row].double() - exact).abs() <= 2**-8 * exact.abs() + 1e-4).all()
    alone = ops.attend(query[:1], keys, values, tables[:1], positions[:1], window)
    assert torch.equal(found[:1], alone)


@pytest.mark.usefixtures("built")
@pytest.mark.parametrize("in_int8", [False, True], ids=["bfloat16", "int8"])
@pytest.mark.parametrize(("shared", "group"), [(1, 1), (3, 3), (1, 9)])
def test_attention_of_a_row_is_the_same_alone_and_among_others(shared: int, group: int, in_int8: bool) -> None:
    keys, values = cached_tensors(shared, 64, 80, group, in_int8)
    generator = torch.Generator().manual_seed(group)
    query = torch.randn(40, shared, group, 64, generator=generator).bfloat16()
    which, positions = torch.arange(40) % len(TABLES), torch.randint(0, 256, (40,), generator=generator)
    tables = TABLES[which]
    rows = [slice(row, row + 1) for row in range(40)]
    alone = torch.cat([ops.attend(query[row], keys, values, tables[row], positions[row], 100) for row in rows])
    for count in range(1, 41):
        found = ops.attend(query[:count], keys, values, tables[:count], positions[:count], 100)
        assert torch.equal(found, alone[:count]), count


@pytest.mark.usefixtures("built")
@pytest.mark.parametrize("bad", [float("nan"), float("inf"), -float("inf")])
def test_attention_to_what_is_no_number_stays_in_its_row(bad: float) -> None:
    keys, values = cached_tensors(2, 16, 16, 0)
    query, at = torch.ones(3, 2, 3, 16).bfloat16(), torch.tensor([70, 80, 90])
    wanted = ops.attend(query, keys, values, TABLES[:3], at, None)
    keys[TABLES[1, 0], 0, 3, 5] = bad
    found = ops.attend(query, keys, values, TABLES[:3], at, None)
    assert not found[1, 0].isfinite().any() or bad == -float("inf")
    assert torch.equal(found[[0, 2]], wanted[[0, 2]])
    assert torch.equal(found[1, 1], wanted[1, 1])


def test_attention_is_left_to_pytorch_where_the_kernel_does_not_fit() -> None:
    keys, values = cached_tensors(1, 16, 16, 0)
    query = torch.zeros(1, 1, 1, 16).bfloat16()
    assert not ops.attends(query.float(), keys.float(), values.float())
    assert not ops.attends(query, keys, values[..., :8])
    assert not ops.attends(query, keys[..., :32], values[:, :, :32])
    keys, values = cached_tensors(1, 16, 24, 0, in_int8=True)
    assert not ops.attends(query, keys, values)
    assert not ops.attends(query.float(), *cached_tensors(1, 16, 16, 0, in_int8=True))
    assert not ops.attends(query, keys, cached_tensors(1, 16, 16, 0)[1])
