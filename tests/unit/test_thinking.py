"""What is thought and what is said: whatever the split and the marks, both are whole."""

import re
from collections.abc import Sequence

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from chatui.chat import ReplyDelta
from chatui.engine.text.harmony import HarmonySplitter, marked
from chatui.engine.text.response_template import TemplateSplitter
from chatui.reply_text.reply_parts import Parts, Splitter
from chatui.reply_text.thinking import ThinkingSplitter
from chatui.reply_text.thinking_tags import HARMONY, TAGS, THINK, Tags, find_tags, opened_by


def cut(text: str, places: set[int]) -> list[str]:
    ends = [*sorted(place for place in places if place < len(text)), len(text)]
    return [text[start:end] for start, end in zip([0, *ends], ends, strict=False)]


def parted(splitter: Splitter, pieces: Sequence[str]) -> tuple[str, str]:
    said = thought = ""
    for said_more, thought_more, folds in [*map(splitter.push, pieces), splitter.flush()]:
        said, thought = ReplyDelta(said_more, thought_more, reasoning_remainder=folds).apply_to(said, thought)
    return said, thought


def through_thinking(
    pieces: Sequence[str], thinking: bool = False, own: Tags | None = None, asked: str = ""
) -> tuple[str, str]:
    return parted(ThinkingSplitter((own or THINK) if thinking else None, own, asked=asked), pieces)


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
            "`",
            '"',
            "\u2028",
            "\x0b",
        ]
    ),
    max_size=14,
).map("".join)


class TestThinkingSplitter:
    @given(texts, st.sets(st.integers(1, 80), max_size=30), st.booleans(), st.sampled_from([None, THINK]))
    @example("a\r\n<think>\r\nb\r\n</think>\r\nc", {2, 3, 10, 11, 13, 14}, False, None)
    @example("a\n</think>\n\n<think>b</think>c", {2, 3, 11}, False, None)
    def test_every_split_gives_the_same_two_texts(
        self, text: str, where: set[int], thinking: bool, own: Tags | None
    ) -> None:
        assert through_thinking(cut(text, where), thinking, own) == through_thinking([text], thinking, own)

    @given(texts, st.booleans())
    @example("nk></think><thi", True)
    def test_no_character_is_lost_but_tags_and_newlines_around_them(self, text: str, thinking: bool) -> None:
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
    def test_examples(self, text: str, said: str, thought: str) -> None:
        assert through_thinking(list(text)) == (said, thought)

    def test_a_span_that_the_template_opened(self) -> None:
        assert through_thinking(list("\nhm\n</think>\nYes"), thinking=True) == ("Yes", "hm")

    def test_ordinary_text_is_passed_on_at_once(self) -> None:
        assert ThinkingSplitter().push("Hello, wor") == Parts("Hello, wor")


LONE = "Hm, `code`.\n```\nx = 1\n```\nSo yes."


class TestAnEndWithoutAStart:
    @pytest.mark.parametrize("own", [None, THINK], ids=["unknown", "thinks"])
    @pytest.mark.parametrize("end", ["\n</think>\n\n", "</think>", "</think>\n", "\n</think>", "\n\n</think>\r\n"])
    def test_it_folds_what_was_said(self, own: Tags | None, end: str) -> None:
        for pieces in (list(f"{LONE}{end}Yes."), [f"{LONE}{end}Yes."]):
            assert through_thinking(pieces, own=own) == ("Yes.", LONE)

    @pytest.mark.parametrize("tags", [tags for tags in TAGS if not tags.in_words], ids=lambda tags: tags.close)
    def test_it_does_so_in_every_convention(self, tags: Tags) -> None:
        text = f"Hm.\n{tags.close}\n{tags.answer[0]}Yes{tags.answer[1]}"
        assert through_thinking(list(text), own=tags) == ("Yes", "Hm.")
        assert through_thinking(list(text)) == ("Yes", "Hm.")

    def test_what_is_said_is_shown_until_then(self) -> None:
        splitter = ThinkingSplitter()
        assert splitter.push("Hm.") == Parts("Hm.")
        assert splitter.push("</think>\n") == Parts()
        assert splitter.push("Y") == Parts("Y", folds="")
        assert splitter.push("es") == Parts("es")

    @pytest.mark.parametrize("own", [None, THINK], ids=["unknown", "thinks"])
    @pytest.mark.parametrize(
        "text",
        [
            "Write `</think>` there.",
            "Write `a </think> b` there.",
            'Write "</think>" there.',
            "So:\n```\n</think>\n```\nDone.",
            "It begins with <think> and ends with\n</think>\nas you see.",
            "The tag </think> ends it.",
            "- </think>\n- more",
            "Cut off at <",
            "Cut off at </think",
        ],
    )
    def test_one_that_is_spoken_of_stays(self, own: Tags | None, text: str) -> None:
        assert through_thinking(list(text), own=own) == (text, "")

    @pytest.mark.parametrize("own", [None, THINK], ids=["unknown", "thinks"])
    def test_one_that_the_user_asked_for_stays(self, own: Tags | None) -> None:
        text = "Here it is:\n</think>\nAnything else?"
        assert through_thinking(list(text), own=own, asked="Write </think>, please.") == (text, "")

    def test_one_behind_a_thought_stays(self) -> None:
        assert through_thinking(list("<think>a</think>b\n</think>\nc"), own=THINK) == ("b\n</think>\nc", "a")
        assert through_thinking(list("a\n</think>\nb\n</think>\nc"), own=THINK) == ("b\n</think>\nc", "a")

    def test_where_nothing_follows_only_a_model_that_thinks_has_thought(self) -> None:
        assert through_thinking(list("Hm.\n</think>\n"), own=THINK) == ("", "Hm.")
        assert through_thinking(list("Hm.\n</think>\n")) == ("Hm.\n</think>\n", "")

    def test_an_empty_thought_leaves_no_tag(self) -> None:
        assert through_thinking(list("</think>\n\nYes"), own=THINK) == ("Yes", "")

    def test_a_thought_may_speak_of_its_end(self) -> None:
        for quote in ("`</think>`", "`<think>...</think>`", '"</think>"', "'</think>'", "“</think>”"):
            text = f"The user wants {quote} here.\n</think>\nYes"
            for pieces in (list(text), [text]):
                assert through_thinking(pieces, thinking=True) == ("Yes", f"The user wants {quote} here.")
        assert through_thinking(list('"So"</think>"Yes"'), thinking=True) == ('"Yes"', '"So"')
        assert through_thinking(list("an odd ` here</think>Yes\nno"), thinking=True) == ("Yes\nno", "an odd ` here")

    def test_a_thought_that_the_template_opened_may_be_opened_again(self) -> None:
        assert through_thinking(list("<think>\nHm.\n</think>\nYes"), thinking=True) == ("Yes", "Hm.")
        assert through_thinking(list("<thin ice\n</think>\nYes"), thinking=True) == ("Yes", "<thin ice")


def _without_tags(text: str) -> str:
    return re.sub(r"</?think(?:ing)?>|\[/?THINK\]|[\r\n]", "", text)


@pytest.mark.parametrize("tags", TAGS, ids=lambda tags: tags.open.strip())
class TestEveryConvention:
    def test_a_thought_folds_where_a_reply_begins(self, tags: Tags) -> None:
        text = f"{tags.open}\nhm\n\nwell\n{tags.close}\n{tags.answer[0]}\nYes\n\nand{tags.answer[1]}"
        for own in (tags, tags) if tags.in_words else (None, tags):
            assert through_thinking(list(text), own=own) == ("Yes\n\nand", "hm\n\nwell")
            assert through_thinking([text], own=own) == ("Yes\n\nand", "hm\n\nwell")

    def test_one_that_the_template_opened_folds(self, tags: Tags) -> None:
        assert opened_by(f"<|assistant|>\n{tags.open}\n") is tags
        assert opened_by(f"<|assistant|>\n{tags.open}\n\n{tags.close}\n\n") is None
        assert through_thinking(list(f"hm\n{tags.close}\nYes"), thinking=True, own=tags) == ("Yes", "hm")

    def test_one_that_never_ends_is_a_thought(self, tags: Tags) -> None:
        assert through_thinking(list(f"{tags.open}hm"), own=tags) == ("", "hm")

    def test_a_reply_may_write_about_it(self, tags: Tags) -> None:
        mark = tags.open.strip()
        for text in (f"Write `{mark}`, or {mark} x", f"```\n{mark}\n```\n", f"So:\n`{mark}`\n", f"> {mark}"):
            assert through_thinking(list(text), own=tags) == (text, "")

    def test_in_mid_text_it_counts_only_in_models_that_think_so(self, tags: Tags) -> None:
        text = f"First.\n{tags.open}hm{tags.close}"
        assert through_thinking(list(text), own=tags) == ("First.\n", "hm")
        assert through_thinking(list(text)) == (("First.\n", "hm") if tags is THINK else (text, ""))

    def test_it_is_known_by_its_token_its_template_or_its_response_template(self, tags: Tags) -> None:
        assert find_tags("", [tags.close]) is tags
        assert find_tags(f"{{{{ '{tags.open}' }}}}", []) is tags
        assert find_tags("", [], {"fields": {"thinking": {"open": tags.open, "close": tags.close}}}) is tags


class TestConventionsOfTheModelsOwn:
    @pytest.mark.parametrize("answer", ["answer", "response", "output"])
    def test_the_answer_may_be_marked_as_well(self, answer: str) -> None:
        own = find_tags(f"<think> then <{answer}>", [])
        text = f"<think>\nHm.\n</think>\n<{answer}>\nYes\n</{answer}>"
        assert through_thinking(list(text), own=own) == ("Yes\n", "Hm.")
        assert through_thinking(list(text)) == (f"<{answer}>\nYes\n</{answer}>", "Hm.")

    @pytest.mark.parametrize(
        ("open", "close"),
        [
            ("<deep_think>", "</deep_think>"),
            ("<|thinking|>", "<|/thinking|>"),
            ("<|think_start|>", "<|think_end|>"),
            ("<|begin_of_reasoning|>", "<|end_of_reasoning|>"),
            ("[REASONING]", "[/REASONING]"),
        ],
    )
    def test_tags_that_nobody_has_told_of_are_found(self, open: str, close: str) -> None:
        own = find_tags(f"{{{{ '{open}' + thought + '{close}' }}}}", [])
        assert own == Tags(open, close) == find_tags("", [close, open])
        assert opened_by(f"<|assistant|>{open}\n", own) == own
        assert through_thinking(list(f"{open}Hm.{close}Yes"), own=own) == ("Yes", "Hm.")

    @pytest.mark.parametrize("template", ["if (enable_thinking)", "<thinkers>", "messages[thinking]", "<b></b>"])
    def test_a_word_is_no_tag(self, template: str) -> None:
        assert find_tags(template, []) is None


def harmony(text: str) -> str:
    return re.sub(r"<\|\w+\|>", lambda token: marked(token[0]), text)


CHANNELS = "<|channel|>analysis<|message|>Hm.<|end|><|start|>assistant<|channel|>final<|message|>Hi <|x y"


class TestHarmony:
    @given(st.sets(st.integers(1, 120), max_size=30))
    def test_every_split_gives_the_same_two_texts(self, where: set[int]) -> None:
        assert parted(HarmonySplitter(), cut(harmony(CHANNELS), where)) == ("Hi <|x y", "Hm.")

    def test_only_the_end_of_what_is_said_is_the_end(self) -> None:
        splitter = HarmonySplitter()
        splitter.push(harmony("<|channel|>analysis<|message|>Hm.<|end|>"))
        assert not splitter.finished
        splitter.push(harmony("<|start|>assistant<|channel|>commentary<|message|>I look.<|end|>"))
        assert not splitter.finished
        splitter.push(harmony("<|start|>assistant<|channel|>final<|message|>Hi<|end|>"))
        assert splitter.finished

    def test_messages_of_a_kind_are_paragraphs(self) -> None:
        parts = ("analysis", "a"), ("commentary", "b"), ("analysis", "c"), ("final", "d")
        text = "<|end|><|start|>assistant".join(f"<|channel|>{name}<|message|>{said}" for name, said in parts)
        assert parted(HarmonySplitter(), [harmony(text)]) == ("b\n\nd", "a\n\nc")

    def test_text_in_no_channel_is_said_and_text_like_a_token_is_text(self) -> None:
        assert parted(HarmonySplitter(), ["Hi <|channel|>x<|message|>"]) == ("Hi <|channel|>x<|message|>", "")

    def test_it_is_known_by_its_tokens(self) -> None:
        assert find_tags("<think>", ["<|channel|>", "<|message|>", "<think>"]) is HARMONY
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
    def test_it_parts_the_reply(self, prompt: str) -> None:
        text = "<mind:one>\nhm\n\nwell\n</mind>\nYes\n\nand"
        for pieces in (list(text), [text]):
            assert parted(TemplateSplitter(RESPONSE, prompt), pieces) == ("Yes\n\nand", "hm\n\nwell")

    def test_what_the_template_opened_goes_on(self) -> None:
        assert parted(TemplateSplitter(RESPONSE, "<|assistant|><mind:one>"), ["hm</mind>Yes"]) == ("Yes", "hm")

    def test_what_does_not_parse_is_said(self) -> None:
        said, thought = parted(TemplateSplitter(RESPONSE, "<|assistant|>"), list("A <call>no json</call> and more"))
        assert said.startswith("A no json")
        assert said.endswith(" and more")
        assert thought == ""

    def test_one_that_knows_no_more_than_tags_is_read_as_tags(self) -> None:
        assert find_tags("", [], RESPONSE) is None
        response = {"fields": {"reasoning_content": {"open": "<hm>", "close": "</hm>"}}}
        assert find_tags("", [], response) == Tags("<hm>", "</hm>", lines=False)
