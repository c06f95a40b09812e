import pytest

from chatui import keywords
from chatui.keywords import SearchableText, TimedRegexes


def text(content: str) -> SearchableText:
    return SearchableText(content, TimedRegexes())


@pytest.mark.parametrize(
    ("content", "key", "found"),
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
def test_a_key_is_found_in_any_case_and_spelling(content: str, key: str, found: bool) -> None:
    assert text(content).contains(key) is found


def test_case_counts_where_it_shall() -> None:
    assert not text("the may").contains("May", case_sensitive=True)
    assert text("in May").contains("May", case_sensitive=True)
    assert not text("in May").contains("/may/")
    assert text("in May").contains("/may/i", case_sensitive=True)


def test_whole_words() -> None:
    assert not text("a party").contains("art", whole_words=True)
    assert text("the ART, too").contains("art", whole_words=True)
    assert not text("the ART, too").contains("art", case_sensitive=True, whole_words=True)
    assert text("in C++ and").contains("c++", whole_words=True)
    assert text("fine arts").contains("fine art", whole_words=True)


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
    assert text("The dragon\nsleeps").contains(key, is_regex=True) is found


def test_a_pattern_that_never_ends_is_given_up_and_so_are_those_after_it(monkeypatch: pytest.MonkeyPatch) -> None:
    patterns = TimedRegexes(seconds=0.05)
    hostile = SearchableText("a" * 100_000 + "!", patterns)
    assert not hostile.contains("(a|aa)+$", is_regex=True)
    assert not hostile.contains("a", is_regex=True)
    assert hostile.contains("a")


def test_the_time_is_that_of_all_patterns_together() -> None:
    assert SearchableText("a", TimedRegexes(seconds=10)).contains("a", is_regex=True)
    assert not SearchableText("a", TimedRegexes(seconds=0)).contains("a", is_regex=True)
    assert keywords.REGEX_SECONDS <= 1
