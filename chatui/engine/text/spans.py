"""Where each token of a prompt came from: tags around what the messages say show where a template puts it.

Knows no template: `write` turns messages into a text, in which control tokens that a person typed are marked as
transformers marks them.
"""

import re
from array import array
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import accumulate, groupby, pairwise, zip_longest
from typing import get_args

from transformers import BatchEncoding, PreTrainedTokenizerBase
from transformers.utils.chat_template_utils import (
    _CONTROL_TOKEN_END,
    _CONTROL_TOKEN_START,
    _get_control_token_patterns,
)

from chatui.chat import Message, Source, Span
from chatui.engine.text.detokenizer import Detokenizer
from chatui.reply_text.thinking_tags import HARMONY, TAGS

RenderTemplate = Callable[[list[Message]], str]

SOURCES: tuple[Source, ...] = get_args(Source)
TEMPLATE: Source = "template"
SOURCE_OF_ROLE: dict[str, Source] = {"system": "persona", "user": "user", "assistant": "reply"}
PRIVATE_USE = range(0xE000, 0xF900)
AFTER_THOUGHT = re.compile(
    rf"(?:{'|'.join(re.escape(tags.close) + '(?:' + re.escape(tags.answer[0]) + ')?' for tags in (HARMONY, *TAGS))})\s*"
)
# How much of a text a decoder may leave out between two tokens.
SLACK = 16


@dataclass(frozen=True)
class Region:
    """A part of a text that came from one source."""

    source: Source
    start: int
    end: int


def shown(marked: str) -> str:
    """The text without the marks at control tokens that a person typed."""
    return marked.replace(_CONTROL_TOKEN_START, "").replace(_CONTROL_TOKEN_END, "")


def regions(text: str, messages: Sequence[Message], write: RenderTemplate) -> list[Region]:
    """Where in the text that `write` makes of the messages each of them went.

    By tags around their contents; where the template does not take those, the contents are searched for.
    """
    messages = [replace(message, content=shown(message.content)) for message in messages]
    typed = "".join(message.content for message in messages)
    tag = next((chr(code) for code in PRIVATE_USE if chr(code) not in typed), "")
    for trimmed in (False, True) if tag else ():
        try:
            tagged = write(_tagged(messages, tag, trimmed))
        except Exception:  # noqa: S112 - a template is a program and may fail in any way
            continue
        without, found = _untagged(shown(tagged), tag, _sources(messages))
        if without == text:
            return found
    return _searched(text, messages)


def begins(text: str, closed: str, found: Sequence[Region]) -> Region:
    """What makes the model begin its reply: all that `closed`, the text without it, has not, behind the messages."""
    same = len(closed)
    if not text.startswith(closed):
        same = next(index for index, pair in enumerate(zip_longest(text, closed)) if pair[0] != pair[1])
    return Region("start", max([same, *(region.end for region in found)]) or len(text), len(text))


def attribute(text: str, ends: Sequence[int], found: Sequence[Region]) -> tuple[Span, ...]:
    """The tokens by source, all of them.

    A token belongs to what it has letters of, even where the template adds to them; one of nothing but whitespace to
    what it begins in; and one without characters to the token before it.
    """
    letters, all_of_it = bytearray(len(text)), bytearray(len(text))
    for region in found:
        code = bytes([SOURCES.index(region.source)])
        part = text[region.start : region.end]
        first, length = region.start + len(part) - len(part.lstrip()), len(part.strip())
        all_of_it[region.start : region.end] = code * len(part)
        letters[first : first + length] = code * length
    sources = []
    source = TEMPLATE
    for start, end in pairwise((0, *ends)):
        if start < end:
            source = SOURCES[(letters[start:end].lstrip(b"\0") or all_of_it[start:end])[0]]
        sources.append(source)
    return tuple(Span(source, len(list(tokens))) for source, tokens in groupby(sources))


@dataclass(frozen=True)
class Encoded:
    """The token ids of a text, and the offsets in it at which they end; no `stops` if the tokenizer has none."""

    ids: Sequence[int]
    stops: Sequence[int]


class SectionCache:
    """Sections of a text that has been encoded: one that has them again costs only what is new in it.

    It holds text of conversations, so it keeps only the sections of the text that it was last asked for.
    """

    def __init__(self) -> None:
        self._sections: dict[str, Encoded] = {}
        self._used: dict[str, Encoded] = {}

    def encoded(self, tokenizer: PreTrainedTokenizerBase, text: str) -> Encoded:
        """The tokens of a text without marks."""
        sections = list(_sections(tokenizer, text))
        new = [section for section in dict.fromkeys(sections) if section not in self._sections]
        self._sections |= zip(new, _encoded_each(tokenizer, new), strict=True)
        self._used |= {section: self._sections[section] for section in sections}
        ids: list[int] = []
        stops: list[int] = []
        position = 0
        for section in sections:
            found = self._sections[section]
            ids += found.ids
            stops += [position + stop for stop in found.stops]
            position += len(section)
        return Encoded(ids, stops)

    def forget_the_rest(self) -> None:
        """Let go of all that was not asked for since this was called before."""
        self._sections, self._used = self._used, {}


def encode(tokenizer: PreTrainedTokenizerBase, text: str, known: SectionCache | None = None) -> Encoded:
    """The tokens of the text; control tokens that a person typed are encoded as the text they are."""
    if shown(text) != text:
        return _to_encoded(tokenizer(text, add_special_tokens=False, sanitize_control_tokens=True))
    # Text without marks is encoded with offsets; the ids are the same.
    if known is not None and tokenizer.is_fast:
        return known.encoded(tokenizer, text)
    return _to_encoded(tokenizer(text, add_special_tokens=False))


def ends(tokenizer: PreTrainedTokenizerBase, marked: str, encoded: Encoded) -> tuple[int, ...]:
    """The offsets in `shown(marked)`, which became `encoded`, at which the characters of each token end.

    From the tokenizer's offsets; where it has none, by finding the decoded tokens in the text.
    """
    text, ids, found = shown(marked), list(encoded.ids), list(encoded.stops)
    if not found:
        made, found = _encoded_in_parts(tokenizer, marked) if tokenizer.is_fast else ([], [])
        if made != ids:
            found = _ends_by_decoding(tokenizer, text, ids)
    return (*accumulate(found[:-1], max), len(text)) if found else ()


def _sources(messages: Sequence[Message]) -> list[Source]:
    """Of the content of each message; the user's last one is to be answered."""
    asked = max(index for index, message in enumerate(messages) if message.role == "user")
    return ["message" if index == asked else SOURCE_OF_ROLE[message.role] for index, message in enumerate(messages)]


def _tagged(messages: Sequence[Message], tag: str, trimmed: bool) -> list[Message]:
    """The messages with tags around what they say, inside the whitespace at its ends where templates may trim it.

    Behind a thought it begins anew: templates leave out what comes before.
    """
    tagged = []
    for index, message in enumerate(messages):
        content = message.content.strip() if trimmed else message.content
        if message.content.strip():
            before, _, after = message.content.partition(content)
            opening, closing = f"{tag}+{index}{tag}", f"{tag}-{index}{tag}"
            content = AFTER_THOUGHT.sub(rf"\g<0>{opening}", content)
            message = replace(message, content=f"{before}{opening}{content}{closing}{after}")
        tagged.append(message)
    return tagged


def _untagged(tagged: str, tag: str, sources: Sequence[Source]) -> tuple[str, list[Region]]:
    """The text without tags, and what was between two that belong together."""
    parts, found = [], []
    opened: dict[int, int] = {}
    position = 0
    for number, part in enumerate(re.split(rf"{tag}([+-]\d+){tag}", tagged)):
        index = int(part[1:]) if number % 2 else 0
        if number % 2 == 0:
            parts.append(part)
            position += len(part)
        elif part[0] == "+":
            opened.setdefault(index, position)
        elif index in opened:
            found.append(Region(sources[index], opened.pop(index), position))
    return "".join(parts), found


def _searched(text: str, messages: Sequence[Message]) -> list[Region]:
    """The contents that are found in the text, one behind the other."""
    found = []
    position = 0
    for message, source in zip(messages, _sources(messages), strict=True):
        content = message.content.strip()
        start = text.find(content, position) if content else -1
        if start >= 0:
            position = start + len(content)
            found.append(Region(source, start, position))
    return found


def _sections(tokenizer: PreTrainedTokenizerBase, text: str) -> Iterator[str]:
    """The text, cut before each token that stands for itself wherever it is: what is between two is encoded alone."""
    alone = [
        token.content
        for token in tokenizer.added_tokens_decoder.values()
        if token.content and not (token.lstrip or token.rstrip or token.single_word or token.normalized)
    ]
    found = re.finditer("|".join(map(re.escape, sorted(alone, key=len, reverse=True))), text) if alone else ()
    cuts = sorted({0, *(match.start() for match in found), len(text)})
    return (text[start:end] for start, end in pairwise(cuts))


def _encoded_each(tokenizer: PreTrainedTokenizerBase, texts: list[str]) -> list[Encoded]:
    if not texts:
        return []
    encodings = tokenizer(texts, add_special_tokens=False).encodings or []
    return [
        Encoded(array("I", encoding.ids), array("I", [stop for _, stop in encoding.offsets])) for encoding in encodings
    ]


def _to_encoded(encoded: BatchEncoding) -> Encoded:
    return Encoded(encoded["input_ids"], _stops(encoded))


def _stops(encoded: BatchEncoding) -> list[int]:
    return [stop for encoding in encoded.encodings or [] for _, stop in encoding.offsets]


def _encoded_in_parts(tokenizer: PreTrainedTokenizerBase, marked: str) -> tuple[list[int], list[int]]:
    """Ids and ends of marked text, encoded just as transformers does, which keeps no ends."""
    _, marks = _get_control_token_patterns(tuple(tokenizer.added_tokens_encoder))
    newline, _ = _encoded_part(tokenizer, "\n", False)
    ids: list[int] = []
    found: list[int] = []
    position = 0
    for number, part in enumerate(marks.split(marked)):
        if not part:
            continue
        typed = number % 2 == 1
        more, stops = _encoded_part(tokenizer, "\n" + part if number else part, typed)
        if number and more[: len(newline)] == newline:
            more, stops = more[len(newline) :], [stop - 1 for stop in stops[len(newline) :]]
        elif number:
            more, stops = _encoded_part(tokenizer, part, typed)
        ids += more
        found += [position + stop for stop in stops]
        position += len(part)
    return ids, found


def _encoded_part(tokenizer: PreTrainedTokenizerBase, text: str, typed: bool) -> tuple[list[int], list[int]]:
    """Ids and ends; of a control token that was `typed` as the text it is."""
    if typed:
        typed_ids = tokenizer._encode_without_added_tokens(text)
        return typed_ids, _ends_by_decoding(tokenizer, text, typed_ids)
    encoded = tokenizer(text, add_special_tokens=False)
    ids: list[int] = encoded["input_ids"]
    return ids, _stops(encoded)


def _ends_by_decoding(tokenizer: PreTrainedTokenizerBase, text: str, ids: Sequence[int]) -> list[int]:
    """Where each token ends, by finding what is decoded in the text, which a tokenizer may have changed."""

    def decode(some: list[int]) -> str:
        return str(tokenizer.decode(some, skip_special_tokens=False, clean_up_tokenization_spaces=False))

    decoder = Detokenizer(decode)
    found: list[int] = []
    position = missed = 0
    for count, token_id in enumerate(ids, 1):
        piece = decoder.push(token_id)
        if not piece:
            continue
        start = text.find(piece, position, position + missed + len(piece) + SLACK)
        skipped = start > position
        if start >= 0:
            position, missed = start + len(piece), 0
        else:
            missed += len(piece)
        # Tokens that decoded to nothing have what was skipped, or else began this very piece.
        found += [start if skipped else position] * (count - 1 - len(found)) + [position]
    return found + [len(text)] * (len(ids) - len(found))
