"""Messages through templates of every kind; what is typed stays text."""

from dataclasses import replace

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from transformers import PreTrainedTokenizerFast

from chatui.chat import Message, Prompt, Role, SystemRole, TemplateFacts
from chatui.engine.text import prompt as prompts
from chatui.engine.text import spans
from chatui.engine.text.chat_template import Template, probe
from chatui.engine.text.message_roles import OPENING
from chatui.errors import ModelError, PromptError, TooLongError
from chatui.thinking_controls import ThinkingControls
from tests import models
from tests.examples import some_of
from tests.templates import FAMILIES

SYSTEM, USER, ASSISTANT = Message("system", "Be kind."), Message("user", "Hi"), Message("assistant", "Hello")
TEMPLATES = {
    "chatml": models.CHATML,
    "thinking": models.THINKING,
    "gemma": models.GEMMA,
    "mistral": models.MISTRAL,
    "zephyr": models.ZEPHYR,
}

MORE = {"thought": models.THOUGHT, "refuses": models.REFUSES}


def prepared(chat_template: str | None) -> tuple[PreTrainedTokenizerFast, Template]:
    tokenizer = models.tokenizer(chat_template)
    prompts.set_control_tokens(tokenizer)
    return tokenizer, probe(tokenizer)


READY = {name: prepared(text) for name, text in {**TEMPLATES, **MORE}.items()}
CONTINUED = ("thought", *TEMPLATES)


def build(name: str, *messages: Message, limit: int = 500) -> Prompt:
    return timeless(prompts.build(*READY[name], messages, limit))


def timeless(prompt: Prompt) -> Prompt:
    """The prompt but for the time that it took, so that two can be compared."""
    assert prompt.template_seconds > 0
    assert prompt.tokenize_seconds > 0
    return replace(prompt, template_seconds=0.0, tokenize_seconds=0.0)


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
def test_probe(name: str, takes_system: bool, needs_alternation: bool, end: str) -> None:
    tokenizer, template = READY[name]
    assert (template.takes_system, template.needs_alternation) == (takes_system, needs_alternation)
    assert template.end_ids == {tokenizer.convert_tokens_to_ids(end)}
    assert len(template.notes) == (not takes_system) + needs_alternation


@pytest.mark.parametrize(("name", "system"), [("chatml", "native"), ("gemma", "folded")])
def test_what_is_known_of_a_template(name: str, system: SystemRole) -> None:
    template = READY[name][1]
    assert template.facts("the text") == TemplateFacts(
        "the text",
        system,
        alternates=name == "gemma",
        thinks=True,
        tools=False,
        controls=ThinkingControls(closes=True),
    )


@pytest.mark.parametrize(
    ("more", "tools"),
    [
        ("{% if tools %}{{ tools | tojson }}{% endif %}", True),
        ("{% for tool in tools or [] %}{{ tool.function.name }}{% endfor %}", True),
        ("{% if tools %}{{ raise_exception('no tools') }}{% endif %}", False),
        ("{# tools #}", False),
    ],
)
def test_whether_a_template_takes_functions(more: str, tools: bool) -> None:
    assert prepared(models.CHATML + more)[1].tools == tools


def test_a_template_that_ends_turns_without_a_token_has_no_end() -> None:
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
        ("{% for m in messages %}{{ m.role }}{% endfor %}", "leaves out what the user says"),
        ("{{ messages }}{{ raise_exception('no') if messages[0].content is string }}", "does not work: no"),
    ],
)
def test_broken_templates(chat_template: str | None, says: str) -> None:
    with pytest.raises(ModelError, match=says) as caught:
        prepared(chat_template)
    assert caught.value.remedy


AS_STRINGS = "{% for m in messages %}{{ '[' + m.role + ']' + m.content }}{% endfor %}"
AS_PARTS = "{% for m in messages %}{{ '[' + m.role + ']' }}{% for p in m.content %}{{ p.text }}{% endfor %}{% endfor %}"
FIRST_PART = "{% for m in messages %}{{ '[' + m.role + ']' + m.content[0].text }}{% endfor %}"
TYPED_PARTS = AS_PARTS.replace("{{ p.text }}", "{% if p.type == 'text' %}{{ p.text | trim }}{% endif %}")
EITHER = (
    "{% for m in messages %}{{ '[' + m.role + ']' }}{% if m.content is string %}{{ m.content }}"
    "{% else %}{{ m.content[0].text }}{% endif %}{% endfor %}"
)
# The system message as a string or as parts, the others as parts only.
MIXED = (
    "{% if messages[0].role == 'system' %}{% if messages[0].content is string %}{{ messages[0].content }}"
    "{% else %}{{ messages[0].content[0].text }}{% endif %}{% endif %}"
    + AS_PARTS.replace("{{ '[' +", "{% if m.role != 'system' %}{{ '[' +").replace(
        "{% endfor %}{% endfor %}", "{% endfor %}{% endif %}{% endfor %}"
    )
)


@pytest.mark.parametrize(
    ("chat_template", "parts"),
    [
        (AS_STRINGS, False),
        (EITHER, False),
        ("{% for m in messages %}{{ '[' + m.role + ']' }}{{ m.content }}{% endfor %}", False),
        (AS_PARTS, True),
        (TYPED_PARTS, True),
        (FIRST_PART, True),
        (MIXED, True),
    ],
)
def test_contents_are_given_in_the_form_that_the_template_reads(chat_template: str, parts: bool) -> None:
    tokenizer, template = prepared(chat_template)
    assert template.takes_parts == parts
    assert template.takes_system
    text = prompts.build(tokenizer, template, [SYSTEM, USER, ASSISTANT, Message("user", "Why?")], 1000).text
    places = [text.find(said) for said in ("Be kind.", "Hi", "Hello", "Why?")]
    assert -1 not in places
    assert places == sorted(places)
    assert "type" not in text


def test_a_reply_is_continued_behind_parts() -> None:
    tokenizer, template = prepared(AS_PARTS)
    prompt = prompts.build(tokenizer, template, [USER, Message("assistant", "Well, ")], 1000)
    assert prompt.text == "[user]Hi[assistant]Well, "


def test_chatml_is_written_as_the_template_says() -> None:
    prompt = build("chatml", SYSTEM, USER, ASSISTANT, USER)
    assert prompt.text == (
        "<|im_start|>system\nBe kind.<|im_end|>\n<|im_start|>user\nHi<|im_end|>\n"
        "<|im_start|>assistant\nHello<|im_end|>\n<|im_start|>user\nHi<|im_end|>\n<|im_start|>assistant\n"
    )
    assert prompt.dropped == 0


def test_a_persona_is_folded_into_the_first_message() -> None:
    prompt = build("gemma", SYSTEM, USER, ASSISTANT, USER)
    assert prompt.text.startswith("<start_of_turn>user\nBe kind.\n\nHi<end_of_turn>\n<start_of_turn>model\nHello")
    assert prompt.text.count("Be kind.") == 1


def test_a_persona_that_the_template_would_drop_is_folded_too() -> None:
    assert build("mistral", SYSTEM, USER).text == "[INST] Be kind.\n\nHi [/INST]"


def test_an_empty_persona_is_left_out() -> None:
    assert build("chatml", Message("system", " \n"), USER) == build("chatml", USER)


def test_neighbours_of_one_role_are_joined_where_turns_must_alternate() -> None:
    assert "user\nHi\n\nHi<end_of_turn>" in build("gemma", USER, USER).text
    assert "user\nHi<|im_end|>\n<|im_start|>user\nHi" in build("chatml", USER, USER).text


def test_what_was_thought_is_not_sent_back() -> None:
    assert "secret" not in build("chatml", USER, Message("assistant", "Hello", reasoning="secret"), USER).text


@pytest.mark.parametrize(
    "messages",
    [
        [],
        [SYSTEM],
        [Message("user", " \n\t")],
        [ASSISTANT],
        [SYSTEM, ASSISTANT],
        [Message("user", " "), ASSISTANT],
        [Message("user", " "), SYSTEM],
    ],
)
def test_nothing_to_answer(messages: list[Message]) -> None:
    with pytest.raises(PromptError, match="no message to answer"):
        build("chatml", *messages)


@pytest.mark.parametrize("name", TEMPLATES)
@pytest.mark.parametrize("place", [0, 1, 2])
@pytest.mark.parametrize("token", [*models.SPECIAL, *models.PLAIN_ADDED])
def test_control_tokens_that_are_typed_are_encoded_as_text(name: str, place: int, token: str) -> None:
    def ids(typed: str) -> tuple[int, ...]:
        messages = [SYSTEM, USER, ASSISTANT, USER]
        messages[place] = Message(messages[place].role, f"a{typed}b")
        return build(name, *messages).token_ids

    added = set(READY[name][0].added_tokens_decoder)
    assert [i for i in ids(token) if i in added] == [i for i in ids("xyz") if i in added]
    assert len(ids(token)) == len(ids("xyz")) - 3 + len(token.encode())


def test_added_tokens_that_plain_text_makes_too_do_not_stop_a_chat() -> None:
    tokenizer = models.tokenizer()
    tokenizer.add_tokens(["\n", "a"])
    prompts.set_control_tokens(tokenizer)
    prompt = prompts.build(tokenizer, probe(tokenizer), [Message("user", "a\n\na")], 500)
    assert "user\na\n\na<|im_end|>" in prompt.text


@pytest.mark.parametrize("name", TEMPLATES)
@given(st.lists(st.text(alphabet="ab ", min_size=1, max_size=30).filter(str.strip), min_size=1, max_size=8), st.data())
@settings(max_examples=some_of(25), deadline=None)
def test_oldest_turns_are_left_out_and_no_more_than_needed(name: str, contents: list[str], data: st.DataObject) -> None:
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
    assert prompt == replace(build(name, SYSTEM, *turns[prompt.dropped :]), dropped=prompt.dropped)
    assert "Be kind." in prompt.text
    assert prompt.dropped == 0 or size(prompt.dropped - 2) > limit


def test_a_template_that_refuses_a_conversation_says_why() -> None:
    tokenizer, template = prepared(
        models.CHATML + "{% if messages|length > 2 %}{{ raise_exception('too many') }}{% endif %}"
    )
    with pytest.raises(PromptError, match="too many"):
        prompts.build(tokenizer, template, [USER, ASSISTANT, USER], 500)


MADE = {f"family {name}" if name in READY else name: family.tokenizer() for name, family in FAMILIES.items()}
ALL = {**READY, **{name: (made, probe(made)) for name, made in MADE.items()}}


@pytest.mark.parametrize(
    ("name", "later_system", "reply_first"),
    [
        ("chatml", True, True),
        ("gemma", False, False),
        ("mistral", False, False),
        ("llama 2", False, False),
        ("llama 3", True, True),
        ("phi 3", True, True),
        ("qwen 3", True, True),
        ("qwen 2.5", True, True),
        ("deepseek r1", False, True),
        ("command r", False, False),
    ],
)
def test_what_a_template_takes_where(name: str, later_system: bool, reply_first: bool) -> None:
    template = ALL[name][1]
    assert (template.takes_later_system, template.takes_reply_first) == (later_system, reply_first)


@pytest.mark.parametrize("name", ALL)
@given(st.lists(st.sampled_from(["system", "user", "assistant"]), max_size=7), st.booleans())
@settings(max_examples=some_of(40), deadline=None)
def test_nothing_that_is_said_is_lost_whoever_speaks_when(name: str, roles: list[Role], trailing: bool) -> None:
    later: list[Role] = ["system"] if trailing else []
    roles = [*roles, "user", *later]
    messages = [Message(role, f"said {place}.") for place, role in enumerate(roles)]
    prompt = prompts.build(*ALL[name], messages, 5000)
    places = [prompt.text.find(message.content) for message in messages]
    assert -1 not in places
    # Mistral's own template puts the first system message into the last question.
    assert (found := places[1:] if roles[0] == "system" else places) == sorted(found)
    assert all(prompt.text.count(message.content) == 1 for message in messages)
    counted = {span.source for span in prompt.spans}
    assert {"persona"} & counted == ({"persona"} if "system" in roles else set())


def test_a_first_message_of_the_assistants_stays() -> None:
    prompt = build("chatml", SYSTEM, ASSISTANT, USER)
    assert prompt.text.startswith("<|im_start|>system\nBe kind.<|im_end|>\n<|im_start|>assistant\nHello<|im_end|>\n")
    assert (prompt.dropped, prompt.notes) == (0, ())
    for messages in ([SYSTEM, ASSISTANT, USER], [ASSISTANT, USER]):
        folded = build("gemma", *messages)
        opening = "Be kind." if messages[0] is SYSTEM else OPENING
        assert folded.text.startswith(f"<start_of_turn>user\n{opening}<end_of_turn>\n<start_of_turn>model\nHello")
        assert [message.role for message in folded.messages] == ["user", "assistant", "user"]
        assert len(folded.notes) == (messages[0] is not SYSTEM)


def test_a_later_system_message_is_folded_where_the_template_refuses_it_and_that_is_said() -> None:
    messages = [USER, ASSISTANT, Message("system", "Now rhyme."), USER]
    native, folded = build("chatml", *messages), build("gemma", *messages)
    assert "<|im_start|>system\nNow rhyme.<|im_end|>\n<|im_start|>user\nHi" in native.text
    assert native.notes == ()
    assert "<start_of_turn>user\nNow rhyme.\n\nHi<end_of_turn>" in folded.text
    (note,) = folded.notes
    assert "system message" in note
    assert "user\nHi\n\nNow rhyme.<end_of_turn>" in build("gemma", USER, Message("system", "Now rhyme.")).text
    # Where turns need not alternate, only what is folded is joined.
    tokenizer, template = ALL["deepseek r1"]
    text = prompts.build(tokenizer, template, [USER, USER, ASSISTANT, Message("system", "Rhyme."), USER], 500).text
    assert "<｜User｜>Hi<｜User｜>Hi<｜Assistant｜>Hello<｜end▁of▁sentence｜><｜User｜>Rhyme.\n\nHi" in text


def test_what_stands_before_a_question_goes_with_it_when_turns_are_left_out() -> None:
    turns = [ASSISTANT, USER, ASSISTANT, Message("system", "Now rhyme."), USER]
    least = build("chatml", SYSTEM, *turns[3:])
    shorter = build("chatml", SYSTEM, *turns, limit=len(least.token_ids))
    assert shorter == replace(least, dropped=3)
    without_greeting = build("chatml", SYSTEM, *turns[1:])
    assert build("chatml", SYSTEM, *turns, limit=len(without_greeting.token_ids)).dropped == 1


@pytest.mark.parametrize("name", ALL)
@pytest.mark.parametrize("begun", ["", "Well, "])
def test_what_stands_behind_the_question_stays_with_it_and_before_the_reply(name: str, begun: str) -> None:
    tokenizer, template = ALL[name]
    reply = [Message("assistant", begun)] if begun else []
    end = [Message("user", "Now what?"), Message("system", "Stay calm."), *reply]
    least = prompts.build(tokenizer, template, [SYSTEM, *end], 5000)
    shorter = prompts.build(tokenizer, template, [SYSTEM, USER, ASSISTANT, *end], len(least.token_ids))
    assert (shorter.token_ids, shorter.dropped) == (least.token_ids, 2)
    text = least.text
    assert -1 < text.index("Now what?") < text.index("Stay calm.")
    assert text.count("Stay calm.") == text.count("Be kind.") == 1
    assert text.endswith(begun)


class TestContinued:
    """A last message of the assistant's is the start of the reply."""

    @pytest.mark.parametrize("name", CONTINUED)
    @given(text=st.text(max_size=12).filter(str.strip))
    @settings(max_examples=some_of(30), deadline=None)
    def test_ordinary_text_is_continued_as_transformers_does(self, name: str, text: str) -> None:
        text = text.strip()
        tokenizer, template = READY[name]
        persona = [SYSTEM] if template.takes_system else []
        messages = [*persona, USER, ASSISTANT, USER, Message("assistant", text)]
        chat = [{"role": message.role, "content": message.content} for message in messages]
        theirs = models.prompt_ids(tokenizer, chat, continue_final_message=True, sanitize_control_tokens=True)
        assert build(name, *messages).token_ids == tuple(theirs)

    @pytest.mark.parametrize("name", CONTINUED)
    @given(st.text(alphabet="a \n\t\u00e9👩\u200d👧<think>[INST]", min_size=1, max_size=12))
    @settings(max_examples=some_of(60), deadline=None)
    @example("\n a \n")
    @example("  ")
    @example("\ufffd")
    @example("</think>")
    @example("CONTINUE_FINAL_MESSAGE_TAG ")
    def test_it_ends_where_the_text_ends_to_the_letter(self, name: str, text: str) -> None:
        begins, whole = build(name, USER, Message("assistant", "x")), build(name, USER, Message("assistant", text))
        assert whole.text == begins.text.removesuffix("x") + text

    @pytest.mark.parametrize("name", CONTINUED)
    def test_without_text_it_is_a_reply_like_any_other(self, name: str) -> None:
        assert build(name, SYSTEM, USER, Message("assistant", "")) == build(name, SYSTEM, USER)

    @pytest.mark.parametrize("name", CONTINUED)
    @pytest.mark.parametrize("token", [*models.SPECIAL, *models.PLAIN_ADDED])
    @pytest.mark.parametrize("field", ["content", "reasoning"])
    def test_control_tokens_in_it_are_text(self, name: str, token: str, field: str) -> None:
        def ids(typed: str) -> tuple[int, ...]:
            return build(name, SYSTEM, USER, Message("assistant", **{"content": "", field: f"a{typed}"})).token_ids

        added = set(READY[name][0].added_tokens_decoder)
        assert [i for i in ids(token) if i in added] == [i for i in ids("xyz") if i in added]
        assert len(ids(token)) == len(ids("xyz")) - 3 + len(token.encode())

    @pytest.mark.parametrize("name", [*CONTINUED, "refuses"])
    @pytest.mark.parametrize("token", [*models.SPECIAL, *models.PLAIN_ADDED])
    @pytest.mark.parametrize("reply", [ASSISTANT, Message("assistant", "Yes", "Hm.")])
    def test_control_tokens_before_it_are_text(self, name: str, token: str, reply: Message) -> None:
        def ids(typed: str) -> tuple[int, ...]:
            return build(name, SYSTEM, Message("user", f"a{typed}b"), reply).token_ids

        added = set(READY[name][0].added_tokens_decoder)
        assert [i for i in ids(token) if i in added] == [i for i in ids("xyz") if i in added]

    def test_the_persona_is_folded_and_neighbours_are_joined(self) -> None:
        prompt = build("gemma", SYSTEM, USER, USER, ASSISTANT, Message("assistant", " More "))
        assert prompt.text == (
            "<start_of_turn>user\nBe kind.\n\nHi\n\nHi<end_of_turn>\n<start_of_turn>model\nHello\n\n More "
        )
        assert build("mistral", SYSTEM, USER, ASSISTANT).text == "[INST] Be kind.\n\nHi [/INST] Hello"

    @pytest.mark.parametrize(
        ("name", "content", "end"),
        [
            ("chatml", "", "<|im_start|>assistant\n<think>\nHm."),
            ("thinking", "", "<|im_start|>assistant\n<think>\nHm."),
            ("thought", "", "<|im_start|>assistant\n<think>\nHm."),
            ("refuses", "", "<|im_start|>assistant\n<think>\nHm."),
            ("chatml", "Yes", "<|im_start|>assistant\n<think>\nHm.\n</think>\n\nYes"),
            ("thinking", "Yes", "<|im_start|>assistant\n<think>\nHm.\n</think>\n\nYes"),
            ("thought", "Yes", "<|im_start|>assistant\n<think>\nHm.\n</think>\n\nYes"),
            ("refuses", "Yes", "<|im_start|>assistant\n<think>\nHm.\n</think>\n\nYes"),
        ],
    )
    def test_a_thought_goes_on_or_is_closed(self, name: str, content: str, end: str) -> None:
        prompt = build(name, USER, Message("assistant", content, reasoning="Hm."))
        assert prompt.text == f"<|im_start|>user\nHi<|im_end|>\n{end}"
        opened = READY[name][0].convert_tokens_to_ids("<think>")
        assert prompt.token_ids.count(opened) == 1, "a token, as the model writes it"

    def test_a_finished_thought_is_written_as_its_template_does(self) -> None:
        tokenizer, _ = READY["thought"]
        chat = [{"role": "user", "content": "Hi"}, {"role": "assistant", "content": "Yes", "reasoning_content": "Hm."}]
        theirs = models.prompt_ids(tokenizer, chat, continue_final_message=True)
        assert build("thought", USER, Message("assistant", "Yes", "Hm.")).token_ids == tuple(theirs)

    @pytest.mark.parametrize(
        ("name", "before"),
        [("thinking", ""), ("thought", "<think>\n\n</think>\n\n"), ("refuses", "<think>\n\n</think>\n\n")],
    )
    def test_what_the_user_begins_is_no_thought(self, name: str, before: str) -> None:
        text = build(name, USER, Message("assistant", "Sure: ")).text
        assert text == f"<|im_start|>user\nHi<|im_end|>\n<|im_start|>assistant\n{before}Sure: "

    def test_a_model_that_does_not_think_begins_anew_behind_a_thought(self) -> None:
        tokenizer = models.tokenizer(models.CHATML, thinks=False)
        prompts.set_control_tokens(tokenizer)
        template = probe(tokenizer)
        assert not template.thinks
        cut = Message("assistant", "", reasoning="Hm.")
        assert prompts.reply_prefix(template, [USER, cut]) is None
        made = [timeless(prompts.build(tokenizer, template, messages, 500)) for messages in ([USER, cut], [USER])]
        assert made[0] == made[1]
        with_text = prompts.build(tokenizer, template, [USER, Message("assistant", "Yes", "Hm.")], 500).text
        assert with_text.endswith("assistant\nYes")

    def test_a_template_that_refuses_the_rest_says_why(self) -> None:
        tokenizer, template = prepared(
            models.CHATML + "{% if messages[0].content == 'no' %}{{ raise_exception('not this') }}{% endif %}"
        )
        with pytest.raises(PromptError, match="not this"):
            prompts.build(tokenizer, template, [Message("user", "no"), ASSISTANT], 500)

    @pytest.mark.parametrize("name", CONTINUED)
    def test_oldest_turns_are_left_out(self, name: str) -> None:
        turns = [SYSTEM, *[USER, ASSISTANT] * 5, USER, Message("assistant", "Well, ")]
        whole = build(name, *turns)
        for dropped in (2, 4, 10):
            shorter = build(name, SYSTEM, *turns[1 + dropped :])
            prompt = build(name, *turns, limit=len(shorter.token_ids))
            assert prompt == replace(shorter, dropped=dropped)
            assert prompt.text.endswith("Well, ")
        assert whole.dropped == 0
        least = len(build(name, SYSTEM, USER, Message("assistant", "Well, ")).token_ids)
        with pytest.raises(PromptError, match=rf"the reply so far take {least} tokens.*besides the rest of the reply"):
            build(name, *turns, limit=least - 1)

    @pytest.mark.parametrize("name", FAMILIES)
    def test_the_persona_stays(self, name: str) -> None:
        tokenizer = FAMILIES[name].tokenizer()
        template = probe(tokenizer)
        turns = [SYSTEM, USER, ASSISTANT, USER, Message("assistant", "Well, ")]
        text = prompts.build(tokenizer, template, turns, 2000).text
        assert "Be kind." in text
        assert text.endswith("Well, ")

    def test_a_persona_that_the_last_question_carries_stays_in_it(self) -> None:
        tokenizer = FAMILIES["mistral"].tokenizer()
        turns = [SYSTEM, USER, ASSISTANT, USER, Message("assistant", "Well, ")]
        prompt = prompts.build(tokenizer, probe(tokenizer), turns, 2000)
        assert prompt.text == "<s>[INST] Hi[/INST] Hello</s>[INST] Be kind.\n\nHi[/INST] Well, "


def only(condition: str) -> str:
    """A template that writes some of the messages and says nothing of the others."""
    return models.CHATML.replace("%}{{ '<|im_start|>' + m.role", f"if {condition} %}}{{{{ '<|im_start|>' + m.role", 1)


def refuses(condition: str) -> str:
    """A template that refuses a conversation in which this is so of a message."""
    return (
        f"{{% for m in messages %}}{{% if {condition} %}}{{{{ raise_exception('no') }}}}{{% endif %}}{{% endfor %}}"
        + (models.CHATML)
    )


IN_A_ROW = "loop.previtem is defined and loop.previtem.role == m.role"
DEMANDING = {
    "refuses two in a row": refuses(IN_A_ROW),
    "refuses two of the assistant's in a row": refuses(IN_A_ROW + " and m.role == 'assistant'"),
    "leaves out the second in a row": (
        "{% for m in messages %}{% if not (" + IN_A_ROW + ") %}{{ m.role + ':' + m.content }}{% endif %}{% endfor %}"
    ),
    "leaves out the assistant's second in a row": (
        "{% for m in messages %}{% if not (" + IN_A_ROW + " and m.role == 'assistant') %}"
        "{{ m.role + ':' + m.content }}{% endif %}{% endfor %}"
    ),
    "refuses a second system message": (
        "{% if messages | selectattr('role', 'equalto', 'system') | list | length > 1 %}"
        "{{ raise_exception('one') }}{% endif %}" + models.CHATML
    ),
    "writes the last system message only": (
        "{% set ns = namespace(s='') %}{% for m in messages %}{% if m.role == 'system' %}{% set ns.s = m.content %}"
        "{% endif %}{% endfor %}{{ ns.s }}" + only("m.role != 'system'")
    ),
    "leaves out the user where there is a system message": (
        "{% if messages[0].role == 'system' %}{{ messages[0].content }}{% else %}" + models.CHATML + "{% endif %}"
    ),
    "wants the user to speak last": (
        "{% if messages[-1].role != 'user' %}{{ raise_exception('user last') }}{% endif %}" + models.CHATML
    ),
}
DEMANDED = {name: prepared(text) for name, text in DEMANDING.items()}


@pytest.mark.parametrize("name", DEMANDED)
@given(st.lists(st.sampled_from(["system", "user", "assistant"]), max_size=6), st.booleans())
@example(["assistant", "assistant"], False)
@example(["system", "system"], True)
@settings(max_examples=some_of(25), deadline=None)
def test_nothing_is_lost_in_templates_that_ask_for_an_order(name: str, roles: list[Role], trailing: bool) -> None:
    later: list[Role] = ["system"] if trailing else []
    roles = [*roles, "user", *later]
    messages = [Message(role, f"said {place}.") for place, role in enumerate(roles)]
    prompt = prompts.build(*DEMANDED[name], messages, 5000)
    assert all(prompt.text.count(message.content) == 1 for message in messages)
    assert not [note for note in prompt.notes if "leaves out" in note]


@pytest.mark.parametrize(
    ("chat_template", "told"),
    [
        (only("m.role != 'assistant'"), "one earlier message"),
        ("{% set messages = messages[-1:] %}" + models.CHATML, "2 earlier messages"),
        (models.CHATML.replace("m.content", "m.content[:40]"), "one earlier message"),
    ],
)
def test_what_a_template_leaves_out_is_told(chat_template: str, told: str) -> None:
    long = Message("assistant", "A long answer, of more words than all others.")
    asked = [Message("user", "Who was it?"), long, Message("user", "And then?")]
    (note,) = prompts.build(*prepared(chat_template), asked, 1000).notes
    assert told in note


def test_a_question_that_a_template_leaves_out_is_not_answered() -> None:
    cuts = prepared(models.CHATML.replace("m.content", "m.content[:40]"))
    assert not prompts.build(*cuts, [USER], 1000).notes
    with pytest.raises(PromptError, match="leaves out your message") as caught:
        prompts.build(*cuts, [Message("user", "A question of some length. " * 3)], 1000)
    assert "--chat-template" in str(caught.value)


@pytest.mark.parametrize("change", ["| trim", "| upper", "| tojson", "| e", ".lstrip('\n').split('</think>')[-1]"])
def test_what_a_template_only_changes_is_not_missed(change: str) -> None:
    tokenizer, template = prepared(models.CHATML.replace("m.content", f"(m.content {change})"))
    asked = [USER, Message("assistant", '<think>\nHm\n</think>\n\nWell, "it"\nis\n'), Message("user", "\nWhy <b>?\n\n")]
    assert prompts.build(tokenizer, template, asked, 1000).notes == ()


@pytest.mark.parametrize("whole", [False, True])
def test_what_is_far_too_long_is_refused_before_it_is_encoded(monkeypatch: pytest.MonkeyPatch, whole: bool) -> None:
    tokenizer, template = READY["chatml"]
    limit = 100
    far_too_long = Message("user", "Hello. " * limit * template.max_token_length)
    monkeypatch.setattr(spans, "encode", lambda *_: pytest.fail("encoded"))
    with pytest.raises(TooLongError, match=r" 7\d\d\+ tokens"):
        prompts.build(tokenizer, template, [USER, ASSISTANT, far_too_long], limit, whole)
    monkeypatch.undo()
    shortened = prompts.build(tokenizer, template, [far_too_long, ASSISTANT, USER], limit)
    assert shortened.token_ids == prompts.build(tokenizer, template, [USER], limit).token_ids


@given(st.text(max_size=200))
def test_no_text_takes_fewer_tokens_than_its_length_allows(text: str) -> None:
    tokenizer, template = READY["chatml"]
    assert len(tokenizer.encode(text, add_special_tokens=False)) >= len(text) // template.max_token_length
