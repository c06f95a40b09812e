"""The arguments of chat templates that control thinking, found in templates like those of well-known models.

The parts about thinking are written after the templates on the Hub of Qwen3, SmolLM3, DeepSeek V3.1, gpt-oss, Mistral
Small 4 and Seed-OSS; they do the same with these arguments.
"""

from typing import Any

import pytest

from chatui.chat import ChatRequest, Message
from chatui.engine.runners import reply_builder
from chatui.engine.text.chat_template import probe
from chatui.generation_settings import GenerationSettings
from chatui.thinking_controls import ThinkingControls
from tests import models
from tests.templates import FAMILIES, QWEN_3

START = "{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}"
SMOLLM_3 = (
    "{%- if enable_thinking is not defined %}{%- set enable_thinking = true %}{%- endif %}"
    "{{ '<|im_start|>system\nReasoning Mode: ' + ('/think' if enable_thinking else '/no_think') + '<|im_end|>\n' }}"
    + models.CHATML.replace(START, START + "{% if not enable_thinking %}{{ '<think>\n\n</think>\n' }}{% endif %}")
)
DEEPSEEK_3_1 = "{% if not thinking is defined %}{% set thinking = false %}{% endif %}" + models.CHATML.replace(
    START, START + "{{ '<think>' if thinking else '</think>' }}"
)
GPT_OSS = (
    '{%- if reasoning_effort is not defined %}{%- set reasoning_effort = "medium" %}{%- endif %}'
    "{{ '<|im_start|>system\nReasoning: ' + reasoning_effort + '<|im_end|>\n' }}" + models.CHATML
)
MISTRAL_4 = (
    "{%- if reasoning_effort is not defined %}{%- set reasoning_effort = 'none' %}{%- endif %}"
    "{%- if reasoning_effort not in ['none', 'high'] %}{{ raise_exception('reasoning_effort') }}{%- endif %}"
    "{{ '<|im_start|>system\n' + reasoning_effort + '<|im_end|>\n' }}" + models.CHATML
)
SEED_OSS = (
    "{%- if thinking_budget is not defined %}{%- set thinking_budget = -1 %}{%- endif %}"
    "{%- if thinking_budget > 0 %}{{ '<|im_start|>system\nBudget: ' + thinking_budget | string + '<|im_end|>\n' }}"
    "{%- endif %}" + models.CHATML
)
# Named, but without an effect.
NAMED = "{# enable_thinking thinking_budget reasoning_effort 'low' 'high' #}{% set thinking = 1 %}" + models.CHATML
HELLO = (Message("user", "Hello"),)

CONTROLS = {
    "qwen 3": (QWEN_3, ThinkingControls(switch="enable_thinking", closes=True)),
    "smollm 3": (SMOLLM_3, ThinkingControls(switch="enable_thinking", closes=True)),
    "deepseek 3.1": (DEEPSEEK_3_1, ThinkingControls(switch="thinking", closes=True)),
    "gpt-oss": (GPT_OSS, ThinkingControls("", "reasoning_effort", ("low", "medium", "high"), "", closes=True)),
    "mistral 4": (MISTRAL_4, ThinkingControls("", "reasoning_effort", ("none", "high"), "", closes=True)),
    "seed-oss": (SEED_OSS, ThinkingControls(budget="thinking_budget", closes=True)),
    "named": (NAMED, ThinkingControls(closes=True)),
    "plain": (models.CHATML, ThinkingControls(closes=True)),
}


@pytest.mark.parametrize("name", CONTROLS)
def test_the_arguments_of_a_template_are_found_by_what_they_change(name: str) -> None:
    template, controls = CONTROLS[name]
    assert probe(models.tokenizer(template)).controls == controls


@pytest.mark.parametrize("name", sorted(set(FAMILIES) - {"qwen 3", "deepseek r1"}))
def test_a_model_that_does_not_think_has_no_controls(name: str) -> None:
    tokenizer = FAMILIES[name].tokenizer(models.tokenizer(thinks=False))
    assert probe(tokenizer).controls == ThinkingControls()


@pytest.mark.parametrize(
    ("name", "values", "written"),
    [
        ("qwen 3", {"thinking": "off"}, "<think>\n\n</think>\n\n"),
        ("deepseek 3.1", {"thinking": "on"}, "<think>"),
        ("gpt-oss", {"thinking": "high"}, "Reasoning: high"),
        ("mistral 4", {"thinking": "off"}, "none"),
        ("seed-oss", {"thinking_budget": 99}, "Budget: 99"),
    ],
)
def test_the_prompt_is_what_the_template_writes_with_the_arguments(
    name: str, values: dict[str, Any], written: str
) -> None:
    loaded = models.ready(chat_template=CONTROLS[name][0])
    settings = GenerationSettings(**values)
    prompt = reply_builder.preview(loaded, ChatRequest(HELLO, settings))
    assert written in prompt.text
    assert prompt.arguments == loaded.template.controls.arguments(settings) != {}
    chat = [{"role": "user", "content": "Hello"}]
    expected: Any = loaded.tokenizer.apply_chat_template(chat, add_generation_prompt=True, **prompt.arguments)
    assert list(prompt.token_ids) == expected["input_ids"]


@pytest.mark.parametrize("name", CONTROLS)
def test_the_models_default_changes_nothing(name: str) -> None:
    loaded = models.ready(chat_template=CONTROLS[name][0])
    assert not reply_builder.preview(loaded, ChatRequest(HELLO, GenerationSettings())).arguments
