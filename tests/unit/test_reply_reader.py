"""What the reader of a streamed reply makes of the counts that servers tell, or do not."""

from typing import Any

import pytest

from chatui.chat import ChatRequest, Finish, Message
from chatui.generation_settings import GenerationSettings
from chatui.remote.dialects import DIALECTS
from chatui.remote.reply_reader import ReplyReader
from chatui.remote.vocabulary import Vocabulary

ASKED = ChatRequest((Message("user", "Hi"),), GenerationSettings(seed=1, stop=("END",)))


def finish_of(*chunks: dict[str, Any]) -> Finish:
    reader = ReplyReader(ASKED, DIALECTS["llama.cpp"], Vocabulary())
    for chunk in ({"choices": [{"delta": {"content": "Hello END"}}]}, *chunks):
        reader.push_chunk(chunk)
    finish = reader.flush().finish
    assert finish is not None
    return finish


@pytest.mark.parametrize(
    ("chunk", "prompt", "cached"),
    [
        ({}, None, None),
        ({"usage": {"prompt_tokens": 9}}, 9, None),
        ({"usage": {"prompt_tokens": 9, "prompt_tokens_details": {"cached_tokens": 0}}}, 9, 0),
        ({"usage": {"prompt_tokens": 9, "prompt_tokens_details": None}}, 9, None),
        ({"usage": {"prompt_tokens": 0}}, None, None),
        ({"timings": {"prompt_n": 4, "cache_n": 5}}, 9, 5),
        ({"prompt_progress": {"total": 9, "cache": 0, "processed": 9}}, 9, 0),
        ({"prompt_token_ids": [1, 2, 3]}, 3, None),
    ],
)
def test_what_is_not_told_is_not_0(chunk: dict[str, Any], prompt: int | None, cached: int | None) -> None:
    finish = finish_of(chunk)
    assert (finish.told_prompt_tokens, finish.told_cached_tokens) == (prompt, cached)
    assert (finish.prompt_tokens, finish.cached_tokens) == (prompt or 0, cached or 0)
