"""What is thought and what is said: whatever the split and the marks, both are whole."""

import re
from collections.abc import Sequence

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from chatui.local.thinking import (
    HARMONY,
    TAGS,
    THINK,
    HarmonySplitter,
    Splitter,
    Tags,
    TemplateSplitter,
    ThinkingSplitter,
    known,
    marked,
    opened_by,
)


def cut(text: str, places: set[int]) -> list[str]:
    ends = [*sorted(place for place in places if place < len(text)), len(text)]
    return [text[start:end] for start, end in zip([0, *ends], ends, strict=False)]


def parted(splitter: Splitter, pieces: Sequence[str]) -> tuple[str, str]:
    parts = [splitter.push(piece) for piece in pieces] + [splitter.flush()]
    return "".join(said for said, _ in parts), "".join(thought for _, thought in parts)


def through_thinking(pieces: Sequence[str], thinking: bool = False, own: Tags | None = None) -> tuple[str, str]:
    return parted(ThinkingSplitter((own or THINK) if thinking else None, own), pieces)


texts = st.lists(
    st.sampled_from(
        [
            "<think>",
            "</think>",
            "<thi",
            "nk>",
            "<thinking>",
            "[THINK]",
            "[/THINK]",
            "<",
            "```",
            "~~~",
            "\n",
            "\r\n",
            " ",
            "\t",
            "a",
            "\u2028",
            "\x0b",
        ]
    ),
    max_size=14,
).map("".join)


class TestThinkingSplitter:
    @given(texts, st.sets(st.integers(1, 80), max_size=30), st.booleans())
    @example("a\r\n<think>\r\nb\r\n</think>\r\nc", {2, 3, 10, 11, 13, 14}, False)
    def test_every_split_gives_the_same_two_texts(self, text: str, where: set[int], thinking: bool):
        assert through_thinking(cut(text, where), thinking) == through_thinking([text], thinking)

    @given(texts, st.booleans())
    @example("nk></think><thi", True)
    def test_no_character_is_lost_but_tags_and_newlines_around_them(self, text: str, thinking: bool):
        said, thought = through_thinking([text], thinking)
        assert sorted(_without_tags(said) + _without_tags(thought)) == sorted(_without_tags(text))

    @pytest.mark.parametrize(
        ("text", "said", "thought"),
        [
            ("<think>\nhm\n</think>\n\nYes", "Yes", "hm"),
            ("  <think>hm</think>Yes", "  Yes", "hm"),
            ("First\n<think>hm</think>\nThen", "First\nThen", "hm"),
            ("<think>a</think>b\n<think>c</think>d", "b\nd", "ac"),
            ("Write `<think>` like this: <think>", "Write `<think>` like this: <think>", ""),
            ("```\n<think>\n```\nend", "```\n<think>\n```\nend", ""),
            ("```\ncode\n```\n<think>hm</think>end", "```\ncode\n```\nend", "hm"),
            ("~~~\n```\n<think>\n~~~", "~~~\n```\n<think>\n~~~", ""),
            ("<think>never closed\n", "", "never closed\n"),
            ("</think> alone is text", "</think> alone is text", ""),
            ("almost <thin", "almost <thin", ""),
            ("\n<thin", "\n<thin", ""),
        ],
    )
    def test_examples(self, text: str, said: str, thought: str):
        assert through_thinking(list(text)) == (said, thought)

    def test_a_span_that_the_template_opened(self):
        assert through_thinking(list("\nhm\n</think>\nYes"), thinking=True) == ("Yes", "hm")

    def test_ordinary_text_is_passed_on_at_once(self):
        assert ThinkingSplitter().push("Hello, wor") == ("Hello, wor", "")


def _without_tags(text: str) -> str:
    return re.sub(r"</?think(?:ing)?>|\[/?THINK\]|[\r\n]", "", text)


@pytest.mark.parametrize("tags", TAGS, ids=lambda tags: tags.open.strip())
class TestEveryConvention:
    def test_a_thought_folds_where_a_reply_begins(self, tags: Tags):
        text = f"{tags.open}\nhm\n\nwell\n{tags.close}\n{tags.answer[0]}\nYes\n\nand{tags.answer[1]}"
        for own in (tags, tags) if tags.in_words else (None, tags):
            assert through_thinking(list(text), own=own) == ("Yes\n\nand", "hm\n\nwell")
            assert through_thinking([text], own=own) == ("Yes\n\nand", "hm\n\nwell")

    def test_one_that_the_template_opened_folds(self, tags: Tags):
        assert opened_by(f"<|assistant|>\n{tags.open}\n") is tags
        assert opened_by(f"<|assistant|>\n{tags.open}\n\n{tags.close}\n\n") is None
        assert through_thinking(list(f"hm\n{tags.close}\nYes"), thinking=True, own=tags) == ("Yes", "hm")

    def test_one_that_never_ends_is_a_thought(self, tags: Tags):
        assert through_thinking(list(f"{tags.open}hm"), own=tags) == ("", "hm")

    def test_a_reply_may_write_about_it(self, tags: Tags):
        mark = tags.open.strip()
        for text in (f"Write `{mark}`, or {mark} x", f"```\n{mark}\n```\n", f"So:\n`{mark}`\n", f"> {mark}"):
            assert through_thinking(list(text), own=tags) == (text, "")

    def test_in_mid_text_it_counts_only_in_models_that_think_so(self, tags: Tags):
        text = f"First.\n{tags.open}hm{tags.close}"
        assert through_thinking(list(text), own=tags) == ("First.\n", "hm")
        assert through_thinking(list(text)) == (("First.\n", "hm") if tags is THINK else (text, ""))

    def test_it_is_known_by_its_token_its_template_or_its_response_template(self, tags: Tags):
        assert known("", [tags.close]) is tags
        assert known(f"{{{{ '{tags.open}' }}}}", []) is tags
        assert known("", [], {"fields": {"thinking": {"open": tags.open, "close": tags.close}}}) is tags


def harmony(text: str) -> str:
    return re.sub(r"<\|\w+\|>", lambda token: marked(token[0]), text)


CHANNELS = "<|channel|>analysis<|message|>Hm.<|end|><|start|>assistant<|channel|>final<|message|>Hi <|x y"


class TestHarmony:
    @given(st.sets(st.integers(1, 120), max_size=30))
    def test_every_split_gives_the_same_two_texts(self, where: set[int]):
        assert parted(HarmonySplitter(), cut(harmony(CHANNELS), where)) == ("Hi <|x y", "Hm.")

    def test_only_the_end_of_what_is_said_is_the_end(self):
        splitter = HarmonySplitter()
        splitter.push(harmony("<|channel|>analysis<|message|>Hm.<|end|>"))
        assert not splitter.over
        splitter.push(harmony("<|start|>assistant<|channel|>commentary<|message|>I look.<|end|>"))
        assert not splitter.over
        splitter.push(harmony("<|start|>assistant<|channel|>final<|message|>Hi<|end|>"))
        assert splitter.over

    def test_messages_of_a_kind_are_paragraphs(self):
        parts = ("analysis", "a"), ("commentary", "b"), ("analysis", "c"), ("final", "d")
        text = "<|end|><|start|>assistant".join(f"<|channel|>{name}<|message|>{said}" for name, said in parts)
        assert parted(HarmonySplitter(), [harmony(text)]) == ("b\n\nd", "a\n\nc")

    def test_text_in_no_channel_is_said_and_text_like_a_token_is_text(self):
        assert parted(HarmonySplitter(), ["Hi <|channel|>x<|message|>"]) == ("Hi <|channel|>x<|message|>", "")

    def test_it_is_known_by_its_tokens(self):
        assert known("<think>", ["<|channel|>", "<|message|>", "<think>"]) is HARMONY
        assert opened_by("<|start|>assistant<|channel|>analysis<|message|>") is HARMONY


RESPONSE = {
    "defaults": {"role": "assistant"},
    "start_anchor": "<|assistant|>",
    "fields": {
        "thinking": {"open_pattern": r"<mind:\w+>", "close": "</mind>", "content": "text"},
        "tool_calls": {"open": "<call>", "close": "</call>", "content": "json", "repeats": True},
        "content": {"close": "<|end|>", "content": "text"},
    },
}


class TestResponseTemplate:
    @pytest.mark.parametrize("prompt", ["Hi<|assistant|>", "<mind:old><|assistant|>"])
    def test_it_parts_the_reply(self, prompt: str):
        text = "<mind:one>\nhm\n\nwell\n</mind>\nYes\n\nand"
        for pieces in (list(text), [text]):
            assert parted(TemplateSplitter(RESPONSE, prompt), pieces) == ("Yes\n\nand", "hm\n\nwell")

    def test_what_the_template_opened_goes_on(self):
        assert parted(TemplateSplitter(RESPONSE, "<|assistant|><mind:one>"), ["hm</mind>Yes"]) == ("Yes", "hm")

    def test_what_does_not_parse_is_said(self):
        said, thought = parted(TemplateSplitter(RESPONSE, "<|assistant|>"), list("A <call>no json</call> and more"))
        assert said.startswith("A no json")
        assert said.endswith(" and more")
        assert thought == ""

    def test_one_that_knows_no_more_than_tags_is_read_as_tags(self):
        assert known("", [], RESPONSE) is None
        response = {"fields": {"reasoning_content": {"open": "<hm>", "close": "</hm>"}}}
        assert known("", [], response) == Tags("<hm>", "</hm>", lines=False)
