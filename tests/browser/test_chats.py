"""Conversations that stay: the list at the left, versions, branches, links, and a server that goes away."""

import json
import re
import threading
from collections.abc import Callable
from pathlib import Path

import httpx
import pytest
from playwright.sync_api import expect

from chatui.settings import AppSettings
from chatui.store.owner_store import OwnerStore
from chatui.store.records import MergeResult, Tree
from tests.browser.pages import PATIENCE, Chat, Site, wait_until
from tests.fakes import FakeBackend, Hold

pytestmark = pytest.mark.browser
Open = Callable[..., Chat]


def rows(page: Chat) -> list[str]:
    return page.page.locator("#chats .chat-link").all_inner_texts()


def choose(page: Chat, title: str, entry: str) -> None:
    """From the menu of a conversation."""
    named = page.page.locator(".chat-link").filter(has_text=title)
    row = page.page.locator("#chats .chat-row").filter(has=named).first
    row.hover()
    row.locator("summary").click()
    row.get_by_role("link", name=entry, exact=True).click()


def link(page: Chat, name: str) -> None:
    page.page.get_by_role("link", name=name, exact=True).last.click()


def bar(page: Chat) -> str:
    return re.sub(r"\s+", " ", page.log.locator(".chat-bar.answer").last.inner_text())


def test_conversations_are_listed_renamed_pinned_archived_deleted_and_had_back(chat: Open) -> None:
    page = chat(["fine"], fresh=True)
    for question in ("about <b>apples</b> & pears", "about bread"):
        page.start_new_chat()
        expect(page.questions).to_have_count(0)
        page.say(question)
    assert rows(page) == ["about bread", "about <b>apples</b> & pears"]
    choose(page, "apples", "Rename")
    page.page.get_by_role("textbox", name="New title").fill("My = own <title>")
    page.page.keyboard.press("Enter")
    expect(page.page.get_by_role("link", name="My = own <title>")).to_be_visible()
    choose(page, "own", "Pin")
    expect(page.page.locator("#chats .chat-link").first).to_have_text("My = own <title>")
    choose(page, "bread", "Delete")
    expect(page.page.locator("#chats .chat-link")).to_have_count(1)
    expect(page.questions).to_have_count(0)
    link(page, "Undo")
    expect(page.page.locator("#chats .chat-link")).to_have_count(2)
    expect(page.questions).to_have_text(["about bread"])
    choose(page, "bread", "Move to the archive")
    expect(page.page.locator("#chats .chat-link")).to_have_count(1)
    link(page, "Archive")
    expect(page.page.locator("#chats .chat-link")).to_have_text(["about bread"])
    choose(page, "bread", "Unarchive")
    link(page, "Back to the chats")
    expect(page.page.locator("#chats .chat-link")).to_have_count(2)
    assert page.watch.errors == []


@pytest.mark.exhaustive  # the first test above has one back, and tests/integration/test_store.py all
def test_every_deleted_chat_can_be_had_back_after_a_reload(chat: Open) -> None:
    page = chat(["fine"], fresh=True)
    for word in ("bread", "cheese"):
        page.start_new_chat()
        expect(page.questions).to_have_count(0)
        page.say(f"about {word}")
    for word in ("bread", "cheese"):
        choose(page, word, "Delete")
        expect(page.page.locator("#chats .chat-row", has_text=word)).to_have_count(0)
    page.page.reload()
    expect(page.send).to_be_visible(timeout=PATIENCE)
    for word in ("bread", "cheese"):
        link(page, "Recently deleted")
        page.page.get_by_role("link", name=f"Restore about {word}").click()
        expect(page.questions).to_have_text([f"about {word}"])
    expect(page.page.locator("#chats .chat-link")).to_have_count(2)
    assert page.watch.errors == []


def test_search_finds_titles_and_texts(chat: Open) -> None:
    page = chat(["the reply names zebras"], ["nothing here"], fresh=True)
    page.say("first question")
    page.start_new_chat()
    expect(page.questions).to_have_count(0)
    page.say("second question")
    search = page.page.get_by_role("textbox", name="Search chats")
    search.fill("zebr")
    expect(page.page.locator("#chats mark")).to_have_text("zebr")
    expect(page.page.locator("#chats .chat-link")).to_have_text(["first question"])
    page.page.locator("#chats .chat-link").click()
    expect(page.questions).to_have_text(["first question"])
    search.fill("unicorn")
    expect(page.page.locator("#chats").get_by_text("Nothing was found.")).to_be_visible()
    search.fill("")
    expect(page.page.locator("#chats .chat-link")).to_have_count(2)


def test_versions_stay_and_can_be_gone_through(chat: Open) -> None:
    page = chat(["first"], ["second"], ["third"], fresh=True)
    page.say("one")
    page.button("Retry").click()
    expect(page.replies).to_have_text(["second"])
    page.answered()
    assert bar(page).startswith("‹ 2/2 ›")
    page.log.get_by_role("link", name="Previous version").click()
    expect(page.replies).to_have_text(["first"])
    page.button("Edit").click()
    page.log.get_by_role("textbox").fill("uno")
    page.button("Submit").click()
    expect(page.replies).to_have_text(["third"])
    page.answered()
    expect(page.questions).to_have_text(["uno"])
    page.log.locator(".chat-bar.question").get_by_role("link", name="Previous version").click()
    expect(page.questions).to_have_text(["one"])
    page.page.reload()
    expect(page.questions).to_have_text(["one"], timeout=PATIENCE)


def test_a_branch_is_a_conversation_of_its_own(chat: Open) -> None:
    page = chat(["first"], ["second"], ["other"], fresh=True)
    page.say("one")
    page.say("two")
    page.log.locator(".chat-bar.answer").first.get_by_role("link", name="Branch").click()
    expect(page.questions).to_have_text(["one"])
    page.say("three")
    assert [message.content for message in page.backend.requests[-1].messages[1:]] == ["one", "first", "three"]
    assert len(rows(page)) == 2
    page.page.locator("#chats .chat-link").last.click()
    expect(page.questions).to_have_text(["one", "two"])


def test_a_stopped_reply_goes_on_where_it_was_cut(chat: Open) -> None:
    page = chat(["Once upon", " a time", Hold()], [" there was more."], fresh=True)
    page.ask("tell me")
    expect(page.log.get_by_text("Once upon a time")).to_be_visible()
    page.stop.click()
    expect(page.log.get_by_text("Stopped.")).to_be_visible()
    link(page, "Continue")
    expect(page.log.get_by_text("Once upon a time there was more.")).to_be_visible()
    page.answered()
    last = page.backend.requests[-1].messages[-1]
    assert (last.role, last.content) == ("assistant", "Once upon a time")
    assert bar(page).startswith("‹ 2/2 ›")


def test_the_reply_starts_with_what_is_given(chat: Open) -> None:
    page = chat([" said the fox."], fresh=True)
    page.setting("Start the reply with").fill("Well,")
    page.say("tell me")
    expect(page.replies).to_have_text(["Well, said the fox."])
    assert page.backend.requests[-1].messages[-1].content == "Well,"


def test_a_temporary_chat_is_neither_listed_nor_found_again(chat: Open) -> None:
    page = chat(["fine"], fresh=True)
    page.button("Temporary chat").click()
    expect(page.page.locator("body")).to_have_class(re.compile("temporary"))
    page.say("a secret")
    page.say("another")
    assert [m.content for m in page.backend.requests[-1].messages[1:]] == ["a secret", "fine", "another"]
    assert rows(page) == []
    assert "chat=" not in page.page.url
    page.page.reload()
    expect(page.send).to_be_visible(timeout=PATIENCE)
    expect(page.questions).to_have_count(0)


@pytest.mark.exhaustive  # tests/integration/test_ownership.py follows every link
def test_a_link_opens_a_conversation_for_its_owner_only(
    serve: Callable[..., Site], open_chat: Open, tmp_path: Path
) -> None:
    site = serve(["fine"], settings=AppSettings(host="0.0.0.0", data_dir=tmp_path))  # else they are one person
    owner, stranger = open_chat(site), open_chat(site)
    owner.say("mine alone")
    address = owner.page.url
    assert "?chat=" in address
    owner.page.goto("about:blank")
    owner.page.goto(address)
    expect(owner.questions).to_have_text(["mine alone"], timeout=PATIENCE)
    stranger.page.goto(address)
    expect(stranger.cards).to_contain_text("There is no such conversation.", timeout=PATIENCE)
    assert "mine alone" not in stranger.page.content()
    export = address.replace("/?chat=", "/chats/export?chat=")
    assert httpx.get(export).status_code == 404


def test_feedback_with_a_note_is_exported_and_imported(chat: Open, tmp_path: Path) -> None:
    page = chat(["fine"], fresh=True)
    page.say("one")
    page.button("Like").click()
    link(page, "Add a note")
    page.page.get_by_role("textbox", name="Note on this reply").fill("short & sweet")
    page.page.keyboard.press("Enter")
    expect(page.log.get_by_text("Note: short & sweet")).to_be_visible()
    with page.page.expect_download() as download:
        link(page, "Export all")
    file = tmp_path / "chats.json"
    download.value.save_as(file)
    exported = json.loads(file.read_text())
    reply = exported["conversations"][0]["messages"][1]
    assert (reply["rating"], reply["note"], reply["content"]) == ("like", "short & sweet", "fine")
    with page.page.expect_file_chooser() as chooser:
        page.button("Import chats").click()
    chooser.value.set_files(file)
    expect(page.page.get_by_test_id("toast-text").filter(has_text="Here already: 1.")).to_be_visible()
    expect(page.page.locator("#chats .chat-link")).to_have_count(1)


def test_while_one_types_a_chat_is_counted_on_from_where_it_was_and_another_anew(chat: Open) -> None:
    page = chat(["fine"], fresh=True)
    page.say("one")
    expect(page.page.locator("#context")).to_contain_text("history", timeout=PATIENCE)
    page.wait_idle()
    previews = page.backend.previews
    for typed in ("more", "more of it"):
        previews.clear()
        page.box.fill(typed)
        wait_until(lambda: max(previews, default=0) > 1)
    previews.clear()
    page.start_new_chat()
    wait_until(lambda: 1 in previews)


def import_file(page: Chat, file: Path) -> None:
    with page.page.expect_file_chooser() as chooser:
        page.button("Import chats").click()
    chooser.value.set_files(file)


def test_an_import_says_how_far_it_is_can_be_cancelled_and_ends_with_its_tab(
    chat: Open, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    merge, permits, given_up = OwnerStore.merge_tree, threading.Semaphore(2), threading.Event()

    def merge_where_there_is_room(
        owner_store: OwnerStore, tree: Tree, should_continue: Callable[[], bool]
    ) -> MergeResult | None:
        while not permits.acquire(timeout=0.05):
            if not should_continue():
                given_up.set()
                return None
        return merge(owner_store, tree, should_continue)

    monkeypatch.setattr(OwnerStore, "merge_tree", merge_where_there_is_room)
    page = chat(["fine"], fresh=True)
    file = tmp_path / "chats.json"
    conversations = [{"title": f"Chat {n}", "messages": [{"role": "user", "content": f"Hi {n}"}]} for n in range(5)]
    file.write_text(json.dumps(conversations))
    import_file(page, file)
    expect(page.page.get_by_text("2 of 5 conversations").first).to_be_visible(timeout=PATIENCE)
    page.say("meanwhile")
    page.button("Cancel import").click()
    expect(page.page.get_by_text("The import was cancelled; what was whole by then is here.").first).to_be_visible()
    expect(page.page.get_by_text("Conversations imported: 2.").first).to_be_visible()
    expect(page.button("Cancel import")).not_to_be_visible()
    expect(page.page.locator("#chats .chat-link")).to_have_count(3)
    permits.release(4)
    import_file(page, file)
    expect(page.page.get_by_text("4 of 5 conversations").first).to_be_visible(timeout=PATIENCE)
    given_up.clear()
    page.page.close()
    wait_until(given_up.is_set)


def test_a_second_tab_hears_the_reply_to_its_end_and_can_stop_it(chat: Open) -> None:
    hold = Hold()
    page = chat(["Once", hold, " more", Hold()], fresh=True)
    page.ask("tell me")
    expect(page.log.get_by_text("Once", exact=True)).to_be_visible()
    second = Chat(page.page.context.new_page(), page.site, page.watch)
    second.page.goto(page.page.url)
    expect(second.log.get_by_text("Once", exact=True)).to_be_visible(timeout=PATIENCE)
    hold.release()
    for tab in (page, second):
        expect(tab.log.get_by_text("Once more", exact=True)).to_be_visible()
    second.stop.click()
    for tab in (page, second):
        expect(tab.log.get_by_text("Stopped.", exact=True)).to_be_visible()
    wait_until(lambda: page.backend.running == 0)


@pytest.mark.exhaustive  # as part of the next test in every run
@pytest.mark.alone  # a request that comes late on a busy machine meets no server
def test_a_conversation_only_grows_over_a_restart(tmp_path: Path, open_chat: Open) -> None:
    backend = FakeBackend(["before"], ["after"])
    with Site(backend, AppSettings(data_dir=tmp_path)) as site:
        page = open_chat(site)
        page.say("one")
        page.wait_idle()  # a request that met no server would load the page again
        site.stop()
        site.start()
        expect(page.questions).to_have_text(["one"], timeout=PATIENCE)
        page.say("two")
        assert [m.content for m in backend.requests[-1].messages[1:]] == ["one", "before", "two"]
        expect(page.questions).to_have_text(["one", "two"])
        expect(page.replies).to_have_text(["before", "after"])


def test_what_is_typed_while_the_server_is_away_can_be_sent_when_it_is_back(tmp_path: Path, open_chat: Open) -> None:
    backend = FakeBackend(["before"], ["after"])
    with Site(backend, AppSettings(data_dir=tmp_path)) as site:
        page = open_chat(site)
        page.say("one")
        site.stop()
        page.box.fill("two\n<lines>")
        lost = page.page.get_by_test_id("toast-text").filter(has_text="Connection to the server was lost")
        expect(lost).to_be_visible(timeout=PATIENCE)
        with page.page.expect_navigation(timeout=PATIENCE):
            site.start()
        expect(page.questions).to_have_text(["one"], timeout=PATIENCE)
        expect(page.box).to_have_value("two\n<lines>", timeout=PATIENCE)
        page.box.press("Enter")
        expect(page.replies).to_have_text(["before", "after"], timeout=PATIENCE)
        assert [m.content for m in backend.requests[-1].messages[1:]] == ["one", "before", "two\n<lines>"]
        expect(page.box).to_have_value("")
        page.page.reload()
        expect(page.replies).to_have_text(["before", "after"], timeout=PATIENCE)
        expect(page.box).to_have_value("")


def test_what_is_typed_is_not_shown_at_another_address(chat: Open) -> None:
    page = chat(fresh=True)
    page.box.fill("half a thought")
    page.page.goto(f"{page.site.url}?other")
    expect(page.send).to_be_visible(timeout=PATIENCE)
    expect(page.box).to_have_value("")
    page.page.reload()
    expect(page.send).to_be_visible(timeout=PATIENCE)
    expect(page.box).to_have_value("")
