import ast
import html
import re

import pytest
from babel.messages.catalog import Message
from hypothesis import given
from hypothesis import strategies as st

from chatui import i18n
from chatui.chat import ModelStatus
from chatui.errors import ModelError, NotFoundError, OverloadError, SettingsError, unexpected
from chatui.generation_settings import GenerationSettings
from chatui.i18n import N_, _, ngettext
from chatui.ui.shared import error_messages, header
from scripts import messages


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
    assert i18n.negotiate(accepted) == language


@given(st.text())
def test_any_header_is_some_language(accepted: str) -> None:
    assert i18n.negotiate(accepted) in i18n.LANGUAGES


def test_outside_the_page_all_is_english() -> None:
    assert i18n.language() == "en"
    assert _("Seed") == "Seed"
    assert _("{count} of them", count=1234) == "1,234 of them"
    assert ngettext("{count} token", "{count} tokens", 1) == "1 token"
    assert i18n.translated("Try again in a while.") == "Try again in a while."


@pytest.mark.parametrize(("language", "expected"), [("en", "1,234.50"), ("de", "1.234,50"), ("fr", "1\u202f234,50")])
def test_numbers_are_written_as_the_language_does(language: str, expected: str) -> None:
    with i18n.use_language(language):
        assert i18n.format_number(1234.5, 2) == expected


def test_what_stands_in_braces_without_values_is_text() -> None:
    assert _("{{user}} and {char}") == "{{user}} and {char}"
    assert _("{name} is here", name="{other}") == "{other} is here"


def test_the_messages_of_a_script_are_found() -> None:
    assert i18n.script_message_ids('const a = _("New title"); b_("no"); _( "a \\"b\\"" ); $_("no")') == [
        "New title",
        'a "b"',
    ]


def test_n_is_the_message_itself() -> None:
    assert N_("Seed") == "Seed"


def test_languages_within_each_other() -> None:
    with i18n.use_language("de"), i18n.use_language("ar"):
        assert i18n.direction() == "rtl"
    assert i18n.direction() == "ltr"


PLACE = re.compile(r"\{\w+\}")


@pytest.fixture(scope="module")
def found() -> messages.Found:
    return messages.extracted()


def forms(message: Message) -> list[str]:
    return [message.string] if isinstance(message.string, str) else list(message.string or ())


@pytest.mark.parametrize("language", i18n.LANGUAGES[1:])
def test_every_catalogue_has_every_message_and_no_other(language: str, found: messages.Found) -> None:
    known = {message.id: message for message in messages.read(language) if message.id}
    assert {messages.key(id) for id in known} == set(found), "run python -m scripts.messages"
    assert not messages.missing(messages.read(language))
    assert not any(message.fuzzy for message in known.values())


# With a plural alone a message says "1 tokens" one day. These are limits, formulas, or always more than one.
ALWAYS_MANY = re.compile(
    r"[×÷]|at most|more than|room for|full at|edge:|^all |: all |of \{\w+\} tokens|at once|first \{|in, "
)
COUNTED = re.compile(
    r"\{\w+\}\W* (?:tokens|slots|layers|chats|messages|conversations|entries|files|seconds|minutes|hours|days)\b(?!/s)"
)
HAS_ANOTHER_FOR_ONE = {
    "{tokens} tokens",
    "{layers} layers, keys and values of each.",
    "Only {read} tokens of this prompt were computed, too few to tell the speed of the prefill.",
}
NEVER_ONE = {
    "{count} tokens",
    "A conversation takes memory too: the keys and values of each of its tokens. They are counted for {count} tokens "
    "here.",
    "A context of about {context} tokens.",
    "With a context of {shorter} tokens it fits.",
    "{count} of {layers} layers have K/V. The others have a state of fixed size.",
    "Each token sees the last {window} tokens only, and the K/V of no more are kept.",
    "{count} of {layers} layers see the last {window} tokens only, and keep the K/V of no more.",
    "{count} of {layers} layers need the K/V of the last {window} tokens only. All are kept here, and counted.",
}
"""The context of a model, and sentences about models whose parts are many."""


def test_what_counts_has_a_singular(found: messages.Found) -> None:
    plain = {id for id in found if isinstance(id, str)} - HAS_ANOTHER_FOR_ONE - NEVER_ONE
    assert set(found) >= HAS_ANOTHER_FOR_ONE | NEVER_ONE
    assert [id for id in sorted(plain) if COUNTED.search(id) and not ALWAYS_MANY.search(id)] == []


@pytest.mark.parametrize("language", i18n.LANGUAGES[1:])
def test_every_translation_has_the_places_of_its_message(language: str) -> None:
    for message in messages.read(language):
        singular, plural = (message.id, message.id) if isinstance(message.id, str) else message.id
        for text in forms(message) if message.id else []:
            places = set(PLACE.findall(text))
            # A form for one or two may do without the number.
            assert places | {"{count}"} >= set(PLACE.findall(singular)), text
            assert places <= set(PLACE.findall(plural)), text


@pytest.mark.parametrize("language", i18n.LANGUAGES[1:])
def test_every_message_can_be_told_with_values(language: str, found: messages.Found) -> None:
    with i18n.use_language(language):
        for id in found:
            values: dict[str, str | int] = {placeholder[1:-1]: "x" for placeholder in PLACE.findall(str(id))}
            if isinstance(id, tuple):
                values.pop("count", None)
                assert all("{" not in ngettext(*id, count, **values) for count in (0, 1, 2, 3, 11, 100, 1000000))
            elif "{{" not in id:
                assert "{" not in _(id, **values)


@pytest.mark.parametrize("language", i18n.LANGUAGES[1:])
def test_what_was_raised_in_english_is_known_again(language: str) -> None:
    with i18n.use_language(language):
        assert i18n.translated("Try again in a while.") != "Try again in a while."
        translated = i18n.translated("The conversation takes 12,345 tokens; this model has room for 8,192.")
        assert i18n.format_number(12345) in translated
        assert "conversation takes" not in translated
        for raised in (NotFoundError(), unexpected(ValueError()), OverloadError("7 requests are waiting already.")):
            assert error_messages.localized(raised)[0] != raised.message
        with pytest.raises(SettingsError) as refused:
            GenerationSettings.from_values({"temperature": 3.5})
        assert "Input" not in error_messages.error_line(refused.value)
        assert i18n.format_number(3.5, 1) in error_messages.error_line(refused.value)


def test_words_of_somebody_else_stay_as_they_are() -> None:
    with i18n.use_language("de"):
        assert i18n.translated("My own {title} & words") == "My own {title} & words"


def test_no_function_takes_the_name_of_the_translation_for_something_else() -> None:
    for path in sorted(messages.ROOT.rglob("*.py")):
        for function in ast.walk(ast.parse(path.read_text())):
            if not isinstance(function, ast.FunctionDef | ast.AsyncFunctionDef):
                continue
            names = [node for node in ast.walk(function) if isinstance(node, ast.Name) and node.id == "_"]
            called = [node for node in ast.walk(function) if isinstance(node, ast.Call)]
            speaks = any(isinstance(call.func, ast.Name) and call.func.id == "_" for call in called)
            assert not speaks or all(isinstance(name.ctx, ast.Load) for name in names), f"{path}: {function.name}"


SHOWN = ("label", "info", "placeholder", "submit_btn", "stop_btn")
TEXTS = re.compile(r"[A-Za-z]{2,}[ ][a-z]{2,}|^[A-Z][a-z]+$")


def test_no_text_of_the_page_is_left_unmarked() -> None:
    """As far as the code tells: what a component shows, and what stands between tags."""
    for path in sorted((messages.ROOT / "ui").glob("*.py")):
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.Call):
                shown = [word.value for word in node.keywords if word.arg in SHOWN]
                name = node.func.attr if isinstance(node.func, ast.Attribute) else getattr(node.func, "id", "")
                if name in ("Button", "Tab", "Markdown", "Accordion", "Upload", "link_button"):
                    shown += node.args[:1]
                for value in shown:
                    plain = isinstance(value, ast.Constant) and isinstance(value.value, str) and value.value
                    assert not plain or re.fullmatch(r"[a-z_]+", plain) or not re.search(r"[a-z]{2}", plain), (
                        f"{path.name}:{node.lineno}: {plain}"
                    )
            if isinstance(node, ast.Constant) and isinstance(node.value, str):
                between = " ".join(re.findall(r">([^<>{}]*)</", node.value))
                assert not re.search(r"[A-Za-z]{2}", between.replace("chatui", "")), (
                    f"{path.name}:{node.lineno}: {between}"
                )


def test_what_is_put_into_a_text_from_right_to_left_has_its_own_direction() -> None:
    assert i18n.join_isolated(["float32", "5 MB"]) == "float32 · 5 MB"
    with i18n.use_language("ar"):
        assert i18n.join_isolated(["float32", "5 MB", ""]) == "\u2068float32\u2069 · \u20685 MB\u2069 · "
        assert "\u2068 5 MB\u2069".replace(" ", "", 1) in _("{count} parameters · {size}", count="135M", size="5 MB")


@pytest.mark.parametrize("language", i18n.LANGUAGES[1:])
def test_why_nothing_could_be_started_is_told_in_the_language_of_the_page(language: str) -> None:
    failed = ModelError(
        "The weights of acme/small are incomplete or damaged (model.safetensors).",
        "Delete them and load the model again, or copy them anew.",
    )
    with i18n.use_language(language):
        status = header.status(ModelStatus("acme/small", "failed", error=failed))
        cause, remedy = error_messages.localized(failed)
    assert "acme/small" in cause
    assert "model.safetensors" in cause
    assert "weights of" not in cause
    assert remedy != failed.remedy
    assert html.escape(cause) in status
