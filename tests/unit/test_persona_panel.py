import json
import re
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from html.parser import HTMLParser
from itertools import product
from pathlib import Path
from typing import Any, cast

import gradio as gr
import pytest
from hypothesis import given
from hypothesis import strategies as st

from chatui import cards, i18n, personas
from chatui.errors import ChatError, NotFoundError, SettingsError, StoreError
from chatui.generation_settings import GenerationSettings
from chatui.personas import PRESETS, Persona
from chatui.store.owner_store import OwnerStore
from chatui.store.records import OwnPersona
from chatui.ui.persona import persona_editor, persona_panel, setting_controls
from chatui.ui.persona.persona_panel import PersonaPanel

FIRST, ROBOT = PRESETS[:2]
ARIA = Persona("Aria", "🧜", "You are {{char}}.", "Hi.", ("One?",), card={"data": {"name": "Aria"}})
HOSTILE = "<b id='x' \"> &amp; <script>"


@dataclass
class FakeOwnerStore:
    kept: dict[str, Persona] = field(default_factory=dict)
    broken: bool = False

    def persona_summaries(self) -> list[OwnPersona]:
        if self.broken:
            raise StoreError("The database is gone.")
        return [OwnPersona(id, persona) for id, persona in self.kept.items()]

    def persona(self, id: str) -> Persona:
        if id not in self.kept:
            raise NotFoundError("persona")
        return self.kept[id]

    def save_persona(self, persona: Persona, id: str | None = None) -> OwnPersona:
        if id is not None and id not in self.kept:
            raise NotFoundError("persona")
        id = id or f"id{len(self.kept)}"
        self.kept[id] = persona
        return OwnPersona(id, persona)

    def delete_persona(self, id: str) -> None:
        if self.kept.pop(id, None) is None:
            raise NotFoundError("persona")


@dataclass
class Page:
    """A page with nothing but the panel, and what its events do."""

    owner_store: FakeOwnerStore | None
    panel: PersonaPanel
    blocks: gr.Blocks
    settings: list[Any]
    chatbot: gr.Chatbot

    def event(self, name: str) -> Callable[..., Any]:
        """What a click on the button with this label runs, a choice in the list ("Persona"), or an upload."""
        for fn in self.blocks.fns.values():
            for target, _ in fn.targets:
                block = self.blocks.blocks.get(cast(int, target))
                if block is not None and name in (getattr(block, "value", None), getattr(block, "label", None)):
                    return cast(Callable[..., Any], fn.fn)
        raise AssertionError(f"nothing is called {name}")

    def form(self, **changed: Any) -> list[Any]:
        """What the editor sends, with these values in it."""
        labels = {"Name": "", "Emoji": "", "System prompt": "", "Greeting": "", "Example prompts": "", "avatar": ""}
        values = {**labels, "source": "", "settings": False, **changed}
        order = ("source", "avatar", "Name", "Emoji", "System prompt", "Greeting", "Example prompts", "settings")
        return [*(values[name] for name in order), *setting_controls.values_of(GenerationSettings(temperature=0.3))]


def _page(owner_store: FakeOwnerStore | None) -> Page:
    with gr.Blocks() as blocks:
        panel = PersonaPanel(lambda: cast("OwnerStore | None", owner_store))
        settings = setting_controls.build()
        chatbot = gr.Chatbot()
        panel.connect(chatbot, settings, model=lambda _: "SmolLM2")
    return Page(owner_store, panel, blocks, settings, chatbot)


@pytest.fixture(scope="module")
def built() -> Page:
    return _page(FakeOwnerStore())


@pytest.fixture
def page(built: Page) -> Page:
    """A page whose user keeps one persona, "a1"."""
    assert built.owner_store is not None
    built.owner_store.kept = {"a1": ARIA}
    return built


async def test_the_choice_wins_over_a_text_that_is_still_the_last_ones(page: Page) -> None:
    first, robot = personas.key(FIRST), personas.key(ROBOT)
    assert await page.panel.persona(robot, first, FIRST.system_prompt) == ROBOT
    assert await page.panel.persona("a1", first, FIRST.system_prompt) == ARIA
    assert await page.panel.persona(robot, robot, "Edited.") == replace(ROBOT, system_prompt="Edited.")
    assert await page.panel.persona("a1", "a1", "Edited.") == replace(ARIA, system_prompt="Edited.")


@pytest.mark.parametrize("choice", ["", None, "x", "preset:x", "left:"])
async def test_the_text_of_a_persona_that_is_gone_still_counts(page: Page, choice: Any) -> None:
    persona = await page.panel.persona(choice, personas.key(FIRST), "Be brief.")
    assert persona.system_prompt == "Be brief."
    assert persona.name


async def test_a_text_that_is_too_long_is_refused(page: Page) -> None:
    with pytest.raises(SettingsError, match="System prompt"):
        await page.panel.persona("a1", "a1", "x" * 100_001)


@pytest.mark.parametrize(
    ("then", "choice"),
    [
        (ROBOT, personas.key(ROBOT)),
        (replace(ROBOT, system_prompt="Edited."), personas.key(ROBOT)),
        (ARIA, "a1"),
        (replace(ARIA, system_prompt="As it was.", emoji=""), "a1"),
        (Persona("Gone", "👻", system_prompt="As it was."), "left:Gone"),
    ],
)
async def test_a_conversation_goes_on_with_the_persona_that_it_has(page: Page, then: Persona, choice: str) -> None:
    shown = await page.panel.persona_updates(then)
    assert set(shown) <= set(page.panel.outputs)
    chosen, written_for, prompt = (shown[component] for component in page.panel.inputs[:3])
    assert chosen["value"] == written_for == choice
    assert choice in [key for _, key in chosen["choices"]]
    persona = await page.panel.persona(choice, written_for, prompt)
    assert (persona.name, persona.system_prompt) == (then.name, then.system_prompt)


async def test_own_personas_come_before_the_presets(page: Page) -> None:
    shown = await page.panel.persona_updates(FIRST)
    choices = shown[page.panel.inputs[0]]["choices"]
    assert choices == [(ARIA.label, "a1"), *((preset.label, personas.key(preset)) for preset in PRESETS)]


async def test_a_choice_fills_the_page(page: Page) -> None:
    assert page.owner_store is not None
    warm = replace(ARIA, greeting="I am {{char}} on {{model}}, {{user}}.", settings=GenerationSettings(temperature=1.5))
    page.owner_store.kept["a2"] = warm
    shown = await page.event("Persona")("a2", "a1")
    assert [shown[component] for component in page.panel.inputs[1:3]] == ["a2", ARIA.system_prompt]
    assert "I am Aria on SmolLM2, User." in shown[page.chatbot]["placeholder"]
    assert shown[page.chatbot]["examples"] == [{"text": "One?"}]
    assert [shown[component] for component in page.settings] == setting_controls.values_of(
        GenerationSettings(temperature=1.5)
    )
    assert not set(page.settings) & set(await page.event("Persona")("a1", "a2"))


async def test_a_new_persona_is_kept_as_it_was_written(page: Page) -> None:
    assert page.owner_store is not None
    form = page.form(
        Name=" Bo ",
        Emoji="🤖",
        Greeting="Hi.",
        settings=True,
        **{"System prompt": "Be.\n", "Example prompts": "a\n\n b"},
    )
    shown = await page.event("Save")(*form)
    id, kept = list(page.owner_store.kept.items())[-1]
    assert kept == Persona("Bo", "🤖", "Be.\n", "Hi.", ("a", "b"), GenerationSettings(temperature=0.3))
    assert shown[page.panel.inputs[0]]["value"] == shown[page.panel.inputs[1]] == id
    assert page.owner_store.kept["a1"] == ARIA


@pytest.mark.parametrize(("source", "ids"), [("edit=a1", {"a1"}), ("copy=a1", {"a1", "id1"})])
async def test_editing_and_duplicating_keep_what_the_form_does_not_show(page: Page, source: str, ids: set[str]) -> None:
    assert page.owner_store is not None
    await page.event("Save")(*page.form(source=source, Name="Aria 2"))
    assert set(page.owner_store.kept) == ids
    assert page.owner_store.kept[max(ids)] == Persona("Aria 2", card=ARIA.card)


@pytest.mark.filterwarnings("ignore::UserWarning")
@pytest.mark.parametrize(
    "change",
    [
        {"Name": ""},
        {"Name": "x" * 81},
        {"avatar": "data:image/png;base64,AAAA"},
        {"avatar": HOSTILE},
        {"source": "edit=b7"},
        {"source": "edit=" + personas.key(FIRST)},
    ],
)
async def test_what_cannot_be_kept_changes_nothing(page: Page, change: dict[str, str]) -> None:
    assert page.owner_store is not None
    shown = await page.event("Save")(*page.form(**{"Name": "Bo", **change}))
    assert page.owner_store.kept == {"a1": ARIA}
    assert not set(shown) & {*page.panel.inputs, page.chatbot, *page.settings}


async def test_a_file_is_brought_in_and_removed(page: Page, tmp_path: Path) -> None:
    assert page.owner_store is not None
    file = tmp_path / "x.png"
    file.write_bytes(cards.as_png(ARIA))
    await page.event("Import")(str(file))
    kept = list(page.owner_store.kept.values())[-1]
    assert (kept.name, kept.system_prompt, kept.avatar[:14]) == ("Aria", "You are {{char}}.", "data:image/png")
    assert not file.exists()


async def test_deleting_goes_back_to_the_first_preset(page: Page) -> None:
    assert page.owner_store is not None
    shown = await page.event("Delete it")("a1")
    assert page.owner_store.kept == {}
    assert shown[page.panel.inputs[1]] == personas.key(FIRST)


@pytest.mark.filterwarnings("ignore::UserWarning")
@pytest.mark.parametrize(
    "owner_store", [FakeOwnerStore({"a1": ARIA}), FakeOwnerStore(broken=True), None], ids=["kept", "broken", "none"]
)
async def test_no_event_fails_whatever_comes(owner_store: FakeOwnerStore | None) -> None:
    page = _page(owner_store)
    junk = [None, "", "x", "a1", 5, ["a1"], {"a": 1}, "left:x", "edit=", "copy=x", "\ud800\0"]
    for fn, value in product(page.blocks.fns.values(), junk):
        shown = await cast(Callable[..., Any], fn.fn)(*(value for _ in fn.inputs))
        assert shown, (fn.targets, value)
        assert set(shown) <= set(fn.outputs)


@pytest.mark.parametrize("owner_store", [FakeOwnerStore(broken=True), None], ids=["broken", "none"])
async def test_why_nothing_can_be_kept_is_said(owner_store: FakeOwnerStore | None) -> None:
    page = _page(owner_store)
    with pytest.warns(UserWarning, match=r"cookies|database"):
        await page.event("Save")(*page.form(source="copy=x", Name="Bo"))


async def test_presets_need_no_owner_store() -> None:
    panel = _page(None).panel
    assert await panel.chosen(personas.key(ROBOT)) == ROBOT
    assert await panel.persona(personas.key(ROBOT), "", "") == ROBOT
    with pytest.raises(ChatError):
        await panel.chosen("a1")


def test_every_listener_is_private(page: Page) -> None:
    assert len(page.blocks.fns) >= 10
    assert {(fn.api_visibility, fn.show_progress) for fn in page.blocks.fns.values()} == {("private", "hidden")}


class Tags(HTMLParser):
    def __init__(self, text: str) -> None:
        super().__init__()
        self.found: list[tuple[str, dict[str, str | None]]] = []
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.found.append((tag, dict(attrs)))


@given(st.text() | st.just(HOSTILE))
def test_names_and_ids_are_no_markup(text: str) -> None:
    for persona in (Persona(text), Persona("", emoji=text)):
        assert Tags(persona_editor.avatar_html(persona)).found == [("div", {"class": "persona-face"})]
    if text:
        assert [tag for tag, _ in Tags(persona_editor.avatar_html(Persona("", avatar=text))).found] == ["div", "img"]
    address = persona_panel._address(text, "png")
    assert re.fullmatch(r"persona/export\?id=[\w%.~-]*&format=png", address, re.ASCII)


async def test_what_a_card_brings_besides_is_said_at_import_and_in_the_editor(
    page: Page, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    notices: list[str] = []
    monkeypatch.setattr(gr, "Info", lambda text, **_: notices.append(text))
    data = {
        "name": "Robo",
        "creator_notes": HOSTILE,
        "creator_notes_multilingual": {"de": "Sei nett."},
        "character_book": {"entries": [{"keys": ["a"], "content": "b"}, {"keys": ["c"], "content": "@@odd\nd"}]},
        "post_history_instructions": "Stay.",
        "extensions": {"<b>": 1},
    }
    file = tmp_path / "robo.json"
    file.write_text(json.dumps({"spec": "chara_card_v3", "data": data}))
    await page.event("Import")(str(file))
    (notice,) = notices
    assert notice.startswith("Robo: Its lorebook has 2 entries, told where they fit what was said. It gives the model")
    assert notice.endswith("not used here: extensions (&lt;b&gt;), conditions of lore entries (@@odd).")
    own = list(page.owner_store.kept)[-1]  # type: ignore[union-attr]
    shown = await page.event("Edit")(own, own, "")
    notes = next(block for block in shown if getattr(block, "label", "") == "Notes of the card's creator")
    assert (shown[notes]["value"], shown[notes]["visible"]) == (HOSTILE, True)
    besides = next(block for block in shown if getattr(block, "elem_id", "") == "persona-besides")
    assert "Its lorebook has 2 entries" in shown[besides]["value"]
    assert "<b>" not in shown[besides]["value"]
    with i18n.use_language("de"):
        shown = await page.event("Edit")(own, own, "")
        assert shown[notes]["value"] == "Sei nett."
        assert "Bedingungen von Lore-Einträgen (@@odd)" in shown[besides]["value"]


async def test_a_persona_without_a_card_has_nothing_to_say_besides(page: Page) -> None:
    shown = await page.event("Edit")("a1", "a1", "")
    hidden = [block for block in shown if getattr(block, "elem_id", "") == "persona-besides"]
    assert [shown[block]["visible"] for block in hidden] == [False]


async def test_a_persona_greets_as_its_character_will(page: Page) -> None:
    assert page.owner_store is not None
    card = {"data": {"name": "Robo", "nickname": "Rob", "alternate_greetings": []}}
    page.owner_store.kept["a2"] = Persona("Robo", greeting="{{random:I am {{char}}.}}", card=card)
    shown = await page.event("Persona")("a2", "a1")
    assert "I am Rob." in shown[page.chatbot]["placeholder"]
    assert "#greeting" not in shown[page.chatbot]["placeholder"]


@pytest.mark.parametrize(
    ("asked", "greeting", "links"),
    [("", "A", "21"), ("1", "B", "02"), ("2", "C", "10"), ("3", "A", "21"), ("-1", "A", "21"), ("٣", "A", "21")],
)
async def test_the_empty_page_turns_to_each_greeting(page: Page, asked: str, greeting: str, links: str) -> None:
    persona = Persona("Robo", greeting="A", card={"data": {"name": "Robo", "alternate_greetings": ["B", "C"]}})
    shown = page.panel.greeting_updates(persona, asked)
    placeholder = shown[page.chatbot]["placeholder"]
    assert f"<h2>{greeting}</h2>" in placeholder
    assert re.findall(r"#greeting=(\d)", placeholder) == list(links)
    assert shown[page.panel.greeting] == str("ABC".index(greeting))
