"""Whole replies of a tiny model: why they end, what they count, where thinking goes."""

import dataclasses
from collections.abc import Iterable

import pytest
import torch

from chatui.chat import ChatRequest, Finish, Message, ReplyDelta
from chatui.errors import GenerationError, PromptError
from chatui.local import reply
from chatui.local.engine import Interrupted
from chatui.local.loading import LoadedModel
from chatui.settings import GenerationSettings
from tests import models

HELLO = (Message("system", "Be kind."), Message("user", "Hello there, who are you?"))


def write(loaded: LoadedModel, messages: tuple[Message, ...] = HELLO, **values) -> list[ReplyDelta]:
    settings = GenerationSettings(**{"temperature": 0.0, "max_new_tokens": 20, **values})
    return list(reply.write(loaded, ChatRequest(messages, settings), queue_seconds=1.5))


def text_of(deltas: Iterable[ReplyDelta]) -> str:
    return "".join(delta.text for delta in deltas)


def finish_of(deltas: list[ReplyDelta]) -> Finish:
    assert deltas[-1].finish is not None
    assert all(delta.finish is None for delta in deltas[:-1])
    return deltas[-1].finish


def scripted(loaded: LoadedModel, monkeypatch: pytest.MonkeyPatch, text: str) -> None:
    """Let the model say `text`, control tokens in it included, over and over."""
    ids = loaded.tokenizer.encode(text, add_special_tokens=False)
    monkeypatch.setattr(reply, "decode", lambda *_: iter(ids * 1000))


def test_a_reply_of_full_length():
    loaded = models.ready()
    deltas = write(loaded)
    finish = finish_of(deltas)
    assert deltas[0].prompt is not None
    assert (finish.reason, finish.completion_tokens) == ("length", 20)
    assert finish.prompt_tokens == len(deltas[0].prompt.token_ids)
    assert sum(delta.tokens for delta in deltas) == 20
    assert finish.queue_seconds == 1.5
    assert finish.prefill_seconds > 0
    assert finish.tokens_per_second > 0
    ids = torch.tensor([deltas[0].prompt.token_ids])
    whole = loaded.model.generate(ids, do_sample=False, max_new_tokens=20)[0, ids.shape[1] :].tolist()
    assert text_of(deltas) == loaded.decode(whole)


def test_a_stop_token_ends_the_reply_and_is_counted_but_not_shown(monkeypatch: pytest.MonkeyPatch):
    loaded = models.ready()
    scripted(loaded, monkeypatch, "Hi!<|im_end|>never")
    deltas = write(loaded)
    assert text_of(deltas) == "Hi!"
    assert (finish_of(deltas).reason, finish_of(deltas).completion_tokens) == ("stop_token", 4)
    assert sum(delta.tokens for delta in deltas) == 4


def test_a_stop_token_at_the_limit_is_still_the_reason(monkeypatch: pytest.MonkeyPatch):
    loaded = models.ready()
    scripted(loaded, monkeypatch, "Hi!<|im_end|>")
    assert finish_of(write(loaded, max_new_tokens=4)).reason == "stop_token"


def test_a_stop_string_over_several_tokens_is_not_shown(monkeypatch: pytest.MonkeyPatch):
    loaded = models.ready()
    scripted(loaded, monkeypatch, "Hi!\nUser: more")
    deltas = write(loaded, stop=("\nUser:", "zzz"))
    assert text_of(deltas) == "Hi!"
    assert (finish_of(deltas).reason, finish_of(deltas).completion_tokens) == ("stop_string", 9)


def test_the_start_of_a_stop_string_is_shown_when_the_reply_ends_there(monkeypatch: pytest.MonkeyPatch):
    loaded = models.ready()
    scripted(loaded, monkeypatch, "Hi!\nUser<|im_end|>")
    assert text_of(write(loaded, stop=("\nUser:",))) == "Hi!\nUser"


def test_emoji_split_over_tokens_and_other_control_tokens(monkeypatch: pytest.MonkeyPatch):
    loaded = models.ready()
    scripted(loaded, monkeypatch, "a👩‍👩‍👧b<|im_start|>c<|im_end|>")
    deltas = write(loaded, max_new_tokens=100)
    assert text_of(deltas) == "a👩‍👩‍👧bc"
    assert all("\ufffd" not in delta.text for delta in deltas)


def test_a_character_cut_off_by_the_limit_is_shown_as_cut_off(monkeypatch: pytest.MonkeyPatch):
    loaded = models.ready()
    scripted(loaded, monkeypatch, "a你")
    assert text_of(write(loaded, max_new_tokens=2)) == "a\ufffd"


def test_thinking_that_the_template_opened_goes_to_reasoning(monkeypatch: pytest.MonkeyPatch):
    loaded = models.ready(chat_template=models.THINKING)
    scripted(loaded, monkeypatch, "hm\n</think>\n\nYes<|im_end|>")
    deltas = write(loaded, max_new_tokens=50)
    assert "".join(delta.reasoning for delta in deltas) == "hm"
    assert text_of(deltas) == "Yes"


def test_thinking_that_the_model_opens_goes_to_reasoning(monkeypatch: pytest.MonkeyPatch):
    loaded = models.ready()
    scripted(loaded, monkeypatch, "<think>hm</think>Yes<|im_end|>")
    deltas = write(loaded, max_new_tokens=50)
    assert ("".join(delta.reasoning for delta in deltas), text_of(deltas)) == ("hm", "Yes")


def test_the_context_limits_the_reply_and_drops_old_turns():
    loaded = models.ready()
    context = loaded.info.context_length
    long = tuple(Message(role, "x" * 100) for _ in range(4) for role in ("user", "assistant"))
    deltas = write(loaded, (*long, HELLO[1]), max_new_tokens=8192)
    finish = finish_of(deltas)
    assert deltas[0].prompt is not None
    assert deltas[0].prompt.dropped > 0
    assert finish.reason == "length"
    assert finish.prompt_tokens + finish.completion_tokens == context
    assert finish.completion_tokens >= context // 4


def test_a_message_that_cannot_fit_is_refused_with_both_counts():
    with pytest.raises(PromptError, match=r"take 6\d\d tokens; this model has room for 492"):
        write(models.ready(), (Message("user", "x" * 600),))


def test_a_seed_repeats_a_sampled_reply_and_is_reported():
    loaded = models.ready()
    first = write(loaded, temperature=1.5, seed=7)
    assert text_of(first) == text_of(write(loaded, temperature=1.5, seed=7))
    assert finish_of(first).seed == 7
    assert text_of(first) != text_of(write(loaded, temperature=1.5, seed=8))


def test_without_a_seed_the_reported_one_repeats_the_reply():
    loaded = models.ready()
    first = write(loaded, temperature=1.5)
    assert text_of(first) == text_of(write(loaded, temperature=1.5, seed=finish_of(first).seed))


class TestWriter:
    def write(self, loaded: LoadedModel) -> list[ReplyDelta]:
        request = ChatRequest(HELLO, GenerationSettings(max_new_tokens=3))
        return list(reply.Writer(loaded).write(request, 0.0))

    def test_info(self):
        assert reply.Writer(models.ready()).info == models.ready().info

    @pytest.mark.parametrize(
        ("raised", "says"),
        [
            (torch.OutOfMemoryError("CUDA out of memory"), "not enough memory"),
            (RuntimeError("DefaultCPUAllocator: can't allocate memory"), "not enough memory"),
            (IndexError("index out of range"), "failed while writing .IndexError"),
        ],
    )
    def test_what_the_model_raises_becomes_one_error(
        self, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture, raised: Exception, says: str
    ):
        def broken(*_: object):
            raise raised

        monkeypatch.setattr(reply, "decode", broken)
        with pytest.raises(GenerationError, match=says) as caught:
            self.write(models.ready())
        assert caught.value.remedy
        assert str(raised) in caplog.text, "the console has the details"

    def test_nan_in_the_weights_fails_the_reply_alone(self):
        loaded = models.ready()
        norm = loaded.model.get_parameter("model.norm.weight")
        before = norm.detach().clone()
        with torch.no_grad():
            norm.fill_(float("nan"))
        try:
            with pytest.raises(GenerationError, match="NaN"):
                self.write(loaded)
        finally:
            with torch.no_grad():
                norm.copy_(before)
        assert len(self.write(loaded)) == 5

    def test_interrupted_passes_through(self):
        writer = reply.Writer(dataclasses.replace(models.ready()))
        with pytest.raises(Interrupted), writer.interruptible(lambda: True):
            list(writer.write(ChatRequest(HELLO, GenerationSettings()), 0.0))
