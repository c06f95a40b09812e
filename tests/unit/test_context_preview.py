"""The line under the message box, where a server does not tell the tokens of prompts."""

from typing import Any, cast

import pytest

from chatui.chat import Finish, ModelStatus
from chatui.store.records import Path, StoredMessage
from chatui.store.rows import now
from chatui.ui.chat import context_bar, context_preview
from chatui.ui.chat.context_preview import ContextPreview
from chatui.ui.chat.preview_memos import PreviewMemos
from chatui.ui.chat.reply_requests import ReplyRequests
from chatui.ui.gradio_compat import request_context
from tests.fakes import UNTOLD

LAST = Finish("stop_token", 20, 5, 0, 0.0, 0.1, 0.1)


class Requests:
    """Those of a chat whose last reply has this finish."""

    def __init__(self, finish: Finish) -> None:
        self.runner = self.backend = self
        reply = StoredMessage("r", "c", "q", "assistant", "Hello", now(), finish=finish)
        self.read, self._path = 0, Path((reply,))

    def model(self, _inputs: Any) -> ModelStatus:
        return ModelStatus("far", "ready", info=UNTOLD)

    async def preview(self, *of: Any) -> Any:
        if len(of) == 2:  # a backend's: this server tells no prompts
            return None
        self.read += 1
        return None, self._path


@pytest.mark.parametrize(("untold", "shown"), [((), "25"), (("prompt_tokens", "cached_tokens"), "")])
async def test_it_has_the_tokens_of_the_last_turn_of_a_chat_read_once(
    monkeypatch: pytest.MonkeyPatch, untold: Any, shown: str
) -> None:
    finish = LAST if not untold else Finish("stop_token", 0, 5, 0, 0.0, 0.1, 0.1, untold=untold)
    requests = Requests(finish)
    monkeypatch.setattr(context_preview, "current_tab", lambda *_: cast(Any, type("T", (), {"state": requests})()))
    monkeypatch.setattr(requests, "chat", "c", raising=False)
    monkeypatch.setattr(request_context, "tab", lambda: "t")
    bar = await ContextPreview(cast(ReplyRequests, requests), PreviewMemos()).update("Hi")
    assert requests.read == 1
    assert bar == context_bar.untold_bar(UNTOLD, int(shown or 0))
    assert ("25" in bar) == bool(shown)
