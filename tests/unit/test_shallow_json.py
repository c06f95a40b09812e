"""What is nested deeply is refused, all else is read as `json.loads` does."""

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from chatui.shallow_json import MAX_DEPTH, loads

VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(),
    lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner),
)


@given(VALUES, st.sampled_from(["utf-8", "utf-8-sig", "utf-16", "utf-32"]))
def test_it_is_json(value: object, encoding: str) -> None:
    text = json.dumps(value, ensure_ascii=False)
    assert loads(text) == value
    data = text.encode(encoding, "surrogatepass")
    assert loads(data) == json.loads(data) == value


@pytest.mark.parametrize("deep", [100_000, MAX_DEPTH + 1])
@pytest.mark.parametrize("start", ["[", '{"a":', '["\\"]", '])
def test_what_is_nested_deeply_is_refused_before_it_is_parsed(
    monkeypatch: pytest.MonkeyPatch, deep: int, start: str
) -> None:
    monkeypatch.setattr(json, "loads", lambda _: pytest.fail("parsed"))
    for data in (start * deep, (start * deep).encode()):
        with pytest.raises(ValueError, match="deep"):
            loads(data)


def test_many_brackets_that_are_not_nested_are_read() -> None:
    values: list[object] = [[[]] * 1000, {"a": "[" * 1000}, ["\\", '"[' * 1000], [{}] * MAX_DEPTH]
    for value in values:
        assert loads(json.dumps(value)) == value
    depth = "[" * MAX_DEPTH + "]" * MAX_DEPTH
    assert json.dumps(loads(depth)) == depth


@pytest.mark.parametrize("bad", ["", "[", "]" * 500, "[" * 150 + '"', b"\xff\xfe\xff", b"\xff"])
def test_what_is_no_json_is_a_value_error(bad: str | bytes) -> None:
    with pytest.raises(ValueError, match=r"."):
        loads(bad)
