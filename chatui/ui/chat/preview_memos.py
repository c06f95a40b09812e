"""What previews of the context remember of each tab's chat: gone as soon as the tab leaves the chat, or is closed."""

from chatui.chat import PreviewMemo

MAX_TABS = 50
"""Tabs that have one: each may take some megabytes."""


class PreviewMemos:
    """One for each tab, by the session that its browser made up."""

    def __init__(self) -> None:
        self._of_tab: dict[str, tuple[str, PreviewMemo]] = {}

    def stands(self, session: str, chat: str) -> None:
        """The tab is in this chat now, "" for a new one; what is remembered of another is let go of."""
        if session and self._of_tab.get(session, (None,))[0] != chat:
            self.left(session)
            self._of_tab[session] = (chat, {})
            if len(self._of_tab) > MAX_TABS:
                del self._of_tab[next(iter(self._of_tab))]

    def left(self, session: str) -> None:
        """The tab is closed."""
        self._of_tab.pop(session, None)

    def at(self, session: str, chat: str) -> PreviewMemo:
        """The tab's, where it stands in this chat; else a new one that nobody keeps."""
        known, memo = self._of_tab.get(session, (None, {}))
        return memo if known == chat else {}
