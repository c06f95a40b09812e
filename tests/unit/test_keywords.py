import pytest

from chatui import keywords
from chatui.keywords import Patterns, Text


def text(written: str) -> Text:
    return Text(written, Patterns())


@pytest.mark.parametrize(
    ("written", "key", "found"),
    [
        ("The DRAGON sleeps.", "dragon", True),
        ("The dragonfly.", " Dragon ", True),
        ("The dragonfly.", "dragons", False),
        ("Die STRASSE", "straße", True),
        ("Thành phố Hồ Chí Minh", "hồ chí", True),
        ("龍が眠る", "龍", True),
        ("anything", " ", False),
        ("anything", "", False),
        ("a (b) c.", "(b)", True),
    ],
)
def test_a_key_is_found_in_any_case_and_spelling(written: str, key: str, found: bool) -> None:
    assert text(written).has(key) is found


def test_case_counts_where_it_shall() -> None:
    assert not text("the may").has("May", case_sensitive=True)
    assert text("in May").has("May", case_sensitive=True)
    assert not text("in May").has("/may/")
    assert text("in May").has("/may/i", case_sensitive=True)


def test_whole_words() -> None:
    assert not text("a party").has("art", whole_words=True)
    assert text("the ART, too").has("art", whole_words=True)
    assert not text("the ART, too").has("art", case_sensitive=True, whole_words=True)
    assert text("in C++ and").has("c++", whole_words=True)
    assert text("fine arts").has("fine art", whole_words=True)


@pytest.mark.parametrize(
    ("key", "found"),
    [
        (r"drag(on|oon)s?\b", True),
        (r"^the", True),
        (r"/^the/", False),
        (r"/DRAGON/", False),
        (r"/dragon/gi", True),
        (r"/the.+sleeps/s", False),
        (r"/The.+sleeps/s", True),
        (r"(?<kind>dragon)", True),
        (r"(", False),
        (r"a{99999999999}", False),
        ("x" * 3000, False),
        ("", False),
    ],
)
def test_patterns(key: str, found: bool) -> None:
    assert text("The dragon\nsleeps").has(key, is_regex=True) is found


def test_a_pattern_that_never_ends_is_given_up_and_so_are_those_after_it(monkeypatch: pytest.MonkeyPatch) -> None:
    patterns = Patterns(seconds=0.05)
    hostile = Text("a" * 100_000 + "!", patterns)
    assert not hostile.has("(a|aa)+$", is_regex=True)
    assert not hostile.has("a", is_regex=True)
    assert hostile.has("a")


def test_the_time_is_that_of_all_patterns_together() -> None:
    assert Text("a", Patterns(seconds=10)).has("a", is_regex=True)
    assert not Text("a", Patterns(seconds=0)).has("a", is_regex=True)
    assert keywords.REGEX_SECONDS <= 1
