"""What the Inspect view says of replies that other servers wrote: some tell all, some nothing."""

import math
import re
from dataclasses import replace
from typing import Any

import pytest

from chatui import notebook, python_script
from chatui.chat import Finish, Message, Prompt, Span
from chatui.generation_settings import GenerationSettings
from chatui.inspection import Inspection
from chatui.server_facts import ServerActivity
from chatui.store.records import PageTimes, StoredMessage
from chatui.store.rows import now
from chatui.traces import OWN_IDS, TokenTrace, Traces
from chatui.ui.inspector import (
    ceiling_view,
    memory_view,
    persona_view,
    prompt_view,
    time_view,
    tokens_view,
    why_view,
)
from tests.fakes import TOLD, UNTOLD

MESSAGES = (Message("system", "Be brief."), Message("user", "Hi"))
SENT = {"model": "smol", "stream": True, "temperature": 0.7, "stop": ["END"], "top_k": -1, "seed": 7}
REPLY = StoredMessage("r", "c", "q", "assistant", "Hello", now())


def trace(id: int, rank: int, *others: int) -> TokenTrace:
    ids = (id, *others)
    return TokenTrace(id, 0.1, 0.5, rank, math.nan, ids, ("model",), ((0.5, *(0.2 for _ in others)),))


NOTHING = Inspection(
    UNTOLD,
    Prompt("", (), messages=MESSAGES, sent=SENT),
    finish=Finish("stop_token", 0, 4, 7, 0.1, 0.2, 0.3, untold=("prompt_tokens", "cached_tokens")),
)
COUNTED = replace(NOTHING, finish=Finish("length", 21, 5, 7, 0.1, 0.2, 0.3, untold=("cached_tokens",)))
ALL = Inspection(
    TOLD,
    Prompt(
        "Hi:",
        (5, 6, 7),
        spans=(Span("persona", 1), Span("message", 1), Span("start", 1)),
        ends=(1, 2, 3),
        messages=MESSAGES,
        sent=SENT,
    ),
    Traces.of([trace(10, 1, 11), trace(12, 0, 11)]),
    {10: "Hel", 11: "x", 12: "lo"},
    Finish("stop_string", 3, 2, 7, 0.1, 0.2, 0.3, cached_tokens=2, stopped_by="END", timed_by_server=True),
)
IDS_ONLY = replace(ALL, prompt=Prompt("", (5, 6, 7), messages=MESSAGES, sent=SENT))
BROKEN_TEXT = replace(ALL, prompt=Prompt("\ufffd", (5, 6), spans=(Span("template", 2),), messages=MESSAGES, sent=SENT))


def pages(inspection: Inspection) -> dict[str, str]:
    """The text of each page."""
    prompt = inspection.prompt
    shown = [*prompt_view.tokens_by_source(prompt), *prompt_view.tokens_by_cache(inspection)]
    alternatives = [tokens_view.alternatives(inspection, "r", at) for at in range(len(inspection.traces))]
    return {
        "prompt": prompt_view.summary(inspection) + "".join(text for text, _label in shown),
        "tokens": tokens_view.summary(inspection) + "".join(alternatives),
        "time": time_view.time_view(inspection, PageTimes(0.5, 1.0)),
        "memory": memory_view.memory_view(inspection),
        "ceiling": ceiling_view.ceiling_view(inspection),
        "why": why_view.why_view(inspection, inspection, REPLY),
        "persona": persona_view.persona_view(inspection),
        "python": python_script.as_python(inspection, GenerationSettings(), 7),
        "notebook": notebook.as_notebook(inspection, GenerationSettings(), 7),
    }


@pytest.mark.parametrize("inspection", [NOTHING, COUNTED, ALL, IDS_ONLY, BROKEN_TEXT])
def test_no_page_makes_a_figure_of_what_is_not_told(inspection: Inspection) -> None:
    kept = Inspection.unpacked(inspection.packed())
    assert kept is not None
    for name, page in pages(kept).items():
        assert "nan" not in re.sub("[a-z]+nan|nan[a-z]+", "", page.lower()), name
        assert not re.search(r"(?<![\d.,])0 (?:B|parameters|tokens)\b", page), name


def test_a_server_that_tells_nothing_is_named() -> None:
    shown = pages(NOTHING)
    for name in ("prompt", "tokens", "time", "memory", "ceiling", "why", "persona"):
        assert re.search("OpenAI API (?:does not tell|tells no|told of no)", shown[name]), name
    assert "not tell how many tokens" in shown["prompt"]
    assert "until the first token" in shown["time"]
    assert "does not tell by which token" not in pages(COUNTED)["why"]
    assert "reached a limit" in pages(COUNTED)["why"]
    assert "**21 tokens**, as the server counts" in pages(COUNTED)["prompt"]
    assert prompt_view.text_or_reason(NOTHING, "", prompt_view.UNTOLD_TEXT).startswith("This server does not tell")


def test_what_a_server_tells_is_shown_with_its_source() -> None:
    shown = pages(ALL)
    assert "**3 tokens**" in shown["prompt"]
    assert "2 of 3 tokens were cached" in shown["prompt"]
    assert "Prefill and decode are the times of llama.cpp b1" in shown["time"]
    assert "chat template" not in shown["time"], "that is a phase of models of this process"
    assert "50%" in shown["tokens"]
    assert "rank not among those told" in shown["tokens"]
    assert "entropy 0" not in shown["tokens"]
    assert "<td>11</td>" in shown["tokens"]
    assert "#other=r=0.11" in shown["tokens"]
    assert "As llama.cpp b1 tells it." in shown["memory"]
    assert "stop string" in shown["why"]
    assert "5 6 7" in pages(IDS_ONLY)["prompt"]


def test_what_was_cached_is_told_as_0_only_where_the_server_says_so() -> None:
    untold = replace(COUNTED, finish=replace(ALL.finish, untold=("cached_tokens",)) if ALL.finish else None)
    assert "does not tell how many tokens of the prompt were in its cache" in pages(untold)["prompt"]
    assert "does not tell how many tokens of the prompt were in its cache" in pages(untold)["why"]
    assert prompt_view.tokens_by_cache(untold) == []
    none = replace(ALL, finish=replace(ALL.finish, cached_tokens=0) if ALL.finish else None)
    assert "No token of the prompt was cached, says the server." in pages(none)["prompt"]
    assert {label for _text, label in prompt_view.tokens_by_cache(none)} == {"computed"}


def test_memory_and_ceiling_have_what_the_server_tells_of_itself() -> None:
    activity = ServerActivity(3, 1, 4, 93_184, 0.125, 0.4)
    memory = memory_view.memory_view(ALL, activity=activity)
    for figure in ("93,184 tokens", "12.5%", "40.0%", "tells no more"):
        assert figure in memory
    ceiling = ceiling_view.ceiling_view(ALL, activity)
    assert "3 / 4" in ceiling
    assert "Replies waiting" in ceiling
    assert "As llama.cpp b1 tells it, when this page was opened." in ceiling
    assert "does not tell how many replies" in ceiling_view.ceiling_view(ALL)
    some = ceiling_view.ceiling_view(ALL, ServerActivity(running=0))
    assert "Replies waiting" not in some
    assert "KV cache" not in memory_view.memory_view(ALL, activity=ServerActivity(running=0))


def test_a_column_and_the_context_have_no_0_for_a_prompt_that_is_not_counted() -> None:
    assert "tokens in not told" in persona_view.reply_column("A", "B", NOTHING.finish, 0)
    untold, model = NOTHING.finish, replace(UNTOLD, context_length=100)
    assert untold is not None
    turns = [replace(REPLY, finish=untold), replace(REPLY, finish=COUNTED.finish)]
    chart = memory_view.memory_view(replace(NOTHING, model=model), turns)
    assert "26 of 100 tokens" in chart
    assert "computed, or not told" in chart
    assert "100 tokens" not in memory_view.memory_view(replace(NOTHING, model=model))


def test_why_compares_with_the_turn_before_where_the_ids_are_told() -> None:
    ids, texts = (5, 6, 7, 10, 12, 8), ("H", "i", ":", "Hel", "lo", "!")
    grown = replace(ALL.prompt, token_ids=ids, text="".join(texts), ends=(1, 2, 3, 6, 8, 9), spans=(Span("user", 6),))
    told = why_view.why_view(replace(ALL, prompt=grown), ALL, REPLY)
    assert "2 of 6 tokens were cached, as the server counts." in told
    assert "The first 5 tokens are those of the turn before." in told
    changed = replace(grown, token_ids=(5, 9, *ids[2:]))
    told = why_view.why_view(replace(ALL, prompt=changed), ALL, REPLY)
    assert "The first token that differs from the turn before is number 2: <code>i</code>" in told
    told = why_view.why_view(replace(IDS_ONLY, prompt=replace(IDS_ONLY.prompt, token_ids=(5, 9))), IDS_ONLY, REPLY)
    assert "number 2: <code>9</code> in place of <code>6</code>" in told
    own = replace(ALL, traces=Traces.of([trace(OWN_IDS + 1, 1, OWN_IDS)]))
    told = why_view.why_view(replace(own, prompt=grown), own, REPLY)
    assert "The first 3 tokens are those of the turn before." in told, "the ids of its reply are not told"
    assert "turn before" not in why_view.why_view(NOTHING, NOTHING, REPLY)


def test_numbers_of_ours_are_not_shown_as_ids_and_what_cannot_be_gone_on_with_is_no_link() -> None:
    own = replace(ALL, traces=Traces.of([trace(OWN_IDS + 1, 1, OWN_IDS)]))
    assert str(OWN_IDS) not in re.sub('#other=[^"]*', "", pages(own)["tokens"])
    unnamed = replace(ALL, model=replace(TOLD, server=UNTOLD.server))
    shown = pages(unnamed)["tokens"]
    assert "<td>11</td>" not in shown
    assert "#other=" not in shown
    assert "This server cannot go on with a reply." in shown


def test_the_script_sends_the_same_to_a_server_to_be_named() -> None:
    calls: list[dict[str, Any]] = []

    class Client:
        def __init__(self, **options: Any) -> None:
            self.chat = self.completions = self
            calls.append(options)

        def create(self, **options: Any) -> list[object]:
            calls.append(options)
            return []

    script = python_script.as_python(ALL, GenerationSettings(), 7).replace("from openai import OpenAI", "")
    exec(script, {"OpenAI": Client})
    made, asked = calls
    assert made["base_url"] == "http://YOUR-SERVER/v1"
    more = asked.pop("extra_body")
    assert {**asked, **more} == {
        **SENT,
        "messages": [{"role": message.role, "content": message.content} for message in MESSAGES],
    }


def test_the_script_has_no_folder_of_the_servers_machine() -> None:
    sent = {**SENT, "model": "/home/someone/models/smol.gguf"}
    script = python_script.as_python(replace(ALL, prompt=replace(ALL.prompt, sent=sent)), GenerationSettings(), 7)
    assert 'model="smol.gguf"' in script
    assert "/home" not in script
