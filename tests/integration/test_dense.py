"""The product of dense bfloat16 layers: exact, the same for a row whatever others there are, and used where it pays."""

import copy
from collections.abc import Iterator

import pytest
import torch
from torch import nn

from chatui.engine.kernels import dense, ops
from chatui.engine.kernels.dense import Bfloat16Linear, linear, use_kernel
from chatui.settings import AppSettings
from tests import models

SHAPES = [(1, 16, 1), (2, 48, 7), (3, 1024, 40), (5, 1040, 33), (9, 2064, 64), (70, 96, 100)]


@pytest.fixture(scope="module", autouse=True)
def built() -> None:
    ops.load(AppSettings().cache_dir)  # once for each version of their sources
    if ops.function(dense.FUNCTION) is None:
        pytest.skip("there is no C++ compiler here")


@pytest.fixture(autouse=True)
def measured_anew() -> Iterator[None]:
    dense.is_faster.cache_clear()
    yield
    dense.is_faster.cache_clear()


def numbers(*shape: int) -> torch.Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(sum(shape))).bfloat16()


@pytest.mark.parametrize(("rows", "inputs", "outputs"), SHAPES)
def test_it_errs_by_the_rounding_of_its_result(rows: int, inputs: int, outputs: int) -> None:
    x, weight = numbers(rows, inputs), numbers(outputs, inputs)
    exact = x.double() @ weight.double().T
    summed = inputs * 2.0**-24 * (x.double().abs() @ weight.double().abs().T)
    assert ((linear(x, weight).double() - exact).abs() <= 2**-8 * exact.abs() + summed).all()


@pytest.mark.parametrize("threads", [1, 2, 3])
@pytest.mark.parametrize("inputs", [64, 1040])
def test_a_row_is_the_same_alone_and_among_others(inputs: int, threads: int) -> None:
    x, weight = numbers(40, inputs), numbers(90, inputs)
    before = torch.get_num_threads()
    torch.set_num_threads(threads)
    try:
        alone = torch.cat([linear(row[None], weight) for row in x])
        for rows in range(2, 41):
            assert torch.equal(linear(x[:rows], weight), alone[:rows]), rows
            assert torch.equal(linear(x[-rows:], weight), alone[-rows:]), rows
    finally:
        torch.set_num_threads(before)


@pytest.mark.parametrize("rows", [3, 20])
@pytest.mark.parametrize("bad", [float("nan"), float("inf")])
def test_what_is_no_number_stays_in_its_row(rows: int, bad: float) -> None:
    x, weight = numbers(rows, 64), numbers(40, 64)
    expected = linear(x, weight)
    x[1, 5] = bad
    found = linear(x, weight)
    assert not found[1].isfinite().any()
    others = [row for row in range(rows) if row != 1]
    assert torch.equal(found[others], expected[others])


@pytest.mark.parametrize("bias", [True, False])
def test_a_layer_shares_its_weights_and_computes_the_same(bias: bool) -> None:
    layer = nn.Linear(64, 48, bias=bias).bfloat16()
    fast, x = Bfloat16Linear(layer), numbers(2, 3, 64)
    with torch.inference_mode():
        torch.testing.assert_close(fast(x), layer(x), atol=0.02, rtol=0.02)
        strided = numbers(4, 128)[:, ::2]
        torch.testing.assert_close(fast(strided), layer(strided), atol=0.02, rtol=0.02)
    assert fast.weight is layer.weight
    assert fast.bias is layer.bias
    assert (fast.in_features, fast.out_features) == (64, 48)


def test_a_model_uses_it_where_it_is_faster(monkeypatch: pytest.MonkeyPatch) -> None:
    own = copy.deepcopy(models.model()).bfloat16()
    model = copy.deepcopy(own)
    monkeypatch.setattr(dense, "is_faster", lambda: False)
    use_kernel(model)
    assert not any(isinstance(module, Bfloat16Linear) for module in model.modules())
    monkeypatch.setattr(dense, "is_faster", lambda: True)
    use_kernel(model)
    replaced = [name for name, module in model.named_modules() if isinstance(module, Bfloat16Linear)]
    expected = [name for name, module in own.named_modules() if isinstance(module, nn.Linear) and dense.takes(module)]
    assert replaced == expected
    assert replaced
    ids = torch.arange(12)[None]
    with torch.inference_mode():
        found, before = model(ids).logits, own(ids).logits
    assert (found - before).norm() <= 0.05 * before.norm()
    assert set(model.state_dict()) == set(own.state_dict())


def test_only_dense_bfloat16_layers_on_the_cpu_are_taken() -> None:
    assert dense.takes(nn.Linear(32, 5).bfloat16())
    assert not dense.takes(nn.Linear(32, 5))
    assert not dense.takes(nn.Linear(24, 5).bfloat16())
    assert not dense.takes(nn.Linear(32, 5, device="meta").bfloat16())


@pytest.mark.parametrize(
    ("seconds", "used"),
    [
        ({1: (1, 1), 4: (1, 3), 32: (1, 4)}, True),
        ({1: (1.2, 1), 4: (1, 3), 32: (1, 4)}, False),
        ({1: (1, 1), 4: (1, 1), 32: (1, 1)}, False),
    ],
    ids=["faster with many rows", "slower with one", "no faster"],
)
def test_it_is_used_where_it_pays(
    monkeypatch: pytest.MonkeyPatch, seconds: dict[int, tuple[float, float]], used: bool
) -> None:
    by_rows = iter(seconds[rows] for rows in dense.MEASURED_ROWS)
    monkeypatch.setattr(dense, "seconds", lambda *_, **__: next(by_rows))
    assert dense.is_faster() is used


def test_a_kernel_that_computes_something_else_is_not_used(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(dense, "seconds", lambda *_, **__: (0.1, 1.0))
    assert dense.is_faster()
    dense.is_faster.cache_clear()
    monkeypatch.setattr(dense, "linear", lambda x, weight: linear(x, weight) * (2 if len(x) == 4 else 1))
    assert not dense.is_faster()


def test_it_is_measured_for_real() -> None:
    assert isinstance(dense.is_faster(), bool)


def test_a_layer_can_be_exported() -> None:
    layer = Bfloat16Linear(nn.Linear(64, 48).bfloat16())
    x = numbers(3, 64)
    program = torch.export.export(layer, (x,), dynamic_shapes=({0: torch.export.Dim("rows", min=2, max=64)},))
    assert "chatui.bfloat16_linear" in str(program.graph)
    assert torch.equal(program.module()(x), layer(x))
