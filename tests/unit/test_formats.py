"""Files of other programs, as they are written there, small."""

# ruff: noqa: E501 - a message of a file is one line

import contextlib
import copy
import io
import json
import zipfile
from datetime import UTC, datetime
from typing import Any

import pytest

from chatui.errors import TransferError
from chatui.store.formats import FORMATS, citations, common, find
from chatui.store.imports import importing
from chatui.store.records import Tree
from tests.unit.test_transfer import EXPORT, conversation, node, path_texts

NOW = datetime(2026, 11, 24, 12, tzinfo=UTC)
Talk = list[tuple[str, str]]
TALK: Talk = [("user", "Hi"), ("assistant", "Hello"), ("user", "More?"), ("assistant", "Sure")]

CLAUDE: dict[str, Any] = {
    "uuid": "c1",
    "name": "Greetings",
    "created_at": "2025-03-01T10:00:00.000000Z",
    "updated_at": "2025-03-01T11:00:00.000000Z",
    "account": {"uuid": "a"},
    "chat_messages": [
        {
            "uuid": "m1",
            "text": "Hi",
            "content": [{"type": "text", "text": "Hi", "citations": []}],
            "sender": "human",
            "created_at": "2025-03-01T10:00:00Z",
            "attachments": [{"file_name": "notes.txt", "file_type": "txt", "extracted_content": "Buy milk"}],
            "files": [{"file_name": "cat.png"}],
        },
        {
            "uuid": "m2",
            "text": "",
            "content": [
                {"type": "thinking", "thinking": "A greeting."},
                {"type": "text", "text": "Hello"},
                {
                    "type": "tool_use",
                    "name": "artifacts",
                    "input": {"title": "Plan", "content": "x = 1", "language": "py"},
                },
                {"type": "tool_use", "name": "web_search", "input": {"query": "milk"}},
                {"type": "tool_result", "name": "web_search", "content": [{"type": "text", "text": "Milk: 1 €"}]},
            ],
            "sender": "assistant",
            "created_at": "2025-03-01T10:00:01Z",
            "attachments": [],
            "files": [],
        },
    ],
}
OPEN_WEBUI = {
    "id": "w1",
    "user_id": "u",
    "title": "Greetings",
    "chat": {
        "title": "Greetings",
        "models": ["llama"],
        "params": {"system": "Be kind."},
        "history": {
            "currentId": "d",
            "messages": {
                "a": {"id": "a", "parentId": None, "childrenIds": ["b", "b2"], "role": "user", "content": "Hi"},
                "b": {
                    "id": "b",
                    "parentId": "a",
                    "childrenIds": ["c"],
                    "role": "assistant",
                    "content": '<details type="reasoning" done="true" duration="3">\n<summary>Thought for 3 seconds</summary>\n'
                    "> A greeting &gt; none.\n> So be it.\n</details>\nHello",
                    "timestamp": 1740823201,
                },
                "b2": {"id": "b2", "parentId": "a", "childrenIds": [], "role": "assistant", "content": "Hey"},
                "c": {"id": "c", "parentId": "b", "childrenIds": ["d"], "role": "user", "content": "More?"},
                "d": {"id": "d", "parentId": "c", "childrenIds": [], "role": "assistant", "content": "Sure"},
            },
        },
        "messages": [],
    },
    "created_at": 1740823200,
    "updated_at": 1740823300,
    "archived": False,
    "pinned": True,
}
SHAREGPT = {
    "id": "s1",
    "conversations": [
        {"from": "system", "value": "Be kind."},
        {"from": "human", "value": "Hi"},
        {"from": "gpt", "value": "Hello"},
        {"from": "human", "value": "More?"},
        {"from": "gpt", "value": "Sure"},
    ],
}
TAVERN = [
    {
        "user_name": "Ann",
        "character_name": "Robo",
        "create_date": "2024-3-1@10h00m00s",
        "chat_metadata": {"integrity": "i"},
    },
    {
        "name": "Robo",
        "is_user": False,
        "mes": "BZZT",
        "send_date": "March 1, 2024 10:00am",
        "swipes": ["Beep", "BZZT"],
        "swipe_id": 1,
    },
    {"name": "Ann", "is_user": True, "mes": "Hi", "send_date": "2024-03-01T10:01:00.000Z"},
    {"name": "Robo", "is_user": False, "mes": "Hello", "send_date": 1709287320000, "extra": {"reasoning": "Hm."}},
]
LM_STUDIO = {
    "name": "Greetings",
    "createdAt": 1740823200000,
    "systemPrompt": "Be kind.",
    "messages": [
        {
            "versions": [{"type": "singleStep", "role": "user", "content": [{"type": "text", "text": "Hi"}]}],
            "currentlySelected": 0,
        },
        {
            "versions": [
                {
                    "type": "multiStep",
                    "role": "assistant",
                    "steps": [{"type": "contentBlock", "content": [{"type": "text", "text": "Hey"}]}],
                },
                {
                    "type": "multiStep",
                    "role": "assistant",
                    "steps": [
                        {
                            "type": "contentBlock",
                            "style": {"type": "thinking"},
                            "content": [{"type": "text", "text": "Hm."}],
                        },
                        {"type": "contentBlock", "content": [{"type": "text", "text": "Hello"}]},
                        {"type": "debugInfoBlock", "debugInfo": "x"},
                    ],
                },
            ],
            "currentlySelected": 1,
        },
        {
            "versions": [{"type": "singleStep", "role": "user", "content": [{"type": "text", "text": "More?"}]}],
            "currentlySelected": 0,
        },
    ],
}
LLAMA_CPP = {
    "conv": {"id": "l1", "name": "Greetings", "lastModified": 1740823300000, "currNode": "4"},
    "messages": [
        {"id": "0", "convId": "l1", "type": "root", "role": "system", "content": "", "parent": "-1", "children": ["1"]},
        {
            "id": "1",
            "convId": "l1",
            "type": "text",
            "role": "user",
            "content": "Hi",
            "parent": "0",
            "timestamp": 1740823200000,
        },
        {
            "id": "2",
            "convId": "l1",
            "type": "text",
            "role": "assistant",
            "content": "Hey",
            "parent": "1",
            "thinking": "",
        },
        {
            "id": "4",
            "convId": "l1",
            "type": "text",
            "role": "assistant",
            "content": "Hello",
            "parent": "1",
            "thinking": "Hm.",
        },
    ],
}
CHAT_UI = {
    "_id": {"$oid": "h1"},
    "title": "Greetings",
    "model": "m",
    "preprompt": "Be kind.",
    "createdAt": {"$date": "2025-03-01T10:00:00Z"},
    "messages": [
        {"id": "0", "from": "system", "content": "Be kind.", "ancestors": [], "children": ["1"]},
        {
            "id": "1",
            "from": "user",
            "content": "Hi",
            "ancestors": ["0"],
            "children": ["2"],
            "files": [{"name": "cat.png", "mime": "image/png"}],
        },
        {
            "id": "2",
            "from": "assistant",
            "content": "Hello",
            "reasoning": "Hm.",
            "ancestors": ["0", "1"],
            "children": [],
        },
    ],
}
WEBUI = {
    "internal": [["<|BEGIN-VISIBLE-CHAT|>", "Hello &amp; welcome"], ["Hi", "Sure"]],
    "visible": [["", "Hello &amp; welcome"], ["Hi", "Sure"]],
    "metadata": {},
}
GEMINI = {
    "header": "Gemini Apps",
    "title": "Prompted Hi",
    "time": "2025-03-01T10:00:00.123Z",
    "products": ["Gemini Apps"],
    "safeHtmlItem": [{"html": "<p>Hello <strong>you</strong> &amp; all:</p><ul><li>One</li><li>Two</li></ul>"}],
}
TUNING = {
    "messages": [
        {"role": "developer", "content": "Be kind."},
        {
            "role": "user",
            "content": [{"type": "text", "text": "Hi"}, {"type": "image_url", "image_url": {"url": "data:,"}}],
        },
        {"role": "assistant", "content": None, "tool_calls": [{"function": {"name": "clock", "arguments": "{}"}}]},
        {"role": "tool", "tool_call_id": "1", "content": "12:00"},
        {"role": "assistant", "content": "Hello", "weight": 1},
    ],
    "tools": [],
}

GROK = {
    "conversation": {"id": "g1", "title": "Greetings", "create_time": "2025-03-01T10:00:00Z", "starred": True},
    "responses": [
        {
            "response": {
                "_id": "1",
                "sender": "human",
                "message": "Hi",
                "create_time": {"$date": {"$numberLong": "1740823200000"}},
            }
        },
        {
            "response": {
                "_id": "2",
                "sender": "ASSISTANT",
                "message": "Hello",
                "thinking_trace": "Hm.",
                "parent_response_id": "1",
            }
        },
        {"response": {"_id": "3", "sender": "human", "message": "More?", "parent_response_id": "2"}},
        {"response": {"_id": "4", "sender": "assistant", "message": "Sure", "parent_response_id": "3"}},
    ],
}

LIBRECHAT = {
    "conversationId": "l1",
    "endpoint": "openAI",
    "title": "Greetings",
    "exportAt": "10:00:00 GMT+0000",
    "options": {"model": "m", "promptPrefix": "Be brief."},
    "branches": True,
    "recursive": True,
    "messages": [
        {
            "messageId": "1",
            "parentMessageId": "00000000-0000-0000-0000-000000000000",
            "sender": "User",
            "isCreatedByUser": True,
            "text": "Hi",
            "createdAt": "2025-03-01T10:00:00.000Z",
            "children": [
                {
                    "messageId": "2",
                    "parentMessageId": "1",
                    "isCreatedByUser": False,
                    "text": "",
                    "content": [{"type": "think", "think": "Hm."}, {"type": "text", "text": {"value": "Hello"}}],
                    "children": [
                        {
                            "messageId": "3",
                            "parentMessageId": "2",
                            "isCreatedByUser": True,
                            "text": "More?",
                            "children": [],
                        }
                    ],
                }
            ],
        }
    ],
}

DEEPSEEK = {
    "id": "d1",
    "title": "Greetings",
    "inserted_at": "2025-03-01T10:00:00.000000+08:00",
    "updated_at": "2025-03-01T11:00:00.000000+08:00",
    "mapping": {
        "root": {"id": "root", "parent": None, "children": ["1"], "message": None},
        "1": {
            "id": "1",
            "parent": "root",
            "children": ["2"],
            "message": {"files": [], "model": "m", "fragments": [{"type": "REQUEST", "content": "Hi"}]},
        },
        "2": {
            "id": "2",
            "parent": "1",
            "children": ["3"],
            "message": {"fragments": [{"type": "THINK", "content": "Hm."}, {"type": "RESPONSE", "content": "Hello"}]},
        },
        "3": {
            "id": "3",
            "parent": "2",
            "children": ["4"],
            "message": {"role": "USER", "content": "More?", "files": []},
        },
        "4": {
            "id": "4",
            "parent": "3",
            "children": [],
            "message": {"role": "ASSISTANT", "content": "Sure", "reasoning_content": None},
        },
    },
}

KNOWN: dict[str, tuple[Any, Talk]] = {
    "Claude": (
        CLAUDE,
        [
            ("user", "[file: notes.txt]\n\n```\nBuy milk\n```\n\n[image: cat.png]\n\nHi"),
            (
                "assistant",
                "Hello\n\n[artifact: Plan]\n\n```py\nx = 1\n```\n\n"
                '[tool call: web_search]\n\n```json\n{\n "query": "milk"\n}\n```\n\n'
                "[tool result: web_search]\n\n```\nMilk: 1 €\n```",
            ),
        ],
    ),
    "Open WebUI": (OPEN_WEBUI, TALK),
    "Grok": (GROK, TALK),
    "LibreChat": (LIBRECHAT, TALK[:3]),
    "DeepSeek": (DEEPSEEK, TALK),
    "ShareGPT": (SHAREGPT, TALK),
    "SillyTavern": (TAVERN, [("assistant", "BZZT"), ("user", "Hi"), ("assistant", "Hello")]),
    "LM Studio": (LM_STUDIO, TALK[:3]),
    "llama.cpp": (LLAMA_CPP, TALK[:2]),
    "HuggingChat": (CHAT_UI, [("user", "[image: cat.png]\n\nHi"), ("assistant", "Hello")]),
    "text-generation-webui": (WEBUI, [("assistant", "Hello & welcome"), ("user", "Hi"), ("assistant", "Sure")]),
    "Gemini (Google Takeout)": (GEMINI, [("user", "Hi"), ("assistant", "Hello **you** & all:\n\n- One\n- Two")]),
    "messages of OpenAI's API": (
        TUNING,
        [
            ("user", "Hi\n[image]"),
            ("assistant", "[tool call: clock]\n\n```\n{}\n```\n\n[tool result]\n\n```\n12:00\n```\n\nHello"),
        ],
    ),
    "ChatGPT": (conversation(node("q", None, "user", "Hi"), node("a", "q", "assistant", "Hello")), TALK[:2]),
}


def read(value: Any) -> list[Tree]:
    reading = importing.read(value if isinstance(value, bytes) else json.dumps(value).encode(), NOW)
    trees = list(reading)
    assert reading.skipped == []
    return trees


def test_each_format_is_tested() -> None:
    assert {format.name for format in FORMATS} == set(KNOWN)


@pytest.mark.parametrize("name", KNOWN)
def test_a_conversation_is_known_by_its_shape_and_read(name: str) -> None:
    value, talk = KNOWN[name]
    found = find(value)
    assert found is not None
    assert found.name == name
    (tree,) = read(value)
    assert path_texts(tree) == talk
    assert [tree.conversation.id] == [again.conversation.id for again in read(value)]


ALIKE: dict[str, Any] = {
    "Jan": "\n".join(
        json.dumps({"object": "thread.message", "id": role, "role": role, "content": [{"type": "text", "text": {"value": text, "annotations": []}}], "created_at": 1740823200, "status": "ready"})
        for role, text in TALK[:2]
    ).encode(),
    "TypingMind": {"data": {"chats": [{"chatID": "t", "chatTitle": "Greetings", "createdAt": "2025-03-01T10:00:00Z", "messages": [{"role": role, "content": text} for role, text in TALK[:2]]}], "folders": []}},
    "Chatbox": {"settings": {}, "session:1": {"id": "1", "name": "Greetings", "messages": [{"role": role, "contentParts": [{"type": "text", "text": text}], "timestamp": 1740823200000} for role, text in TALK[:2]]}},
    "Chatbox, older": {"chat-sessions": [{"id": "1", "name": "Greetings", "messages": [{"role": role, "content": text, "timestamp": 1740823200000} for role, text in TALK[:2]]}]},
    "Le Chat": [{"id": role, "chatId": "c", "role": role, "content": "", "contentChunks": [{"type": "text", "text": text}], "createdAt": "2025-03-01T10:00:00Z"} for role, text in TALK[:2]],
}  # fmt: skip
"""Files that are lists of messages too, each in its program's way."""


@pytest.mark.parametrize("name", ALIKE)
def test_lists_of_messages_of_many_programs_are_read(name: str) -> None:
    (tree,) = read(ALIKE[name])
    assert path_texts(tree) == TALK[:2]
    assert tree.messages[0].created.year == 2025
    if "Greetings" in json.dumps(ALIKE[name], default=str):
        assert tree.conversation.title == "Greetings"


def test_thoughts_and_branches_of_librechat_and_deepseek_are_kept() -> None:
    for value in (LIBRECHAT, DEEPSEEK, GROK):
        (tree,) = read(value)
        assert tree.messages[1].reasoning == "Hm."
    (tree,) = read(LIBRECHAT)
    assert tree.conversation.persona.system_prompt == "Be brief."
    flat = {
        **LIBRECHAT,
        "recursive": False,
        "messages": [
            {"messageId": id, "parentMessageId": parent, "isCreatedByUser": id == "1", "text": f"said {id}"}
            for id, parent in (("1", "0"), ("2", "1"), ("3", "1"))
        ],
    }
    (tree,) = read(flat)
    assert [message.parent for message in tree.messages] == [None, "1", "1"]


@pytest.mark.parametrize("name", KNOWN)
@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16", "utf-16-le", "utf-32"])
def test_in_every_encoding_as_a_list_lines_and_zip(name: str, encoding: str) -> None:
    value, talk = KNOWN[name]
    files = [json.dumps([value, value]), json.dumps({"conversations": [value]})]
    if name == "SillyTavern":
        files = ["\r\n".join(map(json.dumps, value)), "\n".join(map(json.dumps, value)) + "\n\n"]
    elif not isinstance(value, list):
        files.append("\n".join(json.dumps(value) for _ in range(2)))
    for number, file in enumerate(files):
        data = file.encode(encoding)
        target = io.BytesIO()
        with zipfile.ZipFile(target, "w") as archive:
            archive.writestr(f"export/chat {number}.jsonl", data)
            archive.writestr("users.json", b'[{"uuid": "u"}]')
            archive.writestr("__MACOSX/export/._chat.json", b"\0")
            archive.writestr("cat.png", b"\x89PNG")
        for shape in (data, target.getvalue()):
            assert {tuple(path_texts(tree)) for tree in read(shape)} == {tuple(talk)}


def test_what_the_formats_say_besides_is_kept() -> None:
    (claude,), (webui,), (tavern,), (studio,), (llama,), (chat_ui,) = map(
        read, (CLAUDE, OPEN_WEBUI, TAVERN, LM_STUDIO, LLAMA_CPP, CHAT_UI)
    )
    for tree in (claude, webui, studio, llama, chat_ui):
        assert tree.conversation.title == "Greetings"
    for tree in (webui, studio, chat_ui):
        assert tree.conversation.persona.system_prompt == "Be kind."
    thought = {
        tree.conversation.title + str(number): [one.reasoning for one in tree.messages if one.reasoning]
        for number, tree in enumerate((claude, webui, tavern, studio, llama, chat_ui))
    }
    assert list(thought.values()) == [
        ["A greeting."],
        ["A greeting > none.\nSo be it."],
        ["Hm."],
        ["Hm."],
        ["Hm."],
        ["Hm."],
    ]
    assert webui.conversation.pinned
    assert {one.content for one in webui.messages} >= {"Hey", "Hello"}
    assert [(one.content, one.parent) for one in tavern.messages[:2]] == [("Beep", None), ("BZZT", None)]
    assert (tavern.conversation.persona.name, tavern.conversation.title) == ("Robo", "Robo")
    assert [str(one.created)[:16] for one in tavern.messages] == ["2024-03-01 10:00"] * 2 + [
        "2024-03-01 10:01",
        "2024-03-01 10:02",
    ]
    assert claude.conversation.created == datetime(2025, 3, 1, 10, tzinfo=UTC)
    assert webui.conversation.created == llama.conversation.created == datetime(2025, 3, 1, 10, tzinfo=UTC)


def test_branches_of_claudes_stay_apart() -> None:
    first, reply = CLAUDE["chat_messages"]
    root = "00000000-0000-4000-8000-000000000000"
    plain: dict[str, Any] = {"attachments": [], "files": [], "content": []}
    value = CLAUDE | {
        "chat_messages": [
            {**first, **plain, "parent_message_uuid": root},
            {**reply, **plain, "text": "One", "parent_message_uuid": "m1"},
            {**reply, **plain, "uuid": "m3", "text": "Two", "parent_message_uuid": "m1"},
        ],
        "current_leaf_message_uuid": "m2",
    }
    (tree,) = read(value)
    assert [(one.id, one.parent) for one in tree.messages] == [("m1", None), ("m2", "m1"), ("m3", "m1")]
    assert path_texts(tree) == [("user", "Hi"), ("assistant", "One")]


def places(value: Any, *way: Any) -> list[tuple[Any, ...]]:
    """The ways to all values in a value."""
    inner = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    return [way, *(path for key, one in inner for path in places(one, *way, key))]


ODD: tuple[Any, ...] = (None, 3, -1.5, True, "x", [], {}, [[]], [{}], {"x": []}, ["x"])


@pytest.mark.parametrize("name", KNOWN)
def test_no_wrong_value_is_a_surprise(name: str) -> None:
    value = KNOWN[name][0]
    for way in places(value)[1:]:
        for odd in ODD:
            changed = copy.deepcopy(value)
            at = changed
            for step in way[:-1]:
                at = at[step]
            at[way[-1]] = odd
            format = find(changed)
            if format is not None:
                skipped: list[str] = []
                with contextlib.suppress(TransferError):
                    tree = format.conversation(json.loads(json.dumps(changed)), NOW, skipped)
                    assert all(isinstance(one, str) for one in skipped)
                    assert len({one.id for one in tree.messages}) == len(tree.messages)
                    ids = {None, *(one.id for one in tree.messages)}
                    assert {tree.conversation.leaf, *(one.parent for one in tree.messages)} <= ids


# What ChatGPT's messages hold besides text


def reply(*nodes: dict[str, Any]) -> str:
    """What the assistant says in a conversation of these, each below the one before."""
    chained = [node("q", None, "user", "Go")]
    for one in nodes:
        one["parent"] = chained[-1]["id"]
        chained.append(one)
    (tree,) = read([conversation(*chained)])
    return "\n---\n".join(text for role, text in path_texts(tree) if role == "assistant")


def test_a_canvas_and_what_changes_in_it_are_kept() -> None:
    made = {"name": "plan", "type": "code/python", "content": "print(1)"}
    changed = {"updates": [{"pattern": ".*", "multiple": False, "replacement": "print(2)"}]}
    calls = [
        node(
            name,
            None,
            "assistant",
            content={"content_type": "code", "text": json.dumps(fields)},
            recipient=f"canmore.{name}",
        )
        for name, fields in (("create_textdoc", made), ("update_textdoc", changed))
    ]
    result = node("r", None, "tool", "Successfully created", author={"role": "tool", "name": "canmore.create_textdoc"})
    assert reply(calls[0], result, calls[1], node("end", None, "assistant", "Done.")) == (
        "[canvas: plan]\n\n```python\nprint(1)\n```\n\n[canvas]\n\nprint(2)\n\nDone."
    )
    letter = {"name": "letter", "type": "document", "content": "# Dear Ann"}
    call = node("c", None, "assistant", json.dumps(letter), recipient="canmore.create_textdoc")
    assert reply(call) == "[canvas: letter]\n\n# Dear Ann"


def test_code_that_ran_and_its_output_are_kept() -> None:
    code = node("c", None, "assistant", content={"content_type": "code", "text": "print('```')"}, recipient="python")
    output = {"content_type": "execution_output", "text": "```"}
    ran = node("r", None, "tool", content=output, author={"role": "tool", "name": "python"})
    assert reply(code, ran, node("e", None, "assistant", "So.")) == (
        "```python\nprint('```')\n```\n\n[tool result: python]\n\n````\n```\n````\n\nSo."
    )


def test_pictures_sounds_and_files_are_there_by_name() -> None:
    parts = [
        {"content_type": "image_asset_pointer", "asset_pointer": "file-service://file-1"},
        {"content_type": "audio_asset_pointer", "asset_pointer": "sediment://file_2"},
        "Look",
    ]
    files = [{"id": "file-1", "name": "cat.png"}, {"id": "file-3", "name": "report.pdf"}]
    asked = node(
        "q", None, "user", content={"content_type": "multimodal_text", "parts": parts}, metadata={"attachments": files}
    )
    drawn = {"content_type": "image_asset_pointer", "asset_pointer": "x", "metadata": {"dalle": {"prompt": "A cat"}}}
    tool = node(
        "d",
        "q",
        "tool",
        content={"content_type": "multimodal_text", "parts": [drawn]},
        author={"role": "tool", "name": "dalle"},
    )
    (tree,) = read([conversation(asked, tool)])
    assert path_texts(tree) == [
        ("user", "[file: report.pdf]\n\n[image: cat.png]\n\n[audio]\n\nLook"),
        ("assistant", "[image: A cat]"),
    ]


CITE = "\ue200cite\ue202turn0search1\ue202turn0search2\ue201"


@pytest.mark.parametrize(
    ("text", "metadata", "shown"),
    [
        (f"Rain. {CITE}", {}, "Rain. "),
        (f"Rain.{CITE}", {"content_references": [{"matched_text": CITE, "alt": "([News](https://n.example/1))"}]}, "Rain.([News](https://n.example/1))"),
        (
            f"Rain.{CITE}",
            {"content_references": [{"matched_text": CITE, "items": [{"title": "A [b]", "url": "https://a.example/x"}, {"url": "javascript:1"}]}]},
            "Rain. ([A b](https://a.example/x))",
        ),
        ("\ue200entity\ue202[\"company\",\"Acme\",\"a firm\"]\ue201 grew", {}, "Acme grew"),
        ("See \ue200url\ue202Docs\ue202https://d.example\ue201.", {}, "See [Docs](https://d.example)."),
        ("\ue203Quoted words\ue204 \ue200cite\ue202turn1", {}, "Quoted words "),
        ("Old【3†source】.", {"citations": [{"metadata": {"title": "T", "url": "https://t.example", "extra": {"cited_message_idx": 3}}}]}, "Old ([T](https://t.example))."),
        ("Old 【3:1†notes.pdf】.", {}, "Old."),
        ("Prices 【不变】 stay", {}, "Prices 【不变】 stay"),
        ("\ue200entity\ue202[broken\ue201x", {"content_references": "odd", "citations": [3]}, "x"),
    ],
)  # fmt: skip
def test_citations_become_links_or_go(text: str, metadata: dict[str, Any], shown: str) -> None:
    assert citations.resolve(text, metadata) == shown
    assert reply(node("a", None, "assistant", text, metadata=metadata)).strip() == shown.strip()


def test_the_export_of_chatgpt_is_known_again() -> None:
    first, later = (read([EXPORT | {"conversation_id": "7", "title": title}])[0] for title in ("Paris", "London"))
    assert first.conversation.id == later.conversation.id != read([EXPORT | {"id": "8"}])[0].conversation.id


@pytest.mark.parametrize(
    ("value", "year"),
    [
        ("2025-03-01T10:00:00Z", 2025),
        (1740823200, 2025),
        (1740823200000, 2025),
        ("1740823200", 2025),
        (1740823200 * 10**9, 2025),
    ],
)
def test_times_are_read_however_they_are_written(value: object, year: int) -> None:
    found = common.time(value)
    assert found is not None
    assert (found.year, found.month, found.day, found.hour) == (year, 3, 1, 10)


@pytest.mark.parametrize("value", [None, "", "soon", True, -1, float("nan"), float("inf"), [], {}, "9" * 30, 10**40])
def test_what_is_no_time_is_none(value: object) -> None:
    assert common.time(value) is None
