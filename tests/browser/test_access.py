"""The page in other languages, and as axe-core finds it. Keyboards and screen readers are in test_keyboard.py."""

import json
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from importlib.resources import files
from pathlib import Path
from typing import Any

import pytest
from playwright.sync_api import Browser, FilePayload, Page, expect

from chatui import i18n
from chatui.chat import ChatRequest, Finish, ReplyDelta
from chatui.i18n import gettext
from chatui.settings import AppSettings
from tests.browser.conftest import Serve
from tests.browser.pages import PATIENCE, Site, wait_until
from tests.fakes import FakeBackend, Hold, Script

AXE = (files("axe_playwright_python") / "axe.min.js").read_text()
FAULTS = """async part => (await axe.run(part ?? document, { resultTypes: ["violations"] })).violations.map(
  each => `${each.id}: ${each.nodes[0].html.slice(0, 120)}`)"""
REPLY = """# Title

Some `code`, ~~gone~~, **bold**, a note[^1], $x^2$ and [a link](https://example.org).

```python
# a comment
def f(a: int = 3) -> str:
    return f"text {a}" + 'x'
```

```html
<!-- c --><a href="x" class='y'>&amp;</a>
```

| a | b |
|---|---|
| 1 | 2 |

- [x] one
- [ ] two

> quoted

$$\\int_0^1 x\\,dx$$

[^1]: The note.
"""
IMPORTED = [
    {"title": "bad"},
    {"title": "good", "messages": [{"role": "user", "content": "hi"}, {"role": "assistant", "content": "ho"}]},
]
BOTH = ("light", "dark")
SHOWN_PAGE = "#inspector [role=tabpanel]:not([style*=none])"


@contextmanager
def opened(browser: Browser, url: str, locale: str, **options: Any) -> Iterator[Page]:
    context = browser.new_context(viewport={"width": 1600, "height": 900}, locale=locale, **options)
    context.set_default_timeout(PATIENCE)
    page = context.new_page()
    page.goto(url)
    expect(page.locator("#message .submit-button, input[type=password]")).to_be_visible(timeout=PATIENCE)
    expect(page.locator("html.at-rest, input[type=password]").first).to_be_attached(timeout=PATIENCE)
    yield page
    context.close()


def ask(page: Page, question: str = "Hello <b>you</b>") -> None:
    before = page.locator("#chat .inspect").count()
    page.locator("#message textarea").fill(question)
    page.keyboard.press("Enter")
    expect(page.locator("#chat .inspect")).to_have_count(before + 1, timeout=PATIENCE)
    expect(page.locator("#message .submit-button")).to_be_visible(timeout=PATIENCE)


class AccessibilityChecker:
    """Looks at a page with axe-core, in each colour scheme. With `at_parts` it looks only at what has changed."""

    def __init__(self, page: Page, schemes: Sequence[str], *, at_parts: bool = False) -> None:
        self.page, self.schemes, self.at_parts = page, schemes, at_parts
        self.found: dict[str, list[str]] = {}

    def look(self, view: str, part: str | None = None, *, changed: str | None = None) -> None:
        """Note what is wrong on the page, or in the element `part`, once the page has come to rest.

        The parts are selectors; `changed` is what differs from the last look.
        """
        part = part or (changed if self.at_parts else None)
        for scheme in self.schemes:
            self.page.emulate_media(color_scheme=scheme)  # type: ignore[arg-type]
            self.page.wait_for_function("() => document.getAnimations().every(one => one.playState !== 'running')")
            faults = self._faults(part)
            for _ in range(5):
                if not faults:
                    break
                self.page.wait_for_timeout(300)  # what scripts mend, they mend a moment later
                faults = self._faults(part)
            if faults:
                self.found[f"{view}, {scheme}"] = faults

    def _faults(self, part: str | None) -> list[str]:
        found: list[str] = self.page.evaluate(FAULTS, part)
        return found


def answers(hold: Hold) -> Callable[[ChatRequest], Script]:
    def answer(request: ChatRequest) -> Script:
        scripts: dict[str, Script] = {
            "think": [ReplyDelta(reasoning="Let me see. **Bold** and `code`."), "The answer."],
            "fail": ["Half a", RuntimeError("on purpose")],
            "cut": ["cut", ReplyDelta(finish=Finish("length", 3, 2, 0, 0.0, 0.1, 0.5))],
            "stream": ["Some words\n\n```python\nx = 'a'  # c\n```\n\n", hold, "end"],
        }
        return scripts.get(request.messages[-1].content, [REPLY])

    return answer


CASES = [("ar", ("dark",))]
"""In CI: the language that is written from right to left, and the scheme whose contrasts are harder to get right."""
MORE = [(each, BOTH) for each in ("en", "de", "ar", "fr", "es", "zh-CN")]


@pytest.mark.parametrize(
    ("locale", "schemes"), [*CASES, *(pytest.param(*each, marks=pytest.mark.exhaustive) for each in MORE)]
)
def test_axe_finds_nothing(browser: Browser, serve: Serve, locale: str, schemes: Sequence[str]) -> None:
    hold = Hold()
    with opened(browser, serve(answers(hold)).url, locale, reduced_motion="reduce") as page:
        page.evaluate(AXE)
        eye = AccessibilityChecker(page, schemes, at_parts=(locale, schemes) in CASES)
        chatting(eye, hold)
        choosing(eye)
        listing(eye)
        inspecting(eye)
        looking_at_models(eye)
        on_a_phone(eye)
        assert eye.found == {}


def chatting(eye: AccessibilityChecker, hold: Hold) -> None:
    page = eye.page
    eye.look("empty page")
    ask(page)
    ask(page, "think")
    eye.look("reply and thought", changed="#chat")
    page.locator("#chat .thought-group .title").click()
    eye.look("thought open", changed="#chat")
    ask(page, "fail")
    ask(page, "cut")
    page.locator("#message textarea").fill("stream")
    page.keyboard.press("Enter")
    expect(page.locator("#chat code.language-python").last).to_be_visible()
    eye.look("error, and a reply being written", changed="#chat")
    page.locator("#message .stop-button").click()
    expect(page.locator("#message .submit-button")).to_be_visible()
    eye.look("stopped", changed="#chat")

    def complains() -> bool:
        page.locator("#message textarea").press("Enter")
        return page.locator("#message-problem").is_visible()

    wait_until(complains)  # an Enter soon after a sending is taken for a second one of the same
    eye.look("nothing typed", changed="#message")


def choosing(eye: AccessibilityChecker) -> None:
    page = eye.page
    for part in page.locator("#settings .gr-accordion .label-wrap").all():
        part.click()
    for help in page.locator("#settings .help").filter(visible=True).all():
        help.click()
    eye.look("settings", changed="#settings")
    page.locator("#persona input").click()
    eye.look("list of personas", changed="#settings")
    page.keyboard.press("Escape")
    page.locator("#settings .persona-actions button").first.click()
    expect(page.locator("#persona-editor")).to_be_visible()
    eye.look("persona editor", changed="#settings")
    page.locator("#persona-editor .persona-end button").last.click()
    expect(page.locator("#persona-editor")).to_be_hidden()


def listing(eye: AccessibilityChecker) -> None:
    page = eye.page
    menu, link = page.locator("#chats .chat-menu summary").first, "#chats .chat-menu[open] .{}"
    menu.focus()
    page.keyboard.press("Enter")
    eye.look("menu of a chat", changed="#chats")
    page.locator(link.format("rename")).click()
    eye.look("new title", changed="#chats")
    page.keyboard.press("Escape")
    page.locator("#search input").fill("title")
    expect(page.locator("#chats mark").first).to_be_visible()
    eye.look("found", changed="#conversations")
    page.locator("#search input").fill("")
    expect(page.locator("#chats mark")).to_have_count(0)
    menu.focus()
    page.keyboard.press("Enter")
    page.locator(link.format("delete")).click()
    expect(page.locator("#chats .chat-list-top")).to_be_visible()
    eye.look("deleted", changed="#conversations")
    page.locator("#below-chats a[href='#deleted']").click()
    expect(page.locator("#chats .restore")).to_be_visible()
    eye.look("recently deleted", changed="#conversations")
    page.locator("#chats .restore").click()
    expect(page.locator("#chats .chat-link")).to_have_count(1)
    file: FilePayload = {"name": "x.json", "mimeType": "application/json", "buffer": json.dumps(IMPORTED).encode()}
    page.locator("#conversations input[type=file]").set_input_files(file)
    expect(page.get_by_test_id("toast-body")).to_have_count(2)
    with i18n.use_language(page.evaluate("document.documentElement.lang")):
        expect(page.locator(".toast-title")).to_have_text([gettext("Info"), gettext("Warning")])
    eye.look("import report")
    # Not one after the other: they also go by themselves, after a while.
    page.evaluate("document.querySelectorAll('[data-testid=toast-close]').forEach(close => close.click())")
    expect(page.get_by_test_id("toast-body")).to_have_count(0)


def inspecting(eye: AccessibilityChecker) -> None:
    page = eye.page
    page.locator("#chat .inspect").first.click()
    expect(page.get_by_role("dialog")).to_be_visible()
    tabs = page.locator("#inspector [role=tab]")
    expect(tabs).to_have_count(8)
    for number in range(8):
        tabs.nth(number).click()
        page.evaluate("document.querySelectorAll('#inspector details').forEach(one => one.open = true)")
        whole = "#inspector" if number and not eye.at_parts else None
        eye.look(f"page {number + 1} of Inspect", whole, changed=SHOWN_PAGE if number else "#inspector")
    page.keyboard.press("Escape")


def looking_at_models(eye: AccessibilityChecker) -> None:
    page = eye.page
    page.locator("#status a[href='#models']").click()
    expect(page.locator("#models .model-row").first).to_be_visible()
    page.evaluate("document.querySelectorAll('#models details').forEach(one => one.open = true)")
    eye.look("models on this machine", changed="#models")
    page.keyboard.press("Escape")
    expect(page.get_by_role("dialog")).to_have_count(0)


def on_a_phone(eye: AccessibilityChecker) -> None:
    page = eye.page
    page.locator("#temporary-chat").click()
    expect(page.locator("body.temporary")).to_be_visible()
    eye.look("temporary chat")
    page.set_viewport_size({"width": 390, "height": 800})
    for bar in ("conversations", "settings"):
        expect(page.locator(".sidebar.open")).to_have_count(0)
        page.locator(f"#{bar} .toggle-button").click()
        expect(page.locator(f"#{bar}.open")).to_be_visible()
        eye.look(f"{bar} on a phone", changed=f"#{bar}")
        page.keyboard.press("Escape")


@pytest.mark.parametrize("locale", ["de", *(pytest.param(each, marks=pytest.mark.exhaustive) for each in ("en", "ar"))])
def test_axe_finds_nothing_where_one_logs_in(browser: Browser, tmp_path: Path, locale: str) -> None:
    def site(**settings: Any) -> Site:
        return Site(FakeBackend(["fine"]), AppSettings(data_dir=tmp_path, allowed_hosts="", **settings))

    with site() as before, opened(browser, before.url, locale) as page:
        ask(page)
        known = page.context.storage_state()
    with (
        site(auth="ada:secret") as after,
        opened(browser, after.url, locale, storage_state=known, reduced_motion="reduce") as page,
    ):
        page.evaluate(AXE)
        eye = AccessibilityChecker(page, BOTH)
        user, password = page.locator("input[type=text]"), page.locator("input[type=password]")
        expect(page).to_have_title("chatui")
        expect(user).to_be_focused()
        assert [box.get_attribute("autocomplete") for box in (user, password)] == ["username", "current-password"]
        eye.look("login")

        def log_in(name: str, word: str) -> int:
            user.fill(name)
            password.fill(word)
            with page.expect_response(lambda answer: answer.url.endswith("/login")) as answered:
                page.keyboard.press("Enter")
            return answered.value.status

        assert log_in("bob", "wrong") == 400
        expect(page.locator("p.creds")).to_be_visible()
        expect(page.locator("#heard")).to_have_text(page.locator("p.creds").inner_text())
        eye.look("wrong password")
        wait_until(lambda: log_in("bob", "wrong") == 429, what="the wait")
        expect(page.locator("#refusal")).to_be_visible()
        eye.look("wait")
        assert log_in("ada", "secret") == 200
        expect(page.locator("#chats .offer")).to_be_visible()
        page.evaluate(AXE)
        eye.look("chats of before the login are offered")
        assert eye.found == {}


NAMES = """() => [...new Set([...document.querySelectorAll('a, button, input, textarea, summary, select, [role]')]
  .filter(one => one.checkVisibility({visibilityProperty: true})
    && !one.closest('.chat-link, #chat .prose:not(:has(.chat-bar))'))
  .flatMap(one => [one.ariaLabel || '', one.title, one.matches('a, button') ? one.textContent.trim() : ''])
  .filter(name => /\\p{L}{3}/u.test(name)))]"""
SAME = {"Chats", "Persona", *("Top-p ?", "Top-k ?", "Min-p ?", "Seed ?"), "Top-p", "Top-k", "Min-p", "Seed", "chatui"}
"""What is called the same in German."""


def show_all(page: Page) -> None:
    ask(page)
    for part in page.locator("#settings .gr-accordion .label-wrap").all():
        part.click()
    expect(page.locator("#setting-temperature input[type=range]")).to_be_visible()


def test_no_name_stays_english(browser: Browser, serve: Serve) -> None:
    url = serve([REPLY]).url
    with opened(browser, url, "en") as page:
        show_all(page)
        english = set(page.evaluate(NAMES))
    assert len(english) > 40
    with opened(browser, url, "de") as page:
        show_all(page)
        left = english
        for _ in range(100):
            left = english & set(page.evaluate(NAMES)) - SAME
            if not left:
                break
            page.wait_for_timeout(100)  # what scripts translate, they translate a moment later
        assert left == set()


@pytest.mark.exhaustive  # the test above has a page in German, tests/unit/test_page_language.py how one is chosen
@pytest.mark.parametrize("locale", ["pt-BR", "ar", "de-DE", "zh-CN"])
def test_the_page_is_in_the_language_of_the_browser(browser: Browser, serve: Serve, locale: str) -> None:
    spoken = i18n.negotiate(locale)
    with i18n.use_language(spoken), opened(browser, serve(REPLY).url, locale) as page:
        html = page.locator("html")
        expect(page.get_by_role("button", name=gettext("Send"), exact=True)).to_be_visible()
        expect(page.get_by_role("button", name=gettext("New chat"), exact=True)).to_be_visible()
        expect(page.locator("#chat .greeting")).to_contain_text(gettext("Hello! What are you curious about?"))
        ask(page)
        expect(html).to_have_attribute("lang", spoken)
        expect(html).to_have_attribute("dir", i18n.direction())
        expect(page.locator("#chats")).to_contain_text(gettext("Today"))
        expect(page.locator("#chat .inspect").last).to_have_text(gettext("Inspect"))
        shown = page.locator("#chat .top-panel button").filter(visible=True)
        blocks = page.locator(".block[dir]:not(:has(input[type=range]), #persona)")
        wait_until(lambda: {block.get_attribute("dir") for block in blocks.all()} == {i18n.direction()})
        expect(shown).to_have_count(1)  # Copy conversation; Gradio's Clear empties the screen alone
