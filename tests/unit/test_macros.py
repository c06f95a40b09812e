from dataclasses import replace
from datetime import datetime
from typing import Any

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from chatui import macros
from chatui.macros import MacroValues, convert_legacy_macros, expand

MACRO_VALUES = MacroValues("Ann", "Robo", "SmolLM2", datetime(2026, 11, 24, 15, 4), seed=7, chat="c")
NAMES = {"user": "Ann", "char": "Robo", "model": "SmolLM2", "date": "Tuesday, 24 November 2026"}
ANY_TEXT = st.text(st.characters(), max_size=60)  # lone surrogates too
WORDS = ("random:a,b", "pick::a::b", "roll:d20", "user", "trim", "// c", "reverse:ab", "x", "hidden_key:k")
PIECES = st.lists(
    st.sampled_from(["{{", "}}", "{", "}", "a", ",", ":", "\n", *WORDS, *("{{" + word + "}}" for word in WORDS)]),
    max_size=30,
)


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("template", ["{{%s}}", "{{ %s }}", "{{\t%s}}"])
@pytest.mark.parametrize("case", [str.lower, str.upper, str.title])
def test_names_are_filled_in(name: str, template: str, case: Any) -> None:
    assert expand(f"<{template % case(name)}>", MACRO_VALUES) == f"<{NAMES[name]}>"


@example("{{uſer}} {{USER }} {{}} {{ }} {{datum}} {date} {{random:a,b}}")
@given(ANY_TEXT)
def test_all_that_is_no_macro_stays(text: str) -> None:
    free = text.replace("{{", "{ {")
    assert expand(free, MACRO_VALUES) == free
    unknown = "{{uſer}}{{datum}}{{random}}{{roll:0}}{{roll:d}}{{roll:x}}{{user:x}}"
    assert expand(unknown + free, MACRO_VALUES) == unknown + free


@given(st.fixed_dictionaries(dict.fromkeys(("user", "model", "char"), ANY_TEXT | st.sampled_from(["{{user}}", "}}"]))))
def test_values_are_put_in_as_they_are(values: dict[str, str]) -> None:
    macro_values = MacroValues(
        local_time=MACRO_VALUES.local_time, user=values["user"], model=values["model"], char=values["char"]
    )
    filled = expand("a{{user}}b{{model}}c{{char}}d{{user}}", macro_values)
    assert filled == "a{user}b{model}c{char}d{user}".format_map(values)


@pytest.mark.parametrize(
    ("template", "meant"),
    [
        ("{{time}} {{weekday}} {{isodate}} {{isotime}}", "15:04 Tuesday 2026-11-24 15:04"),
        ("a{{newline}}b{{noop}}c{{original}}d", "a\nbcd"),
        ("a\n\r\n{{trim}}\n\nb {{trim}} c", "ab  c"),
        ("a{{// a note\nfor {{user}} }}b{{comment: c}}d{{//}}", "abd"),
        ("{{reverse:abc}} {{reverse: {{user}} }}", "cba nnA"),
        ("{{hidden_key:dragon}}x", "x"),
        ("{{random:{{user}}}}{{pick:{{char}}}}", "AnnRobo"),
        (r"{{random:a\,b}} {{random::a,b}}", "a,b a,b"),
        ("{{roll:1}} {{roll:3d1+2}} {{roll:D1}} {{roll:d1-3}} {{roll:0d6}}", "1 5 1 -2 {{roll:0d6}}"),
        ("{{{user}}} {{{{user}}}} {{ {{user}} }} {{ {{user}}", "{Ann} {{Ann}} {{ Ann }} {{ Ann"),
        ("}} {{user}} {{", "}} Ann {{"),
    ],
)
def test_each_macro_stands_for_what_it_says(template: str, meant: str) -> None:
    assert expand(template, MACRO_VALUES) == meant


def test_hidden_keys_are_handed_over() -> None:
    hidden: list[str] = []
    assert expand("a{{hidden_key: dragon }}b{{HIDDEN_KEY:{{user}}}}", MACRO_VALUES, hidden) == "ab"
    assert hidden == ["dragon", "Ann"]


def test_the_same_seed_draws_the_same_and_another_one_another() -> None:
    text = "{{random:" + ",".join(map(str, range(1000))) + "}} {{roll:d1000}} {{random:a,b}}{{random:a,b}}"
    assert expand(text, MACRO_VALUES) == expand(text, replace(MACRO_VALUES, chat="d", user="Bo"))
    assert len({expand(text, replace(MACRO_VALUES, seed=seed)) for seed in range(20)}) > 15
    faces = {expand("{{roll:d6}}", replace(MACRO_VALUES, seed=seed)) for seed in range(200)}
    assert faces == set("123456")
    assert len({expand("{{random:a,b}}{{random:a,b}}", replace(MACRO_VALUES, seed=seed)) for seed in range(50)}) == 4


def test_pick_is_the_same_all_over_a_chat() -> None:
    text = "{{pick:" + ",".join(map(str, range(1000))) + "}}"
    assert expand(text, MACRO_VALUES) == expand(text, replace(MACRO_VALUES, seed=8, local_time=datetime(2027, 1, 1)))
    assert len({expand(text, replace(MACRO_VALUES, chat=str(chat))) for chat in range(20)}) > 15


def test_names_of_old_cards_are_macros() -> None:
    assert convert_legacy_macros("<USER> <bot> <Char> <start> <uſer>") == "{{user}} {{char}} {{char}} <start> <uſer>"


@given(PIECES, st.integers())
def test_whatever_is_written_is_drawn_alike_twice(pieces: list[str], seed: int) -> None:
    text, macro_values = "".join(pieces), replace(MACRO_VALUES, seed=seed)
    once = expand(text, macro_values)
    assert expand(text, macro_values) == once
    assert "{{user}}" not in once or "{{" * macros.MAX_DEPTH in text


@pytest.mark.parametrize("part", ["{{", "{{a", "}}", "{{a}}", "{{trim}}\n", "{{{", "{{// ", "{{random:a,b}}"])
def test_hostile_texts_take_linear_time(part: str) -> None:
    """Counted, not timed: no text grows while it is read, for nothing is read twice."""
    assert len(expand(part * 100_000, MACRO_VALUES)) <= len(part) * 100_000
