import re
from pathlib import Path

import pytest

from chatui.ui.page import theme

SHEETS = sorted(theme.ASSETS.glob("*.css"))


@pytest.mark.parametrize("sheet", SHEETS, ids=lambda sheet: sheet.name)
def test_text_grows_with_the_size_that_the_reader_has_set(sheet: Path) -> None:
    found = re.findall(r"(?:font(?:-size)?|line-height):[^;{}]*\dpx[^;{}]*|@media \([^)]*px\)", sheet.read_text())
    assert found == []


def test_texts_of_gradio_grow_too() -> None:
    made = theme.theme()
    sizes = {name: getattr(made, f"text_{name}") for name in ("xxs", "xs", "sm", "md", "lg", "xl", "xxl")}
    assert all(size.endswith("rem") for size in sizes.values()), sizes


def variables(css: str, selector: str) -> dict[str, str]:
    """The variables of a rule with this selector, references to others in `:root` resolved."""
    root, rule = (
        dict(re.findall(r"--([\w-]+): ([^;]*);", re.findall(rf"(?:^|[\s}}]){name} {{([^}}]*)}}", css)[0]))
        for name in (":root", selector)
    )
    return {name: re.sub(r"var\(--([\w-]+)\)", lambda found: root[found[1]], value) for name, value in rule.items()}


@pytest.mark.parametrize("selector", [":root", r"\.dark"])
def test_colours_before_gradios_theme_are_those_of_the_theme(selector: str) -> None:
    of_theme = variables(theme.theme()._get_theme_css(), selector)
    prerendered = variables(theme.prerender_css(), selector)
    own = {name.replace("_", "-") for name in theme.OWN_COLOURS}
    assert own < prerendered.keys()
    assert not own & of_theme.keys()
    assert {name: value for name, value in prerendered.items() if name not in own} == {
        name: of_theme[name] for name in prerendered.keys() - own
    }


def test_the_prerendered_page_has_no_colours_of_its_own() -> None:
    sheet = (theme.ASSETS / "prerender.css").read_text()
    assert not re.findall(r"#[0-9a-fA-F]{3,8}\b|\b(?:rgb|hsl)a?\(", sheet)
    own = set(re.findall(r"--([\w-]+):", sheet))
    used = set(re.findall(r"var\(--([\w-]+)", sheet)) - own
    assert used <= variables(theme.prerender_css(), ":root").keys()
