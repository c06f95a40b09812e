"""Attention in C++: as exact as its rounding, the same for a row whatever others there are, and only where it fits."""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from chatui.engine.kernels import ops
from chatui.engine.kernels.int8_kv import from_stored, to_stored
from chatui.settings import AppSettings


@pytest.fixture(scope="module")
def built() -> None:
    ops.load(AppSettings().cache_dir)  # once for each version of their sources
    if not ops.name():
        pytest.skip("this CPU lacks AVX2, or there is no C++ compiler here")


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
