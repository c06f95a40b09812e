"""What controls a model's thinking: the arguments of its chat template, and whether a thought can be ended early."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, get_args

from chatui.generation_settings import GenerationSettings, Thinking

LEVELS: tuple[Thinking, ...] = ("minimal", "low", "medium", "high")
"""Values of OpenAI's `reasoning_effort`, besides "none".
https://platform.openai.com/docs/api-reference/chat/create#chat_create-reasoning_effort"""

TemplateArguments = Mapping[str, Any]
"""Arguments of a chat template besides the messages, by name: truth values, numbers and strings."""


@dataclass(frozen=True)
class ThinkingControls:
    """The controls that a chat template and an end marker give.

    `switch` is the name of the template's argument that is true or false, `effort` that of the one that takes `levels`,
    `budget` that of the one that takes a number of tokens; "" if there is none. `closes`: the model ends a thought with
    a marker that is known, so a thought can be ended early.
    """

    switch: str = ""
    effort: str = ""
    levels: tuple[str, ...] = ()
    budget: str = ""
    closes: bool = False

    @property
    def choices(self) -> tuple[Thinking, ...]:
        """The values of the setting `thinking` that differ in effect; ("auto",) if there is nothing to choose."""
        off: tuple[Thinking, ...] = ("off",) if self.switch or "none" in self.levels else ()
        on: tuple[Thinking, ...] = ("on",) if self.switch else ()
        return ("auto", *off, *on, *(level for level in LEVELS if level in self.levels))

    def arguments(self, settings: GenerationSettings) -> TemplateArguments:
        """The arguments of the template for these settings. A setting that has no effect gives none."""
        arguments: dict[str, bool | int | str] = {}
        thinking = settings.thinking
        if self.switch and thinking != "auto":
            arguments[self.switch] = thinking != "off"
        level = "none" if thinking == "off" else thinking
        if level in self.levels:
            arguments[self.effort] = level
        if self.budget and settings.thinking_budget:
            arguments[self.budget] = settings.thinking_budget
        return arguments


NO_CONTROLS = ThinkingControls()


def all_choices() -> tuple[Thinking, ...]:
    """All values of the setting `thinking`."""
    choices: tuple[Thinking, ...] = get_args(Thinking)
    return choices
