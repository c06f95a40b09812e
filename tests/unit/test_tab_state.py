from hypothesis import given
from hypothesis import strategies as st

from chatui.ui.chat.tab_state import TabState


@given(
    st.builds(
        TabState, chat=st.text(max_size=20), temporary=st.booleans(), ids=st.lists(st.text(max_size=9)).map(tuple)
    )
)
def test_a_place_comes_back(place: TabState) -> None:
    assert TabState.read(place.written()) == place


@given(st.one_of(st.text(), st.none(), st.binary().map(repr)))
def test_nonsense_is_the_start_of_everything(text: str | None) -> None:
    assert isinstance(TabState.read(text), TabState)


def test_absurd_values_are_nonsense() -> None:
    for text in ('{"chat": "%s"}' % ("x" * 101), '{"shown": -1}', '{"shown": 1e99}', '{"ids": 3}', "[" * 10_000):
        assert TabState.read(text) == TabState()


def test_a_thing_names_its_message() -> None:
    place = TabState(ids=("a", "b"))
    assert [place.message(index) for index in (0, 1, 7, -1)] == ["a", "b", "b", ""]
    assert TabState().message(0) == ""


def test_another_chat_is_another_place() -> None:
    moved = TabState(chat="a", temporary=True, ids=("x",), archived=True).at("b")
    assert (moved.chat, moved.temporary, moved.ids, moved.archived) == ("b", False, (), True)
