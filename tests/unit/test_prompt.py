"""Messages through templates of every kind; what is typed stays text."""

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from chatui.chat import Message, Prompt
from chatui.errors import ModelError, PromptError
from chatui.local import prompt as prompts
from tests import models

SYSTEM, USER, ASSISTANT = Message("system", "Be kind."), Message("user", "Hi"), Message("assistant", "Hello")
TEMPLATES = {
    "chatml": models.CHATML,
    "thinking": models.THINKING,
    "gemma": models.GEMMA,
    "mistral": models.MISTRAL,
    "zephyr": models.ZEPHYR,
}


def prepared(chat_template: str | None):
    tokenizer = models.tokenizer(chat_template)
    prompts.guard(tokenizer)
    return tokenizer, prompts.probe(tokenizer)


READY = {name: prepared(text) for name, text in TEMPLATES.items()}


def build(name: str, *messages: Message, limit: int = 500) -> Prompt:
    tokenizer, template = READY[name]
    return prompts.build(tokenizer, template, messages, limit)


@pytest.mark.parametrize(
    ("name", "takes_system", "needs_alternation", "end"),
    [
        ("chatml", True, False, "<|im_end|>"),
        ("thinking", True, False, "<|im_end|>"),
        ("gemma", False, True, "<end_of_turn>"),
        ("mistral", False, True, "<|im_end|>"),
        ("zephyr", True, False, "<|endoftext|>"),
    ],
)
def test_probe(name: str, takes_system: bool, needs_alternation: bool, end: str):
    tokenizer, template = READY[name]
    assert (template.takes_system, template.needs_alternation) == (takes_system, needs_alternation)
    assert template.end_ids == {tokenizer.convert_tokens_to_ids(end)}
    assert len(template.notes) == (not takes_system) + needs_alternation


def test_a_template_that_ends_turns_without_a_token_has_no_end():
    assert (
        prepared("{% for m in messages %}{{ m.role + ': ' + m.content + '\n' }}{% endfor %}")[1].end_ids == frozenset()
    )


@pytest.mark.parametrize(
    ("chat_template", "says"),
    [
        (None, "has no chat template"),
        ("{{ messages[7].foo.bar }}", "does not work"),
        ("{% for %}", "does not work"),
        ("{{ raise_exception('never') }}", "does not work: never"),
        ("{% if messages %}{{ 1 / 0 }}{% endif %}", "does not work"),
        ("{{ ''.__class__.__mro__[1].__subclasses__() }}", "does not work"),
    ],
)
def test_broken_templates(chat_template: str | None, says: str):
    with pytest.raises(ModelError, match=says) as caught:
        prepared(chat_template)
    assert caught.value.remedy


def test_chatml_is_written_as_the_template_says():
    prompt = build("chatml", SYSTEM, USER, ASSISTANT, USER)
    assert prompt.text == (
        "<|im_start|>system\nBe kind.<|im_end|>\n<|im_start|>user\nHi<|im_end|>\n"
        "<|im_start|>assistant\nHello<|im_end|>\n<|im_start|>user\nHi<|im_end|>\n<|im_start|>assistant\n"
    )
    assert prompt.dropped == 0


def test_a_persona_is_folded_into_the_first_message():
    prompt = build("gemma", SYSTEM, USER, ASSISTANT, USER)
    assert prompt.text.startswith("<start_of_turn>user\nBe kind.\n\nHi<end_of_turn>\n<start_of_turn>model\nHello")
    assert prompt.text.count("Be kind.") == 1


def test_a_persona_that_the_template_would_drop_is_folded_too():
    assert build("mistral", SYSTEM, USER).text == "[INST] Be kind.\n\nHi [/INST]"


def test_an_empty_persona_is_left_out():
    assert build("chatml", Message("system", " \n"), USER) == build("chatml", USER)


def test_neighbours_of_one_role_are_joined_where_turns_must_alternate():
    assert "user\nHi\n\nHi<end_of_turn>" in build("gemma", USER, USER).text
    assert "user\nHi<|im_end|>\n<|im_start|>user\nHi" in build("chatml", USER, USER).text


def test_what_was_thought_is_not_sent_back():
    assert "secret" not in build("chatml", USER, Message("assistant", "Hello", reasoning="secret"), USER).text


@pytest.mark.parametrize("messages", [[], [SYSTEM], [USER, ASSISTANT], [Message("user", " \n\t")]])
def test_nothing_to_answer(messages: list[Message]):
    with pytest.raises(PromptError, match="no message to answer"):
        build("chatml", *messages)


@pytest.mark.parametrize("name", TEMPLATES)
@pytest.mark.parametrize("place", [0, 1, 2])
@pytest.mark.parametrize("token", [*models.SPECIAL, *models.PLAIN_ADDED])
def test_control_tokens_that_are_typed_are_encoded_as_text(name: str, place: int, token: str):
    def ids(typed: str) -> tuple[int, ...]:
        messages = [SYSTEM, USER, ASSISTANT, USER]
        messages[place] = Message(messages[place].role, f"a{typed}b")
        return build(name, *messages).token_ids

    added = set(READY[name][0].added_tokens_decoder)
    assert [i for i in ids(token) if i in added] == [i for i in ids("xyz") if i in added]
    assert len(ids(token)) == len(ids("xyz")) - 3 + len(token.encode())


def test_added_tokens_that_plain_text_makes_too_do_not_stop_a_chat():
    tokenizer = models.tokenizer()
    tokenizer.add_tokens(["\n", "a"])
    prompts.guard(tokenizer)
    prompt = prompts.build(tokenizer, prompts.probe(tokenizer), [Message("user", "a\n\na")], 500)
    assert "user\na\n\na<|im_end|>" in prompt.text


@pytest.mark.parametrize("name", TEMPLATES)
@given(st.lists(st.text(alphabet="ab ", min_size=1, max_size=30).filter(str.strip), min_size=1, max_size=8), st.data())
@settings(max_examples=25, deadline=None)
def test_oldest_turns_are_left_out_and_no_more_than_needed(name: str, contents: list[str], data: st.DataObject):
    turns = []
    for content in contents[:-1]:
        turns += [Message("user", content), Message("assistant", content)]
    turns.append(Message("user", contents[-1]))
    limit = data.draw(st.integers(10, len(build(name, SYSTEM, *turns, limit=10_000).token_ids)))

    def size(dropped: int) -> int:
        return len(build(name, SYSTEM, *turns[dropped:], limit=10_000).token_ids)

    if size(len(turns) - 1) > limit:
        with pytest.raises(PromptError, match=rf"{size(len(turns) - 1):,} tokens.*room for {limit:,} besides"):
            build(name, SYSTEM, *turns, limit=limit)
        return
    prompt = build(name, SYSTEM, *turns, limit=limit)
    assert len(prompt.token_ids) <= limit
    assert prompt == Prompt(prompt.text, build(name, SYSTEM, *turns[prompt.dropped :]).token_ids, prompt.dropped)
    assert "Be kind." in prompt.text
    assert prompt.dropped == 0 or size(prompt.dropped - 2) > limit


def test_a_template_that_refuses_a_conversation_says_why():
    tokenizer, template = prepared(
        models.CHATML + "{% if messages|length > 2 %}{{ raise_exception('too many') }}{% endif %}"
    )
    with pytest.raises(PromptError, match="too many"):
        prompts.build(tokenizer, template, [USER, ASSISTANT, USER], 500)
