"""The PreviewMemo of each tab's chat, dropped as soon as the tab leaves the chat or is closed."""

from chatui.backend import PreviewMemo

MAX_TABS = 50
"""Tabs that have a memo, which may take some megabytes."""


class PreviewMemos:
    """One memo for each tab, by its Gradio session hash."""

    def __init__(self) -> None:
        self._memos: dict[str, tuple[str, PreviewMemo]] = {}

    def enter(self, session: str, chat: str) -> None:
        """Record that the tab shows this chat, "" for a new one; drop the memo of another chat."""
        if session and self._memos.get(session, (None,))[0] != chat:
            self.close(session)
            self._memos[session] = (chat, {})
            if len(self._memos) > MAX_TABS:
                del self._memos[next(iter(self._memos))]

    def close(self, session: str) -> None:
        """Drop the memo of a tab that was closed."""
        self._memos.pop(session, None)

    def get(self, session: str, chat: str) -> PreviewMemo:
        """The tab's memo if it shows this chat; else an empty one that is not stored."""
        memo_chat, memo = self._memos.get(session, (None, {}))
        return memo if memo_chat == chat else {}
