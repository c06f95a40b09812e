"""The HTML of the tab Find. What comes from the Hub is written by strangers."""

from datetime import UTC, datetime
from html.parser import HTMLParser
from pathlib import Path
from urllib.parse import unquote

import pytest
from hypothesis import given
from hypothesis import strategies as st

from chatui.errors import HubError
from chatui.i18n import LANGUAGES, use_language
from chatui.models import facts
from chatui.models.download_manager import DownloadStatus
from chatui.models.fetch import DownloadPlan, Progress
from chatui.models.file_choice import gguf_choices
from chatui.models.fit import Device
from chatui.models.hub import HubFile, HubModel
from chatui.models.leaderboards import LeaderboardResults
from chatui.models.model_card import Evaluation
from chatui.ui.models import downloads_view, find_view
from chatui.ui.models.find_query import FILTERS, MAX_PAGES, FindQuery, fields_of
from chatui.ui.models.find_view import FoundModel

DEVICES = (Device("cpu", 10 * 10**9, 16 * 10**9, 20e9),)
HOSTILE = (
    "<script>alert(1)</script>",
    '"><img src=x onerror=alert(1)>',
    "' onmouseover='alert(1)",
    "\n\n<div onclick=alert(1)>",
    "$$\\href{javascript:alert(1)}{x}$$",
    "[x](javascript:alert(1)) `code` **b** &lt;i&gt;",
    "javascript:alert(1)",
    "</div></form><form action=https://evil.example>",
)
TAGS = {
    "a", "b", "button", "details", "div", "form", "h4", "input", "label", "li", "option", "p", "progress",
    "select", "small", "span", "summary", "table", "tbody", "td", "th", "thead", "tr", "ul", "br",
}  # fmt: skip
ATTRIBUTES = {
    "class", "href", "name", "type", "maxlength", "autocomplete", "placeholder", "title", "value", "selected",
    "style", "max", "required",
}  # fmt: skip


class Strict(HTMLParser):
    """Reads HTML, and fails on a tag, attribute or address that the tab never writes."""

    def __init__(self, source: str) -> None:
        super().__init__()
        self.open: list[str] = []
        self.text = ""
        self.links: list[str] = []
        assert "\n" not in source, "Markdown would read on after an empty line"
        self.feed(source)
        assert self.open == []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        assert tag in TAGS
        for name, value in attrs:
            assert name in ATTRIBUTES
            if name == "href":
                assert value
                assert value.startswith(("#models-find=", "#models-use=", "http://", "https://"))
                self.links.append(value)
        if tag not in ("input", "br"):
            self.open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        self.text += data


def model(text: str) -> HubModel:
    return HubModel(
        text,
        downloads=1234567,
        updated=datetime(2026, 11, 1, tzinfo=UTC),
        licence=text,
        gated=True,
        private=True,
        task=text,
        tags=("gguf", text),
        parameters={"BF16": 8 * 10**9},
        evaluations=(
            Evaluation(text, text, text, text, f"https://example.org/{text}", text),
            Evaluation("a", "b", 0.5),
        ),
    )


def found(text: str) -> FoundModel:
    files = (HubFile(f"{text}-Q4_K_M.gguf", 5 * 10**9, "0" * 64), HubFile(f"{text}-Q8_0.gguf", 9 * 10**9, "1" * 64))
    about = model(text)
    return FoundModel(
        about,
        facts.from_hub(about, {}),
        DownloadPlan(text, "main", "c" * 40, files[:1], Path("/nowhere")),
        choices=gguf_choices(files),
        results=(
            LeaderboardResults("Open LLM Leaderboard", text, about.evaluations),
            LeaderboardResults("Chatbot Arena"),
            LeaderboardResults("Another", error=HubError("server", text, text)),
        ),
    )


@pytest.mark.parametrize("text", HOSTILE)
def test_what_strangers_write_stays_text(text: str) -> None:
    query = FindQuery(text=text)
    for html in (
        find_view.results(query, [model(text)], True, DEVICES),
        find_view.model_page(found(text), query, DEVICES, 4096),
        find_view.search_failure(HubError("server", text, text), query),
        downloads_view.downloads([status(text, "failed", HubError("server", text, text))]),
        downloads_view.token_part(False, [status(text, "failed", HubError("gated", text, "HF_TOKEN"))]),
    ):
        Strict(html)
        assert "$$" not in html


def status(name: str, state: str, error: HubError | None = None, **progress: float) -> DownloadStatus:
    plan = DownloadPlan(name, "main", "c" * 40, (HubFile("model.safetensors", 2000, "0" * 64),), Path("/nowhere"))
    return DownloadStatus("id1", "", plan, Progress(state, 500, 2000, error=error, **progress))  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("shown", "texts", "actions"),
    [
        (status("o/m", "running", speed=100.0), ["500 B of 2 kB", "100 B per second", "0:15 left"], ["pause"]),
        (status("o/m", "running", waiting=2.2), ["trying again in 2 s"], ["pause"]),
        (status("o/m", "paused"), ["paused", "Cancel and delete 500 B"], ["resume", "cancel"]),
        (status("o/m", "queued"), ["waiting for other downloads", "Cancel and delete 500 B"], ["pause", "cancel"]),
        (status("o/m", "failed", HubError("server", "It broke.")), ["It broke.", "Try again"], ["resume", "cancel"]),
        (status("o/m", "done"), ["It is here."], ["cancel"]),
    ],
    ids=lambda value: value.progress.state if isinstance(value, DownloadStatus) else "",
)
def test_a_download_says_how_far_it_is(shown: DownloadStatus, texts: list[str], actions: list[str]) -> None:
    read = Strict(downloads_view.downloads([shown]))
    plain = read.text.replace("\u2068", "").replace("\u2069", "")
    assert all(text in plain for text in texts)
    sent = [unquote(link.removeprefix("#models-find=")) for link in read.links if link.startswith("#models-find=")]
    assert sent == [f"{action}=id1" for action in actions]


def test_the_token_is_asked_for_where_a_licence_is_to_be_accepted() -> None:
    waiting = status("owner/gated", "failed", HubError("gated", "It is gated.", "set HF_TOKEN"))
    assert waiting.needs_token
    html = downloads_view.token_part(False, [waiting])
    assert 'type="password"' in html
    assert "/owner/gated" in html
    assert "HF_TOKEN" not in downloads_view.downloads([waiting])
    assert 'type="password"' not in downloads_view.token_part(True, [])


def test_every_figure_has_its_source_and_what_is_lacking_is_said() -> None:
    read = Strict(find_view.model_page(found("owner/model"), FindQuery(), DEVICES, 4096))
    assert "https://example.org/owner/model" in read.links
    for text in ("stated by its authors", "no date", "It has no results under this name.", "results of"):
        assert text in read.text
    assert "Q4_K_M" in read.text
    assert "small loss, the usual choice" in read.text
    bare = FoundModel(HubModel("o/m"), facts.from_hub(HubModel("o/m"), {}), problem=HubError("unsuitable", "Pickles."))
    read = Strict(find_view.model_page(bare, FindQuery(), (), 4096))
    assert "Its card states none." in read.text
    assert "Pickles." in read.text


def test_only_what_is_on_the_web_becomes_a_link() -> None:
    for url in ("javascript:alert(1)", "data:text/html,x", "//evil", "", "https://a b", 'https://a"b', "https://$a"):
        assert "<a" not in find_view.link(url, "label")
    assert find_view.link("https://example.org/?a=1&b=2", "x") == '<a href="https://example.org/?a=1&amp;b=2">x</a>'


@pytest.mark.parametrize("parameters", [10**6, 4 * 10**9, 8 * 10**9, 15 * 10**9, 70 * 10**9])
def test_the_weights_are_weighed(parameters: int) -> None:
    html = find_view.weights_verdict(parameters, DEVICES)
    expected = next((name for bits, name in find_view.BITS if parameters * bits / 8 <= 9e9), "too large")
    assert expected in html
    assert find_view.weights_verdict(None, DEVICES) == find_view.weights_verdict(parameters, ()) == ""


queries = st.builds(
    FindQuery,
    text=st.text(st.characters(categories=["L", "N", "P", "S"]), max_size=20),
    page=st.integers(1, MAX_PAGES),
    **{name: st.sampled_from(list(values)) for name, values in FILTERS.items()},
)


@given(queries)
def test_a_query_comes_back_as_it_was_sent(query: FindQuery) -> None:
    fields = fields_of(query.encoded(model="owner/a b&c"))
    assert FindQuery.parse(fields) == query
    assert fields["model"] == "owner/a b&c"


@given(st.text(max_size=60))
def test_any_text_is_a_query(text: str) -> None:
    query = FindQuery.parse(fields_of(text))
    assert 1 <= query.page <= MAX_PAGES
    query.search(DEVICES)


def test_the_filters_are_asked_for() -> None:
    search = FindQuery("q", "fits", "maths", "de", "mit", "gguf", "likes").search(DEVICES)
    assert (search.text, search.tags, search.language, search.licence) == ("q", ("math",), "de", "mit")
    assert (search.library, search.sort, search.parameters) == ("gguf", "likes", "max:9000M")
    assert FindQuery(domain="vision").search(()).task == "image-text-to-text"


@pytest.mark.parametrize("language", LANGUAGES)
def test_the_form_is_in_the_language_of_the_page(language: str) -> None:
    with use_language(language):
        html = find_view.form()
    Strict(html)
    assert ("Search the Hub" in html) == (language == "en")
