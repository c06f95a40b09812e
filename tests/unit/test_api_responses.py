"""Replies in OpenAI's format."""

import json

import pytest

from chatui.api.responses import ChatCompletionWriter
from chatui.chat import ReplyDelta


@pytest.mark.parametrize("model", ["m", 'a "delta":{} {} %d', "{}é"])
@pytest.mark.parametrize("usage", [False, True])
def test_a_chunk_is_whole_whatever_the_model_is_called(model: str, usage: bool) -> None:
    data = ChatCompletionWriter(model, usage).delta_event([ReplyDelta("{}é\n")])
    assert data.startswith(b"data: ")
    assert data.endswith(b"\n\n")
    chunk = json.loads(data[6:])
    assert chunk.pop("id").startswith("chatcmpl-")
    assert chunk.pop("created") > 0
    assert chunk == {
        "model": model,
        "object": "chat.completion.chunk",
        "choices": [{"index": 0, "delta": {"content": "{}é\n"}, "logprobs": None, "finish_reason": None}],
        **({"usage": None} if usage else {}),
    }
