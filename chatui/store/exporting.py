"""Exports conversations: as lossless JSON, as Markdown for readers, or as messages for transformers. Knows no files.

Each function yields the text in pieces and holds one conversation in memory at a time.
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
EXCLUDED = {"messages": {"__all__": {"versions"}}}
"""The parents tell the versions. Written at each version, their list would grow with the square of their number."""
BLOCK_PARSER = MarkdownIt("commonmark").disable("inline")
# What may be left open at the top level; lists and quotes close it. Complete code blocks are found without the parser,
# which takes a hundred times as long.
OPENING = re.compile(r"(?:^|[\n\r]) {0,3}(?:```|~~~|<)")
COMPLETE_CODE_BLOCK = re.compile(r"^```[^`\n]*\n(?:[^`]*\n)?```[ \t]*$", re.MULTILINE)
# HTML blocks that end with a certain string, and not at the next empty line.
HTML_ENDS = (("<!--", "-->"), ("<?", "?>"), ("<![CDATA[", "]]>"), ("<!", ">"))
RAW_HTML = re.compile(r"\s*<(script|pre|style|textarea)\b", re.IGNORECASE)


def as_json(trees: Iterable[Tree]) -> Iterator[str]:
    """Lossless JSON, for importing.read()."""
    yield f'{{"format": "{FORMAT}", "version": {VERSION}, "conversations": ['
    separator = "\n"
    for tree in trees:
        yield separator + TREE.dump_json(tree, exclude=EXCLUDED).decode()
        separator = ",\n"
    yield "\n]}\n"


def as_messages(trees: Iterable[Tree]) -> Iterator[str]:
    """JSON with the messages for transformers: a list of messages for one conversation, else a list of such lists."""
    lists = (json.dumps(_messages(tree), ensure_ascii=False, indent=1) for tree in trees)
    first, second = next(lists, None), next(lists, None)
    if first is None:
        yield "[]\n"
    elif second is None:
        yield first + "\n"
    else:
        yield f"[\n{first},\n{second}"
        for other in lists:
            yield ",\n" + other
        yield "\n]\n"


def as_markdown(trees: Iterable[Tree]) -> Iterator[str]:
    """Markdown with the path of each conversation that is shown. Texts are not escaped.

    A code block or comment that a text leaves open is closed after it, so that it does not contain the next heading.
    """
    separator = ""
    for tree in trees:
        conversation = tree.conversation
        date = f"{conversation.created.day} {conversation.created:%B %Y, %H:%M} UTC"
        persona = _escaped(conversation.persona.label.strip())
        yield f"{separator}# {_escaped(conversation.title)}\n\n{date}{' · ' if persona else ''}{persona}\n"
        for message in path_to(tree.messages, conversation.leaf):
            yield _section(message)
        separator = "\n---\n\n"


def _messages(tree: Tree) -> list[dict[str, str]]:
    """The path that is shown, without empty replies, after the system prompt of its last reply.

    Imported replies have no system prompt; the persona's is used then.
    """
    path = path_to(tree.messages, tree.conversation.leaf)
    prompts = [message.author.system_prompt for message in path if message.author is not None]
    prompt = prompts[-1] if prompts else tree.conversation.persona.system_prompt
    system = [{"role": "system", "content": prompt}] if prompt else []
    return system + [
        {"role": message.role, "content": message.content}
        for message in path
        if message.content or message.role == "user"
    ]


def _section(message: StoredMessage) -> str:
    state = "" if message.state == "finished" else f" ({message.state})"
    reasoning = f"> **Thinking**\n>\n{_quoted(message.reasoning)}\n\n" if message.reasoning else ""
    return f"\n## {message.role.capitalize()}{state}\n\n{reasoning}{_closed(message.content)}\n"


def _closed(text: str) -> str:
    """The text, followed by the end of the block that it leaves open."""
    if not OPENING.search(COMPLETE_CODE_BLOCK.sub("", text)):
        return text
    open_block = _open_block(text)
    return text if open_block is None else f"{text}\n{_block_end(open_block)}"


def _open_block(text: str) -> Token | None:
    """The block that would contain a heading after the text, or None."""
    tokens = BLOCK_PARSER.parse(f"{text}\n\n# Next\n")
    last = tokens[-1]
    return None if last.type == "heading_close" and last.level == 0 else last


def _block_end(block: Token) -> str:
    """The string that closes a block."""
    if block.type == "fence":
        return block.markup
    raw = RAW_HTML.match(block.content)
    if raw is not None:
        return f"</{raw[1]}>"
    return next((end for start, end in HTML_ENDS if block.content.lstrip().startswith(start)), "")


def _quoted(text: str) -> str:
    return "\n".join(f"> {line}".rstrip() for line in re.split("\r\n|\r|\n", text))


def _escaped(text: str) -> str:
    """The text on one line, with Markdown's special characters escaped."""
    return re.sub(r"([\\`*_\[\]<>&#])", r"\\\1", " ".join(text.split()))
