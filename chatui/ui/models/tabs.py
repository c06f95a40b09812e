"""What the tabs of the Models view have in common."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, ClassVar, Protocol

import gradio as gr

from chatui.backend import Backend
from chatui.models.download_manager import DownloadManager
from chatui.models.overview import OverviewReader
from chatui.ui.chat.conversation import Conversation
from chatui.ui.shared.model_access import ModelAccess

QUIET: dict[str, Any] = {"queue": False, "show_progress": "hidden", "api_visibility": "private"}
"""Options of events that end soon."""


@dataclass(frozen=True)
class ModelsContext:
    """What the tabs work with.

    `chat` is the conversation on the page, and `picker` chooses its model. `access` says what the user of the running
    event may do.
    """

    backend: Backend
    overviews: OverviewReader
    access: ModelAccess
    chat: Conversation
    downloads: DownloadManager
    picker: gr.Dropdown


class ModelsTab(Protocol):
    """A tab. Its constructor renders the components in the current Gradio context.

    `show` is the event handler that fills `outputs` whenever the tab is shown. A link of class `act` whose `href` is
    `#models-BOX=TEXT` writes TEXT into the hidden textbox with the id `models-BOX`, after a number and "|".
    """

    id: ClassVar[str]
    title: ClassVar[str]
    outputs: Sequence[Any]

    def __init__(self, context: ModelsContext) -> None: ...

    async def show(self) -> Any:
        """The values of `outputs`."""

    def connect(self) -> None:
        """Register the events of the tab itself."""
