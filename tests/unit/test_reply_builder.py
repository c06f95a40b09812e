"""Whole replies of a tiny model: why they end, what they count, where thinking goes."""

import copy
import dataclasses
from collections.abc import Iterable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from hypothesis import assume, given
from hypothesis import strategies as st
from tokenizers import Tokenizer, decoders, pre_tokenizers
from tokenizers.models import BPE
from transformers import PreTrainedTokenizerFast

from chatui.chat import ChatRequest, Finish, Message, ReplyDelta
from chatui.engine.loading.loaded_model import LoadedModel
from chatui.engine.runners import reply_builder, serial_runner
from chatui.errors import PromptError, TooLongError
from chatui.generation_settings import GenerationSettings
from tests import models

HELLO = (Message("system", "Be kind."), Message("user", "Hello there, who are you?"))


def write(loaded: LoadedModel, messages: tuple[Message, ...] = HELLO, **values: Any) -> list[ReplyDelta]:
    settings = GenerationSettings(**{"temperature": 0.0, "max_new_tokens": 20, **values})
    return list(serial_runner.generate_reply(loaded, ChatRequest(messages, settings), queue_seconds=1.5))


def text_of(deltas: Iterable[ReplyDelta]) -> str:
    return "".join(delta.text for delta in deltas)


def grown(deltas: Iterable[ReplyDelta]) -> tuple[str, str]:
    """What is said and what is thought in the end."""
    said = thought = ""
    for delta in deltas:
        said, thought = delta.apply_to(said, thought)
    return said, thought


def finish_of(deltas: list[ReplyDelta]) -> Finish:
    assert deltas[-1].finish is not None
    assert all(delta.finish is None for delta in deltas[:-1])
    return deltas[-1].finish


def scripted(loaded: LoadedModel, monkeypatch: pytest.MonkeyPatch, text: str) -> None:
    """Let the model say `text`, control tokens in it included, over and over."""
    ids = loaded.tokenizer.encode(text, add_special_tokens=False)
    monkeypatch.setattr(serial_runner, "generate_ids", lambda *_: iter(ids * 1000))


def made_of(messages: tuple[Message, ...] = HELLO, **asked: Any) -> reply_builder.ReplyBuilder:
    """A reply that has no token yet."""
    settings = GenerationSettings(temperature=0.0, max_new_tokens=5)
    return reply_builder.ReplyBuilder(models.ready(), dataclasses.replace(ChatRequest(messages, settings), **asked))


def push(made: reply_builder.ReplyBuilder, text: str) -> list[ReplyDelta]:
    """What comes of the tokens of this text, as far as the reply goes."""
    ids = models.ready().tokenizer.encode(text, add_special_tokens=False)
    return [made.push(token_id) for token_id in ids if not made.finished]


def test_a_reply_of_full_length() -> None:
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
    assert text_of(deltas) == loaded.decode(models.generate(loaded.model, deltas[0].prompt.token_ids, 20))


def test_a_stop_token_ends_the_reply_and_is_counted_but_not_shown(monkeypatch: pytest.MonkeyPatch) -> None:
    loaded = models.ready()
    scripted(loaded, monkeypatch, "Hi!<|im_end|>never")
    deltas = write(loaded)
    assert text_of(deltas) == "Hi!"
    assert (finish_of(deltas).reason, finish_of(deltas).completion_tokens) == ("stop_token", 4)
    assert sum(delta.tokens for delta in deltas) == 4


def test_a_stop_token_at_the_limit_is_still_the_reason(monkeypatch: pytest.MonkeyPatch) -> None:
    loaded = models.ready()
    scripted(loaded, monkeypatch, "Hi!<|im_end|>")
    assert finish_of(write(loaded, max_new_tokens=4)).reason == "stop_token"


def test_a_stop_string_over_several_tokens_is_not_shown(monkeypatch: pytest.MonkeyPatch) -> None:
    loaded = models.ready()
    scripted(loaded, monkeypatch, "Hi!\nUser: more")
    deltas = write(loaded, stop=("\nUser:", "zzz"))
    assert text_of(deltas) == "Hi!"
    assert (finish_of(deltas).reason, finish_of(deltas).completion_tokens) == ("stop_string", 9)


def test_the_start_of_a_stop_string_is_shown_when_the_reply_ends_there(monkeypatch: pytest.MonkeyPatch) -> None:
    loaded = models.ready()
    scripted(loaded, monkeypatch, "Hi!\nUser<|im_end|>")
    assert text_of(write(loaded, stop=("\nUser:",))) == "Hi!\nUser"


def test_emoji_split_over_tokens_and_other_control_tokens(monkeypatch: pytest.MonkeyPatch) -> None:
    loaded = models.ready()
    scripted(loaded, monkeypatch, "a👩‍👩‍👧b<|im_start|>c<|im_end|>")
    deltas = write(loaded, max_new_tokens=100)
    assert text_of(deltas) == "a👩‍👩‍👧bc"
    assert all("\ufffd" not in delta.text for delta in deltas)


def test_a_character_cut_off_by_the_limit_is_shown_as_cut_off(monkeypatch: pytest.MonkeyPatch) -> None:
    loaded = models.ready()
    scripted(loaded, monkeypatch, "a你")
    assert text_of(write(loaded, max_new_tokens=2)) == "a\ufffd"


def test_thinking_that_the_template_opened_goes_to_reasoning(monkeypatch: pytest.MonkeyPatch) -> None:
    loaded = models.ready(chat_template=models.THINKING)
    scripted(loaded, monkeypatch, "hm\n</think>\n\nYes<|im_end|>")
    deltas = write(loaded, max_new_tokens=50)
    assert "".join(delta.reasoning for delta in deltas) == "hm"
    assert text_of(deltas) == "Yes"


def test_thinking_that_the_model_opens_goes_to_reasoning(monkeypatch: pytest.MonkeyPatch) -> None:
    loaded = models.ready()
    scripted(loaded, monkeypatch, "<think>hm</think>Yes<|im_end|>")
    deltas = write(loaded, max_new_tokens=50)
    assert ("".join(delta.reasoning for delta in deltas), text_of(deltas)) == ("hm", "Yes")


def test_an_end_without_a_start_folds_what_came_before(monkeypatch: pytest.MonkeyPatch) -> None:
    loaded = models.ready()
    scripted(loaded, monkeypatch, "Hm.\n\nWell.\n</think>\n\nYes<|im_end|>")
    assert grown(write(loaded, max_new_tokens=50)) == ("Yes", "Hm.\n\nWell.")
    asked = (Message("user", "Write </think> on a line."),)
    assert grown(write(loaded, asked, max_new_tokens=50)) == ("Hm.\n\nWell.\n</think>\n\nYes", "")


def test_a_stop_string_behind_an_end_without_a_start(monkeypatch: pytest.MonkeyPatch) -> None:
    loaded = models.ready()
    scripted(loaded, monkeypatch, "Hm.\n</think>\n\nYes or noEND<|im_end|>")
    deltas = write(loaded, max_new_tokens=50, stop=("or noEND",))
    assert (grown(deltas), finish_of(deltas).reason) == (("Yes ", "Hm."), "stop_string")


def test_the_context_limits_the_reply_and_drops_old_turns() -> None:
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


def test_a_message_that_cannot_fit_is_refused_with_both_counts() -> None:
    with pytest.raises(PromptError, match=r"take 6\d\d tokens; this model has room for 492"):
        write(models.ready(), (Message("user", "x" * 600),))


def test_a_seed_repeats_a_sampled_reply_and_is_reported() -> None:
    loaded = models.ready()
    first = write(loaded, temperature=1.5, seed=7)
    assert text_of(first) == text_of(write(loaded, temperature=1.5, seed=7))
    assert finish_of(first).seed == 7
    assert text_of(first) != text_of(write(loaded, temperature=1.5, seed=8))


def test_without_a_seed_the_reported_one_repeats_the_reply() -> None:
    loaded = models.ready()
    first = write(loaded, temperature=1.5)
    assert text_of(first) == text_of(write(loaded, temperature=1.5, seed=finish_of(first).seed))


class TestReply:
    """The same without a forward pass: tokens come from wherever."""

    def test_it_is_over_with_its_finish(self) -> None:
        made = made_of()
        deltas = push(made, "Hi!<|im_end|>")
        assert made.finished
        assert [delta.text for delta in deltas] == ["H", "i", "!", ""]
        assert [delta.finish is None for delta in deltas] == [True, True, True, False]
        assert not made_of().finished

    def test_what_it_was_told_of_its_beginning_is_in_the_finish(self, monkeypatch: pytest.MonkeyPatch) -> None:
        made = made_of()
        now = iter([10.0, 13.0, *[13.5] * 9, 17.0])  # begun, first token, four more and what texts took, ended
        monkeypatch.setattr(reply_builder, "time", SimpleNamespace(perf_counter=lambda: next(now)))
        made.begin(2.5, 7)
        finish = finish_of(push(made, "Hello"))
        assert (finish.queue_seconds, finish.cached_tokens) == (2.5, 7)
        assert (finish.prefill_seconds, finish.decode_seconds) == (3.0, 4.0)
        assert (finish.reason, finish.completion_tokens, finish.tokens_per_second) == ("length", 5, 1.0)
        assert finish.prompt_tokens == len(made.prompt.token_ids)

    def test_it_may_write_on_behind_the_models_own_end(self) -> None:
        deltas = push(made_of(ignore_eos=True), "a<|im_end|>b<|endoftext|>cdef")
        assert text_of(deltas) == "abc"
        assert (finish_of(deltas).reason, finish_of(deltas).completion_tokens) == ("length", 5)

    def test_a_whole_conversation_is_never_cut(self) -> None:
        long = tuple(Message(role, "x" * 100) for _ in range(4) for role in ("user", "assistant"))
        assert made_of((*long, HELLO[1])).prompt.dropped > 0
        with pytest.raises(TooLongError, match=r"takes 9\d\d tokens; this model has room for 511"):
            made_of((*long, HELLO[1]), no_truncation=True)

    def test_a_whole_conversation_may_leave_room_for_few_tokens(self) -> None:
        settings = GenerationSettings(temperature=0.0, max_new_tokens=400)
        for whole, dropped in ((True, 0), (False, 2)):
            messages = (Message("user", "x" * 200), Message("assistant", "y" * 200), HELLO[1])
            made = made_of(messages, settings=settings, no_truncation=whole)
            assert made.prompt.dropped == dropped
            deltas = push(made, "z" * 500)
            limit = min(400, models.ready().info.context_length - len(made.prompt.token_ids))
            assert finish_of(deltas).completion_tokens == limit


class TestContinued:
    """A reply that is there in part: only what is new comes out, and it is read as the rest of that."""

    def rest(self, written: str, content: str, reasoning: str = "", stop: tuple[str, ...] = ()) -> tuple[str, str]:
        """(text, reasoning) that come of what the model writes behind this start."""
        settings = GenerationSettings(temperature=0.0, max_new_tokens=100, stop=stop)
        begun = Message("assistant", content, reasoning)
        deltas = push(made_of((*HELLO, begun), settings=settings), f"{written}<|im_end|>")
        assert finish_of(deltas).completion_tokens == len(deltas)
        return grown(deltas)

    @pytest.mark.parametrize(
        ("content", "reasoning", "written", "said", "thought"),
        [
            ("Hel", "", "lo", "lo", ""),
            ("Hel", "", "\n\nlo", "\n\nlo", ""),
            ("a", "", "<think>b", "<think>b", ""),
            ("a\n", "", "<think>b</think>c", "c", "b"),
            ("```\n", "", "<think>b", "<think>b", ""),
            ("``", "", "`\n<think>b", "`\n<think>b", ""),
            ("```\n```\n", "", "<think>b</think>c", "c", "b"),
            ("<think>", "", "a", "a", ""),
            ("<thi", "", "nk>a", "nk>a", ""),
            ("", "Hm", "m.\n</think>\n\nYes", "Yes", "m."),
            ("", "Hm.\n", "\nAnd</think>Yes", "Yes", "\nAnd"),
            ("", "Hm</thi", "nk>a</think>b", "b", "nk>a"),
            ("", "Hm</think>", "a</think>b", "b", "a"),
            ("Yes", "Hm.", ", but", ", but", ""),
            ("Yes", "Hm.", ".\n</think>\nNo", ".\n</think>\nNo", ""),
            ("Hm", "", ".\n</think>\nNo", "No", "."),
            ("", "", "<think>Hm.</think>Yes", "Yes", "Hm."),
        ],
    )
    def test_what_is_new_is_parted_as_the_rest(
        self, content: str, reasoning: str, written: str, said: str, thought: str
    ) -> None:
        assert self.rest(written, content, reasoning) == (said, thought)

    @given(st.lists(st.sampled_from(["a", "\n", " ", "`", "```\n", "<", "<think>", "é"]), max_size=12), st.data())
    def test_a_cut_anywhere_changes_nothing(self, pieces: list[str], data: st.DataObject) -> None:
        assume(self.rest("".join(pieces), "x")[0] == "".join(pieces))  # no tag in it counts
        cut = data.draw(st.integers(0, len(pieces)))
        before, after = "".join(pieces[:cut]), "".join(pieces[cut:])
        assert self.rest(after, "x" + before) == (after, "")

    def test_stop_strings_count_in_what_is_new_alone(self) -> None:
        assert self.rest("er: b", "a\nUs", stop=("\nUser:",)) == ("er: b", "")
        assert self.rest("er: b\nUser: c", "a\nUser:\nUs", stop=("\nUser:",)) == ("er: b", "")

    def test_the_length_is_that_of_what_is_new(self) -> None:
        made = made_of((*HELLO, Message("assistant", "x" * 50)))
        assert finish_of(push(made, "abcdefgh")).completion_tokens == 5
        assert made.prompt.text.endswith("x" * 50)

    @pytest.mark.parametrize(("content", "said"), [("", "b"), ("a", " b")])
    def test_sentencepiece_keeps_the_space_between_what_was_there_and_what_is_new(
        self, content: str, said: str
    ) -> None:
        backend = Tokenizer(BPE(vocab={"▁": 0, "a": 1, "b": 2, "▁a": 3, "▁b": 4}, merges=[("▁", "a"), ("▁", "b")]))
        backend.pre_tokenizer, backend.decoder = pre_tokenizers.Metaspace(), decoders.Metaspace()
        tokenizer = PreTrainedTokenizerFast(
            tokenizer_object=backend, chat_template="{% for m in messages %}{{ m.content + ' ' }}{% endfor %}"
        )
        loaded = dataclasses.replace(models.ready(), tokenizer=tokenizer)
        messages = (Message("user", "b"), Message("assistant", content))
        made = reply_builder.ReplyBuilder(loaded, ChatRequest(messages, GenerationSettings(temperature=0.0)))
        assert made.push(4).text == said


HARMONY = (
    "{% for m in messages %}{{ '<|start|>' + m.role + ('<|channel|>final' if m.role == 'assistant' else '')"
    " + '<|message|>' + m.content + '<|end|>' }}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|start|>assistant' }}{% endif %}"
)
MAGISTRAL = "{% for m in messages %}{{ '[INST]' + m.content + '[/INST]' }}{% endfor %}"


def of_convention(
    folder: Path, template: str, control: tuple[str, ...], response: dict[str, Any] | None = None
) -> LoadedModel:
    """A model that has these control tokens besides."""
    tokenizer = models.tokenizer(template, thinks=False, extra_special_tokens=list(control))
    tokenizer.response_template = response
    model = copy.deepcopy(models.model())
    model.resize_token_embeddings(len(tokenizer))
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return models.loaded(folder)


def parts_of(loaded: LoadedModel, written: str, *messages: Message) -> tuple[str, str, str]:
    """What is said and what is thought where the model writes this, and why it ends."""
    request = ChatRequest(messages or HELLO, GenerationSettings(temperature=0.0, max_new_tokens=200))
    made = reply_builder.ReplyBuilder(loaded, request)
    ids = loaded.tokenizer.encode(written, add_special_tokens=False)
    deltas = [made.push(token_id) for token_id in ids if not made.finished]
    reason = deltas[-1].finish.reason if deltas[-1].finish else ""
    return text_of(deltas), "".join(delta.reasoning for delta in deltas), reason


class TestConventions:
    """Models that mark their thoughts with control tokens, read from their folders."""

    @pytest.fixture(scope="class")
    def harmony(self, tmp_path_factory: pytest.TempPathFactory) -> LoadedModel:
        control = ("<|start|>", "<|end|>", "<|message|>", "<|channel|>", "<|return|>", "<|call|>")
        return of_convention(tmp_path_factory.mktemp("harmony"), HARMONY, control)

    @pytest.mark.parametrize("end", ["<|return|>", "<|end|>"])
    def test_channels_fold_and_the_end_of_a_thought_is_not_the_end(self, harmony: LoadedModel, end: str) -> None:
        stop_id = harmony.tokenizer.convert_tokens_to_ids("<|return|>")
        assert isinstance(stop_id, int)
        harmony = dataclasses.replace(harmony, stop_ids=harmony.stop_ids | {stop_id})
        written = "<|channel|>analysis<|message|>Hm.<|end|><|start|>assistant<|channel|>final<|message|>Hi\n**you**"
        assert parts_of(harmony, written + end + "more") == ("Hi\n**you**", "Hm.", "stop_token")

    def test_a_reply_in_channels_goes_on_from_where_it_was_cut(self, harmony: LoadedModel) -> None:
        cut = Message("assistant", "", reasoning="Hm")
        rest = "m.<|end|><|start|>assistant<|channel|>final<|message|>Hi<|end|>"
        assert parts_of(harmony, rest, *HELLO, cut) == ("Hi", "m.", "stop_token")
        made = reply_builder.ReplyBuilder(harmony, ChatRequest((*HELLO, cut), GenerationSettings()))
        assert made.prompt.text.endswith("<|start|>assistant<|channel|>analysis<|message|>Hm")
        said = Message("assistant", "He", reasoning="Hmm.")
        assert parts_of(harmony, "llo<|end|>", *HELLO, said) == ("llo", "", "stop_token")
        made = reply_builder.ReplyBuilder(harmony, ChatRequest((*HELLO, said), GenerationSettings()))
        assert made.prompt.text.endswith("Hmm.<|end|><|start|>assistant<|channel|>final<|message|>He")

    def test_control_tokens_that_mark_a_thought_are_read(self, tmp_path: Path) -> None:
        loaded = of_convention(tmp_path, MAGISTRAL, ("[THINK]", "[/THINK]"))
        assert parts_of(loaded, "[THINK]Hm.[/THINK]Hi `[THINK]`") == ("Hi `[THINK]`", "Hm.", "")
        cut = Message("assistant", "Hi", reasoning="Hm.")
        made = reply_builder.ReplyBuilder(loaded, ChatRequest((*HELLO, cut), GenerationSettings()))
        assert made.prompt.text.endswith("[THINK]Hm.[/THINK]Hi")

    @pytest.mark.parametrize(
        ("pattern", "written"), [("open", "<mind>\nHm.</mind>Hi<act>"), ("open_pattern", "<mind>\nHm.</mind>Hi<act>")]
    )
    def test_a_response_template_is_read(self, tmp_path: Path, pattern: str, written: str) -> None:
        thinking = {pattern: "<mind>", "close": "</mind>", "content": "text"}
        response = {
            "defaults": {"role": "assistant"},
            "start_anchor": "<|im_start|>assistant",
            "fields": {"reasoning_content": thinking, "content": {"content": "text"}},
        }
        loaded = of_convention(tmp_path, models.CHATML, ("<mind>", "</mind>", "<act>"), response)
        assert parts_of(loaded, written) == ("Hi", "Hm.", "")
