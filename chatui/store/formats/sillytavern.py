"""Chats as SillyTavern keeps them: JSON Lines, of which the first describes the chat; replies with their swipes."""

import re
from datetime import UTC, datetime
from typing import Any

from chatui.store import import_limits
from chatui.store.formats import common
from chatui.store.formats.common import Skipped, as_list, as_object, words
from chatui.store.import_limits import Draft, Origin
from chatui.store.records import Tree

HEADER = ("chat_metadata", "character_name", "user_name")
OLD_DATE = re.compile(r"(\d{4})-(\d{1,2})-(\d{1,2}) ?@ ?(\d{1,2})h ?(\d{1,2})m ?(\d{1,2})s(?: ?(\d{1,3})ms)?")
WRITTEN_DATE = "%B %d, %Y %I:%M%p"


def matches(value: Any) -> bool:
    """Whether these lines are one of them."""
    lines = [value] if isinstance(value, dict) else as_list(value)
    first, second = (as_object(lines[place]) if place < len(lines) else {} for place in (0, 1))
    header = any(name in first for name in HEADER) and "role" not in first
    return "mes" in first or (header and ("mes" in second or len(lines) == 1))


def conversation(value: Any, now: datetime, skipped: Skipped) -> Tree:
    """A chat; the swipes of a message stand beside each other."""
    lines = [value] if isinstance(value, dict) else value
    header = as_object(lines[0]) if "mes" not in as_object(lines[0]) else {}
    said = lines[1:] if header else lines
    import_limits.check_count(sum(1 + len(as_list(as_object(line).get("swipes"))) for line in said))
    names = {words(as_object(line).get("name")) for line in said if not as_object(line).get("is_user")}
    drafts: list[Draft] = []
    parent: str | None = None
    for number, line in enumerate(said, 1):
        if not isinstance(line, dict) or not isinstance(line.get("mes"), str):
            skipped.append(f"line {number} has no message")
            continue
        versions, chosen = _versions(str(number), line, len(names) > 1)
        for draft in versions:
            draft.parent = parent
        drafts += versions
        parent = versions[chosen].id
    name = words(header.get("character_name")) or next((name for name in names if name), "")
    created = common.moment(_date(header.get("create_date")), *(draft.created for draft in drafts[:1]), now)
    chat = as_object(header.get("chat_metadata"))
    known = words(chat.get("integrity")) or words(header.get("create_date"))
    origin = Origin(created, f"{name}" if name != "unused" else "", persona=name, source="sillytavern", id=known)
    return import_limits.tree(origin, drafts, parent)


def _versions(id: str, line: dict[str, Any], group: bool) -> tuple[list[Draft], int]:
    """A message and its swipes in their order, and which of them is shown."""
    extra = as_object(line.get("extra"))
    thought = words(extra.get("reasoning"))
    files = (
        [common.named("image", words(extra.get("title")) or words(extra.get("image")))] if extra.get("image") else []
    )
    file = as_object(extra.get("file"))
    files += [common.attached(file)] if file else []
    prefix = f"{words(line.get('name'))}: " if group and line.get("is_user") is not True else ""
    texts, chosen = [line["mes"]], 0
    swipes, place = as_list(line.get("swipes")), line.get("swipe_id")
    if swipes and isinstance(place, int) and 0 <= place < len(swipes):
        texts = [swipe if isinstance(swipe, str) else "" for swipe in swipes]
        texts[place], chosen = line["mes"], place
    role: Any = "user" if line.get("is_user") is True else "assistant"
    drafts = [
        Draft(
            id if number == chosen else f"{id}.{number}",
            None,
            role,
            [*files, prefix + text],
            [thought] if thought and number == chosen else [],
            _date(line.get("send_date")),
        )
        for number, text in enumerate(texts)
    ]
    return drafts, chosen


def _date(value: object) -> datetime | None:
    """A time in one of the ways in which SillyTavern has written them over the years."""
    found = OLD_DATE.fullmatch(words(value).strip())
    try:
        if found:
            year, month, day, hour, minute, second = map(int, found.groups()[:6])
            return datetime(year, month, day, hour, minute, second, int(found[7] or 0) * 1000, UTC)
        if words(value)[:1].isalpha():
            return datetime.strptime(words(value).strip(), WRITTEN_DATE).replace(tzinfo=UTC)
    except ValueError:
        return None
    return common.time(value)
