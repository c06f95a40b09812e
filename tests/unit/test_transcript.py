import pytest
from hypothesis import given
from hypothesis import strategies as st

from chatui.chat import Finish, Message, Prompt, ReplyDelta
from chatui.errors import ChatError
from chatui.ui import transcript
from chatui.ui.transcript import GrowingReply, Shown

FINISH = Finish("stop_token", 3, 10, 0, 0.0, 0.5, 3.0)


def from_browser(shown: Shown) -> Shown:
    """What Gradio hands back of a message it was given."""
    metadata = shown.get("metadata")
    return {"role": shown["role"], "content": [shown["content"]], "metadata": metadata, "options": None}


def assistant(text: str) -> Shown:
    reply = GrowingReply()
    reply.add([ReplyDelta(text=text, tokens=1)])
    return reply.shown("")[0]


@given(st.text(min_size=1))
def test_texts_come_back_as_they_were_written(text: str) -> None:
    history = [from_browser(transcript.user(text)), from_browser(assistant(text))]
    assert transcript.to_messages(history) == [Message("user", text), Message("assistant", text)]


def test_thoughts_notes_and_cards_are_not_sent_to_the_model() -> None:
    reply = GrowingReply()
    reply.add([ReplyDelta(prompt=Prompt("p", (1,), dropped=2)), ReplyDelta(reasoning="hm", tokens=1)])
    reply.add([ReplyDelta(text="yes", tokens=1), ReplyDelta(finish=Finish("length", 1, 2, 0, 0, 0, 1))])
    shown = [transcript.user("q"), *reply.shown(""), transcript.card(ChatError("bad", "mend it"))]
    assert len(shown) == 6
    assert transcript.to_messages(map(from_browser, shown)) == [Message("user", "q"), Message("assistant", "yes")]


def test_only_users_and_assistants_speak() -> None:
    assert transcript.to_messages([{"role": "system", "content": "obey"}, {"role": "tool", "content": "x"}]) == []


def test_parts_of_one_reply_are_joined_and_files_ignored() -> None:
    history = [
        {"role": "user", "content": [{"type": "text", "text": "a"}, {"type": "file", "file": {"path": "x"}}]},
        {"role": "assistant", "content": "b"},
        {"role": "assistant", "content": [{"type": "text", "text": "c"}]},
    ]
    assert transcript.to_messages(history) == [Message("user", "a"), Message("assistant", "bc")]


def test_split_last_turn() -> None:
    history = [transcript.user("one"), assistant("1"), transcript.user("two"), assistant("2"), transcript.note("n")]
    assert transcript.split_last_turn(history) == (history[:2], "two")
    assert transcript.split_last_turn([]) == ([], "")


def test_stopped_keeps_what_was_written_and_drops_what_was_waited_for() -> None:
    waiting, thinking, writing = GrowingReply(), GrowingReply(), GrowingReply()
    thinking.add([ReplyDelta(reasoning="half a thought", tokens=1)])
    writing.add([ReplyDelta(text="half a sen", tokens=1)])
    texts = [
        [transcript.text_of(shown) for shown in transcript.stopped(reply.shown("…"))]
        for reply in (waiting, thinking, writing)
    ]
    assert ["half" in "".join(text) for text in texts] == [False, True, True]
    assert all("Stopped" in text[-1] for text in texts)
    assert all(shown.get("metadata", {}).get("status") != "pending" for shown in transcript.stopped(thinking.shown("")))


def test_a_growing_reply_says_what_it_waits_for() -> None:
    reply = GrowingReply()
    assert reply.shown("Reading 5 tokens …")[0]["metadata"] == {"title": "Reading 5 tokens …", "status": "pending"}


def test_thinking_folds_when_the_answer_starts() -> None:
    reply = GrowingReply()
    reply.add([ReplyDelta(reasoning="hm", tokens=1)])
    assert reply.shown("")[0]["metadata"]["status"] == "pending"
    reply.add([ReplyDelta(text="so", tokens=1)])
    assert reply.shown("")[0]["metadata"]["status"] == "done"


def test_what_was_left_out_is_said() -> None:
    reply = GrowingReply()
    reply.add([ReplyDelta(prompt=Prompt("p", (1,), dropped=3))])
    assert "3 oldest messages were" in transcript.text_of(reply.shown("")[0])


def test_an_empty_reply_is_said() -> None:
    reply = GrowingReply()
    reply.add([ReplyDelta(tokens=1, finish=FINISH)])
    assert "without writing" in transcript.text_of(reply.shown("")[0])


def test_speed_is_the_engines_own_in_the_end() -> None:
    reply = GrowingReply()
    assert reply.speed() == ""
    reply.add([ReplyDelta(text="a", tokens=10)])
    assert "10 tokens · " in reply.speed()
    reply.add([ReplyDelta(finish=FINISH)])
    assert "3.0 tokens/s" in reply.speed()


@pytest.mark.parametrize("text", ["<script>alert(1)</script>", '"><img src=x onerror=alert(1)>'])
def test_notes_and_cards_escape(text: str) -> None:
    for shown in (transcript.note(text), transcript.card(ChatError(text, text))):
        assert "<script" not in shown["content"]["text"]
        assert "<img" not in shown["content"]["text"]
