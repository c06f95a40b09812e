"""Finds the arguments of a chat template that control thinking, by what the template writes with them."""

from collections.abc import Callable

from chatui.thinking_controls import LEVELS, ThinkingControls

SWITCHES = ("enable_thinking", "thinking")
"""Qwen3, SmolLM3, GLM 4.5, Hunyuan and others; DeepSeek V3.1 and Granite."""
EFFORT = "reasoning_effort"
"""gpt-oss, and Mistral since Small 4."""
BUDGET = "thinking_budget"
"""Seed-OSS."""
UNKNOWN_LEVEL = "qzlevel"
FREE_LEVELS = ("low", "medium", "high")
"""The levels of a template that writes any: those of gpt-oss, https://huggingface.co/openai/gpt-oss-20b."""

Render = Callable[..., str | None]
"""Renders a conversation with these arguments; None if the template refuses."""


def find(template: str, render: Render, closes: bool) -> ThinkingControls:
    """The controls of a template with this text. An argument counts only where it changes what is written."""
    switch = next((name for name in SWITCHES if name in template and _switches(render, name)), "")
    levels = _levels(template, render) if EFFORT in template else ()
    budget = BUDGET if BUDGET in template and _takes_budget(render) else ""
    return ThinkingControls(switch, EFFORT if levels else "", levels, budget, closes)


def _switches(render: Render, name: str) -> bool:
    on, off = render(**{name: True}), render(**{name: False})
    return None not in (on, off) and on != off


def _takes_budget(render: Render) -> bool:
    rendered = render(**{BUDGET: 512})
    return rendered is not None and rendered != render()


def _levels(template: str, render: Render) -> tuple[str, ...]:
    """The levels that the template takes, if not all of them are the same to it."""
    named = [level for level in ("none", *LEVELS) if f"'{level}'" in template or f'"{level}"' in template]
    takes_any = UNKNOWN_LEVEL in (render(**{EFFORT: UNKNOWN_LEVEL}) or "")
    tried = dict.fromkeys((*named, *(FREE_LEVELS if takes_any else ())))
    rendered = {level: render(**{EFFORT: level}) for level in tried}
    taken = [level for level in ("none", *LEVELS) if rendered.get(level) is not None]
    return tuple(taken) if len({rendered[level] for level in taken}) > 1 else ()
