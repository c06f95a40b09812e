"""The list of conversations as markup: by day, with a menu for each, and what a search has found. Knows no store."""

import html
from collections.abc import Sequence
from datetime import date, datetime
from urllib.parse import quote

from chatui.store.records import Conversation, Hit
from chatui.ui.place import Place
from chatui.ui.transcript import plain

CHAT = "CHAT"
"""What chatui.js replaces in the links of a menu."""

ACTS = (
    ("rename", "Rename"),
    ("pin", "Pin"),
    ("unpin", "Unpin"),
    ("archive", "Archive"),
    ("unarchive", "Back from the archive"),
    ("delete", "Delete"),
)
EXPORTS = (("md", "Export as Markdown"), ("json", "Export as JSON"), ("messages", "Export as messages"))


def listing(
    conversations: Sequence[Conversation],
    place: Place,
    now: datetime,
    more: bool,
) -> str:
    """The conversations under the day of their last message; pinned ones first. `now` is by the browser's clock."""
    parts = [_removed(place)]
    if place.archived:
        parts.append('<p class="chat-list-top">Archive · <a class="act" href="#unarchived">Back to the chats</a></p>')
    group = ""
    for conversation in conversations:
        heading = "Pinned" if conversation.pinned else day_of(conversation.updated, now)
        if heading != group:
            group = heading
            parts.append(f"<h4>{html.escape(heading)}</h4>")
        parts.append(_row(conversation, place))
    if not conversations:
        nothing = "The archive is empty." if place.archived else "Your chats will be listed here."
        parts.append(f'<p class="hint">{nothing}</p>')
    if more:
        parts.append('<p class="chat-list-more"><a class="act" href="#more">Show more</a></p>')
    return _list(parts, place)


def found(hits: Sequence[Hit], place: Place) -> str:
    """What a search has found."""
    if not hits:
        return _list(['<p class="hint">Nothing was found.</p>'], place)
    return _list(["<h4>Found</h4>", *(_hit(hit, place) for hit in hits)], place)


def day_of(moment: datetime, now: datetime) -> str:
    """The heading for a moment, by the calendar that `now` belongs to."""
    day, today = moment.astimezone(now.tzinfo).date(), now.date()
    days = (today - day).days
    if days <= 0:
        return "Today"
    if days == 1:
        return "Yesterday"
    if days < 7:
        return "Last 7 days"
    if days < 30:
        return "Last 30 days"
    return _month(day, today)


def _month(day: date, today: date) -> str:
    return day.strftime("%B") if day.year == today.year else day.strftime("%B %Y")


def _list(parts: Sequence[str], place: Place) -> str:
    """With what chatui.js reads to know where the tab stands, and the menu that it gives to a row that asks for it."""
    kind = "temporary" if place.temporary else "kept"
    stands = f'<a class="place {kind}" href="?chat={quote(place.chat)}"></a>'
    return f'<div class="chat-list">{stands}{"".join(parts)}{_MENU}</div>'


def _row(conversation: Conversation, place: Place) -> str:
    states = (
        ("current", conversation.id == place.chat),
        ("pinned", conversation.pinned),
        ("archived", conversation.archived),
    )
    kinds = "".join(f" {name}" for name, is_so in states if is_so)
    title = conversation.title or "Untitled"
    link = f'<a class="chat-link" href="?chat={quote(conversation.id)}">{plain(title)}</a>'
    name = html.escape(f"Menu of {title}", quote=True).replace("$", "")
    menu = f'<details class="chat-menu"><summary class="named" title="{name}">⋯</summary></details>'
    return f'<div class="chat-row{kinds}">{link}{menu}</div>'


def _hit(hit: Hit, place: Place) -> str:
    quoted = f"{plain(hit.before)}<mark>{plain(hit.match)}</mark>{plain(hit.after)}" if hit.match else ""
    quote_line = f'<p class="chat-quote">{quoted}</p>' if quoted else ""
    return _row(hit.conversation, place) + quote_line


def _menu() -> str:
    """What can be done with the conversation CHAT; a row shows what makes sense for it."""
    acts = "".join(f'<a class="act {do}" href="#{do}={CHAT}">{label}</a>' for do, label in ACTS)
    exports = "".join(
        f'<a class="download" href="chats/export?chat={CHAT}&amp;format={form}">{label}</a>' for form, label in EXPORTS
    )
    return f'<div class="chat-menu-box spare">{acts}{exports}</div>'


_MENU = _menu()


def _removed(place: Place) -> str:
    if not place.removed:
        return ""
    return f'<p class="chat-list-top">Deleted. <a class="act" href="#restore={quote(place.removed)}">Undo</a></p>'
