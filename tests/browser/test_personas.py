"""Personas are made, changed, brought in and taken away in the sidebar, and they are the ones that answer."""

import base64
import io
import json
import re
from collections.abc import Callable
from pathlib import Path

import pytest
from gradio.utils import get_upload_folder
from PIL import Image
from playwright.sync_api import Locator, expect

from chatui import cards, personas
from chatui.generation_settings import GenerationSettings
from chatui.personas import PRESETS, Persona
from chatui.settings import AppSettings
from tests.browser.pages import PATIENCE, Chat, Site, wait_until

pytestmark = pytest.mark.browser
Open = Callable[..., Chat]

FIRST, ROBOT = PRESETS[:2]
LABELS = [preset.label for preset in PRESETS]
ARIA = Persona(
    "Aria",
    "🧜",
    system_prompt="You are {{char}} on {{model}}, and talk with {{user}} & <others>.",
    greeting="I am {{char}}.",
    examples=("Sing <b>loudly</b>",),
)
HOSTILE = "<img src=x onerror=alert(1)><b>"


class Panel:
    """The persona's part of the right sidebar."""

    def __init__(self, chat: Chat) -> None:
        self.chat, self.page = chat, chat.page
        self.chooser, self.editor = self.page.locator("#persona-chooser"), self.page.locator("#persona-editor")
        self.choice = self.page.get_by_role("combobox", name="Persona")
        self.prompt = self.page.locator("#system-prompt textarea")
        self.warnings = self.page.get_by_test_id("toast-body")

    def dismiss(self) -> None:
        """Close the notices: for the ten seconds that they stay they cover what is to be clicked."""
        self.page.evaluate("document.querySelectorAll('[data-testid=toast-close]').forEach(close => close.click())")

    def press(self, name: str) -> None:
        """One of the buttons that are there."""
        self.dismiss()
        self.page.locator("#settings").get_by_role("button", name=name, exact=True).click()

    def field(self, name: str) -> Locator:
        """A field of the editor."""
        return self.editor.get_by_label(name, exact=True).or_(
            self.editor.get_by_role("textbox", name=re.compile(f"^{name}"))
        )

    def choose(self, label: str) -> None:
        """Another persona from the list."""
        self.dismiss()
        self.choice.click()
        self.page.get_by_role("option", name=label, exact=True).click()
        expect(self.choice).to_have_value(label)

    def offers(self, *labels: str) -> None:
        """The list comes to be these, which is told apart from the choice."""
        wait_until(lambda: self.choices() == list(labels), what=f"the choices {labels}")

    def choices(self) -> list[str]:
        """What the list offers now."""
        self.dismiss()
        self.choice.click()
        self.page.get_by_role("option").first.wait_for()
        labels = [option.inner_text().removeprefix("✓").strip() for option in self.page.get_by_role("option").all()]
        self.choice.blur()
        expect(self.page.get_by_role("option")).to_have_count(0)
        return labels

    def bring(self, path: Path) -> None:
        """Import a file as a user does."""
        with self.page.expect_file_chooser() as chosen:
            self.press("Import")
        chosen.value.set_files(path)

    def take(self, name: str) -> bytes:
        """Export the chosen persona."""
        self.dismiss()
        with self.page.expect_download() as download:
            self.chooser.get_by_text(name, exact=True).click()
        return download.value.path().read_bytes()


@pytest.fixture
def panel(chat: Open) -> Panel:
    return Panel(chat(fresh=True))


def _written(path: Path, persona: Persona) -> Path:
    path.write_bytes(cards.as_png(persona) if path.suffix == ".png" else cards.as_json(persona).encode())
    return path


def _picture(colour: str) -> bytes:
    out = io.BytesIO()
    Image.new("RGB", (300, 200), colour).save(out, "JPEG")
    return out.getvalue()


def _system_prompt(chat: Chat) -> str:
    return chat.backend.requests[-1].messages[0].content


def test_a_new_persona_answers_and_stays(panel: Panel) -> None:
    chat = panel.chat
    panel.press("New")
    panel.field("Name").fill("Bo")
    panel.field("Emoji").fill("🤠")
    panel.field("System prompt").fill("You are {{char}}.\n\tBe <brief>.")
    panel.field("Greeting").fill("Howdy from {{char}}!")
    panel.field("Example prompts").fill("One <i>?\n\nTwo?")
    panel.press("Save")
    expect(panel.choice).to_have_value("🤠 Bo")
    expect(panel.prompt).to_have_value("You are {{char}}.\n\tBe <brief>.")
    expect(chat.log.get_by_role("heading", name="Howdy from Bo!")).to_be_visible()
    expect(chat.log.get_by_text("One <i>?", exact=True)).to_be_visible()
    chat.say("hi")
    assert _system_prompt(chat) == "You are Bo.\n\tBe <brief>."
    chat.open()
    panel.offers("🤠 Bo", *LABELS)


@pytest.mark.exhaustive  # tests/integration/test_ownership.py asks for them
def test_personas_are_their_owners_own(serve: Callable[..., Site], open_chat: Open, tmp_path: Path) -> None:
    site = serve(["fine"], settings=AppSettings(host="0.0.0.0", data_dir=tmp_path))  # else they are one person
    panel = Panel(open_chat(site))
    panel.bring(_written(tmp_path / "aria.json", ARIA))
    expect(panel.choice).to_have_value(ARIA.label)
    other = Panel(open_chat(panel.chat.site))
    other.offers(*LABELS)
    address = panel.chooser.get_by_text("Export", exact=True).get_attribute("href")
    assert panel.page.request.get(f"{panel.chat.site.url}/{address}").ok
    assert other.page.request.get(f"{panel.chat.site.url}/{address}").status == 404


@pytest.mark.parametrize("kind", [pytest.param("json", marks=pytest.mark.exhaustive), "png"])
def test_a_persona_is_brought_in_and_taken_away(panel: Panel, tmp_path: Path, kind: str) -> None:
    chat, picture = panel.chat, cards.avatar(_picture("teal"))
    persona = Persona(**{**vars(ARIA), "avatar": picture})
    before = set(Path(get_upload_folder()).rglob("*.*"))
    panel.bring(_written(tmp_path / f"aria.{kind}", persona))
    expect(panel.choice).to_have_value(ARIA.label)
    expect(panel.chooser.locator(".persona-face img")).to_have_attribute("src", picture)
    expect(chat.log.get_by_role("heading", name="I am Aria.")).to_be_visible()
    assert set(Path(get_upload_folder()).rglob("*.*")) == before
    chat.say("hi")
    assert _system_prompt(chat) == "You are Aria on fake/echo, and talk with User & <others>."
    for name in ("Export", "Export card"):
        back = cards.read(panel.take(name))
        assert Persona(**{**vars(back), "card": None}) == persona
    assert chat.watch.errors == []


@pytest.mark.exhaustive  # tests/unit/test_cards.py has such cards, the test above both buttons
def test_a_card_goes_out_as_it_came_in(panel: Panel, tmp_path: Path) -> None:
    data = dict.fromkeys((*cards.V1, *cards.V2), "x") | {
        "tags": ["a"],
        "alternate_greetings": ["b"],
        "extensions": {"c": 1},
    }
    card = {
        "spec": "chara_card_v3",
        "spec_version": "3.0",
        "data": {**data, "nickname": "N", "group_only_greetings": []},
    }
    file = tmp_path / "card.json"
    file.write_text(json.dumps(card))
    panel.bring(file)
    expect(panel.choice).to_have_value("x")
    with Image.open(io.BytesIO(panel.take("Export card"))) as image:
        assert json.loads(base64.b64decode(image.info["ccv3"])) == card


LORE = {
    "name": "Robo",
    "description": "{{random:" + ",".join(f"draw{at}" for at in range(100)) + "}} and "
    "{{pick:" + ",".join(f"pick{at}" for at in range(100)) + "}}.",
    "first_mes": "Hi. Ask of the moon.",
    "post_history_instructions": "Stay {{char}}, it is {{time}}.",
    "character_book": {"scan_depth": 1, "entries": [{"keys": ["moon"], "content": "{{char}} was on the moon."}]},
}


@pytest.mark.exhaustive  # tests/unit/test_lorebook.py; instructions of a card are below, test_inspector.py asks alike
def test_lore_is_told_where_its_words_are_said_and_a_reply_once_more_is_asked_for_alike(
    panel: Panel, tmp_path: Path
) -> None:
    chat, file = panel.chat, tmp_path / "card.json"
    file.write_text(json.dumps({"spec": "chara_card_v2", "data": LORE}))
    panel.bring(file)
    expect(panel.choice).to_have_value("Robo")
    for question in ("And the sun?", "And the Moon?"):
        chat.say(question)
    sun, moon = (request.messages for request in chat.backend.requests)
    assert [message.role for message in sun] == ["system", "assistant", "user", "system"]
    assert re.fullmatch(r"Stay Robo, it is \d\d:\d\d\.", sun[-1].content)
    assert "on the moon" not in sun[0].content
    assert "Robo was on the moon." in moon[0].content
    picked = re.search(r"pick\d+", sun[0].content)
    assert picked is not None
    assert picked[0] in moon[0].content
    chat.log.locator(".chat-bar .inspect").last.click()
    view = chat.page.locator("#inspector")
    view.get_by_role("tab", name="Persona", exact=True).click(timeout=PATIENCE)
    view.get_by_role("button", name=re.compile("^Ask the same")).click()
    wait_until(lambda: len(chat.backend.requests) == 3)
    assert chat.backend.requests[2].messages == moon


@pytest.mark.exhaustive  # tests/unit/test_persona_panel.py turns to each
def test_another_greeting_is_chosen_before_the_first_question(panel: Panel, tmp_path: Path) -> None:
    chat, file = panel.chat, tmp_path / "card.json"
    greetings = {"first_mes": "I am {{char}}.", "alternate_greetings": ["Hey, {{user}} <b>.", "A long one.\n" * 9]}
    file.write_text(json.dumps({"spec": "chara_card_v2", "data": {"name": "Robo", **greetings}}))
    panel.bring(file)
    expect(chat.log.get_by_role("heading", name="I am Robo.")).to_be_visible()
    expect(chat.log.get_by_text("1/3", exact=True)).to_be_visible()
    chat.log.get_by_title("Previous version").click()
    expect(chat.log.locator(".greeting-text")).to_contain_text("A long one.")
    chat.log.get_by_title("Previous version").click()
    expect(chat.log.get_by_role("heading", name="Hey, User <b>.")).to_be_visible()
    chat.say("hi")
    assert [message.content for message in chat.backend.requests[-1].messages] == ["", "Hey, User <b>.", "hi"]
    expect(chat.log.get_by_text("2/3", exact=True)).to_be_visible()
    panel.choose(ROBOT.label)
    panel.choose("Robo")
    chat.button("New chat").click()
    expect(chat.log.get_by_role("heading", name="I am Robo.")).to_be_visible()
    chat.say("hello")
    assert chat.backend.requests[-1].messages[1].content == "I am Robo."


def test_editing_changes_the_persona(panel: Panel, tmp_path: Path) -> None:
    chat = panel.chat
    panel.bring(_written(tmp_path / "aria.json", ARIA))
    expect(panel.choice).to_have_value(ARIA.label)
    panel.prompt.fill("Typed in the box.")
    panel.press("Edit")
    expect(panel.field("System prompt")).to_have_value("Typed in the box.")
    expect(panel.field("Name")).to_be_focused()
    panel.field("Name").fill("Aria 2")
    with panel.page.expect_file_chooser() as chosen:
        panel.press("Choose picture")
    chosen.value.set_files({"name": "face.jpg", "mimeType": "image/jpeg", "buffer": _picture("teal")})
    expect(panel.editor.locator(".persona-face img")).to_be_visible(timeout=PATIENCE)
    panel.press("Save")
    expect(panel.choice).to_have_value("🧜 Aria 2")
    expect(panel.chooser.locator(".persona-face img")).to_be_visible()
    panel.offers("🧜 Aria 2", *LABELS)
    chat.say("hi")
    assert _system_prompt(chat) == "Typed in the box."
    panel.press("Edit")
    panel.press("Remove")
    expect(panel.editor.locator(".persona-face img")).to_have_count(0)
    panel.press("Save")
    expect(panel.chooser.locator(".persona-face")).to_have_text("🧜")


def test_what_was_typed_stays_after_a_look_at_the_list_and_a_cancel(panel: Panel) -> None:
    panel.prompt.fill("Mine.")
    panel.choices()
    panel.choice.focus()
    panel.prompt.focus()
    panel.press("New")
    panel.field("Name").fill("Bo")
    panel.press("Cancel")
    expect(panel.choice).to_have_value(FIRST.label)
    expect(panel.prompt).to_have_value("Mine.")
    panel.offers(*LABELS)
    panel.press("New")
    expect(panel.field("Name")).to_have_value("")
    panel.press("Cancel")
    panel.chat.say("hi")
    expect(panel.prompt).to_have_value("Mine.")
    assert _system_prompt(panel.chat) == "Mine."


@pytest.mark.exhaustive  # as part of test_keyboard.py in every run
def test_a_persona_can_be_chosen_with_the_keyboard(panel: Panel) -> None:
    panel.choice.focus()
    panel.choice.fill(ROBOT.name[:5])
    panel.choice.press("Enter")
    expect(panel.prompt).to_have_value(ROBOT.system_prompt)
    expect(panel.choice).to_have_value(ROBOT.label)


def test_of_two_quick_choices_the_last_one_counts(panel: Panel) -> None:
    for label in (ROBOT.label, FIRST.label, ROBOT.label, FIRST.label):
        panel.choose(label)
    panel.chat.say("hi")
    assert _system_prompt(panel.chat) == FIRST.system_prompt
    expect(panel.prompt).to_have_value(FIRST.system_prompt)
    expect(panel.chat.page.locator("#persona-chooser .persona-face")).to_have_text(FIRST.emoji)


@pytest.mark.exhaustive  # tests/unit/test_persona_panel.py duplicates, editing is above
def test_a_duplicate_of_a_preset_keeps_what_was_typed(panel: Panel) -> None:
    panel.choose(ROBOT.label)
    expect(panel.prompt).to_have_value(ROBOT.system_prompt)
    panel.prompt.fill("Sassier.")
    panel.press("Duplicate")
    expect(panel.field("Name")).to_have_value(ROBOT.name)
    panel.press("Save")
    expect(panel.prompt).to_have_value("Sassier.")
    panel.offers(ROBOT.label, *LABELS)
    panel.choose(FIRST.label)
    panel.choice.click()
    panel.page.get_by_role("option", name=ROBOT.label, exact=True).last.click()
    expect(panel.prompt).to_have_value(ROBOT.system_prompt)


def test_a_persona_brings_its_own_settings(panel: Panel) -> None:
    chat = panel.chat
    chat.setting("Temperature").fill("1.35")
    chat.setting("Temperature").blur()
    chat.setting("Stop strings").fill("END")
    chat.setting("Stop strings").blur()
    panel.press("New")
    panel.field("Name").fill("Hot")
    panel.editor.get_by_role("checkbox").check()
    panel.press("Save")
    expect(panel.choice).to_have_value("Hot")
    chat.button("Reset to the model's defaults").click()
    expect(chat.setting("Temperature")).to_have_value("0.5")
    panel.choose(FIRST.label)
    expect(panel.prompt).to_have_value(FIRST.system_prompt)
    panel.choose("Hot")
    expect(chat.setting("Temperature")).to_have_value("1.35")
    chat.say("hi")
    sent: GenerationSettings = chat.backend.requests[-1].settings
    assert (sent.temperature, sent.stop) == (1.35, ("END",))


def test_a_deleted_persona_stays_with_its_conversation(panel: Panel, tmp_path: Path) -> None:
    chat = panel.chat
    card = {"data": {"name": "Aria", "post_history_instructions": "Stay {{char}}."}}
    panel.bring(_written(tmp_path / "aria.json", Persona(**{**vars(ARIA), "card": card})))
    expect(panel.choice).to_have_value(ARIA.label)
    chat.say("hi")
    panel.press("Delete")
    panel.press("Keep it")
    expect(panel.choice).to_have_value(ARIA.label)
    panel.press("Delete")
    panel.press("Delete it")
    expect(panel.choice).to_have_value(FIRST.label)
    expect(panel.prompt).to_have_value(FIRST.system_prompt)
    panel.offers(*LABELS)
    chat.page.reload()
    expect(panel.choice).to_have_value(ARIA.label, timeout=PATIENCE)
    expect(panel.prompt).to_have_value(ARIA.system_prompt)
    chat.say("again")
    assert _system_prompt(chat) == "You are Aria on fake/echo, and talk with User & <others>."
    assert [request.messages[-1].content for request in chat.backend.requests] == ["Stay Aria."] * 2


BAD_FILES = [
    ("x.json", b"[]", "no persona"),
    ("x.json", json.dumps({"spec": HOSTILE, "data": {}}).encode(), re.escape(HOSTILE)),
    ("x.png", _picture("teal"), "not JSON"),
    ("x.png", cards.as_png(ARIA)[:-30], "cut off"),
]


@pytest.mark.parametrize(
    "files", [BAD_FILES[1:2], pytest.param(BAD_FILES, marks=pytest.mark.exhaustive)], ids=["one", "all"]
)
def test_bad_files_are_refused_and_change_nothing(
    panel: Panel, tmp_path: Path, files: list[tuple[str, bytes, str]]
) -> None:
    for name, content, message in files:
        (tmp_path / name).write_bytes(content)
        panel.bring(tmp_path / name)
        expect(panel.warnings).to_contain_text(re.compile(message))
        panel.dismiss()
        expect(panel.warnings).to_have_count(0)
    expect(panel.choice).to_have_value(FIRST.label)
    panel.offers(*LABELS)
    assert panel.chat.watch.dialogs == []
    panel.chat.say("hi")


def test_what_may_not_be_saved_is_said_and_stays_in_the_form(panel: Panel) -> None:
    panel.press("New")
    panel.field("System prompt").fill("Long work.")
    panel.press("Save")
    expect(panel.warnings).to_contain_text("Name: there is none.")
    expect(panel.field("System prompt")).to_have_value("Long work.")
    panel.field("Name").fill("Bo")
    panel.press("Save")
    expect(panel.choice).to_have_value("Bo")


def test_no_text_of_a_persona_is_markup(panel: Panel, tmp_path: Path) -> None:
    chat = panel.chat
    persona = Persona(f"N {HOSTILE}", "<i>", f"P {HOSTILE}", f"G {HOSTILE}", (f"E {HOSTILE}",))
    panel.bring(_written(tmp_path / "x.json", personas.validate(persona)))
    expect(panel.choice).to_have_value(persona.label)
    expect(panel.chooser.locator(".persona-face")).to_have_text("<i>")
    expect(chat.log.get_by_role("heading", name=persona.greeting)).to_be_visible()
    expect(chat.log.get_by_text(persona.examples[0], exact=True)).to_be_visible()
    expect(chat.page.locator("img[src=x]")).to_have_count(0)
    panel.press("Edit")
    expect(panel.field("Name")).to_have_value(persona.name)
    panel.press("Cancel")
    chat.say("hi")
    assert chat.watch.dialogs == []
    panel.offers(persona.label, *LABELS)


def test_a_path_that_was_not_uploaded_is_not_read(panel: Panel, tmp_path: Path) -> None:
    file = _written(tmp_path / "secret.json", ARIA)
    page, site = panel.page, panel.chat.site
    events = page.request.get(f"{site.url}/config").json()["dependencies"]
    for event in (one["id"] for one in events if any(trigger == "upload" for _, trigger in one["targets"])):
        named = {"path": str(file), "meta": {"_type": "gradio.FileData"}}
        body = {"data": [named, "", ""], "fn_index": event, "session_hash": f"hostile{event}"}
        page.request.post(f"{site.url}/gradio_api/queue/join", data=body)
        answer = page.request.get(f"{site.url}/gradio_api/queue/data?session_hash=hostile{event}").text()
        assert "Aria" not in answer
        assert str(tmp_path) not in answer
    panel.chat.open()
    panel.offers(*LABELS)
    assert file.exists()
