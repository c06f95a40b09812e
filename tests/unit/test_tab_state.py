from hypothesis import given
from hypothesis import strategies as st

from chatui.ui.shared.tab_state import TabState


@given(
    st.builds(
        TabState,
        chat=st.text(max_size=20),
        temporary=st.booleans(),
        message_ids=st.lists(st.text(max_size=9)).map(tuple),
    )
)
def test_a_state_comes_back(state: TabState) -> None:
    assert TabState.from_json(state.to_json()) == state


@given(st.one_of(st.text(), st.none(), st.binary().map(repr)))
def test_nonsense_is_the_start_of_everything(text: str | None) -> None:
    assert isinstance(TabState.from_json(text), TabState)


def test_absurd_values_are_nonsense() -> None:
    for text in ('{"chat": "%s"}' % ("x" * 101), '{"shown": -1}', '{"shown": 1e99}', '{"ids": 3}', "[" * 10_000):
        assert TabState.from_json(text) == TabState()


def test_a_thing_names_its_message() -> None:
    state = TabState(message_ids=("a", "b"))
    assert [state.message_id(index) for index in (0, 1, 7, -1)] == ["a", "b", "b", ""]
    assert TabState().message_id(0) == ""


def test_another_chat_is_another_state() -> None:
    moved = TabState(chat="a", temporary=True, message_ids=("x",), show_archived=True).in_chat("b")
    assert (moved.chat, moved.temporary, moved.message_ids, moved.show_archived) == ("b", False, (), True)


def test_the_keys_that_pages_of_earlier_versions_send_are_read() -> None:
    text = (
        '{"chat":"a","temporary":true,"ids":["x"],"growing":true,"archived":true,"deleted":true,"shown":7,'
        '"messages":8,"removed":"b"}'
    )
    state = TabState("a", True, ("x",), True, True, True, 7, 8, "b")
    assert TabState.from_json(text) == state
    assert state.to_json() == text.replace("}", ',"turn":""}')
