"""Dense weights rounded to levels: how far they may be off, and never further than with coarser scales."""

from contextlib import nullcontext

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from chatui.engine.kernels import rounding
from chatui.engine.kernels.levels import GROUP, Levels
from chatui.engine.kernels.quantized import Int8Linear
from chatui.engine.kernels.rounding import rounded, rounded_to_8_bits

# How far off bfloat16 can be, relative to the number.
HALF_STEP = 2**-8


def noise(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


@given(st.integers(0, 10**6), st.floats(-4, 4), st.floats(1e-3, 100))
def test_rounding_errs_by_no_more_than_plain_rounding(seed: int, shift: float, size: float) -> None:
    weight = (noise(16, 64, seed=seed) + shift) * size
    groups = weight.reshape(16, -1, GROUP)
    low, high = groups.aminmax(dim=-1, keepdim=True)
    # Half a step each, what bfloat16 takes off scale and zero, and all of that again for weights cut off at the ends.
    step = (high - low) / 15
    bound = step / 2 + HALF_STEP * (8 * step + (low + 8 * step).abs())
    error = (rounded(weight).dequantized(64) - weight).reshape(16, -1, GROUP).square().sum(-1, keepdim=True)
    assert (error <= GROUP * (2 * bound).square()).all()


def test_refitted_levels_are_better_than_nearest_ones_and_equal_weights_stay_equal() -> None:
    weight = noise(64, 256)
    relative = (rounded(weight).dequantized(256) - weight).norm() / weight.norm()
    assert relative < 0.075
    assert torch.equal(rounded(torch.full((16, 32), 0.5)).dequantized(32), torch.full((16, 32), 0.5))
    assert torch.equal(rounded(torch.zeros(16, 32)).dequantized(32), torch.zeros(16, 32))


def in_8_bits(weight: Tensor) -> Tensor:
    """What the levels of 8 bits stand for."""
    levels, factors = rounded_to_8_bits(weight)
    assert levels.dtype is torch.int8
    assert factors.shape == (weight.shape[1] // GROUP, len(weight), 2)
    scale, zero = factors.float().transpose(0, 1).unsqueeze(-1).unbind(2)
    return (levels.view(len(weight), -1, GROUP) * scale + zero).flatten(1)


@given(st.integers(0, 10**6), st.floats(-4, 4), st.floats(1e-3, 100))
def test_8_bits_err_by_no_more_than_plain_rounding(seed: int, shift: float, size: float) -> None:
    weight = (noise(16, 64, seed=seed) + shift) * size
    groups = weight.reshape(16, -1, GROUP)
    low, high = groups.aminmax(dim=-1, keepdim=True)
    step = (high - low) / 255
    bound = step / 2 + HALF_STEP * (128 * step + (low + 128 * step).abs())
    error = (in_8_bits(weight) - weight).reshape(16, -1, GROUP).square().sum(-1, keepdim=True)
    assert (error <= GROUP * (2 * bound).square()).all()


@pytest.mark.parametrize("outliers", [1, 10])
@pytest.mark.parametrize("shift", [0, 0.5, 3])
def test_groups_are_nearer_than_rows_with_one_scale(shift: float, outliers: int) -> None:
    weight = (noise(64, 512) + shift) * torch.where(torch.arange(512) % 100 == 0, outliers, 1)
    weight = weight.bfloat16().float()
    of_rows = Int8Linear(weight)
    by_row = (of_rows.levels * of_rows.scales[:, None] - weight).norm()
    assert (in_8_bits(weight) - weight).norm() < 0.85 * by_row


@pytest.mark.parametrize("number", [0, 0.5, -3])
def test_equal_weights_stay_equal_in_8_bits(number: float) -> None:
    weight = torch.full((16, 32), float(number))
    assert torch.equal(in_8_bits(weight), weight)


def test_8_bits_are_the_same_in_parts(monkeypatch: pytest.MonkeyPatch) -> None:
    weight = noise(448, 64)
    whole = rounded_to_8_bits(weight)
    monkeypatch.setattr(rounding, "CHUNK", 64 * 64)
    assert all(map(torch.equal, rounded_to_8_bits(weight), whole))


@pytest.mark.parametrize("fails", [False, True])
def test_each_part_is_rounded_with_one_thread(monkeypatch: pytest.MonkeyPatch, fails: bool) -> None:
    seen, real = list[int](), rounding._rounded

    def note(part: Tensor) -> Levels:
        seen.append(torch.get_num_threads())
        return real(part[0] if fails else part)

    monkeypatch.setattr(rounding, "CHUNK", 64 * 64)
    monkeypatch.setattr(rounding, "_rounded", note)
    before = torch.get_num_threads()
    torch.set_num_threads(3)
    try:
        with pytest.raises(RuntimeError) if fails else nullcontext():
            rounded(noise(448, 64))
        assert set(seen) == {1}
        assert len(seen) == 7 or fails
        assert torch.get_num_threads() == 3
    finally:
        torch.set_num_threads(before)
