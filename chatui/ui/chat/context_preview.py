"""The line under the message box: how full the context would be if the draft were sent."""

from dataclasses import replace
from typing import Any

from chatui.chat import ModelInfo
from chatui.errors import ChatError
from chatui.store.records import Path
from chatui.ui.chat import api_endpoint, context_bar
from chatui.ui.chat.preview_memos import PreviewMemos
from chatui.ui.chat.reply_requests import ReplyRequests
from chatui.ui.gradio_compat import request_context
from chatui.ui.shared.tab import current_tab


class ContextPreview:
    """Counts the tokens of the request that the draft would make. `memos` caches the counts of each tab's chat."""

    def __init__(self, requests: ReplyRequests, memos: PreviewMemos) -> None:
        self._requests, self._memos = requests, memos

    async def update(self, draft: str | None, *inputs: Any) -> str:
        """The markup of the context bar; "" if the model is loading, counts nothing, or the draft is too long."""
        backend = self._requests.runner.backend
        info = self._requests.model(inputs).info
        if info is None or len(draft or "") > api_endpoint.MAX_MESSAGE_LENGTH:
            return ""
        try:
            tab = current_tab(self._requests.runner, inputs)
            blank = not (draft or "").strip()
            request, path = await self._requests.preview(tab, inputs, "?" if blank else draft or "")
            memo = self._memos.get(request_context.tab(), tab.state.chat)
            prompt = await backend.preview(request, memo)
            if prompt is None:
                return _untold(info, path)
            prompt = replace(prompt, dropped=prompt.dropped + path.earlier)
            return context_bar.bar(info, prompt, request.settings, blank)
        except ChatError as error:
            return context_bar.error_bar(error)


def _untold(info: ModelInfo, path: Path) -> str:
    """The bar without the tokens of the prompt: a server that tells them may just not have answered in time."""
    if info.server is None or info.server.tells_prompts:
        return ""
    return context_bar.untold_bar(info, _used_tokens(path))


def _used_tokens(path: Path) -> int:
    """The tokens of the conversation's last turn, prompt and reply together; 0 if they are not known."""
    last = next((message.finish for message in reversed(path.messages) if message.finish is not None), None)
    return last.prompt_tokens + last.completion_tokens if last and last.prompt_tokens else 0
