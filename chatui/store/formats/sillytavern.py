"""Reads chats of SillyTavern: JSON Lines with a header, and replies with their swipes."""

import re
from datetime import UTC, datetime
from typing import Any

from chatui.store import import_limits
from chatui.store.formats import common
from chatui.store.formats.common import Skipped, as_list, as_object, as_text
from chatui.store.import_limits import Draft, Origin
from chatui.store.records import Tree

HEADER = ("chat_metadata", "character_name", "user_name")
OLD_DATE = re.compile(r"(\d{4})-(\d{1,2})-(\d{1,2}) ?@ ?(\d{1,2})h ?(\d{1,2})m ?(\d{1,2})s(?: ?(\d{1,3})ms)?")
DATE_FORMAT = "%B %d, %Y %I:%M%p"


def matches(value: Any) -> bool:
    """Whether these lines are a chat of SillyTavern."""
    lines = [value] if isinstance(value, dict) else as_list(value)
    first, second = (as_object(lines[index]) if index < len(lines) else {} for index in (0, 1))
    header = any(name in first for name in HEADER) and "role" not in first
    return "mes" in first or (header and ("mes" in second or len(lines) == 1))


def conversation(value: Any, now: datetime, skipped: Skipped) -> Tree:
    """Read a chat; the swipes of a message become siblings."""
    lines = [value] if isinstance(value, dict) else value
    header = as_object(lines[0]) if "mes" not in as_object(lines[0]) else {}
    message_lines = lines[1:] if header else lines
    import_limits.check_count(sum(1 + len(as_list(as_object(line).get("swipes"))) for line in message_lines))
    names = {as_text(as_object(line).get("name")) for line in message_lines if not as_object(line).get("is_user")}
    drafts: list[Draft] = []
    parent: str | None = None
    for number, line in enumerate(message_lines, 1):
        if not isinstance(line, dict) or not isinstance(line.get("mes"), str):
            skipped.append(f"line {number} has no message")
            continue
        versions, chosen = _versions(str(number), line, len(names) > 1)
        for draft in versions:
            draft.parent = parent
        drafts += versions
        parent = versions[chosen].id
    name = as_text(header.get("character_name")) or next((name for name in names if name), "")
    created = common.first_time(_date(header.get("create_date")), *(draft.created for draft in drafts[:1]), now)
    chat = as_object(header.get("chat_metadata"))
    id = as_text(chat.get("integrity")) or as_text(header.get("create_date"))
    origin = Origin(created, f"{name}" if name != "unused" else "", persona=name, source="sillytavern", id=id)
    return import_limits.make_tree(origin, drafts, parent)


def _versions(id: str, line: dict[str, Any], group: bool) -> tuple[list[Draft], int]:
    """The swipes of a message in their order, and the index of the shown one."""
    extra = as_object(line.get("extra"))
    reasoning = as_text(extra.get("reasoning"))
    image = as_text(extra.get("title")) or as_text(extra.get("image"))
    files = [common.placeholder("image", image)] if extra.get("image") else []
    file = as_object(extra.get("file"))
    files += [common.attachment(file)] if file else []
    prefix = f"{as_text(line.get('name'))}: " if group and line.get("is_user") is not True else ""
    texts, chosen = [line["mes"]], 0
    swipes, index = as_list(line.get("swipes")), line.get("swipe_id")
    if swipes and isinstance(index, int) and 0 <= index < len(swipes):
        texts = [swipe if isinstance(swipe, str) else "" for swipe in swipes]
        texts[index], chosen = line["mes"], index
    role: Any = "user" if line.get("is_user") is True else "assistant"
    drafts = [
        Draft(
            id if number == chosen else f"{id}.{number}",
            None,
            role,
            [*files, prefix + text],
            [reasoning] if reasoning and number == chosen else [],
            _date(line.get("send_date")),
        )
        for number, text in enumerate(texts)
    ]
    return drafts, chosen


def _date(value: object) -> datetime | None:
    """A time in one of the notations of SillyTavern's versions."""
    match = OLD_DATE.fullmatch(as_text(value).strip())
    try:
        if match:
            year, month, day, hour, minute, second = map(int, match.groups()[:6])
            return datetime(year, month, day, hour, minute, second, int(match[7] or 0) * 1000, UTC)
        if as_text(value)[:1].isalpha():
            return datetime.strptime(as_text(value).strip(), DATE_FORMAT).replace(tzinfo=UTC)
    except ValueError:
        return None
    return common.time(value)
