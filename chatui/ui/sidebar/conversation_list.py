"""The list of conversations as markup: by day, with a menu for each, and what a search has found. Knows no store."""

import html
from collections.abc import Sequence
from datetime import date, datetime
from urllib.parse import quote

from chatui import i18n
from chatui.i18n import N_, _, ngettext
from chatui.store.records import ConversationInfo, SearchHit
from chatui.ui.markdown.markdown_escape import plain
from chatui.ui.shared.tab_state import TabState

CHAT = "CHAT"
"""What chatui.js replaces in the links of a menu."""

ACTS = (
    ("rename", N_("Rename")),
    ("pin", N_("Pin")),
    ("unpin", N_("Unpin")),
    ("archive", N_("Move to the archive")),
    ("unarchive", N_("Unarchive")),
    ("delete", N_("Delete")),
)
EXPORTS = (
    ("md", N_("Export as Markdown")),
    ("json", N_("Export as JSON")),
    ("messages", N_("Export as messages")),
)
KEPT = N_("A deleted chat is kept for a day, then it is gone for good.")


def listing(
    conversations: Sequence[ConversationInfo],
    place: TabState,
    now: datetime,
    more: bool,
    offered: int = 0,
) -> str:
    """The conversations under the day of their last message; pinned ones first. `now` is by the browser's clock.

    Above them so many are `offered` that were made before there was a login.
    """
    parts = [_offer(offered), _removed(place)]
    if place.show_archived:
        parts.append(f'<p class="chat-list-top">{_("Archive")} · {_back()}</p>')
    group = ""
    for conversation in conversations:
        heading = _("Pinned") if conversation.pinned else day_of(conversation.updated, now)
        if heading != group:
            group = heading
            parts.append(f"<h4>{html.escape(heading)}</h4>")
        parts.append(_row(conversation, place))
    if not conversations:
        nothing = _("The archive is empty.") if place.show_archived else _("Your chats will be listed here.")
        parts.append(f'<p class="hint">{nothing}</p>')
    if more:
        parts.append(_more())
    return _list(parts, place)


def deleted(conversations: Sequence[ConversationInfo], place: TabState, more: bool) -> str:
    """What was deleted and can still be had back."""
    parts = [f'<p class="chat-list-top">{_("Recently deleted")} · {_back()}</p>', f'<p class="hint">{_(KEPT)}</p>']
    if conversations:
        parts.append(_empties())
    parts += [_deleted_row(conversation) for conversation in conversations]
    if not conversations:
        parts.append(f'<p class="hint">{_("Nothing was deleted lately.")}</p>')
    if more:
        parts.append(_more())
    return _list(parts, place)


def found(hits: Sequence[SearchHit], place: TabState) -> str:
    """What a search has found."""
    if not hits:
        return _list([f'<p class="hint">{_("Nothing was found.")}</p>'], place)
    return _list([f"<h4>{_('Found')}</h4>", *(_hit(hit, place) for hit in hits)], place)


def day_of(moment: datetime, now: datetime) -> str:
    """The heading for a moment, by the calendar that `now` belongs to."""
    day, today = moment.astimezone(now.tzinfo).date(), now.date()
    days = (today - day).days
    if days <= 0:
        return _("Today")
    if days == 1:
        return _("Yesterday")
    if days < 7:
        return _("Last 7 days")
    if days < 30:
        return _("Last 30 days")
    return _month(day, today)


def _month(day: date, today: date) -> str:
    return i18n.month(day) if day.year == today.year else i18n.month(day, year=True)


def _list(parts: Sequence[str], place: TabState) -> str:
    """With what chatui.js reads to know where the tab stands, and the menu that it gives to a row that asks for it."""
    kind = "temporary" if place.temporary else "kept"
    stands = f'<a class="place {kind}" href="?chat={quote(place.chat)}"></a>'
    return f'<div class="chat-list">{stands}{"".join(parts)}{_menu()}</div>'


def _row(conversation: ConversationInfo, place: TabState) -> str:
    states = (
        ("current", conversation.id == place.chat),
        ("pinned", conversation.pinned),
        ("archived", conversation.archived),
    )
    kinds = "".join(f" {name}" for name, is_so in states if is_so)
    title = conversation.title or _("Untitled")
    link = f'<a class="chat-link" dir="auto" href="?chat={quote(conversation.id)}">{plain(title)}</a>'
    name = html.escape(_("Menu of {title}", title=title), quote=True).replace("$", "")
    menu = f'<details class="chat-menu"><summary class="named" title="{name}">⋯</summary></details>'
    return f'<div class="chat-row{kinds}">{link}{menu}</div>'


def _deleted_row(conversation: ConversationInfo) -> str:
    title = conversation.title or _("Untitled")
    name = html.escape(_("Restore {title}", title=title), quote=True).replace("$", "")
    act = f'<a class="act restore named" title="{name}" href="#restore={quote(conversation.id)}">{_("Restore")}</a>'
    return f'<div class="chat-row deleted"><span class="chat-gone">{plain(title)}</span>{act}</div>'


def _empties() -> str:
    """Two clicks, for it cannot be undone."""
    act = f'<a class="act" href="#empty">{_("Remove them all for good")}</a>'
    return f'<details class="hint"><summary>{_("Empty")}</summary>{act}</details>'


def _hit(hit: SearchHit, place: TabState) -> str:
    quoted = f"{plain(hit.before)}<mark>{plain(hit.match)}</mark>{plain(hit.after)}" if hit.match else ""
    quote_line = f'<p class="chat-quote" dir="auto">{quoted}</p>' if quoted else ""
    return _row(hit.conversation, place) + quote_line


def _menu() -> str:
    """What can be done with the conversation CHAT; a row shows what makes sense for it."""
    acts = "".join(f'<a class="act {do}" href="#{do}={CHAT}">{_(label)}</a>' for do, label in ACTS)
    exports = "".join(
        f'<a class="download" href="chats/export?chat={CHAT}&amp;format={form}">{_(label)}</a>'
        for form, label in EXPORTS
    )
    return f'<div class="chat-menu-box spare">{acts}{exports}</div>'


def _offer(count: int) -> str:
    if not count:
        return ""
    said = ngettext(
        "{count} chat was made here before there were logins. Take it over?",
        "{count} chats were made here before there were logins. Take them over?",
        count,
    )
    yes, no = _("Yes, they are mine"), _("No")
    acts = f'<a class="act" href="#take-over">{yes}</a> · <a class="act" href="#leave-alone">{no}</a>'
    return f'<p class="chat-list-top offer">{html.escape(said)} {acts}</p>'


def _back() -> str:
    return f'<a class="act" href="#unarchived">{_("Back to the chats")}</a>'


def _more() -> str:
    return f'<p class="chat-list-more"><a class="act" href="#more">{_("Show more")}</a></p>'


def _removed(place: TabState) -> str:
    if not place.deleted_chat:
        return ""
    undo = f'<a class="act" href="#restore={quote(place.deleted_chat)}">{_("Undo")}</a>'
    return f'<p class="chat-list-top">{_("Deleted.")} {undo}</p>'
