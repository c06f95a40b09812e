import re
import time
from dataclasses import replace
from datetime import UTC, datetime
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from chatui.chat import Finish, Prompt, ReplyDelta
from chatui.errors import ChatError
from chatui.generation_settings import GenerationSettings
from chatui.running_reply import ReplyProgress
from chatui.store.records import Author, Path, StoredMessage
from chatui.ui.chat import transcript
from chatui.ui.chat.transcript import ChatbotMessage
from chatui.ui.shared import continuing
from tests.fakes import TOLD, UNTOLD

FINISH = Finish("stop_token", 3, 10, 0, 0.0, 0.5, 3.0)
QUESTION = StoredMessage("q1", "c", None, "user", "What?", datetime.now(UTC), versions=("q1",))
REPLY = StoredMessage("r1", "c", "q1", "assistant", "That.", datetime.now(UTC), finish=FINISH, versions=("r1",))


def progress_of(*deltas: ReplyDelta) -> ReplyProgress:
    progress = ReplyProgress()
    for delta in deltas:
        progress.add(delta)
    return progress


def markup(shown: list[ChatbotMessage]) -> str:
    return "\n".join(one["content"]["text"] for one in shown)


@given(st.text(min_size=1))
def test_texts_come_back_as_they_were_written(text: str) -> None:
    for message in (replace(QUESTION, content=text), replace(REPLY, content=text)):
        shown = transcript.render_path([message]).messages[0]
        assert transcript.edited_text([shown["content"]]) == text


def test_every_thing_shown_names_its_message() -> None:
    view = transcript.render_path([QUESTION, REPLY])
    assert len(view.messages) == len(view.ids) == 4  # question, its bar, reply, its bar
    # Gradio names a group of replies by its first thing, which is the question's bar.
    assert view.ids == ["q1", "r1", "r1", "r1"]
    assert len(view.ratings) == 3


def test_a_reply_still_written_is_named_by_the_bar_above_it() -> None:
    writing = replace(REPLY, state="running", content="")
    assert transcript.render_path([QUESTION], writing).ids == ["q1", "r1"]


@pytest.mark.parametrize("at", [0, 1, 2])
def test_versions_can_be_gone_through(at: int) -> None:
    versions = ("r1", "r2", "r3")
    bar = markup(transcript.render_reply(replace(REPLY, id=versions[at], versions=versions)))
    assert f"{at + 1}/3" in bar
    for other in (at - 1, at + 1):
        if 0 <= other < 3:
            assert f"#version={versions[other]}" in bar
    assert bar.count("#version=") == (1 if at in (0, 2) else 2)


@pytest.mark.parametrize(
    ("changes", "goes_on", "expected"),
    [
        ({}, False, ""),
        ({"state": "stopped"}, True, "Stopped."),
        ({"state": "interrupted"}, True, "Interrupted"),
        ({"state": "stopped", "content": ""}, False, "Stopped."),
        ({"state": "stopped", "content": "", "reasoning": "hm"}, True, "Stopped."),
        ({"finish": replace(FINISH, reason="length")}, True, "longest length"),
        ({"state": "failed", "error": "Bad <thing>.\nMend it."}, False, "Bad &lt;thing&gt;."),
        ({"content": ""}, False, "without writing anything"),
    ],
)
def test_how_a_reply_ended_is_said_and_continued_where_it_was_cut(
    changes: dict[str, Any], goes_on: bool, expected: str
) -> None:
    message = replace(REPLY, **changes)
    shown = markup(transcript.render_reply(message))
    assert expected in shown
    assert ("#continue=r1" in shown) == goes_on == continuing.was_cut(message)
    assert "#branch=r1" in shown


def test_a_rated_reply_takes_a_note() -> None:
    assert "annotate" not in markup(transcript.render_reply(REPLY))
    assert "Add a note" in markup(transcript.render_reply(replace(REPLY, rating="like")))
    noted = markup(transcript.render_reply(replace(REPLY, rating="dislike", note="<b>too $long")))
    assert 'Note: <span class="noted">&lt;b&gt;too $<span></span>long</span>' in noted


def test_a_reply_that_waits_says_what_for() -> None:
    waiting = transcript.render_reply(replace(REPLY, state="running", content=""), None, "Reading 5 tokens …")
    assert [one.get("metadata") for one in waiting] == [{"title": "Reading 5 tokens …", "status": "pending"}]


def test_thinking_folds_when_the_answer_starts() -> None:
    thinking = replace(REPLY, state="running", content="", reasoning="hm")
    assert transcript.render_reply(thinking)[0]["metadata"]["status"] == "pending"
    assert transcript.render_reply(replace(thinking, content="so"))[0]["metadata"]["status"] == "done"


def test_what_shows_to_be_a_thought_at_its_end_folds() -> None:
    progress = ReplyProgress(text="Begun. ")
    for delta in (ReplyDelta("Hm"), ReplyDelta("Yes", reasoning_remainder=".\n"), ReplyDelta(".")):
        progress.add(delta)
    assert (progress.reasoning, progress.text) == ("Begun. Hm.", "Yes.")
    thinking = replace(REPLY, reasoning=progress.reasoning, content=progress.text)
    assert transcript.render_reply(thinking, progress)[0]["metadata"]["title"].startswith("Thought for ")


def test_what_was_left_out_is_said() -> None:
    progress = progress_of(ReplyDelta(prompt=Prompt("p", (1,), dropped=3)))
    assert progress.dropped == 3
    assert "3 oldest messages were" in markup(transcript.render_reply(replace(REPLY, dropped=3)))


def test_the_phase_tells_the_place_and_then_what_is_read() -> None:
    reply = ReplyProgress(started_at=time.perf_counter() - 1)
    phases = [transcript.phase(reply)]
    prompt = Prompt("p", tuple(range(1024)))
    for delta in (
        ReplyDelta(queue_position=1200),
        ReplyDelta(queue_position=1),
        ReplyDelta(prompt=prompt),
        ReplyDelta(prefilled_tokens=0),
        ReplyDelta(prefilled_tokens=128),
        ReplyDelta(),
    ):
        reply.add(delta)
        phases.append(transcript.phase(reply))
    assert phases == [
        "In the queue …",
        "In the queue: position 1,200 …",
        "In the queue: next …",
        "Reading 1,024 tokens …",
        "Reading 0 of 1,024 tokens …",
        "Reading 128 of 1,024 tokens …",
        "Reading 128 of 1,024 tokens …",
    ]


@pytest.mark.parametrize(
    "delta", [ReplyDelta(queue_position=1), ReplyDelta(prompt=Prompt("p", (1, 2)), prefilled_tokens=0)]
)
def test_what_is_over_at_once_is_not_named(delta: ReplyDelta, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(time, "perf_counter", lambda: 100.0)
    reply = ReplyProgress(started_at=100.0)
    at_first = transcript.phase(reply)
    reply.add(delta)
    assert transcript.phase(reply) == at_first == "In the queue …"
    monkeypatch.setattr(time, "perf_counter", lambda: 101.0)
    assert transcript.phase(reply) != at_first


def test_speed_is_the_engines_own_in_the_end() -> None:
    reply = ReplyProgress()
    assert transcript.speed(reply) == ""
    reply.add(ReplyDelta(text="a", tokens=10))
    assert "10 tokens · " in transcript.speed(reply)
    reply.add(ReplyDelta(finish=FINISH))
    assert "3.0 tokens/s" in transcript.speed(reply)


def test_what_was_remembered_is_told_in_the_end() -> None:
    reply = ReplyProgress()
    reply.add(ReplyDelta(text="a", tokens=10))
    reply.add(ReplyDelta(finish=FINISH))
    assert transcript.speed(reply).startswith("10 tokens · ")
    reply.add(ReplyDelta(finish=replace(FINISH, prompt_tokens=1024, cached_tokens=900)))
    assert transcript.speed(reply).startswith("1,024 tokens in, 900 cached · 10 tokens · 3.0 tokens/s · ")


@pytest.mark.parametrize("text", ["<script>alert(1)</script>", '"><img src=x onerror=alert(1)>'])
def test_notes_and_cards_escape(text: str) -> None:
    for shown in (transcript.note(text), transcript.error_card(ChatError(text, text))):
        assert "<script" not in shown["content"]["text"]
        assert "<img" not in shown["content"]["text"]


def test_the_end_of_a_long_path_is_shown_with_a_way_to_what_came_before() -> None:
    path = Path((QUESTION, REPLY) * 5, 3)
    assert transcript.last_messages(path, 4, 1000) == Path(path.messages[6:], 9)
    assert transcript.last_messages(path, 100, 12) == Path(path.messages[8:], 11)
    assert transcript.last_messages(path, 100, 1) == Path(path.messages[9:], 12)
    assert transcript.last_messages(path, 100, 1000) == path
    view = transcript.render_path(path.messages[:2], earlier=1234)
    assert "1,234 earlier messages" in view.messages[0]["content"]["text"]
    assert 'href="#earlier"' in view.messages[0]["content"]["text"]
    assert len(view.ids) == len(view.messages) == 5
    assert len(view.ratings) == 4


def test_more_messages_have_room_for_more_characters() -> None:
    assert [transcript.page_limits(count)[1] // transcript.CHARACTERS_PER_PAGE for count in (1, 100, 101, 300)] == [
        1,
        1,
        2,
        3,
    ]


@pytest.mark.parametrize(
    ("finish", "took"),
    [
        (Finish("stop_token", 3, 10, 0, 0.1, 0.5, 3.0), "3.6 s · 3.0 tokens/s"),
        (Finish("stop_token", 3, 100, 0, 0.0, 9.0, 30.0), "39 s · 3.3 tokens/s"),
        (Finish("stop_token", 3, 4000, 0, 0.0, 5.0, 120.0), "2 min 5 s · 33 tokens/s"),
        (Finish("stop_token", 3, 1, 0, 0.0, 0.25, 0.01), "0.3 s"),
    ],
)
def test_how_long_a_reply_took_and_how_fast_it_was(finish: Finish, took: str) -> None:
    bar = markup(transcript.render_reply(replace(REPLY, finish=finish)))
    assert f">{took}</span>" in bar
    assert 'title="Queue ' in bar
    assert 'class="took"' not in markup(transcript.render_reply(replace(REPLY, finish=None, state="stopped")))


def test_a_running_thought_can_be_ended_where_its_model_can_do_that() -> None:
    thinking, progress = (
        replace(REPLY, state="running", content="", reasoning="hm"),
        progress_of(ReplyDelta(reasoning="hm")),
    )
    link = f'href="#answer-now={REPLY.id}"'
    assert link in markup(transcript.render_reply(thinking, progress, can_answer_now=True))
    for shown in (
        transcript.render_reply(thinking, progress),
        transcript.render_reply(thinking, None, can_answer_now=True),
        transcript.render_reply(replace(thinking, content="so"), progress, can_answer_now=True),
        transcript.render_reply(replace(thinking, state="stopped"), progress, can_answer_now=True),
    ):
        assert link not in markup(shown)


def test_the_time_and_tokens_of_a_thought_are_those_of_its_finish() -> None:
    finish = Finish("stop_token", 9, 130, 7, 0.5, 1.0, 4.0, reasoning_tokens=120, reasoning_seconds=3.04)
    for progress in (None, progress_of(ReplyDelta(reasoning="hm", tokens=1), ReplyDelta("so", tokens=1))):
        thought = transcript.render_reply(replace(REPLY, reasoning="hm", finish=finish), progress)[0]
        assert thought["metadata"]["title"] == "Thought for 3.0 s, 120 tokens"
    running = progress_of(ReplyDelta(reasoning="hm", tokens=1), ReplyDelta("so", tokens=1))
    title = transcript.render_reply(replace(REPLY, reasoning="hm", state="running"), running)[0]["metadata"]["title"]
    assert re.fullmatch(r"Thought for \d\.\d s, 1 token", title)


def test_replies_name_their_model_where_there_are_several() -> None:
    author = Author("maker/one", "", "", GenerationSettings(), seed=1)
    first, second = replace(REPLY, author=author), replace(REPLY, author=replace(author, model="two"))
    for path, served, names in (
        ([QUESTION, first], ["maker/one"], []),
        ([QUESTION, first], ["maker/one", "two"], ["one"]),
        ([QUESTION, first], ["two"], ["one"]),
        ([QUESTION, first, second], ["two"], ["one", "two"]),
    ):
        shown = markup(transcript.render_path(path, served=served).messages)
        assert re.findall(r'class="writer" title="[^"]*">([^<]*)<', shown) == names


def test_what_a_server_cannot_go_on_with_is_not_offered() -> None:
    author = Author("far", "", "", GenerationSettings(), 1)
    cut = replace(REPLY, state="stopped", author=author)
    servers = {info.name: info.server for info in (UNTOLD, TOLD) if info.server is not None}
    assert "#continue=" in markup(transcript.render_reply(cut)), "a model of this process can"
    shown = markup(transcript.render_reply(cut, servers=servers))
    assert "#continue=" not in shown
    assert "This server cannot go on with a reply." in shown
    told = replace(cut, author=replace(author, model=TOLD.name))
    assert "#continue=" in markup(transcript.render_reply(told, servers=servers))
    thought = replace(told, content="", reasoning="hm")
    assert "cannot go on with a thought" in markup(transcript.render_reply(thought, servers=servers))


def test_a_prompt_that_is_not_told_is_read_without_a_count(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(transcript, "PHASE_DELAY_SECONDS", 0.0)
    progress = ReplyProgress(prompt=Prompt("", ()))
    assert transcript.phase(progress) == "Reading …"
    progress.prefilled_tokens = 7
    assert transcript.phase(progress) == "7 tokens read …"
