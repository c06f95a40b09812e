from dataclasses import replace
from datetime import datetime
from typing import Any

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from chatui import personas
from chatui.errors import SettingsError
from chatui.personas import PRESETS, Persona
from chatui.text_cleaning import clean_lines

ANY_TEXT = st.text(st.characters(), max_size=60)  # lone surrogates too


def test_there_is_a_choice_with_the_robot_of_the_tutorial() -> None:
    assert len(PRESETS) >= 6
    prompts = {preset.system_prompt for preset in PRESETS}
    assert "You are a sassy, wise-cracking robot as imagined by Hollywood circa 1986." in prompts


@pytest.mark.parametrize("preset", PRESETS, ids=lambda preset: preset.name)
def test_every_preset_greets_and_suggests(preset: Persona) -> None:
    assert preset.greeting
    assert 2 <= len(preset.examples) <= 4
    assert personas.find(personas.key(preset)) is preset
    assert personas.validate(preset) == preset


def test_labels_and_keys_are_distinct() -> None:
    assert len({preset.label for preset in PRESETS}) == len(PRESETS)
    assert len({personas.key(preset) for preset in PRESETS}) == len(PRESETS)


def test_a_label_without_an_emoji_is_the_name() -> None:
    assert Persona("Ann").label == "Ann"


@pytest.mark.parametrize("chosen", ["", "x", "preset:x", PRESETS[0].label])
def test_an_unknown_key_is_nobody(chosen: str) -> None:
    assert personas.find(chosen) is None


def test_the_day_is_written_out() -> None:
    assert personas.day(datetime(2026, 11, 24, 23, 59)) == "Tuesday, 24 November 2026"
    assert personas.day(datetime(2026, 3, 1)) == "Sunday, 1 March 2026"


AVATAR = "data:image/png;base64,AAAA"
WRONG: dict[str, list[dict[str, str | tuple[str, ...]]]] = {
    "Name": [{"name": ""}, {"name": " \0\n"}, {"name": "x" * 81}],
    "Emoji": [{"emoji": "x" * 17}],
    "System prompt": [{"system_prompt": "x" * 100_001}],
    "Greeting": [{"greeting": "x" * 10_001}],
    "Example prompts": [{"examples": ("x",) * 13}, {"examples": ("fine", "x" * 1_001)}],
    "Picture": [
        {"avatar": AVATAR + "A" * 300_000},
        {"avatar": "data:image/svg+xml;base64,AAAA"},
        {"avatar": AVATAR + '" onerror="alert(1)'},
        {"avatar": AVATAR + "\n"},
        {"avatar": "https://evil.test/x.png"},
    ],
}


@pytest.mark.parametrize(("field", "change"), [(field, change) for field, some in WRONG.items() for change in some])
def test_what_may_not_be_kept_is_named(field: str, change: dict[str, Any]) -> None:
    with pytest.raises(SettingsError) as caught:
        personas.validate(replace(Persona("Ann"), **change))
    assert caught.value.field == field
    assert str(caught.value).startswith(f"{field}: ")


def test_the_limits_themselves_are_allowed() -> None:
    largest = Persona(
        "x" * 80,
        emoji="x" * 16,
        system_prompt="x" * 100_000,
        greeting="x" * 10_000,
        examples=("x" * 1_000,) * 12,
        avatar=AVATAR + "A" * (300_000 - len(AVATAR)),
    )
    assert personas.validate(largest) == largest


@example("a", "\ud800\udc00 \ud800 \udc00x\r\r\n\0", "\r\0\n")
@given(ANY_TEXT, ANY_TEXT, ANY_TEXT)
def test_what_is_kept_can_be_kept_and_stays_so(name: str, prompt: str, line: str) -> None:
    kept = personas.validate(Persona("x" + name, system_prompt=prompt, greeting=line, examples=(line, prompt)))
    texts = [kept.name, kept.system_prompt, kept.greeting, *kept.examples]
    for text in texts:
        text.encode()
        assert not set(text) & {"\0", "\r"}
    assert all(example and "\n" not in example for example in (kept.name, *kept.examples))
    assert personas.validate(kept) == kept


@given(st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\0\r")))
def test_good_text_is_not_touched(text: str) -> None:
    assert clean_lines(text) == text


def test_halves_that_belong_together_are_joined() -> None:
    assert clean_lines("a\ud83d\ude00b\ud83dc") == "a😀b\ufffdc"
