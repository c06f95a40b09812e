"""The actions of the links in the list of conversations and below messages. Each returns the tab's new state."""

import asyncio
from collections.abc import Awaitable, Callable
from dataclasses import replace

from chatui.errors import ChatError
from chatui.ui.shared.tab import Tab
from chatui.ui.shared.tab_state import LIST_PAGE_SIZE, MESSAGE_PAGE_SIZE, TabState

Action = Callable[[Tab, str, str], Awaitable[TabState]]


async def do(tab: Tab, name: str, target: str, value: str) -> TabState:
    """Run the action `name` on the conversation or message `target`. Raises ChatError; NotFoundError if not found."""
    action = ACTIONS.get(name)
    if action is None:
        raise ChatError("The page asked for something unknown.", "Load it again.")
    if name != "refresh":  # it may come by itself, and the user may still want to undo the deletion
        tab.state = replace(tab.state, deleted_chat="")
    return await action(tab, target, value)


async def _open(tab: Tab, chat: str, _: str) -> TabState:
    await asyncio.to_thread(tab.list_store.conversation, chat)
    return tab.state.in_chat(chat)


async def _version(tab: Tab, message: str, _: str) -> TabState:
    await tab.stop()
    await asyncio.to_thread(tab.chat_store.select, message)
    return tab.state


async def _branch(tab: Tab, message: str, _: str) -> TabState:
    branched = await asyncio.to_thread(tab.chat_store.branch, message)
    return tab.state.in_chat(branched.id, tab.state.temporary)


async def _note(tab: Tab, message: str, note: str) -> TabState:
    rated = await asyncio.to_thread(tab.chat_store.message, message)
    await asyncio.to_thread(tab.chat_store.rate, message, rated.rating, note)
    return tab.state


async def _answer_now(tab: Tab, message: str, _: str) -> TabState:
    await asyncio.to_thread(tab.chat_store.message, message)
    tab.runner.answer_now(tab.owner, message)
    return tab.state


async def _rename(tab: Tab, chat: str, title: str) -> TabState:
    await asyncio.to_thread(tab.list_store.rename, chat, title)
    return tab.state


async def _pin(tab: Tab, chat: str, _: str) -> TabState:
    await asyncio.to_thread(tab.list_store.pin, chat, True)
    return tab.state


async def _unpin(tab: Tab, chat: str, _: str) -> TabState:
    await asyncio.to_thread(tab.list_store.pin, chat, False)
    return tab.state


async def _archive(tab: Tab, chat: str, _: str) -> TabState:
    await asyncio.to_thread(tab.list_store.archive, chat, True)
    return tab.state


async def _unarchive(tab: Tab, chat: str, _: str) -> TabState:
    await asyncio.to_thread(tab.list_store.archive, chat, False)
    return tab.state


async def _delete(tab: Tab, chat: str, _: str) -> TabState:
    await asyncio.to_thread(tab.list_store.conversation, chat)
    await tab.stop(chat)
    await asyncio.to_thread(tab.list_store.delete, chat)
    state = replace(tab.state, deleted_chat=chat)
    return state.in_chat("") if state.chat == chat else state


async def _restore(tab: Tab, chat: str, _: str) -> TabState:
    await asyncio.to_thread(tab.list_store.restore, chat)
    return replace(tab.state.in_chat(chat), show_deleted=False)


async def _empty_trash(tab: Tab, _: str, __: str) -> TabState:
    await asyncio.to_thread(tab.runner.persistent_store.empty_trash, tab.owner)
    return tab.state


async def _take_over(tab: Tab, _: str, __: str) -> TabState:
    if tab.previous_owner:
        await asyncio.to_thread(tab.runner.persistent_store.adoptions.adopt, tab.previous_owner, tab.owner)
    return tab.state


async def _leave_alone(tab: Tab, _: str, __: str) -> TabState:
    if tab.previous_owner:
        await asyncio.to_thread(tab.runner.persistent_store.adoptions.decline, tab.previous_owner, tab.owner)
    return tab.state


async def _show_more(tab: Tab, _: str, __: str) -> TabState:
    return replace(tab.state, list_limit=min(tab.state.list_limit + LIST_PAGE_SIZE, 100_000))


async def _show_earlier(tab: Tab, _: str, __: str) -> TabState:
    return replace(tab.state, message_limit=min(tab.state.message_limit + MESSAGE_PAGE_SIZE, 100_000))


async def _show_archived(tab: Tab, _: str, __: str) -> TabState:
    return replace(tab.state, show_archived=True, show_deleted=False, list_limit=LIST_PAGE_SIZE)


async def _show_deleted(tab: Tab, _: str, __: str) -> TabState:
    return replace(tab.state, show_archived=False, show_deleted=True, list_limit=LIST_PAGE_SIZE)


async def _show_list(tab: Tab, _: str, __: str) -> TabState:
    return replace(tab.state, show_archived=False, show_deleted=False, list_limit=LIST_PAGE_SIZE)


async def _refresh(tab: Tab, _: str, __: str) -> TabState:
    return tab.state


ACTIONS: dict[str, Action] = {
    "open": _open,
    "version": _version,
    "branch": _branch,
    "note": _note,
    "answer-now": _answer_now,
    "rename": _rename,
    "pin": _pin,
    "unpin": _unpin,
    "archive": _archive,
    "unarchive": _unarchive,
    "delete": _delete,
    "restore": _restore,
    "empty": _empty_trash,
    "take-over": _take_over,
    "leave-alone": _leave_alone,
    "more": _show_more,
    "earlier": _show_earlier,
    "archived": _show_archived,
    "deleted": _show_deleted,
    "unarchived": _show_list,
    "refresh": _refresh,
}
