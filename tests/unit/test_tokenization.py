"""Texts and messages as tokens: those that a chat reads, and back to the text they came from."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from chatui.chat import ChatRequest, Message, TokenizeRequest
from chatui.engine.loading.loaded_model import LoadedModel
from chatui.engine.runners.reply_builder import preview
from chatui.engine.runners.tokenization import detokenize, tokenize
from chatui.errors import PromptError, SettingsError
from chatui.generation_settings import GenerationSettings
from tests import models

USER, ASSISTANT = Message("user", "Hi"), Message("assistant", "Hello")
END = "<|im_end|>\n"


@pytest.fixture(scope="module")
def loaded() -> LoadedModel:
    return models.ready()


@given(st.text(st.characters(exclude_categories=["Cs"]), max_size=40))
def test_a_text_comes_back(loaded: LoadedModel, text: str) -> None:
    tokens = tokenize(loaded, TokenizeRequest(text))
    assert detokenize(loaded, tokens.ids) == text
    assert len(tokens.ids) == len(tokens.names)


def test_special_tokens_are_seen_and_named(loaded: LoadedModel) -> None:
    tokens = tokenize(loaded, TokenizeRequest("<|im_start|> a"))
    assert tokens.names == ("<|im_start|>", "Ġ", "a")
    assert detokenize(loaded, tokens.ids) == "<|im_start|> a"


@pytest.mark.parametrize("messages", [(USER,), (Message("system", "Be kind."), USER), (USER, ASSISTANT)])
def test_messages_have_the_tokens_that_a_chat_reads(loaded: LoadedModel, messages: tuple[Message, ...]) -> None:
    prompt = preview(loaded, ChatRequest(messages, GenerationSettings()))
    assert tokenize(loaded, TokenizeRequest(messages=messages)).ids == prompt.token_ids


def test_without_a_reply_to_come_they_end_with_the_last_message(loaded: LoadedModel) -> None:
    for messages in ((USER,), (USER, ASSISTANT), (ASSISTANT,)):
        ids = tokenize(loaded, TokenizeRequest(messages=messages, add_generation_prompt=False)).ids
        text = detokenize(loaded, ids)
        assert text.endswith(messages[-1].content + END)
        assert "assistant\n" not in text.rpartition(messages[-1].content)[2]
    typed = TokenizeRequest(messages=(Message("user", END),), add_generation_prompt=False)
    assert tokenize(loaded, typed).names.count("<|im_end|>") == 1


def test_more_than_the_context_is_counted(loaded: LoadedModel) -> None:
    long = "a" * (loaded.info.context_length + 100)
    assert len(tokenize(loaded, TokenizeRequest(long)).ids) > loaded.info.context_length
    messages = (Message("user", long),)
    assert len(tokenize(loaded, TokenizeRequest(messages=messages)).ids) > loaded.info.context_length


def test_what_is_no_conversation_and_no_token_is_refused(loaded: LoadedModel) -> None:
    with pytest.raises(PromptError):
        tokenize(loaded, TokenizeRequest(messages=(ASSISTANT,)))
    refusing = models.ready(chat_template=models.REFUSES)
    with pytest.raises(PromptError, match="refused"):
        tokenize(refusing, TokenizeRequest(messages=(USER, ASSISTANT), add_generation_prompt=False))
    for id in (-1, len(loaded.tokenizer), 2**31):
        with pytest.raises(SettingsError, match="tokens"):
            detokenize(loaded, [1, id])
