"""Products of int4 layers are compared with PyTorch's before they are used."""

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor

from chatui.engine.kernels import checks
from chatui.engine.kernels.levels import GROUP


def pack(levels: Tensor, own: bool) -> Tensor:
    """Ours are the plain levels."""
    return levels if own else torch.ops.aten._convert_weight_to_int4pack_for_cpu(levels, 1)


def product(x: Tensor, levels: Tensor, factors: Tensor) -> Tensor:
    scale, zero = factors.float().transpose(0, 1).repeat_interleave(GROUP, 1).unbind(2)
    return (x.float() @ ((levels - 8) * scale + zero).T).bfloat16()


def wrong_with(rows: int) -> Callable[[Tensor, Tensor, Tensor], Tensor]:
    return lambda x, *rest: product(x, *rest) * (1.1 if len(x) == rows else 1)


def test_what_computes_the_same_agrees() -> None:
    assert checks.agree(product, pack)


@pytest.mark.parametrize("rows", checks.CHECKED_ROWS)
def test_what_computes_something_else_does_not(rows: int) -> None:
    assert not checks.agree(wrong_with(rows), pack)


def test_no_numbers_do_not_agree() -> None:
    assert not checks.agree(lambda *given: product(*given) * float("nan"), pack)


def product_in_8_bits(x: Tensor, levels: Tensor, factors: Tensor) -> Tensor:
    return product(x, levels + 8, factors)


def test_8_bit_levels_are_compared_with_both_of_their_halves() -> None:
    def plain(levels: Tensor) -> Tensor:
        return levels.int()

    assert checks.agree_in_8_bits(product_in_8_bits, plain, pack)
    assert not checks.agree_in_8_bits(product, plain, pack)
    for rows in checks.CHECKED_ROWS:
        wrong = lambda x, *rest, at=rows: product_in_8_bits(x, *rest) * (1.1 if len(x) == at else 1)  # noqa: E731
        assert not checks.agree_in_8_bits(wrong, plain, pack)


@pytest.mark.parametrize(("times", "faster"), [([0.5, 0.9], True), ([0.5, 1.1], False), ([1.1, 0.5], False)])
def test_it_must_be_faster_with_all_rows(monkeypatch: pytest.MonkeyPatch, times: list[float], faster: bool) -> None:
    by_rows = iter(times)

    def seconds(*calls: Callable[[], Any], **_: Any) -> tuple[float, float]:
        own, other = (call() for call in calls)
        assert own.shape == other.shape
        return next(by_rows), 1.0

    monkeypatch.setattr(checks, "seconds", seconds)
    assert checks.is_faster(product, pack) == faster


def test_times_are_taken_in_turns_with_one_thread() -> None:
    seen = list[tuple[str, int]]()
    before = torch.get_num_threads()
    first, second = checks.seconds(
        lambda: seen.append(("first", torch.get_num_threads())),
        lambda: seen.append(("second", torch.get_num_threads())),
        times=2,
    )
    assert seen == [("first", 1), ("second", 1)] * 2
    assert 0 <= first < float("inf")
    assert 0 <= second < float("inf")
    assert torch.get_num_threads() == before
