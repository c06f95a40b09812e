"""The HTML of the Models view: what it says, for whom, and that no name can do harm in it."""

import re
from dataclasses import replace
from html import unescape
from html.parser import HTMLParser
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from chatui import i18n
from chatui.chat import ModelStatus
from chatui.errors import ModelError
from chatui.models.catalogue import LocalModel
from chatui.models.facts import from_config
from chatui.models.fit import Device, best_fit, recommend
from chatui.models.model_card import Evaluation, ModelCardFacts
from chatui.models.names import parse
from chatui.models.overview import Overview, OverviewRow
from chatui.ui.models.here_list import list_html
from tests.configs import PUBLISHED
from tests.fakes import INFO, TOLD, UNTOLD

GB = 10**9
MACHINE = (Device("cpu", 12 * GB, 16 * GB, 90e9),)


def overview(*names: str, status: ModelStatus | None = None, card: ModelCardFacts | None = None) -> Overview:
    """The published models, in the HF cache of a laptop."""
    rows = []
    for name in names:
        published = PUBLISHED[name]
        facts = from_config(name, published.config, parameters=published.parameters, card=card)
        local = LocalModel(name, Path("/cache") / name, "cache", 1, commit="0123456789abcdef")
        rows.append(OverviewRow(name, local, status, facts, best_fit(facts, MACHINE)))
    return Overview(tuple(rows), MACHINE, recommend([row.facts for row in rows if row.facts], MACHINE))


class Parts(HTMLParser):
    """The tags and the links of HTML."""

    def __init__(self, html: str) -> None:
        super().__init__()
        self.tags: list[str] = []
        self.links: list[str] = []
        self.feed(html)

    def handle_starttag(self, tag: str, attributes: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        self.links += [value or "" for name, value in attributes if name == "href"]


def words(html: str) -> str:
    return " ".join(unescape(re.sub(r"<[^>]*>", " ", html)).split())


def test_a_mixture_is_explained_and_weighed() -> None:
    html = list_html(overview("mistralai/Mixtral-8x7B-v0.1"), may_manage=True)
    text = words(html)
    assert "56B by the tutorial's rule of thumb" in text
    assert "46.7B parameters · 12.9B active" in text
    assert "too large" in text
    assert "more of free memory would do." in text
    assert "46,702,792,704 parameters × 2 B" in text
    assert "2 of 8 for each token" in text


def test_the_recommendation_is_on_top_with_its_reason() -> None:
    found = overview("Qwen/Qwen3-8B", "openai-community/gpt2")
    text = words(list_html(found, may_manage=True))
    assert text.startswith("Recommended for this machine Qwen/Qwen3-8B: with 8.19B parameters, ")
    assert found.recommendation is not None
    assert found.recommendation.reason in text


def links(html: str) -> list[str]:
    return [re.sub(r"=.*?%3D.*|=.*", "", link) for link in Parts(html).links]


@pytest.mark.parametrize(
    ("status", "labels"),
    [
        (None, ["Chat with it", "Load", "Load with …", "Delete …"]),
        (ModelStatus("q", "ready", info=INFO), ["Chat with it", "Load with …", "Unload", "Delete …"]),
        (ModelStatus("q", "loading", "loading the weights"), ["Chat with it", "Load with …", "Unload", "Delete …"]),
        (ModelStatus("q", "failed", error=ModelError("Broken.")), ["Chat with it", "Load", "Load with …", "Delete …"]),
    ],
)
def test_each_state_has_its_actions(status: ModelStatus | None, labels: list[str]) -> None:
    found = replace(overview("Qwen/Qwen3-8B", status=status), recommendation=None)
    html = list_html(found, may_manage=True)
    assert re.findall(r'<a class="act[^>]*>([^<]*)</a>', html) == labels
    others = re.findall(r'<a class="act[^>]*>([^<]*)</a>', list_html(found, may_manage=False))
    assert others == (["Chat with it"] if status else [])


def test_loading_and_failures_are_told() -> None:
    loading = ModelStatus("q", "loading", "loading the weights")
    assert "loading the weights …" in words(list_html(overview("Qwen/Qwen3-8B", status=loading), True))
    failed = ModelStatus("q", "failed", error=ModelError("The <file> is broken.", "Fetch it."))
    assert "The &lt;file&gt; is broken. Fetch it." in list_html(overview("Qwen/Qwen3-8B", status=failed), True)


def test_deletion_is_asked_for_with_what_it_frees() -> None:
    found = overview("Qwen/Qwen3-8B")
    text = words(list_html(found, True, asking=found.rows[0].key, freed=3 * GB))
    assert "Delete Qwen/Qwen3-8B from the disk? 3.0 GB become free. Delete from disk Keep it" in text


def test_evaluations_have_their_source_and_date() -> None:
    card = ModelCardFacts("mit", ("en",) * 10, evaluations=(Evaluation("MMLU", "acc", 61.5, "Lab", date="2026-01-02"),))
    text = words(list_html(overview("Qwen/Qwen3-8B", card=card), True))
    assert "MMLU, acc 61.5 Lab · 2026-01-02" in text
    assert "and 2 more" in text


HOSTILE = [
    "<img src=x onerror=alert(1)>",
    '"><script>alert(1)</script>',
    "a\n\n# b",
    "$x$ \\(y\\)",
    "[x](javascript:1)",
]


@given(st.one_of(st.sampled_from(HOSTILE), st.text(max_size=40)))
def test_no_name_brings_markup_of_its_own(name: str) -> None:
    card = ModelCardFacts(name, (name,), evaluations=(Evaluation(name, name, name, name, name, name),))
    plain = overview("Qwen/Qwen3-8B", card=ModelCardFacts("l", ("l",), evaluations=(Evaluation("d", "m", "v", "s"),)))
    row, facts = plain.rows[0], plain.rows[0].facts
    assert facts is not None
    hostile = replace(row, name=name or "x", facts=replace(facts, card=card if name.strip() else facts.card))
    hostile = replace(hostile, local=LocalModel(name, Path(f"/c/{name}x".replace("\0", "")), "cache", 1, commit="c"))
    one, other = (replace(plain, rows=(each,), recommendation=None) for each in (row, hostile))
    html = list_html(other, True)
    assert set(Parts(html).tags) <= {*Parts(list_html(one, True)).tags, "br"}
    assert all(re.fullmatch(r"#models-(?:use|here|load)=[\w%.~-]*", link) for link in Parts(html).links)
    assert not re.search(r"\n|\r|[$\\](?!<span></span>)", html)


ENGLISH = re.compile(r"\b(?:the|with|takes|which|active|tuned|fits|free|more)\b")


@pytest.mark.parametrize("language", i18n.LANGUAGES[1:])
def test_all_explanations_are_translated(language: str) -> None:
    # Its last layers have a window, and the name of the other has experts, a tuning and a quantization.
    found = overview("mistralai/Mixtral-8x7B-v0.1", "openai/gpt-oss-20b")
    row = found.rows[0]
    assert row.facts is not None
    parsed = parse("some/Big-8x7B-Instruct-Q4_K_M.gguf")
    rows = (replace(row, facts=replace(row.facts, parsed=parsed)), *found.rows[1:])
    with i18n.use_language(language):
        html = list_html(replace(found, rows=rows), True)
    assert ENGLISH.findall(words(html)) == []


def test_a_remote_model_says_what_runs_it_and_offers_nothing_that_cannot_be_done() -> None:
    statuses = (
        ModelStatus("lc/smol", "ready", info=TOLD, remote=True, latency=lambda: 0.0123),
        ModelStatus("far", "ready", info=UNTOLD, remote=True),
        ModelStatus("dead", "failed", error=ModelError("dead: it cannot be reached."), remote=True),
    )
    html = list_html(Overview(tuple(OverviewRow(each.name, status=each) for each in statuses), ()), may_manage=True)
    assert Parts(html).links == [f"#models-use={name}" for name in ("lc%2Fsmol", "far", "dead")]
    text = words(html)
    for said in (
        "llama.cpp b1",
        "Q4_1",
        "context 4,096",
        "answers in 12 ms",
        "it cannot be reached",
        "stands in front",
    ):
        assert said in text
    assert "0 B" not in text
    assert "0 parameters" not in text
