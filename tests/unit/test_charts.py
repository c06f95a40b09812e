"""Pictures of numbers: the shares are those of the numbers, and who does not see them is told."""

import re

from hypothesis import given
from hypothesis import strategies as st

from chatui.ui.inspector import charts
from chatui.ui.inspector.charts import BarPart, ContextTurn, LabelledBar

SIZES = st.floats(0, 1e12)


def shares(markup: str, what: str = "width") -> list[float]:
    return [float(share) for share in re.findall(rf"{what}:([\d.]+)%", markup)]


def test_parts_have_their_shares_of_the_whole() -> None:
    parts = [
        BarPart("weights", 25, "25 B", "weights"),
        BarPart("K/V", 50, "50 B", "kv"),
        BarPart("none", 0, "0 B", "none"),
    ]
    drawn = charts.stacked("Memory", [("predicted", parts), ("held", parts[:1])], 100)
    assert shares(drawn) == [25, 50, 25]
    assert "weights 25\u00a0B + K/V 50\u00a0B + none 0\u00a0B" in drawn, "no number stands apart from its unit"
    assert drawn.count('class="key weights"') == 1


def test_the_longest_bar_takes_the_width_and_a_mark_stands_on_the_same_scale() -> None:
    rows = [LabelledBar("int4", 100, "100 tokens/s", strong=True), LabelledBar("bfloat16", 25, "25 tokens/s")]
    drawn = charts.bars("Speed", rows, ("this reply", 50))
    assert shares(drawn) == [100, 25]
    assert shares(drawn, "inset-inline-start") == [50, 50]
    assert shares(charts.bars("Speed", rows, ("faster than allowed", 200)))[0] == 50


def test_a_column_is_as_high_as_the_context_is_taken() -> None:
    drawn = charts.context_columns(
        "Context", [ContextTurn(0, 20, 30), ContextTurn(40, 60, 40)], 200, ("kept", "read", "written"), "full"
    )
    assert shares(drawn, "height") == [10, 15, 20, 10, 20]
    assert "50, 100" in drawn


@given(st.lists(SIZES, max_size=5), SIZES)
def test_no_share_is_above_the_whole(sizes: list[float], whole: float) -> None:
    parts = [BarPart("p", size, "x", "weights") for size in sizes]
    assert all(0 <= share <= 100 for share in shares(charts.stacked("t", [("a", parts)], whole)))
    assert all(0 <= share <= 100 for share in shares(charts.bars("t", [LabelledBar("b", size, "x") for size in sizes])))


@given(st.text())
def test_names_are_never_markup(name: str) -> None:
    tags = re.findall(r"<[^>]*>", charts.bars("t", [LabelledBar("n", 1, "x")]))
    drawn = charts.bars(name, [LabelledBar(name, 1, name)])
    assert len(re.findall(r"<\w", drawn)) == len([tag for tag in tags if not tag.startswith("</")])
