import re

import pytest

from chatui.ui.page import theme

SHEETS = sorted(theme.ASSETS.glob("*.css"))


@pytest.mark.parametrize("sheet", SHEETS, ids=lambda sheet: sheet.name)
def test_text_grows_with_the_size_that_the_reader_has_set(sheet: theme.Path) -> None:
    found = re.findall(r"(?:font(?:-size)?|line-height):[^;{}]*\dpx[^;{}]*|@media \([^)]*px\)", sheet.read_text())
    assert found == []


def test_texts_of_gradio_grow_too() -> None:
    made = theme.theme()
    sizes = {name: getattr(made, f"text_{name}") for name in ("xxs", "xs", "sm", "md", "lg", "xl", "xxl")}
    assert all(size.endswith("rem") for size in sizes.values()), sizes
