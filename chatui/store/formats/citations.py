"""Replaces ChatGPT's citation marks: by links if the export has their addresses, else by nothing."""

import re
from collections.abc import Mapping
from typing import Any

from chatui import shallow_json
from chatui.store.formats.common import as_list, as_object, as_text

# U+E200 starts a mark, U+E202 separates its parts, U+E201 ends it; U+E203 and U+E204 enclose cited words.
MARK = re.compile("\ue200([^\ue200\ue201]*)\ue201?")
STRAY = re.compile("[\ue200-\ue206]")
OLDER = re.compile(r" ?【(\d+)[^【】]{0,80}?†[^【】]{0,200}】")
WEB = re.compile(r"https?://[^\s()<>]+")


def resolve(text: str, metadata: Mapping[str, Any]) -> str:
    """The text with links instead of its marks, or without them."""
    if "\ue200" not in text and "【" not in text and not STRAY.search(text):
        return text
    for reference in map(as_object, as_list(metadata.get("content_references"))):
        mark = as_text(reference.get("matched_text"))
        if mark.strip() and ("\ue200" in mark or "【" in mark):
            text = text.replace(mark, _alternative(reference))
    links = _older_links(metadata)
    text = OLDER.sub(lambda match: links.get(int(match[1]), ""), text)
    return STRAY.sub("", MARK.sub(_plain, text))


def _alternative(reference: Mapping[str, Any]) -> str:
    """The replacement of a mark that the export gives, else its links."""
    alternative = as_text(reference.get("alt"))
    if alternative.strip():
        return STRAY.sub("", alternative)
    listed = [reference, *map(as_object, as_list(reference.get("items")))]
    links = dict.fromkeys(filter(None, (_link(one.get("title"), one.get("url")) for one in listed)))
    return f" ({', '.join(links)})" if links else ""


def _link(title: object, url: object) -> str:
    address = as_text(url)
    if not WEB.fullmatch(address):
        return ""
    label = re.sub(r"[\[\]\s]+", " ", as_text(title)).strip()
    return f"[{label or address.split('/')[2]}]({address})"


def _older_links(metadata: Mapping[str, Any]) -> dict[int, str]:
    """Links for the marks of 2023 and 2024, by their number."""
    links = {}
    for citation in map(as_object, as_list(metadata.get("citations"))):
        known = as_object(citation.get("metadata"))
        number = as_object(known.get("extra")).get("cited_message_idx")
        link = _link(known.get("title"), known.get("url"))
        if isinstance(number, int) and link:
            links[number] = f" ({link})"
    return links


def _plain(match: re.Match[str]) -> str:
    """The text of a mark without a reference: the name of an entity, or a link."""
    kind, *rest = match[1].split("\ue202")
    if kind == "url" and len(rest) > 1:
        return _link(rest[0], rest[1]) or rest[0]
    if kind == "entity" and rest:
        try:
            listed = as_list(shallow_json.loads(rest[0]))
        except ValueError:
            return ""
        return as_text(listed[1]) if len(listed) > 1 else ""
    return ""
