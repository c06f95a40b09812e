"""Writes conversations out: our own lossless JSON, Markdown for readers, messages for transformers. Knows no files.

All of them give the text piece by piece and hold one conversation at a time.
"""

import json
import re
from collections.abc import Iterable, Iterator

from markdown_it import MarkdownIt
from markdown_it.token import Token
from pydantic import TypeAdapter

from chatui.store.records import StoredMessage, Tree
from chatui.store.rows import path_to

FORMAT = "chatui"
VERSION = 1
TREE = TypeAdapter(Tree)
TOLD_BY_PARENTS = {"messages": {"__all__": {"versions"}}}
"""Written at each version, the list of all of them would grow with the square of their number."""
BLOCKS = MarkdownIt("commonmark").disable("inline")
# What may stay open at the top level; in lists and quotes it ends with them. Plain code blocks need no parser, which
# takes a hundred times as long.
OPENING = re.compile(r"(?:^|[\n\r]) {0,3}(?:```|~~~|<)")
PLAIN_CODE = re.compile(r"^```[^`\n]*\n(?:[^`]*\n)?```[ \t]*$", re.MULTILINE)
# The one HTML that is read to a certain end, and not to the next empty line.
HTML_ENDS = (("<!--", "-->"), ("<?", "?>"), ("<![CDATA[", "]]>"), ("<!", ">"))
RAW_HTML = re.compile(r"\s*<(script|pre|style|textarea)\b", re.IGNORECASE)


def as_json(trees: Iterable[Tree]) -> Iterator[str]:
    """Everything there is to know, for importing.read()."""
    yield f'{{"format": "{FORMAT}", "version": {VERSION}, "conversations": ['
    between = "\n"
    for tree in trees:
        yield between + TREE.dump_json(tree, exclude=TOLD_BY_PARENTS).decode()
        between = ",\n"
    yield "\n]}\n"


def as_messages(trees: Iterable[Tree]) -> Iterator[str]:
    """JSON with the messages that transformers takes: a list of them for one conversation, else a list of lists."""
    lists = (json.dumps(_messages(tree), ensure_ascii=False, indent=1) for tree in trees)
    first, second = next(lists, None), next(lists, None)
    if first is None:
        yield "[]\n"
    elif second is None:
        yield first + "\n"
    else:
        yield f"[\n{first},\n{second}"
        for further in lists:
            yield ",\n" + further
        yield "\n]\n"


def as_markdown(trees: Iterable[Tree]) -> Iterator[str]:
    """For readers: of each conversation the version that is shown. Texts are as they were written.

    A code block or a comment that a text leaves open is closed behind it, so that the next heading is one.
    """
    between = ""
    for tree in trees:
        conversation = tree.conversation
        date = f"{conversation.created.day} {conversation.created:%B %Y, %H:%M} UTC"
        persona = _escaped(conversation.persona.label.strip())
        yield f"{between}# {_escaped(conversation.title)}\n\n{date}{' · ' if persona else ''}{persona}\n"
        for message in path_to(tree.messages, conversation.leaf):
            yield _section(message)
        between = "\n---\n\n"


def _messages(tree: Tree) -> list[dict[str, str]]:
    """The path that is shown, without replies that say nothing, after the system prompt of its last reply.

    Imported replies know of none; the persona's stands in for it.
    """
    path = path_to(tree.messages, tree.conversation.leaf)
    prompts = [message.author.system_prompt for message in path if message.author is not None]
    prompt = prompts[-1] if prompts else tree.conversation.persona.system_prompt
    system = [{"role": "system", "content": prompt}] if prompt else []
    said = (message for message in path if message.content or message.role == "user")
    return system + [{"role": message.role, "content": message.content} for message in said]


def _section(message: StoredMessage) -> str:
    state = "" if message.state == "finished" else f" ({message.state})"
    thought = f"> **Thinking**\n>\n{_quoted(message.reasoning)}\n\n" if message.reasoning else ""
    return f"\n## {message.role.capitalize()}{state}\n\n{thought}{_closed(message.content)}\n"


def _closed(text: str) -> str:
    """Text, with what ends it behind a block that it leaves open."""
    if not OPENING.search(PLAIN_CODE.sub("", text)):
        return text
    open_block = _open_block(text)
    return text if open_block is None else f"{text}\n{_end_of(open_block)}"


def _open_block(text: str) -> Token | None:
    """The block that would swallow a heading behind the text."""
    tokens = BLOCKS.parse(f"{text}\n\n# Next\n")
    after = tokens[-1]
    return None if after.type == "heading_close" and after.level == 0 else after


def _end_of(block: Token) -> str:
    if block.type == "fence":
        return block.markup
    raw = RAW_HTML.match(block.content)
    if raw is not None:
        return f"</{raw[1]}>"
    return next((end for start, end in HTML_ENDS if block.content.lstrip().startswith(start)), "")


def _quoted(text: str) -> str:
    return "\n".join(f"> {line}".rstrip() for line in re.split("\r\n|\r|\n", text))


def _escaped(text: str) -> str:
    """Words that Markdown shows as they are, on one line."""
    return re.sub(r"([\\`*_\[\]<>&#])", r"\\\1", " ".join(text.split()))
