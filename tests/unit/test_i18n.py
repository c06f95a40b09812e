import pytest
from hypothesis import given
from hypothesis import strategies as st

from chatui import i18n
from chatui.i18n import N_, _, ngettext


@pytest.mark.parametrize(
    ("accepted", "language"),
    [
        (None, "en"),
        ("", "en"),
        ("de-AT,de;q=0.9,en;q=0.8", "de"),
        ("zh-TW,zh;q=0.9", "zh-CN"),
        ("AR", "ar"),
        ("pt-BR,pt;q=0.9", "en"),
        ("pt-BR,fr;q=0.5,en;q=0.4", "fr"),
        ("en;q=0.2,es;q=0.9", "es"),
        ("de;q=0,es", "es"),
        ("de;q=what,es;q=0.1", "es"),
        ("*", "en"),
    ],
)
def test_the_browser_says_which_language(accepted: str | None, language: str) -> None:
    assert i18n.negotiated(accepted) == language


@given(st.text())
def test_any_header_is_some_language(accepted: str) -> None:
    assert i18n.negotiated(accepted) in i18n.LANGUAGES


def test_outside_the_page_all_is_english() -> None:
    assert i18n.language() == "en"
    assert _("Seed") == "Seed"
    assert _("{count} of them", count=1234) == "1,234 of them"
    assert ngettext("{count} token", "{count} tokens", 1) == "1 token"
    assert i18n.translated("Try again in a while.") == "Try again in a while."


@pytest.mark.parametrize(("language", "written"), [("en", "1,234.50"), ("de", "1.234,50"), ("fr", "1\u202f234,50")])
def test_numbers_are_written_as_the_language_does(language: str, written: str) -> None:
    with i18n.speaking(language):
        assert i18n.number(1234.5, 2) == written


def test_what_stands_in_braces_without_values_is_text() -> None:
    assert _("{{user}} and {char}") == "{{user}} and {char}"
    assert _("{name} is here", name="{other}") == "{other} is here"


def test_the_messages_of_a_script_are_found() -> None:
    assert i18n.in_script('const a = _("New title"); b_("no"); _( "a \\"b\\"" ); $_("no")') == ["New title", 'a "b"']


def test_n_is_the_message_itself() -> None:
    assert N_("Seed") == "Seed"


def test_languages_within_each_other() -> None:
    with i18n.speaking("de"), i18n.speaking("ar"):
        assert i18n.direction() == "rtl"
    assert i18n.direction() == "ltr"
