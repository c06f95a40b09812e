"""HTML of the list of conversations, grouped by day and with a menu for each, and of search results."""

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
"""Placeholder for the conversation's id in the links of the menu; chatui.js replaces it."""

ACTIONS = (
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
    ("ipynb", N_("Export as notebook")),
)
RETENTION_NOTE = N_("A deleted chat is kept for a day, then it is gone for good.")


def render_list(
    conversations: Sequence[ConversationInfo],
    state: TabState,
    now: datetime,
    more: bool,
    adoptable: int = 0,
) -> str:
    """The conversations below the day of their last message, pinned ones first. `now` is in the browser's time zone.

    `more` adds a link to show more. `adoptable` is the number of chats from before the login, which are offered.
    """
    parts = [_adoption_offer(adoptable), _undo_delete(state)]
    if state.show_archived:
        parts.append(f'<p class="chat-list-top">{_("Archive")} · {_back()}</p>')
    group = ""
    for conversation in conversations:
        heading = _("Pinned") if conversation.pinned else date_heading(conversation.updated, now)
        if heading != group:
            group = heading
            parts.append(f"<h4>{html.escape(heading)}</h4>")
        parts.append(_row(conversation, state))
    if not conversations:
        hint = _("The archive is empty.") if state.show_archived else _("Your chats will be listed here.")
        parts.append(f'<p class="hint">{hint}</p>')
    if more:
        parts.append(_more())
    return _list(parts, state)


def render_deleted(conversations: Sequence[ConversationInfo], state: TabState, more: bool) -> str:
    """Deleted conversations that can still be restored."""
    parts = [
        f'<p class="chat-list-top">{_("Recently deleted")} · {_back()}</p>',
        f'<p class="hint">{_(RETENTION_NOTE)}</p>',
    ]
    if conversations:
        parts.append(_empty_trash())
    parts += [_deleted_row(conversation) for conversation in conversations]
    if not conversations:
        parts.append(f'<p class="hint">{_("Nothing was deleted lately.")}</p>')
    if more:
        parts.append(_more())
    return _list(parts, state)


def render_hits(hits: Sequence[SearchHit], state: TabState) -> str:
    """The conversations that a search has found."""
    if not hits:
        return _list([f'<p class="hint">{_("Nothing was found.")}</p>'], state)
    return _list([f"<h4>{_('Found')}</h4>", *(_hit(hit, state) for hit in hits)], state)


def date_heading(time: datetime, now: datetime) -> str:
    """The heading of the group that a time belongs to, in the time zone of `now`."""
    day, today = time.astimezone(now.tzinfo).date(), now.date()
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
    return i18n.month_name(day) if day.year == today.year else i18n.month_name(day, year=True)


def _list(parts: Sequence[str], state: TabState) -> str:
    """The list with the link from which chatui.js reads the current chat, and the menu that it copies into rows."""
    kind = "temporary" if state.temporary else "kept"
    current = f'<a class="place {kind}" href="?chat={quote(state.chat)}"></a>'
    return f'<div class="chat-list">{current}{"".join(parts)}{_menu()}</div>'


def _row(conversation: ConversationInfo, state: TabState) -> str:
    states = (
        ("current", conversation.id == state.chat),
        ("pinned", conversation.pinned),
        ("archived", conversation.archived),
    )
    classes = "".join(f" {name}" for name, applies in states if applies)
    title = conversation.title or _("Untitled")
    link = f'<a class="chat-link" dir="auto" href="?chat={quote(conversation.id)}">{plain(title)}</a>'
    name = html.escape(_("Menu of {title}", title=title), quote=True).replace("$", "")
    menu = f'<details class="chat-menu"><summary class="named" title="{name}">⋯</summary></details>'
    return f'<div class="chat-row{classes}">{link}{menu}</div>'


def _deleted_row(conversation: ConversationInfo) -> str:
    title = conversation.title or _("Untitled")
    name = html.escape(_("Restore {title}", title=title), quote=True).replace("$", "")
    link = f'<a class="act restore named" title="{name}" href="#restore={quote(conversation.id)}">{_("Restore")}</a>'
    return f'<div class="chat-row deleted"><span class="chat-gone">{plain(title)}</span>{link}</div>'


def _empty_trash() -> str:
    """A link that takes two clicks, because emptying the trash cannot be undone."""
    link = f'<a class="act" href="#empty">{_("Remove them all for good")}</a>'
    return f'<details class="hint"><summary>{_("Empty")}</summary>{link}</details>'


def _hit(hit: SearchHit, state: TabState) -> str:
    quoted = f"{plain(hit.before)}<mark>{plain(hit.match)}</mark>{plain(hit.after)}" if hit.match else ""
    quote_line = f'<p class="chat-quote" dir="auto">{quoted}</p>' if quoted else ""
    return _row(hit.conversation, state) + quote_line


def _menu() -> str:
    """The menu of a conversation with the id CHAT. Style sheets hide the actions that do not apply to a row."""
    actions = "".join(f'<a class="act {action}" href="#{action}={CHAT}">{_(label)}</a>' for action, label in ACTIONS)
    exports = "".join(
        f'<a class="download" href="chats/export?chat={CHAT}&amp;format={form}">{_(label)}</a>'
        for form, label in EXPORTS
    )
    return f'<div class="chat-menu-box spare">{actions}{exports}</div>'


def _adoption_offer(count: int) -> str:
    if not count:
        return ""
    question = ngettext(
        "{count} chat was made here before there were logins. Take it over?",
        "{count} chats were made here before there were logins. Take them over?",
        count,
    )
    yes, no = _("Yes, they are mine"), _("No")
    links = f'<a class="act" href="#take-over">{yes}</a> · <a class="act" href="#leave-alone">{no}</a>'
    return f'<p class="chat-list-top offer">{html.escape(question)} {links}</p>'


def _back() -> str:
    return f'<a class="act" href="#unarchived">{_("Back to the chats")}</a>'


def _more() -> str:
    return f'<p class="chat-list-more"><a class="act" href="#more">{_("Show more")}</a></p>'


def _undo_delete(state: TabState) -> str:
    if not state.deleted_chat:
        return ""
    undo = f'<a class="act" href="#restore={quote(state.deleted_chat)}">{_("Undo")}</a>'
    return f'<p class="chat-list-top">{_("Deleted.")} {undo}</p>'
