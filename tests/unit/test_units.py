"""How sizes are written."""

import pytest

from chatui.units import human_bytes, human_count


@pytest.mark.parametrize(
    ("count", "text"),
    [
        (0, "0 B"),
        (999, "999 B"),
        (1000, "1 kB"),
        (269_060_000, "269 MB"),
        (999_600_000, "1.0 GB"),
        (16.06e9, "16.1 GB"),
    ],
)
def test_human_bytes(count: float, text: str) -> None:
    assert human_bytes(count) == text


@pytest.mark.parametrize(
    ("count", "text"),
    [(0, "0"), (32_480, "32,480"), (134_515_008, "135M"), (999_600_000, "1B"), (8_030_261_248, "8.03B")],
)
def test_human_count(count: int, text: str) -> None:
    assert human_count(count) == text
