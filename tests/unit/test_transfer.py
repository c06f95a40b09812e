import io
import json
import tracemalloc
import zipfile
from collections.abc import Iterator
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from markdown_it import MarkdownIt

from chatui.chat import Finish
from chatui.errors import TransferError
from chatui.generation_settings import GenerationSettings
from chatui.personas import AVATAR_START, Persona
from chatui.store import import_limits
from chatui.store.exporting import as_json, as_markdown, as_messages
from chatui.store.imports import importing
from chatui.store.records import Author, Conversation, StoredMessage, Tree

# Machines are slow at times; what is drawn is large.
patient = settings(deadline=None, suppress_health_check=[HealthCheck.too_slow])

NOW = datetime(2026, 11, 24, 12, tzinfo=UTC)

texts = st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\0"), max_size=30)
lines = texts.map(lambda text: " ".join(text.split()))
times = st.datetimes(datetime(1970, 1, 1), datetime(2999, 12, 31), timezones=st.just(UTC))
seconds = st.floats(0, 1e6)
counts = st.integers(0, 2**40)
generation = st.builds(
    GenerationSettings,
    temperature=st.floats(0, 2),
    seed=st.none() | st.integers(0, 2**32 - 1),
    stop=st.lists(st.text("ab\n", min_size=1, max_size=3), max_size=3).map(tuple),
)
authors = st.builds(Author, texts, texts, texts, generation, counts, texts, texts)
finishes = st.builds(
    Finish,
    st.sampled_from(["stop_token", "stop_string", "length", "cancelled"]),
    *[counts] * 3,
    *[seconds] * 3,
    counts,
)
cards = st.dictionaries(texts, st.recursive(st.none() | st.booleans() | counts | seconds | texts, st.lists), max_size=3)
personas = st.builds(
    Persona,
    texts,
    texts,
    texts,
    texts,
    st.lists(texts, max_size=2).map(tuple),
    st.none() | generation,
    st.sampled_from(["", AVATAR_START + "iVBORw0KGgo="]),
    st.none() | cards,
)


@st.composite
def trees(draw: st.DrawFn, id: str = "c") -> Tree:
    ids = draw(st.lists(texts.filter(bool), unique=True, max_size=5))
    messages = []
    for index, own in enumerate(ids):
        message = StoredMessage(
            id=own,
            conversation=id,
            parent=draw(st.none() | st.sampled_from(ids[:index])) if index else None,
            role=draw(st.sampled_from(["user", "assistant"])),
            content=draw(texts),
            created=draw(times),
            state=draw(st.sampled_from(["finished", "stopped", "interrupted", "failed"])),
            reasoning=draw(texts),
            author=draw(st.none() | authors),
            finish=draw(st.none() | finishes),
            error=draw(texts),
            rating=draw(st.sampled_from([None, "like", "dislike"])),
            note=draw(texts),
        )
        messages.append(message)
    conversation = Conversation(
        id=id,
        title=draw(lines),
        named=draw(st.booleans()),
        persona=draw(personas),
        leaf=draw(st.none() | st.sampled_from(ids)) if ids else None,
        pinned=draw(st.booleans()),
        archived=draw(st.booleans()),
        created=draw(times),
        updated=draw(times),
    )
    return Tree(conversation, tuple(messages))


def chat(*lines: str, id: str = "c", **fields: Any) -> Tree:
    """A conversation of messages in turn, "u: ..." or "a: ...", each below the one before."""
    messages = []
    for index, line in enumerate(lines):
        role, content = line.split(": ", 1)
        parent = str(index - 1) if index else None
        name: Any = {"u": "user", "a": "assistant"}[role]
        messages.append(StoredMessage(str(index), id, parent, name, content, NOW))
    leaf = messages[-1].id if messages else None
    conversation = Conversation(id, "A chat", True, leaf, False, False, NOW, NOW, Persona("Helper", "✨"))
    return Tree(replace(conversation, **fields), tuple(messages))


def whole(pieces: Iterator[str]) -> bytes:
    return "".join(pieces).encode()


def path_texts(tree: Tree) -> list[tuple[str, str]]:
    """The path that is shown."""
    by_id = {message.id: message for message in tree.messages}
    path: list[tuple[str, str]] = []
    at = tree.conversation.leaf
    while at is not None:
        path.append((by_id[at].role, by_id[at].content))
        at = by_id[at].parent
    return path[::-1]


def never_surprises(data: bytes) -> None:
    """Whatever it is, it is refused in a sentence, or else something that survives our own format."""
    messages: list[str] = []
    reading = importing.read(data)
    trees = []
    try:
        trees = list(reading)
    except TransferError as error:
        messages = [error.message]
    messages += [one.reason for one in reading.skipped]
    assert read(whole(as_json(trees))) == trees
    assert all(message[0].isupper() and message.endswith(".") for message in messages)


def read(data: bytes, now: datetime | None = None) -> list[Tree]:
    """What comes in."""
    return list(importing.read(data, now))


def skipped_texts(value: object, now: datetime | None = None) -> list[str]:
    """What is said of what does not come in."""
    reading = importing.read(value if isinstance(value, bytes) else json.dumps(value).encode(), now)
    list(reading)
    return [str(one) for one in reading.skipped]


def refused(value: object) -> str:
    """What is said of a file of which nothing comes in."""
    data = value if isinstance(value, bytes) else json.dumps(value).encode()
    try:
        reading = importing.read(data)
        assert list(reading) == []
    except TransferError as error:
        return error.message
    return "\n".join(map(str, reading.skipped))


# Ours


@patient
@given(st.lists(trees(), max_size=3))
def test_our_format_loses_nothing(some: list[Tree]) -> None:
    assert read(whole(as_json(some))) == some


def test_a_reply_that_was_still_being_written_comes_back_as_interrupted() -> None:
    tree = chat("u: Hi", "a: Hel")
    running = replace(tree, messages=(tree.messages[0], replace(tree.messages[1], state="running")))
    (back,) = read(whole(as_json([running])))
    assert [message.state for message in back.messages] == ["finished", "interrupted"]


def test_export_takes_one_conversation_at_a_time() -> None:
    taken = 0

    def source() -> Iterator[Tree]:
        nonlocal taken
        for number in range(10):
            taken += 1
            yield chat("u: Hi", id=str(number))

    for write in (as_json, as_markdown, as_messages):
        taken = 0
        ahead = []
        for given_out, _ in enumerate(write(source())):
            ahead.append(taken - given_out)
        assert max(ahead) <= 2
        assert taken == 10


def test_exporting_many_conversations_needs_little_memory() -> None:
    tree = chat("u: " + "Hi " * 1000, "a: " + "Ho " * 1000)
    tracemalloc.start()
    total = sum(len(piece) for piece in as_json(replace(tree) for _ in range(2000)))
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert total > 10_000_000
    assert peak < 1_000_000


def ours(**changes: Any) -> dict[str, Any]:
    """An export of two messages with changes by path, as in `messages__1__role`."""
    value: dict[str, Any] = json.loads(whole(as_json([chat("u: Hi", "a: Hello")])))
    for path, new in changes.items():
        at = value["conversations"][0]
        *way, last = [int(step) if step.isdigit() else step for step in path.split("__")]
        for step in way:
            at = at[step]
        at[last] = new
    return value


AUTHOR = {"model": "m", "revision": "", "system_prompt": "", "settings": {"temperature": 9.0}, "seed": 1}


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"messages__1__parent": "x"}, "“A chat”: Message “1”: its parent “x” is not there."),
        ({"messages__0__parent": "1"}, "message “0”: its parent “1” does not come before it"),
        ({"messages__1__parent": "1"}, "message “1”: its parent “1” does not come before it"),
        ({"messages__1__id": "0"}, "message “0”: its id is that of another message too"),
        ({"messages__1__role": "system"}, "message “1”: its role is “system”"),
        ({"messages__1__role": "narrator"}, "message “1”: its “role” cannot be “narrator”"),
        ({"messages__1__conversation": "d"}, "message “1”: its conversation “d” is another one"),
        ({"messages__1__versions": ["x"]}, "message “1”: one of its versions"),
        ({"messages__1__state": "lost"}, "message “1”: its “state” cannot be “lost”"),
        ({"messages__1__rating": "love"}, "message “1”: its “rating” cannot be “love”"),
        ({"messages__1__created": "yesterday"}, "message “1”: its “created” cannot be"),
        ({"messages__1__created": 1e300}, "message “1”: its “created” cannot be"),
        ({"messages__1__created": float("nan")}, "a number that cannot be kept (nan)"),
        ({"messages__1__created": "0001-01-01T00:00:00Z"}, "message “1”: its time “created” is in the year 1"),
        ({"messages__1__created": "9999-12-31T23:59:59-12:00"}, "message “1”: its time “created” is in the year 9999"),
        ({"messages__1__content": None}, "message “1”: its “content” cannot be null"),
        ({"messages__1__content": "x" * 2_000_001}, "one of its texts has 2,000,001 characters"),
        ({"messages__1__author": AUTHOR}, "“author.settings.temperature” cannot be 9.0"),
        ({"messages__1": 3}, "message 2: "),
        ({"messages__1": {}}, "message 2: its “id” is missing"),
        ({"conversation__leaf": "x"}, "its leaf “x” is not there"),
        ({"conversation__updated": "2026-13-01T00:00:00Z"}, "“conversation.updated” cannot be “2026-13"),
        ({"conversation__persona__avatar": "https://evil.example/x.png"}, "its persona: Picture"),
        ({"conversation__persona__avatar": "data:image/svg+xml;base64,AAAA"}, "its persona: Picture"),
        ({"conversation__persona__card": {"n": 10**30}}, "a number that cannot be kept"),
        ({"messages": {}}, "messages"),
    ],
)
def test_what_is_wrong_with_ours_is_said_and_where(changes: dict[str, Any], message: str) -> None:
    assert message.lower() in refused(ours(**changes)).lower()


def test_depth_is_limited_below_what_python_can_follow() -> None:
    deep: list[Any] = []
    for _ in range(import_limits.MAX_DEPTH):
        deep = [deep]
    assert "too deep" in refused(ours(conversation__persona__card={"x": deep}))


@pytest.mark.parametrize(
    ("version", "message"), [(2, "newer chatui"), (0, "version"), ("1", "version"), (True, "version")]
)
def test_other_versions_are_refused(version: object, message: str) -> None:
    assert message in refused({"format": "chatui", "version": version, "conversations": []})


@pytest.mark.parametrize("conversations", [None, {}, [None], [[]], [{}]])
def test_our_conversations_must_be_some(conversations: object) -> None:
    refused({"format": "chatui", "version": 1, "conversations": conversations})


def test_texts_become_what_both_databases_keep() -> None:
    value = ours(messages__0__content="a\0b\ud800c😀", conversation__title="Two\nlines\u2028here " + "x" * 300)
    (tree,) = read(json.dumps(value).encode())
    assert tree.messages[0].content == "a\ufffdb\ufffdc😀"
    assert tree.conversation.title.startswith("Two lines here xxx")
    assert len(tree.conversation.title) == 200


def test_times_are_in_utc() -> None:
    (tree,) = read(json.dumps(ours(messages__0__created="2026-11-24T13:30:00+01:30")).encode())
    assert tree.messages[0].created.isoformat() == "2026-11-24T12:00:00+00:00"


# Messages


def test_messages_begin_with_the_system_prompt_of_the_last_reply() -> None:
    tree = chat("u: Hi", "a: Hello", "u: More", "a: ")
    first, last = (Author("m", "", prompt, GenerationSettings(), 1) for prompt in ("Old.", "New."))
    replies = {"1": first, "3": last}
    tree = replace(tree, messages=tuple(replace(one, author=replies.get(one.id)) for one in tree.messages))
    assert json.loads(whole(as_messages([tree]))) == [
        {"role": "system", "content": "New."},
        {"role": "user", "content": "Hi"},
        {"role": "assistant", "content": "Hello"},
        {"role": "user", "content": "More"},
    ]


said_lines = st.lists(st.tuples(st.sampled_from("ua"), texts.filter(bool)).map(": ".join), min_size=1, max_size=5)


@patient
@given(st.lists(said_lines, max_size=3), texts)
def test_messages_come_back_as_they_went(several: list[list[str]], prompt: str) -> None:
    persona = Persona("Imported", system_prompt=prompt)
    data = whole(as_messages([chat(*lines, persona=persona) for lines in several]))
    back = read(data)
    assert [path_texts(tree) for tree in back] == [path_texts(chat(*lines)) for lines in several]
    assert all(tree.conversation.persona == persona for tree in back)
    assert whole(as_messages(back)) == data


HI = {"role": "user", "content": "Hi  there,\nyou"}
HELLO = {
    "role": "assistant",
    "content": [{"type": "text", "text": "Hel"}, {"type": "image_url", "image_url": {}}, "lo"],
}
SAID = [("user", "Hi  there,\nyou"), ("assistant", "Hel\n[image]\nlo")]


@pytest.mark.parametrize(
    ("data", "count"),
    [
        (json.dumps([HI, HELLO]), 1),
        (json.dumps({"messages": [HI, HELLO]}), 1),
        (json.dumps([[HI, HELLO], {"messages": [HI, HELLO]}]), 2),
        ("\n".join([json.dumps([HI, HELLO])] * 3), 3),
        ("\n\n".join([json.dumps({"messages": [HI, HELLO]})] * 2) + "\r\n", 2),
        (f"{json.dumps(HI)}\n{json.dumps(HELLO)}\n", 1),
    ],
)
@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16"])
def test_lists_of_messages_in_all_their_shapes(data: str, count: int, encoding: str) -> None:
    back = read(data.encode(encoding), NOW)
    assert [path_texts(tree) for tree in back] == [SAID] * count
    assert {tree.conversation.title for tree in back} == {"Hi there, you"}
    assert all(NOW < one.created < NOW + timedelta(seconds=1) for tree in back for one in tree.messages)


def test_a_title_and_thinking_beside_messages_are_kept() -> None:
    message = {"role": "assistant", "content": "4", "reasoning_content": "2 + 2"}
    (tree,) = read(json.dumps({"title": "Sums\n!", "messages": [HI, message]}).encode())
    assert (tree.conversation.title, tree.conversation.named) == ("Sums !", True)
    assert tree.messages[1].reasoning == "2 + 2"


@pytest.mark.parametrize(
    ("value", "message"),
    [
        (
            [HI, {"content": "x"}],
            "Conversation 1: One of its messages could not be taken as it is: message 2 is from null.",
        ),
        ([[HI], [HI, {"role": ["user"], "content": "x"}]], "Conversation 2: One of its messages"),
        ([HI, {"role": "user", "content": None}], "message 2 has no content"),
        ([HI, "x", 3], "Some of its messages, 2, could not be taken as they are; the first: message 2 is not an"),
        ({"messages": "x", "title": "Talk"}, "“Talk”: It is in no format that is known"),
        ([[HI], 3], "Conversation 2: It is in no format that is known."),
        (b'[{"role": "user", "content": "Hi"}]\n{"a": }\n', "Line number 2: It is not JSON"),
    ],
)
def test_what_is_wrong_with_messages_is_said_and_the_rest_comes_in(value: object, message: str) -> None:
    assert message in "\n".join(skipped_texts(value))
    data = value if isinstance(value, bytes) else json.dumps(value).encode()
    assert len(read(data)) == (0 if "Talk" in message else 1 + ("Conversation 2: One" in message))


@pytest.mark.parametrize(
    ("value", "message"),
    [
        ({"messages": [], "title": "Talk"}, "“Talk”: It has no messages."),
        ([{"role": "user", "content": None}], "None of its messages can be read: message 1 has no content."),
        ({}, "in no format that is known."),
        (3, "no conversations in a format that is known"),
        (b"", "empty"),
        (b" \n", "empty"),
        (b"\xff\xfe\x00", "not UTF-16"),
        (b"{'a': 1}", "not JSON from line 1, column 2 on"),
        (b"[1,\n2]x", "not JSON from line 2, column 3 on"),
        (b"[" + b"9" * 5000 + b"]", "in no format that is known"),
        (b"[" * 100_000 + b"]" * 100_000, "too deep"),
        (b"[" * 900 + b"]" * 900, "in no format that is known"),
    ],
)
def test_a_file_of_which_nothing_can_be_read_says_why(value: object, message: str) -> None:
    assert message in refused(value)
    assert "{" not in refused(value)


def test_nothing_is_nothing() -> None:
    assert read(b"[]") == []


# ChatGPT


def node(id: str, parent: str | None, role: str, *parts: object, **fields: Any) -> dict[str, Any]:
    """A node of ChatGPT's mapping; `fields` are the message's."""
    message = {
        "id": id,
        "author": {"role": role, "name": None, "metadata": {}},
        "create_time": None,
        "content": {"content_type": "text", "parts": list(parts)},
        "status": "finished_successfully",
        "weight": 1.0,
        "metadata": {},
        "recipient": "all",
    } | fields
    return {"id": id, "message": message, "parent": parent, "children": []}


def conversation(*nodes: dict[str, Any], **fields: Any) -> dict[str, Any]:
    mapping = {one["id"]: one for one in nodes}
    for one in nodes:
        if one["parent"] in mapping:
            mapping[one["parent"]]["children"].append(one["id"])
    return {"title": "Paris", "create_time": 1.7e9, "update_time": 1.7e9 + 60, "mapping": mapping} | fields


IMAGE = {"content_type": "image_asset_pointer", "asset_pointer": "file-service://x", "width": 3}
THOUGHTS = {"content_type": "thoughts", "thoughts": [{"summary": "Looking", "content": "Where is it?"}]}
EXPORT = conversation(
    {"id": "root", "message": None, "parent": None, "children": []},
    node("system", "root", "system", "", metadata={"is_visually_hidden_from_conversation": True}),
    node("about", "system", "user", content={"content_type": "user_editable_context", "user_profile": "Ann"}),
    node("hint", "about", "user", "Be kind.", metadata={"is_visually_hidden_from_conversation": True}),
    node("q1", "hint", "user", "Where is this?", IMAGE, create_time=1.7e9 + 1),
    node("old", "q1", "assistant", "In Rome."),
    node("think", "q1", "assistant", content=THOUGHTS, create_time=1.7e9 + 2),
    node("recap", "think", "assistant", content={"content_type": "reasoning_recap", "content": "Thought for 3 s"}),
    node("look", "recap", "assistant", "Let me look."),
    node("call", "look", "assistant", content={"content_type": "code", "text": "search()"}, recipient="browser"),
    node("result", "call", "tool", "Paris", author={"role": "tool", "name": "web"}),
    node("answer", "result", "assistant", "In Paris."),
    node("q2", "answer", "user", {"content_type": "audio_transcription", "text": "Thanks"}),
    node("odd", "q2", "assistant", content={"content_type": "hologram", "depth": 3}),
    node("end", "odd", "tool", "bye", author={"role": "tool", "name": "bio"}),
    current_node="end",
    is_archived=True,
)


def test_chatgpt_conversations_keep_their_branches_and_lose_their_machinery() -> None:
    (tree,) = read(json.dumps([EXPORT]).encode(), NOW)
    assert path_texts(tree) == [
        ("user", "Where is this?\n\n[image]"),
        (
            "assistant",
            "Let me look.\n\n[tool call: browser]\n\n```\nsearch()\n```\n\n"
            "[tool result: web]\n\n```\nParis\n```\n\nIn Paris.",
        ),
        ("user", "Thanks"),
        ("assistant", "[hologram]"),
    ]
    by_id = {message.id: message for message in tree.messages}
    assert [(one.id, one.parent) for one in tree.messages] == [
        ("q1", None),
        ("old", "q1"),
        ("think", "q1"),
        ("q2", "think"),
        ("odd", "q2"),
    ]
    assert by_id["think"].reasoning == "Looking\n\nWhere is it?"
    kept = tree.conversation
    assert (kept.title, kept.named, kept.archived, kept.leaf) == ("Paris", True, True, "odd")
    assert kept.created == datetime.fromtimestamp(1.7e9, UTC)
    assert kept.updated - kept.created == timedelta(minutes=1)
    created = [message.created for message in tree.messages]
    assert created[0] == kept.created + timedelta(seconds=1)
    assert all(by_id[one.parent].created < one.created for one in tree.messages if one.parent)


def test_pieces_with_several_ways_on_are_left_apart() -> None:
    value = conversation(
        node("q", None, "user", "Hi"),
        node("a", "q", "assistant", "Well"),
        node("b", "a", "assistant", "one"),
        node("c", "a", "assistant", "two"),
        node("d", "c", "assistant", "three"),
        current_node="d",
    )
    (tree,) = read(json.dumps([value]).encode())
    assert [(one.id, one.parent, one.content) for one in tree.messages] == [
        ("q", None, "Hi"),
        ("a", "q", "Well"),
        ("b", "a", "one"),
        ("c", "a", "two\n\nthree"),
    ]
    assert tree.conversation.leaf == "c"


def test_versions_keep_the_order_of_their_parent() -> None:
    value = conversation(node("q", None, "user", "Hi"), node("b", "q", "assistant", "2"), node("a", "q", "user", "1"))
    value["mapping"]["q"]["children"] = ["a", ["odd"], "b"]
    (tree,) = read(json.dumps(value).encode())
    assert [message.id for message in tree.messages] == ["q", "a", "b"]
    (tree,) = read(json.dumps(conversation(node("x", None, "user", "1"), node("w", None, "user", "2"))).encode())
    assert [message.id for message in tree.messages] == ["x", "w"]


@pytest.mark.parametrize("missing", ["title", "create_time", "update_time", "current_node"])
@pytest.mark.parametrize("null", [True, False])
def test_chatgpt_fields_may_be_missing(missing: str, null: bool) -> None:
    value = EXPORT | {missing: None}
    if not null:
        del value[missing]
    (tree,) = read(json.dumps([value]).encode(), NOW)
    assert tree.conversation.leaf == "odd"
    assert tree.conversation.title == ("Where is this? [image]" if missing == "title" else "Paris")


def test_all_times_missing_is_now() -> None:
    value = EXPORT | {"create_time": None, "update_time": None}
    (tree,) = read(json.dumps([value]).encode(), NOW)
    assert tree.conversation.created == NOW


@pytest.mark.parametrize(
    ("value", "message"),
    [
        (conversation(node("a", "x", "user", "Hi")), "message “a” stands apart: its parent “x” is not there"),
        (conversation(node("a", "b", "user", "1"), node("b", "a", "user", "2")), "round in a circle"),
        (conversation(node("a", "a", "user", "1")), "message “a” stands apart: its parents lead round in a circle"),
        (conversation(node("a", None, "user", "1"), {"id": "b", "parent": None, "message": 1}), "message “b” is not"),
    ],
)
def test_a_wrong_message_of_chatgpts_is_told_and_the_others_come_in(value: dict[str, Any], message: str) -> None:
    (line,) = skipped_texts([value, EXPORT])
    assert line.startswith("“Paris”: One of its messages could not be taken as it is: ")
    assert message in line
    first, second = read(json.dumps([value, EXPORT]).encode())
    wrong = sum(node.get("message") == 1 for node in value["mapping"].values())
    assert len(first.messages) == len(value["mapping"]) - wrong
    assert len(second.messages) == 5


@pytest.mark.parametrize(
    "value",
    [
        conversation(node("a", None, "user", "1"), current_node="x"),
        conversation(node("a", None, "user", "1"), current_node=["x"]),
        conversation(node("a", None, "user", "1", create_time=float("inf"))),
        conversation(node("a", None, "user", "1", create_time=float("nan"))),
        conversation(node("a", None, "user", "1", create_time="soon")),
        conversation(node("a", None, "user", "1"), create_time=-5),
        conversation(node("a", None, "user", "1"), title=3),
    ],
)
def test_what_describes_chatgpts_may_be_wrong(value: dict[str, Any]) -> None:
    (tree,) = read(json.dumps([value]).encode(), NOW)
    assert path_texts(tree) == [("user", "1")]
    assert skipped_texts([value]) == []


@pytest.mark.parametrize(
    ("value", "message"),
    [
        (conversation(node("a", None, "user", "x" * 2_000_001)), "“Paris”: The text of message “a” has 2,000,001"),
        (conversation() | {"mapping": []}, "“Paris”: It has no messages: its “mapping” is missing"),
        ({"title": "Lost", "conversation_id": "7", "current_node": "a"}, "“Lost”: It has no messages"),
        ({"title": "Lost", "create_time": 1.0}, "“Lost”: It is in no format that is known"),
        (3, "Conversation 1: It is in no format"),
    ],
)
def test_a_conversation_that_cannot_be_read_is_named_and_the_others_come_in(value: object, message: str) -> None:
    (line,) = skipped_texts([value, EXPORT])
    assert message in line
    assert [tree.conversation.title for tree in read(json.dumps([value, EXPORT]).encode())] == ["Paris"]


def zipped(files: dict[str, bytes], method: int = zipfile.ZIP_DEFLATED) -> bytes:
    target = io.BytesIO()
    with zipfile.ZipFile(target, "w", method) as archive:
        for name, data in files.items():
            archive.writestr(f"{name}.json", data)
    return target.getvalue()


def test_a_zip_is_opened() -> None:
    assert len(read(zipped({"user": b"{", "export/conversations": json.dumps([EXPORT]).encode()}))) == 1
    parts = {f"conversations-00{number}": json.dumps([EXPORT | {"title": str(number)}]).encode() for number in (1, 0)}
    assert [tree.conversation.title for tree in read(zipped(parts))] == ["0", "1"]


def test_a_zip_that_unpacks_to_too_much_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    bomb = zipped({"conversations": b" " * 3_000_000, "conversations-1": b" " * 3_000_000})
    monkeypatch.setattr(import_limits, "MAX_BYTES", 5_000_000)
    assert "unpacks to more than 5,000,000" in refused(bomb)
    monkeypatch.setattr(import_limits, "MAX_FILES", 1)
    assert "more than 1 files" in refused(bomb)


def test_a_zip_is_refused_without_conversations_or_damaged() -> None:
    assert "no conversations in a format" in refused(zipped({"user": b"{}", "more": b"[]"}))
    assert "in no format that is known" in refused(zipped({"user": b"{}"}))
    assert "ends in .json" in refused(zipped({}))
    assert "unusual" in refused(zipped({"conversations": b"[]"}, zipfile.ZIP_LZMA))
    good = zipped({"conversations": json.dumps([EXPORT]).encode()})
    for offset in range(0, len(good), 7):
        with_fault = good[:offset] + bytes([good[offset] ^ 0xFF]) + good[offset + 1 :]
        for data in (with_fault, good[:offset]):
            never_surprises(data)


# Limits


def test_limits_are_kept(monkeypatch: pytest.MonkeyPatch) -> None:
    samples = [json.dumps([HI] * 20).encode(), whole(as_json([chat(*["u: x"] * 20)]))]
    samples += [json.dumps([conversation(*(node(str(n), None, "user", "x") for n in range(20)))]).encode()]
    for limit, message in (("MAX_MESSAGES", "it has 20 messages"), ("MAX_VALUES", "values"), ("MAX_BYTES", "bytes")):
        for data in samples:
            assert read(data)
            with monkeypatch.context() as patch:
                patch.setattr(import_limits, limit, 19)
                assert message.lower() in refused(data).lower()


@pytest.mark.parametrize("role", ["user", "assistant"])
@pytest.mark.parametrize("count", [10_000, pytest.param(import_limits.MAX_MESSAGES, marks=pytest.mark.exhaustive)])
def test_a_chain_as_long_as_allowed_hits_no_recursion_limit(role: str, count: int) -> None:
    nodes = (node(str(index), str(index - 1) if index else None, role, "x") for index in reversed(range(count)))
    (tree,) = read(json.dumps([conversation(*nodes, current_node=str(count - 1))]).encode())
    assert len(path_texts(tree)) == (count if role == "user" else 1)
    assert sum(len(content.split()) for _, content in path_texts(tree)) == count
    assert read(whole(as_json([tree]))) == [tree]
    for write in (as_messages, as_markdown):
        assert whole(write([tree])).count(b"x") >= count


NAMES = [
    "mapping",
    "messages",
    "role",
    "content",
    "parts",
    "parent",
    "message",
    "author",
    "children",
    "current_node",
    "title",
    "create_time",
    "metadata",
    "recipient",
    "content_type",
    "text",
    "thoughts",
    "format",
    "version",
    "conversations",
    "conversation",
    "u",
]
values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5) | st.just("u"),
    lambda inner: (
        st.lists(inner, max_size=4)
        | st.dictionaries(
            st.sampled_from(NAMES),
            inner,
            max_size=6,
        )
    ),
    max_leaves=25,
)


@patient
@given(values)
def test_no_json_is_a_surprise(value: object) -> None:
    for shape in (value, [value], {"mapping": value}, {"messages": value}, {"mapping": {"u": value}}):
        never_surprises(json.dumps(shape).encode())
    node = {"message": {"author": {"role": "user"}, "content": value}, "parent": None}
    never_surprises(json.dumps({"mapping": {"u": node}}).encode())


@patient
@given(st.binary(max_size=200), st.sampled_from([b"", b"PK\x03\x04", b"[", b'{"messages":', b"\xff\xfe"]))
def test_no_bytes_are_a_surprise(data: bytes, start: bytes) -> None:
    never_surprises(start + data)


PATHS = ["conversation", "messages"] + [f"messages__{index}" for index in (0, 1)]
PATHS += [f"conversation__{name}" for name in chat().conversation.__dataclass_fields__]
PATHS += [f"messages__1__{name}" for name in StoredMessage.__dataclass_fields__]
PATHS += [f"conversation__persona__{name}" for name in Persona.__dataclass_fields__]


@patient
@given(st.sampled_from(PATHS), values)
def test_no_value_in_ours_is_a_surprise(path: str, value: object) -> None:
    never_surprises(json.dumps(ours(**{path: value})).encode())


# Markdown

MARKDOWN = MarkdownIt("commonmark")


def headings(document: str) -> list[str]:
    """Headings at the top level, as a reader sees them."""
    tokens = MARKDOWN.parse(document)
    return [
        tokens[index + 1].content
        for index, token in enumerate(tokens)
        if token.type == "heading_open" and token.level == 0 and token.tag in ("h1", "h2")
    ]


PIECES = ["```", "````py", "~~~", "    ```", "- ```", "  ```", "> ```", "1. ~~~", "<!-- x", "-->", "<pre>", "<script>"]
PIECES += [
    "<?php",
    "<!DOCTYPE",
    "<![CDATA[",
    "<div>",
    "</details>",
    "text",
    "",
    "- item",
    "\tcode",
    "| a |",
    "[x]: y 'z",
]
PIECES += ["===", "---", "\\", "`", "<textarea>x", "</pre>"]


@patient
@given(st.lists(st.lists(st.sampled_from(PIECES), max_size=6).map("\n".join), min_size=1, max_size=3), st.booleans())
def test_no_text_swallows_the_next_heading(contents: list[str], think: bool) -> None:
    tree = chat(*(f"a: {content}" for content in contents))
    if think:
        tree = replace(tree, messages=tuple(replace(one, reasoning=one.content) for one in tree.messages))
    found = headings("".join(as_markdown([tree, tree])))
    assert found.count("Assistant") == 2 * len(contents)
    assert found.count("A chat") == 2


@pytest.mark.parametrize(
    "text",
    [
        "```py\nprint('<b>')\n```",
        "Use ````` ```` ````` and\n\n````md\n```\ninner\n```\n````\n",
        "- item\n\n  ```sh\n  ls\n  ```\n\n1 < 2 & <b>bold</b>",
        "    indented\n\n~~~\n```\n~~~",
        "trailing  \n\n",
        "```\n<!-- x\n```\nthen\n```py\n```\n",
    ],
)
def test_balanced_text_stays_as_it_was_to_the_letter(text: str) -> None:
    document = "".join(as_markdown([chat("u: Go on", f"a: {text}")]))
    assert document.endswith(f"\n## Assistant\n\n{text}\n")


@pytest.mark.parametrize(
    ("text", "end"),
    [
        ("see\n```py\nprint(1)", "```"),
        ("~~~~\n```", "~~~~"),
        ("````\n```\n", "````"),
        ("<!-- why", "-->"),
        ("<Script>x", "</Script>"),
        ("```\na\n```\n\n```\nb", "```"),
        ("```\na\n ```\n```\nb", "```"),
    ],
)
def test_an_open_block_is_closed_behind_the_text(text: str, end: str) -> None:
    assert f"\n\n{text}\n{end}\n\n## User" in "".join(as_markdown([chat(f"a: {text}", "u: And?")]))


def test_markdown_shows_the_path_title_persona_and_state() -> None:
    tree = chat("u: One", "a: Two", "u: Three", title="A *bold*\n<b> plan", leaf="1")
    messages = (tree.messages[0], replace(tree.messages[1], state="stopped", reasoning="Hm\n```"), tree.messages[2])
    assert "".join(as_markdown([replace(tree, messages=messages)])) == (
        "# A \\*bold\\* \\<b\\> plan\n\n24 November 2026, 12:00 UTC · ✨ Helper\n"
        "\n## User\n\nOne\n\n## Assistant (stopped)\n\n> **Thinking**\n>\n> Hm\n> ```\n\nTwo\n"
    )
