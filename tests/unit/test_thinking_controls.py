"""The choices that a template's arguments give, and the arguments of a choice."""

from typing import Any, get_args

import pytest

from chatui.generation_settings import GenerationSettings, Thinking
from chatui.thinking_controls import LEVELS, NO_CONTROLS, ThinkingControls, all_choices

SWITCH = ThinkingControls(switch="enable_thinking")
EFFORT = ThinkingControls(effort="reasoning_effort", levels=("low", "high"))
EFFORT_OFF = ThinkingControls(effort="reasoning_effort", levels=("none", "high"))
BOTH = ThinkingControls("thinking", "reasoning_effort", ("low", "high"), "thinking_budget")


def test_choices_are_those_that_differ_in_effect() -> None:
    assert NO_CONTROLS.choices == ("auto",)
    assert SWITCH.choices == ("auto", "off", "on")
    assert EFFORT.choices == ("auto", "low", "high")
    assert EFFORT_OFF.choices == ("auto", "off", "high")
    assert BOTH.choices == ("auto", "off", "on", "low", "high")
    assert set(all_choices()) == set(get_args(Thinking)) > set(LEVELS)


@pytest.mark.parametrize(
    ("controls", "values", "arguments"),
    [
        (SWITCH, {}, {}),
        (SWITCH, {"thinking": "off", "thinking_budget": 5}, {"enable_thinking": False}),
        (SWITCH, {"thinking": "on"}, {"enable_thinking": True}),
        (EFFORT, {"thinking": "low"}, {"reasoning_effort": "low"}),
        (EFFORT, {"thinking": "medium"}, {}),
        (EFFORT, {"thinking": "off"}, {}),
        (EFFORT_OFF, {"thinking": "off"}, {"reasoning_effort": "none"}),
        (BOTH, {"thinking": "high"}, {"thinking": True, "reasoning_effort": "high"}),
        (BOTH, {"thinking_budget": 5}, {"thinking_budget": 5}),
    ],
)
def test_arguments_of_settings(controls: ThinkingControls, values: dict[str, Any], arguments: dict[str, Any]) -> None:
    assert controls.arguments(GenerationSettings(**values)) == arguments


@pytest.mark.parametrize("controls", [NO_CONTROLS, SWITCH, EFFORT, EFFORT_OFF, BOTH])
def test_every_choice_but_auto_has_arguments_of_its_own(controls: ThinkingControls) -> None:
    arguments = [controls.arguments(GenerationSettings(thinking=choice)) for choice in controls.choices]
    assert arguments[0] == {}
    assert all(one not in arguments[:at] for at, one in enumerate(arguments))
