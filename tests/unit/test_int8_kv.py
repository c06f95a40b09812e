"""Keys and values in 8 bits: as near as a step of their scale, each token and head by itself."""

import pytest
import torch

from chatui.engine.kernels.int8_kv import LARGEST, SCALE_BYTES, from_stored, to_stored

TYPES = (torch.float32, torch.bfloat16, torch.float16)


def numbers(*shape: int, seed: int = 0) -> torch.Tensor:
    """Heads of very different sizes, with outliers."""
    generator = torch.Generator().manual_seed(seed)
    sizes = 10.0 ** torch.randint(-3, 3, (*shape[:-1], 1), generator=generator)
    found = sizes * torch.randn(shape, generator=generator)
    return found * (1 + 20 * (torch.rand(shape[-1], generator=generator) > 0.95))


@pytest.mark.parametrize("dtype", TYPES)
def test_each_number_is_within_half_a_step(dtype: torch.dtype) -> None:
    exact = numbers(7, 3, 64).to(dtype)
    stored = to_stored(exact, torch.int8)
    assert (stored.shape, stored.dtype) == ((7, 3, 64 + SCALE_BYTES), torch.int8)
    found = from_stored(stored, torch.float32)
    step = exact.float().abs().amax(-1, keepdim=True) / LARGEST
    # The scale is rounded to bfloat16, so that the largest number is off by 2**-9 of itself.
    assert ((found - exact.float()).abs() <= 0.51 * step + 2**-8 * exact.float().abs()).all()
    assert from_stored(stored, dtype).dtype == dtype
    again = to_stored(from_stored(stored, torch.float32), torch.int8)
    assert torch.equal(from_stored(again, torch.float32), found)


def test_a_head_does_not_depend_on_those_beside_it() -> None:
    exact = numbers(9, 4, 16)
    together = to_stored(exact, torch.int8)
    for row in range(9):
        for head in range(4):
            assert torch.equal(to_stored(exact[row, head], torch.int8), together[row, head])


def test_a_head_may_lie_in_any_dimension() -> None:
    stored = to_stored(numbers(5, 2, 8), torch.int8)
    turned = from_stored(stored.transpose(1, 2).contiguous(), torch.float32, dim=1)
    assert torch.equal(turned.transpose(1, 2), from_stored(stored, torch.float32))


def test_zeros_stay_zeros_and_what_is_no_number_stays_none() -> None:
    exact = torch.tensor(
        [[0.0, 0, 0], [1e-42, 0, -1e-42], [1, float("nan"), 2], [3, float("inf"), 0], [3e38, 0, -3e38]]
    )
    found = from_stored(to_stored(exact, torch.int8), torch.float32)
    assert not found[:2].any()
    assert found[2:4].isnan().all()
    torch.testing.assert_close(found[4], exact[4], rtol=0.01, atol=0)
    assert not from_stored(torch.zeros(2, 3 + SCALE_BYTES, dtype=torch.int8), torch.float32).any(), "an empty block"


@pytest.mark.parametrize("dtype", TYPES)
def test_in_other_types_all_is_stored_as_it_is(dtype: torch.dtype) -> None:
    exact = numbers(2, 4).to(dtype)
    assert to_stored(exact, dtype) is exact
    assert from_stored(exact, dtype) is exact
