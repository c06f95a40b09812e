"""Columns of traces are the traces they were made of, as a whole and in parts."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from chatui.traces import TokenTrace, Traces


@st.composite
def replies(draw: st.DrawFn) -> list[TokenTrace]:
    names = ("model", "top_p")[: draw(st.integers(1, 2))]
    found = []
    for at in range(draw(st.integers(0, 6))):
        ids = draw(st.lists(st.integers(0, 50), min_size=1, max_size=11, unique=True))
        token = draw(st.sampled_from(ids))
        share = st.floats(0, 1, width=32)
        steps = tuple(tuple(draw(share) for _ in ids) for _ in names)
        probability = steps[0][ids.index(token)]
        found.append(TokenTrace(token, float(at), probability, at + 1, 0.5, tuple(ids), names, steps))
    return found


@given(replies(), st.data())
def test_columns_give_back_the_traces(found: list[TokenTrace], data: st.DataObject) -> None:
    traces = Traces.of(found)
    assert list(traces) == found
    assert len(traces) == len(found)
    assert traces.chosen_ids == [trace.id for trace in found]
    assert traces.all_ids == {id for trace in found for id in trace.ids}
    some = data.draw(st.slices(len(found) + 1))
    assert list(traces[some]) == found[some]
    with pytest.raises(IndexError):
        traces[len(found)]
