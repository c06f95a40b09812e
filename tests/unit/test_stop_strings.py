"""However a text is split, it ends before the stop string that is complete first."""

from collections.abc import Sequence

from hypothesis import example, given
from hypothesis import strategies as st

from chatui.reply_text.stop_strings import StopStrings


def cut(text: str, places: set[int]) -> list[str]:
    ends = [*sorted(place for place in places if place < len(text)), len(text)]
    return [text[start:end] for start, end in zip([0, *ends], ends, strict=False)]


def through_stops(stops: Sequence[str], pieces: Sequence[str]) -> tuple[str, str | None]:
    filter_ = StopStrings(stops)
    shown = "".join(filter_.push(piece) for piece in pieces)
    return shown + filter_.flush(), filter_.hit


few_letters = st.text(alphabet="ab\n", max_size=14)
places = st.sets(st.integers(1, 40), max_size=14)


class TestStopStrings:
    @given(few_letters, st.lists(st.text(alphabet="ab\n", min_size=1, max_size=4), max_size=3), places)
    @example("aab", ["ab"], {1, 2})
    @example("abab", ["ba", "abab"], {1, 2, 3})
    def test_every_split_shows_the_text_before_the_stop_complete_first(
        self, text: str, stops: list[str], where: set[int]
    ) -> None:
        ends = [(text.index(stop) + len(stop), -len(stop)) for stop in stops if stop in text]
        end, size = min(ends) if ends else (len(text), 0)
        hit = text[end + size : end] if ends else None
        assert through_stops(stops, cut(text, where)) == (text[: end + size], hit)

    def test_text_that_may_become_a_stop_is_held_back_and_no_more_than_that(self) -> None:
        filter_ = StopStrings(["###"])
        assert filter_.push("ab##") == "ab"
        assert filter_.push("c") == "##c"

    def test_nothing_comes_after_a_hit(self) -> None:
        filter_ = StopStrings(["x"])
        assert filter_.push("axb") == "a"
        assert filter_.push("more") == ""
        assert filter_.flush() == ""
