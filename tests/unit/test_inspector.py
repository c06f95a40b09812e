"""What the Inspect view makes of how a reply came about."""

import json
import re
from dataclasses import replace

import pytest

from chatui import i18n
from chatui.chat import Finish, Message, Prompt, Source, Span
from chatui.generation_settings import GenerationSettings
from chatui.inspection import Inspection
from chatui.store.records import Author, PageTimes, StoredMessage
from chatui.store.rows import now
from chatui.traces import TokenTrace, Traces
from chatui.ui.chat import context_bar
from chatui.ui.inspector import (
    branching,
    ceiling_view,
    memory_view,
    persona_view,
    prompt_view,
    time_view,
    token_text,
    tokens_view,
    why_view,
)
from chatui.ui.inspector.formula_rows import UNKNOWN_ANATOMY
from tests.fakes import INFO, UNTOLD

FINISH = Finish("stop_token", 9, 3, 7, 0.5, 1.0, 2.0, cached_tokens=4, stopped_by="<end>", stop_id=2)
TEXTS = {10: "One", 11: " t", 12: "<0xC3>", 13: "<0xA9>", 14: " other", 2: "<end>"}


def prompt(*parts: tuple[Source, str], dropped: int = 0) -> Prompt:
    """One token for each character."""
    text = "".join(words for _, words in parts)
    spans = tuple(Span(source, len(words)) for source, words in parts)
    return Prompt(text, tuple(map(ord, text)), dropped, spans, tuple(range(1, len(text) + 1)), (Message("user", "x"),))


def trace(id: int, probability: float = 0.5, at: float = 0.0) -> TokenTrace:
    return TokenTrace(id, at, probability, 1, 1.0, (id, 14), ("model", "top_k"), ((probability, 0.2), (1.0, 0.0)))


PROMPT = prompt(("template", "<"), ("persona", "be\n"), ("template", ">"), ("message", "Hi"), ("start", "a:"))
KEPT = Inspection(INFO, PROMPT, Traces.of([trace(id, at=id / 8) for id in (10, 11, 12, 13, 2)]), TEXTS, FINISH)
REPLY = StoredMessage("r", "c", "q", "assistant", "One té", now())


def test_every_token_has_its_colour_and_white_space_is_seen() -> None:
    coloured = prompt_view.tokens_by_source(PROMPT)
    assert [text for text, _ in coloured] == ["<", "b", "e", "⏎\n", ">", "H", "i", "a", ":"]
    assert {name for _, name in coloured} == {"template", "persona", "this message", "generation prompt"}
    assert [name for _, name in prompt_view.tokens_by_cache(KEPT)] == ["cached"] * 4 + ["computed"] * 5
    assert token_text.visible_text("") == "◦"
    assert set(prompt_view.SOURCE_LABELS.values()) == set(prompt_view.SOURCE_COLOURS), (
        "a legend names what can be seen, and no more"
    )


def test_the_summary_counts_and_says_what_was_left_out() -> None:
    summary = prompt_view.summary(KEPT)
    assert "**9 tokens**: template 2 · persona 3 · this message 2 · generation prompt 2." in summary
    assert "4 cached from" in summary
    assert "5 computed for this reply" in summary
    dropped = replace(KEPT, prompt=replace(PROMPT, dropped=6))
    assert "6 oldest messages were left out" in prompt_view.summary(dropped)
    assert json.loads(prompt_view.messages_json(PROMPT)) == [{"role": "user", "content": "x"}]


def test_tokens_are_coloured_by_their_probability() -> None:
    kept = replace(KEPT, traces=Traces.of([trace(10, share) for share in (1.0, 0.91, 0.89, 0.11, 0.05, 0.0)]))
    names = [name for _, name in tokens_view.tokens_by_probability(kept)]
    assert names == ["over 90 %", "over 90 %", "50 to 90 %", "10 to 50 %", "1 to 10 %", "below 1 %"]


def test_alternatives_link_to_what_they_would_become() -> None:
    table = tokens_view.alternatives(KEPT, "r", 1)
    assert table.count("<tr") == 3
    assert 'href="#other=r=1.14"' in table
    assert "top-k" in table
    assert table.count("chosen") == 2


def test_text_with_another_token_is_put_together_from_bytes() -> None:
    assert branching.text_with_token(KEPT, 4, 14) == "One té other"
    assert branching.text_with_token(KEPT, 0, 14) == " other"
    assert branching.text_with_token(KEPT, 3, 14) == "One t other"  # half a character is no text
    assert branching.reply_with_token(KEPT, REPLY, 1, 14).content == "One other"
    author = Author("m", "", "", GenerationSettings(), 1, prefix="Zero ")
    assert branching.reply_with_token(KEPT, replace(REPLY, author=author), 1, 14).content == "Zero One other"


def test_what_was_thought_stays_a_thought() -> None:
    texts = {1: "<think>", 2: "\nhm", 3: "</think>", 4: "\n\nyes", 5: " no"}
    kept = replace(
        KEPT, traces=Traces.of([trace(id) for id in (1, 2, 3, 4)]), texts=texts, model=replace(INFO, stop_ids=())
    )
    thinking = replace(REPLY, reasoning="hm", content="yes")
    prefix = branching.reply_with_token(replace(kept, texts={**texts, 14: " maybe"}), thinking, 2, 14)
    assert (prefix.reasoning, prefix.content) == ("hm maybe", "")
    prefix = branching.reply_with_token(replace(kept, texts={**texts, 14: " no"}), thinking, 4, 14)
    assert (prefix.reasoning, prefix.content) == ("hm", "yes no")


@pytest.mark.parametrize(
    ("before", "between"),
    [
        ("[THINK]", "[/THINK]"),
        ("", "\n</think>\n\n"),
        ("<|channel|>analysis<|message|>", "<|end|><|start|>assistant<|channel|>final<|message|>"),
    ],
)
def test_a_thought_is_known_whatever_the_model_marks_it_with(before: str, between: str) -> None:
    texts = {1: before, 2: "Hm", 3: ".", 4: between, 5: "Yes", 6: " sir", 14: " other"}
    traces = Traces.of([trace(id) for id in (1, 2, 3, 4, 5, 6)])
    kept = replace(KEPT, traces=traces, texts=texts, model=replace(INFO, stop_ids=()))
    thinking = replace(REPLY, reasoning="Hm.", content="Yes sir")
    prefixes = {at: branching.reply_with_token(kept, thinking, at, 14) for at in (2, 5)}
    assert (prefixes[2].reasoning, prefixes[2].content) == ("Hm other", "")
    assert (prefixes[5].reasoning, prefixes[5].content) == ("Hm.", "Yes other")
    closed = branching.reply_with_token(kept, thinking, 2, 4)
    assert (closed.reasoning, closed.content) == ("Hm", "")


def test_the_waterfall_adds_up_and_keeps_model_and_page_apart() -> None:
    view = time_view.time_view(KEPT, PageTimes(1.6, 3.75))
    for part in (
        "500.0 ms",
        "1,000.0 ms",
        "5 tokens, 5 tokens/s",
        "250.0 ms",
        "time to first token 1.500 s",
        "1.600 s",
    ):
        assert part in view
    assert "no tab saw" in time_view.time_view(KEPT, None)
    assert "not kept" in time_view.time_view(replace(KEPT, finish=None), None)
    assert "<polyline" in view


@pytest.mark.parametrize(
    ("finish", "state", "words"),
    [
        (FINISH, "finished", "(id 2)"),
        (replace(FINISH, reason="stop_string", stopped_by="END"), "finished", "END"),
        (replace(FINISH, reason="length", stopped_by="max_new_tokens = 3"), "finished", "max_new_tokens = 3"),
        (None, "stopped", "by hand"),
        (None, "interrupted", "The server ended"),
    ],
)
def test_why_it_stopped(finish: Finish | None, state: str, words: str) -> None:
    view = why_view.why_view(replace(KEPT, finish=finish), None, replace(REPLY, state=state))  # type: ignore[arg-type]
    assert words in view


BEFORE = Inspection(
    INFO, prompt(("persona", "be"), ("message", "Hi"), ("start", ":")), Traces.of([trace(ord("o")), trace(ord("k"))])
)


@pytest.mark.parametrize(
    ("now_sent", "cached", "words"),
    [
        (
            prompt(("persona", "be"), ("user", "Hi"), ("template", ":"), ("reply", "ok"), ("message", "!")),
            7,
            "only what is",
        ),
        (
            prompt(("persona", "by"), ("user", "Hi"), ("template", ":"), ("reply", "ok"), ("message", "!")),
            1,
            "the persona",
        ),
        (prompt(("persona", "be"), ("user", "Ho"), ("template", ":"), ("message", "!")), 3, "an earlier message was"),
        (prompt(("persona", "be"), ("user", "Ha"), ("message", "!"), dropped=2), 2, "oldest messages were left out"),
        (
            prompt(("persona", "be"), ("user", "Hi"), ("template", ":"), ("reply", "oh"), ("message", "!")),
            6,
            "other tokens",
        ),
        (
            prompt(("persona", "be"), ("user", "Hi"), ("template", ":"), ("reply", "ok"), ("message", "!")),
            0,
            "KV cache was gone",
        ),
    ],
)
def test_why_so_much_was_read(now_sent: Prompt, cached: int, words: str) -> None:
    kept = Inspection(INFO, now_sent, finish=replace(FINISH, cached_tokens=cached))
    assert words in why_view.why_view(kept, BEFORE, REPLY)


def test_a_thought_left_out_is_named() -> None:
    before = replace(BEFORE, traces=Traces.of([trace(1), trace(ord("k"))]), texts={1: "<think>"})
    sent = prompt(("persona", "be"), ("user", "Hi"), ("template", ":"), ("reply", "ok"), ("message", "!"))
    assert "what the model thought" in why_view.why_view(Inspection(INFO, sent, finish=FINISH), before, REPLY)


@pytest.mark.parametrize(("cached", "words"), [(0, "all 7 tokens were computed"), (4, "4 of 7 tokens")])
def test_a_change_of_the_model_is_why_nothing_was_cached(cached: int, words: str) -> None:
    sent = prompt(("persona", "be"), ("user", "Hi"), ("template", ":"), ("reply", "o"), ("message", "!"))
    kept = Inspection(replace(INFO, name="other"), sent, finish=replace(FINISH, cached_tokens=cached))
    view = why_view.why_view(kept, BEFORE, REPLY)
    assert f"Another model, <code>{INFO.name}</code>, wrote the turn before" in view
    assert words in view


def test_the_first_reply_says_so() -> None:
    assert "first reply" in why_view.why_view(KEPT, None, REPLY)


def test_one_is_no_plural() -> None:
    one = replace(FINISH, completion_tokens=1, cached_tokens=len(PROMPT.token_ids) - 1)
    kept = replace(KEPT, traces=Traces.of([trace(10)]), finish=one)
    views = (
        prompt_view.summary(kept)
        + tokens_view.summary(kept)
        + time_view.time_view(kept, None)
        + memory_view.memory_view(replace(kept, model=replace(INFO, slots=1)))
        + ceiling_view.ceiling_view(replace(kept, finish=replace(one, completion_tokens=2)))
        + persona_view.persona_view(kept)
    )
    assert not re.search(r"\b1\W* (?:tokens|slots|replies|messages|were)\b(?!/s)", views)
    assert "0.0 tokens/s" not in views, "of one token there is no speed"
    assert "Only one token" in views


def test_pictures_write_numbers_as_the_language_does() -> None:
    large = replace(INFO, weight_bytes=2_500_000_000, memory_bytes=16_500_000_000)
    with i18n.use_language("de"):
        memory, ceiling = memory_view.memory_view(replace(KEPT, model=large)), ceiling_view.ceiling_view(KEPT)
    assert "2,5\u00a0GB" in memory
    assert "16,5 GB" in memory
    assert "2.5" not in memory
    assert ceiling.count("2.493 Tokens/s") > 1
    assert "tokens/s" not in ceiling


def test_numbers_open_to_their_formulas() -> None:
    for view in (memory_view.memory_view(KEPT), ceiling_view.ceiling_view(KEPT), persona_view.persona_view(KEPT)):
        assert view.count("<details>") == view.count("</p></details>") > 2
    assert "1,234,567" in memory_view.memory_view(KEPT)
    # 10 GB/s ÷ (4 MB + 11 tokens × 1,024 B)
    assert "2,493 tokens/s" in ceiling_view.ceiling_view(KEPT)
    assert "3 tokens" in persona_view.persona_view(KEPT)
    assert INFO.anatomy is not None
    unmeasured = replace(KEPT, model=replace(INFO, anatomy=replace(INFO.anatomy, bandwidth=0.0)))
    assert ceiling_view.ceiling_view(unmeasured) == ceiling_view.UNKNOWN_BANDWIDTH
    assert "1,234,567" in memory_view.memory_view(unmeasured)
    unknown = replace(KEPT, model=replace(INFO, anatomy=None))
    assert memory_view.memory_view(unknown) == ceiling_view.ceiling_view(unknown) == UNKNOWN_ANATOMY


def test_the_error_of_a_kv_cache_in_int8_is_shown() -> None:
    assert "int8" not in memory_view.memory_view(KEPT)
    shown = memory_view.memory_view(replace(KEPT, model=replace(INFO, kv_divergence=0.000413)))
    assert "KV cache in int8, error" in shown
    assert "0.000413 nats" in shown
    with i18n.use_language("de"):
        assert "0,000413 nats" in memory_view.memory_view(replace(KEPT, model=replace(INFO, kv_divergence=0.000413)))


def test_a_reply_that_was_faster_than_what_was_measured_has_reached_the_ceiling() -> None:
    """The machine was busy when the model was loaded."""
    assert INFO.anatomy is not None
    slow = replace(KEPT, model=replace(INFO, anatomy=replace(INFO.anatomy, bandwidth=1e6)))
    view = ceiling_view.ceiling_view(slow)
    assert "100.0%" in view
    assert "100% of what its step allows" in view
    assert "other programs slowed the measurement" in view
    assert "other programs" not in ceiling_view.ceiling_view(KEPT)


def test_the_line_about_the_context() -> None:
    bar = context_bar.bar(INFO, PROMPT, GenerationSettings(), blank=False)
    assert "persona 3 · history 4 · your message 2 · room for the reply 512 · of 4,096 tokens" in bar
    assert "your message" not in context_bar.bar(INFO, PROMPT, GenerationSettings(), blank=True)
    assert "2 oldest messages will" in context_bar.bar(INFO, replace(PROMPT, dropped=2), GenerationSettings(), False)


def test_the_line_about_a_context_that_is_not_told() -> None:
    bar = context_bar.bar(UNTOLD, PROMPT, GenerationSettings(), blank=False)
    assert "your message 2 · room for the reply 512 · of a context whose size the server does not tell" in bar
    unknown = context_bar.untold_bar(UNTOLD, 0)
    assert "OpenAI API does not tell the tokens" in unknown
    assert "0" not in unknown
    known = context_bar.untold_bar(replace(UNTOLD, context_length=1000), 250)
    assert "width:25.00%" in known
    assert "the last turn took 250 tokens · of 1,000 tokens" in known


def test_thinking_and_answering_are_told_apart() -> None:
    assert "Thinking" not in time_view.time_view(KEPT, None)
    finish = replace(FINISH, reasoning_tokens=2, reasoning_seconds=1.25)
    shown = time_view.time_view(replace(KEPT, finish=finish), None)
    assert "**Thinking**: 2 tokens in 1.250 s. **Answer**: 1 token in 0.750 s." in shown


def test_what_else_the_template_was_given_is_told() -> None:
    assert "also given" not in prompt_view.summary(KEPT)
    prompt = replace(PROMPT, arguments={"enable_thinking": False, "reasoning_effort": "low"})
    shown = prompt_view.summary(replace(KEPT, prompt=prompt))
    assert "enable_thinking = false, reasoning_effort = " in shown
    kept = Inspection.unpacked(replace(KEPT, prompt=prompt).packed())
    assert kept is not None
    assert kept.prompt.arguments == prompt.arguments


def test_a_token_that_ended_the_thought_was_given() -> None:
    forced = replace(KEPT, finish=replace(FINISH, forced_positions=(1,)))
    assert "The model did not choose it" in tokens_view.alternatives(forced, "r", 1)
    assert "<td>given</td>" in tokens_view.alternatives(forced, "r", 1)
    assert "The model did not choose it" not in tokens_view.alternatives(forced, "r", 0)


def test_tokens_that_came_without_a_step_are_told() -> None:
    finish = replace(FINISH, completion_tokens=9, accepted_positions=(1, 2, 3, 4))
    kept = replace(KEPT, finish=finish)
    assert finish.tokens_per_step == 2.0
    assert "came without a decode step" in tokens_view.alternatives(kept, "r", 1)
    assert "came without a decode step" not in tokens_view.alternatives(kept, "r", 0)
    assert "4 tokens came without a decode step" in time_view.time_view(kept, None)
    assert "came without" not in time_view.time_view(KEPT, None)
    assert "× 2.00, the tokens of this reply" in ceiling_view.ceiling_view(kept)
