from datetime import UTC, datetime, timedelta, timezone

import pytest

from chatui.store.records import ConversationInfo, SearchHit
from chatui.ui.shared.tab_state import TabState
from chatui.ui.sidebar import conversation_list

NOW = datetime(2026, 11, 24, 12, 0, tzinfo=UTC)


def chat(id: str, ago: timedelta = timedelta(), title: str = "Title", **more: bool) -> ConversationInfo:
    moment = NOW - ago
    return ConversationInfo(
        id, title, False, None, more.get("pinned", False), more.get("archived", False), moment, moment
    )


@pytest.mark.parametrize(
    ("days", "heading"),
    [
        (0, "Today"),
        (1, "Yesterday"),
        (3, "Last 7 days"),
        (20, "Last 30 days"),
        (60, "September"),
        (400, "October 2025"),
    ],
)
def test_days_have_headings(days: int, heading: str) -> None:
    assert conversation_list.date_heading(NOW - timedelta(days=days), NOW) == heading


def test_a_day_is_the_browsers() -> None:
    evening = datetime(2026, 11, 23, 23, 0, tzinfo=UTC)
    assert conversation_list.date_heading(evening, NOW) == "Yesterday"
    assert conversation_list.date_heading(evening, NOW.astimezone(timezone(timedelta(hours=2)))) == "Today"


def test_chats_are_listed_under_their_days_in_order() -> None:
    chats = [chat("p", timedelta(days=9), pinned=True), chat("a"), chat("b"), chat("c", timedelta(days=1))]
    shown = conversation_list.render_list(chats, TabState(chat="b"), NOW, more=False).partition("<h4>")[2]
    places = [
        shown.index(part) for part in ("Pinned", "?chat=p", "Today", "?chat=a", "?chat=b", "Yesterday", "?chat=c")
    ]
    assert places == sorted(places)
    assert shown.count("<h4>") == 2
    assert shown.count("current") == 1
    assert "#more" not in shown
    assert "#more" in conversation_list.render_list(chats, TabState(), NOW, more=True)


@pytest.mark.parametrize("title", ["<script>alert(1)</script>", '"><img src=x onerror=alert(1)>', "$x$ \\(y\\)"])
def test_titles_and_quotes_are_text(title: str) -> None:
    hit = SearchHit(chat("a", title=title), title, title, title)
    for shown in (
        conversation_list.render_list([chat("a", title=title)], TabState(), NOW, False),
        conversation_list.render_hits([hit], TabState()),
    ):
        assert "<script" not in shown
        assert "<img" not in shown
        assert "$x$" not in shown


def test_a_deleted_chat_can_be_had_back() -> None:
    assert "#restore=x" in conversation_list.render_list([], TabState(deleted_chat="x"), NOW, False)


def test_all_deleted_chats_are_listed_with_a_way_back() -> None:
    shown = conversation_list.render_deleted(
        [chat("a", title="<b>A"), chat("b", title="")], TabState(show_deleted=True), more=True
    )
    for id in ("a", "b"):
        assert shown.count(f'href="#restore={id}"') == 1
        assert f"?chat={id}" not in shown
    assert "<b>" not in shown
    assert "Untitled" in shown
    assert "#more" in shown
    assert shown.count('href="#empty"') == 1
    empty = conversation_list.render_deleted([], TabState(show_deleted=True), more=False)
    assert "Nothing was deleted lately." in empty
    assert "#empty" not in empty


def test_chats_from_before_the_login_are_offered_with_yes_and_no() -> None:
    assert "#take-over" not in conversation_list.render_list([], TabState(), NOW, False)
    for count, message in ((1, "1 chat was made here"), (3, "3 chats were made here")):
        shown = conversation_list.render_list([chat("a")], TabState(), NOW, False, count)
        assert message in shown
        assert shown.index("#take-over") < shown.index("#leave-alone") < shown.index("?chat=a")


def test_what_can_be_done_fits_the_chat() -> None:
    """The menu is made in the browser, of the one for all and of what its row is."""
    shown = conversation_list.render_list([chat("a", pinned=True), chat("b")], TabState("b"), NOW, False)
    assert '<div class="chat-row pinned"><a class="chat-link" dir="auto" href="?chat=a">' in shown
    assert '<div class="chat-row current"><a class="chat-link" dir="auto" href="?chat=b">' in shown
    for act in ("rename", "pin", "unpin", "archive", "unarchive", "delete"):
        assert shown.count(f'<a class="act {act}" href="#{act}={conversation_list.CHAT}">') == 1
    archived = conversation_list.render_list([chat("a", archived=True)], TabState(show_archived=True), NOW, False)
    assert '<div class="chat-row archived">' in archived
    assert "#unarchived" in archived
