"""What a link in the list of conversations, or in the bar below a message, does: each moves the tab to a new place."""

import asyncio
from collections.abc import Awaitable, Callable
from dataclasses import replace

from chatui.errors import ChatError
from chatui.ui.chat.tab import Tab
from chatui.ui.chat.tab_state import FIRST_SHOWN, MESSAGES_SHOWN, TabState

Action = Callable[[Tab, str, str], Awaitable[TabState]]


async def do(tab: Tab, name: str, target: str, value: str) -> TabState:
    """Do what was clicked, to the conversation or message `target`. Raises ChatError, NotFoundError among them."""
    action = ACTIONS.get(name)
    if action is None:
        raise ChatError("The page asked for something unknown.", "Load it again.")
    tab.place = replace(tab.place, removed="")
    return await action(tab, target, value)


async def _open(tab: Tab, chat: str, _: str) -> TabState:
    await asyncio.to_thread(tab.kept.conversation, chat)
    return tab.place.at(chat)


async def _version(tab: Tab, message: str, _: str) -> TabState:
    await tab.stop()
    await asyncio.to_thread(tab.owner_store.select, message)
    return tab.place


async def _branch(tab: Tab, message: str, _: str) -> TabState:
    branched = await asyncio.to_thread(tab.owner_store.branch, message)
    return tab.place.at(branched.id, tab.place.temporary)


async def _note(tab: Tab, message: str, note: str) -> TabState:
    rated = await asyncio.to_thread(tab.owner_store.message, message)
    await asyncio.to_thread(tab.owner_store.rate, message, rated.rating, note)
    return tab.place


async def _rename(tab: Tab, chat: str, title: str) -> TabState:
    await asyncio.to_thread(tab.kept.rename, chat, title)
    return tab.place


async def _pin(tab: Tab, chat: str, _: str) -> TabState:
    await asyncio.to_thread(tab.kept.pin, chat, True)
    return tab.place


async def _unpin(tab: Tab, chat: str, _: str) -> TabState:
    await asyncio.to_thread(tab.kept.pin, chat, False)
    return tab.place


async def _archive(tab: Tab, chat: str, _: str) -> TabState:
    await asyncio.to_thread(tab.kept.archive, chat, True)
    return tab.place


async def _unarchive(tab: Tab, chat: str, _: str) -> TabState:
    await asyncio.to_thread(tab.kept.archive, chat, False)
    return tab.place


async def _delete(tab: Tab, chat: str, _: str) -> TabState:
    await asyncio.to_thread(tab.kept.conversation, chat)
    await tab.stop(chat)
    await asyncio.to_thread(tab.kept.delete, chat)
    place = replace(tab.place, removed=chat)
    return place.at("") if place.chat == chat else place


async def _restore(tab: Tab, chat: str, _: str) -> TabState:
    await asyncio.to_thread(tab.kept.restore, chat)
    return replace(tab.place.at(chat), deleted=False)


async def _empty(tab: Tab, _: str, __: str) -> TabState:
    await asyncio.to_thread(tab.runner.kept.empty_trash, tab.owner)
    return tab.place


async def _take_over(tab: Tab, _: str, __: str) -> TabState:
    if tab.before:
        await asyncio.to_thread(tab.runner.kept.adoptions.adopt, tab.before, tab.owner)
    return tab.place


async def _leave_alone(tab: Tab, _: str, __: str) -> TabState:
    if tab.before:
        await asyncio.to_thread(tab.runner.kept.adoptions.decline, tab.before, tab.owner)
    return tab.place


async def _more(tab: Tab, _: str, __: str) -> TabState:
    return replace(tab.place, shown=min(tab.place.shown + FIRST_SHOWN, 100_000))


async def _earlier(tab: Tab, _: str, __: str) -> TabState:
    return replace(tab.place, messages=min(tab.place.messages + MESSAGES_SHOWN, 100_000))


async def _archived(tab: Tab, _: str, __: str) -> TabState:
    return replace(tab.place, archived=True, deleted=False, shown=FIRST_SHOWN)


async def _deleted(tab: Tab, _: str, __: str) -> TabState:
    return replace(tab.place, archived=False, deleted=True, shown=FIRST_SHOWN)


async def _listed(tab: Tab, _: str, __: str) -> TabState:
    return replace(tab.place, archived=False, deleted=False, shown=FIRST_SHOWN)


async def _refresh(tab: Tab, _: str, __: str) -> TabState:
    return tab.place


ACTIONS: dict[str, Action] = {
    "open": _open,
    "version": _version,
    "branch": _branch,
    "note": _note,
    "rename": _rename,
    "pin": _pin,
    "unpin": _unpin,
    "archive": _archive,
    "unarchive": _unarchive,
    "delete": _delete,
    "restore": _restore,
    "empty": _empty,
    "take-over": _take_over,
    "leave-alone": _leave_alone,
    "more": _more,
    "earlier": _earlier,
    "archived": _archived,
    "deleted": _deleted,
    "unarchived": _listed,
    "refresh": _refresh,
}
