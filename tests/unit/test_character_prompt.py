import json
from dataclasses import replace
from datetime import datetime
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from chatui import cards, character_prompt
from chatui.character_prompt import CharacterPrompt, Insertion, build_prompt, lorebook_of, unsupported
from chatui.macros import MacroValues
from chatui.personas import PRESETS, Persona

MACRO_VALUES = MacroValues("Ann", "Robo", "m", datetime(2026, 11, 24, 15, 4), seed=7, chat="c")
CONTEXT = 8192
JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
    max_leaves=6,
)
FIELDS = (
    *("keys", "content", "extensions", "enabled", "insertion_order", "case_sensitive", "priority", "selective"),
    *("secondary_keys", "constant", "position", "use_regex", "probability", "depth", "scan_depth", "entries"),
    *("token_budget", "recursive_scanning", "depth_prompt", "prompt", "selectiveLogic", "useProbability"),
)


def persona(*entries: dict[str, Any], book: dict[str, Any] | None = None, **data: Any) -> Persona:
    if entries or book:
        data["character_book"] = {"entries": list(entries), **(book or {})}
    texts = {"name": "Robo", "description": "A robot.", "mes_example": "Bzzt."}
    return cards.read(json.dumps({"spec": "chara_card_v2", "data": {**texts, **data}}).encode())


def system(persona: Persona, *texts: str) -> str:
    return build_prompt(persona, texts, MACRO_VALUES, CONTEXT).system_prompt


def test_without_a_card_the_prompt_is_the_personas() -> None:
    own = Persona("Robo", system_prompt="  You are {{char}},\n\n\n\nfriend of {{user}}.\n ")
    assert build_prompt(own, ["x"], MACRO_VALUES, CONTEXT) == CharacterPrompt("You are Robo,\n\n\n\nfriend of Ann.")
    assert build_prompt(PRESETS[-1], [], MACRO_VALUES, CONTEXT) == CharacterPrompt("")


def test_lore_stands_before_and_after_the_character() -> None:
    made = persona(
        {"keys": ["moon"], "content": "{{user}} likes <BOT>.", "position": "after_char", "insertion_order": 1},
        {"keys": [], "constant": True, "content": "The year is 2099.", "position": "before_char"},
        {"keys": ["moon"], "content": "Nobody lives there.", "position": "before_char", "insertion_order": 200},
        {"keys": ["moon"], "content": "Off.", "enabled": False},
    )
    start, end = "You are Robo, and talk with Ann.", "How Robo talks, for example:\nBzzt."
    assert system(made, "hi") == f"{start}\n\nThe year is 2099.\n\nAbout Robo:\nA robot.\n\n{end}"
    assert system(made, "The MOON") == (
        f"{start}\n\nThe year is 2099.\n\nNobody lives there.\n\nAbout Robo:\nA robot.\n\nAnn likes Robo.\n\n{end}"
    )


def test_lore_stands_around_a_prompt_that_was_written_anew() -> None:
    made = persona({"constant": True, "content": "B", "position": "before_char"}, {"constant": True, "content": "A"})
    assert system(replace(made, system_prompt="Be brief.")) == "B\n\nBe brief.\n\nA"
    assert system(replace(made, system_prompt="")) == "B\n\nA"


def test_instructions_after_the_conversation_and_within_it() -> None:
    made = persona(
        {"constant": True, "content": "@@depth 2\nIt rains."},
        {"constant": True, "content": "Late.", "extensions": {"position": 4, "depth": 0}},
        {"constant": True, "content": "Too.", "extensions": {"position": 4, "depth": 2}, "insertion_order": 300},
        post_history_instructions="{{original}}Stay {{char}}.",
        extensions={"depth_prompt": {"prompt": "Robo is rusty.", "depth": 3}},
    )
    assert build_prompt(made, [], MACRO_VALUES, CONTEXT).insertions == (
        Insertion(3, "Robo is rusty."),
        Insertion(2, "It rains.\n\nToo."),
        Insertion(0, "Late.\n\nStay Robo."),
    )
    assert build_prompt(persona(post_history_instructions=" {{original}} "), [], MACRO_VALUES, CONTEXT).insertions == ()


def test_decorators_are_kept_out_of_the_text() -> None:
    made = persona(
        {"keys": ["x"], "content": "@@activate\n@@unknown 3\nTold."},
        {"constant": True, "content": "@@dont_activate\nNot."},
        {"keys": [], "content": "@@additional_keys moon, sun\n@@exclude_keys eclipse\n@@position before_desc\nSky."},
        {"keys": ["moon"], "content": "@@new_kind\n@@@scan_depth 9\n@@@depth 1\n\nFallback."},
    )
    assert "Told." in system(made)
    assert "Not." not in system(made)
    assert system(made, "moon").index("Sky.") < system(made, "moon").index("About Robo:")
    assert "Sky." not in system(made, "moon eclipse")
    assert "Fallback." in system(made, "moon", "a", "b", "c")
    assert "@@" not in system(made, "moon")
    assert list(unsupported(made)) == [("conditions of lore entries", "@@unknown")]


def test_the_book_says_how_it_is_read() -> None:
    made = lorebook_of(persona(book={"scan_depth": 7, "token_budget": 99, "recursive_scanning": True}))
    assert made is not None
    assert (made.scan_depth, made.token_budget, made.recursive) == (7, 99, True)
    odd = lorebook_of(persona(book={"scan_depth": "x", "token_budget": None, "recursive_scanning": "yes"}))
    assert odd is not None
    assert (odd.scan_depth, odd.token_budget, odd.recursive) == (2, None, False)
    assert lorebook_of(persona()) is None
    assert not character_prompt.has_lorebook(persona())


def test_entries_as_sillytavern_writes_them() -> None:
    extensions = {
        "position": 0,
        "selectiveLogic": 2,
        "scan_depth": 5,
        "match_whole_words": True,
        "case_sensitive": True,
        "probability": 30,
        "useProbability": True,
        "exclude_recursion": True,
        "prevent_recursion": True,
        "delay_until_recursion": True,
    }
    entry = {"keys": ["a", " ", 3, "a"], "secondary_keys": ["b"], "selective": True, "content": "c", "priority": 4}
    made = lorebook_of(persona({**entry, "insertion_order": "9", "use_regex": True, "extensions": extensions}))
    assert made is not None
    found = made.entries[0]
    assert (found.keys, found.secondary_keys, found.selective_logic, found.order, found.priority) == (
        ("a",),
        ("b",),
        2,
        9,
        4,
    )
    assert (found.position, found.depth, found.scan_depth, found.probability) == ("before", None, 5, 30)
    assert (found.whole_words, found.case_sensitive, found.is_regex) == (True, True, True)
    assert (found.exclude_recursion, found.prevent_recursion, found.delay_until_recursion) == (True, True, True)
    plain = lorebook_of(persona({**entry, "selective": False, "extensions": {"position": 4}}))
    assert plain is not None
    assert (plain.entries[0].secondary_keys, plain.entries[0].depth) == ((), character_prompt.NOTE_DEPTH)


def test_what_is_drawn_does_not_hang_on_the_lore() -> None:
    many = ",".join(map(str, range(1000)))
    made = persona({"keys": ["moon"], "content": "Lore."}, description=f"{{{{pick:{many}}}}} {{{{random:{many}}}}}")
    without, with_lore = system(made, "hi"), system(made, "moon")
    assert with_lore.replace("Lore.\n\n", "") == without
    assert system(made, "hi") == without


def test_parts_that_are_not_used_are_named() -> None:
    made = persona(
        {"keys": ["x"], "content": "y", "extensions": {"sticky": 3, "group": "g", "position": 4, "role": 2}},
        {"keys": ["x"], "content": "@@role assistant\ny", "enabled": False},
        assets=[{"type": "icon"}, {"type": "background"}],
        extensions={"regex_scripts": [{}], "chub": {"id": 1}, "fav": False, "talkativeness": "0.5", "risu": {}},
        group_only_greetings=["Hi all."],
        future_field=1,
        tags=["a"],
        creator="c",
    )
    assert list(unsupported(made)) == [
        ("pictures and other files", ""),
        ("regex scripts", ""),
        ("greetings for groups", ""),
        ("extensions", "chub"),
        ("unknown fields", "future_field"),
        ("conditions of lore entries", "group, role, sticky"),
    ]
    assert list(unsupported(persona(assets=[{"type": "icon"}], extensions={"world": "W"}))) == [
        ("a lorebook in another file", "")
    ]
    assert list(unsupported(persona({"constant": True, "content": "x"}))) == []
    assert list(unsupported(OWN)) == list(unsupported(cards.read(cards.as_card_json(OWN).encode()))) == []
    long = persona(extensions={f"e{at}" + "x" * 100: 1 for at in range(9)})
    assert len(dict(unsupported(long))["extensions"]) < 300


OWN = Persona("Käthe", "🧙", "You are {{char}}.", "Hello!", ("One?",))


def test_notes_of_the_creator_are_in_the_readers_language() -> None:
    made = persona(creator_notes=" Be kind to {{char}}.\r\n", creator_notes_multilingual={"de": "Sei nett.", "fr": 5})
    assert character_prompt.notes(made, "de") == "Sei nett."
    assert character_prompt.notes(made, "fr") == character_prompt.notes(made, "zh-CN") == "Be kind to {{char}}."
    assert character_prompt.notes(OWN, "en") == ""


@given(
    st.fixed_dictionaries(
        {},
        optional={
            "character_book": JSON
            | st.fixed_dictionaries(
                {"entries": st.lists(st.dictionaries(st.sampled_from(FIELDS), JSON, max_size=6), max_size=3)},
                optional=dict.fromkeys(("scan_depth", "token_budget", "recursive_scanning"), JSON),
            ),
            "extensions": JSON | st.dictionaries(st.sampled_from(FIELDS), JSON, max_size=3),
            "post_history_instructions": JSON,
            "assets": JSON,
            "creator_notes": JSON,
            "creator_notes_multilingual": JSON,
        },
    ),
    st.lists(st.text(max_size=5), max_size=3),
)
def test_any_card(data: dict[str, Any], texts: list[str]) -> None:
    character = Persona("Robo", system_prompt="Be.", card={"data": data})
    prompt = build_prompt(character, texts, MACRO_VALUES, CONTEXT)
    assert "Be." in prompt.system_prompt
    assert build_prompt(character, texts, MACRO_VALUES, CONTEXT) == prompt
    assert all(isinstance(name, str) for part in unsupported(character) for name in part)
    assert isinstance(character_prompt.notes(character, "de"), str)


@pytest.mark.parametrize("card", [None, {}, {"data": None}, {"data": []}])
def test_a_card_without_data(card: Any) -> None:
    assert build_prompt(Persona("Robo", system_prompt="Be.", card=card), [], MACRO_VALUES, CONTEXT) == CharacterPrompt(
        "Be."
    )
