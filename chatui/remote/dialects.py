"""What each kind of server takes and tells: one row per kind, in one place.

Read from their documentation and sources, and measured where they could be run.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

STANDARD: Mapping[str, str] = {
    "max_new_tokens": "max_tokens",
    "temperature": "temperature",
    "top_p": "top_p",
    "seed": "seed",
    "stop": "stop",
}
"""The generation settings that every server takes, with OpenAI's names."""
SAMPLING: Mapping[str, str] = {
    **STANDARD,
    "top_k": "top_k",
    "min_p": "min_p",
    "repetition_penalty": "repetition_penalty",
}

Thinking = Literal["", "template", "effort", "both"]
"""How a server is told how much to think: not, by arguments of the chat template, by `reasoning_effort`, or by both."""
Continuing = Literal["", "flag", "prefix"]
"""How a reply is gone on with: not, by `continue_final_message`, or by an assistant's message at the end."""
PromptRoutes = Literal["", "vllm", "llama.cpp"]
"""Which routes tell the prompt's text and token ids."""


@dataclass(frozen=True)
class Dialect:
    """One kind of server. `title` is its name for people.

    It is known by `owners`, values of `owned_by` in /v1/models, or by `probe`, a path that only it has, whose JSON has
    the field `probe_field`. `settings` are the generation settings that it takes, with its names for them; `off` are
    values that mean "off" there where ours do not, None if the field is left out. At most `max_stop` stop strings are
    sent. `usage_option`: it takes
    `stream_options`. `top_logprobs` is the most alternatives that it tells of a token, 0 if it tells none. `token_ids`:
    the ids of a reply's tokens come with them. `always` are fields of every request. `metrics` are the names of the
    figures of ServerActivity in its /metrics, see activity.py; `slots`: it has the route /slots.
    """

    title: str
    owners: tuple[str, ...] = ()
    probe: str = ""
    probe_field: str = ""
    settings: Mapping[str, str] = field(default_factory=lambda: STANDARD)
    off: Mapping[str, Any] = field(default_factory=dict)
    max_stop: int = 4
    thinking: Thinking = ""
    continues: Continuing = ""
    usage_option: bool = True
    top_logprobs: int = 0
    token_ids: bool = False
    prompt: PromptRoutes = ""
    always: Mapping[str, Any] = field(default_factory=dict)
    metrics: Mapping[str, str] = field(default_factory=dict)
    slots: bool = False


DIALECTS: Mapping[str, Dialect] = {
    "vllm": Dialect(
        "vLLM",
        owners=("vllm",),
        settings=SAMPLING,
        off={"top_k": -1},
        thinking="both",
        continues="flag",
        top_logprobs=20,
        prompt="vllm",
        always={"return_token_ids": True},
        metrics={
            "running": "vllm:num_requests_running",
            "waiting": "vllm:num_requests_waiting",
            "cache_blocks": "vllm:cache_config_info",
            "cache_usage": "vllm:kv_cache_usage_perc",
            "looked_up": "vllm:prefix_cache_queries_total",
            "found": "vllm:prefix_cache_hits_total",
        },
    ),
    "sglang": Dialect(
        "SGLang",
        owners=("sglang",),
        probe="/get_model_info",
        probe_field="model_path",
        settings=SAMPLING,
        off={"top_k": -1},
        max_stop=16,
        thinking="template",
        continues="flag",
        top_logprobs=20,
        metrics={
            "running": "sglang:num_running_reqs",
            "waiting": "sglang:num_queue_reqs",
            "cache_tokens": "sglang:max_total_num_tokens",
            "cache_usage": "sglang:token_usage",
        },
    ),
    "llama.cpp": Dialect(
        "llama.cpp",
        owners=("llamacpp",),
        probe="/props",
        probe_field="default_generation_settings",
        settings={**SAMPLING, "repetition_penalty": "repeat_penalty"},
        max_stop=16,
        thinking="template",
        continues="prefix",
        top_logprobs=20,
        token_ids=True,
        prompt="llama.cpp",
        # Without it, a penalty counts the last 64 tokens only.
        always={"return_progress": True, "repeat_last_n": 8192, "cache_prompt": True},
        metrics={
            "running": "llamacpp:requests_processing",
            "waiting": "llamacpp:requests_deferred",
            "computed": "llamacpp:prompt_tokens_total",
            "found": "llamacpp:prompt_tokens_cached_total",
        },
        slots=True,
    ),
    "ollama": Dialect(
        "Ollama",
        owners=("library",),
        probe="/api/version",
        probe_field="version",
        max_stop=16,
        thinking="effort",
        top_logprobs=20,
    ),
    "lm-studio": Dialect(
        "LM Studio",
        owners=("organization_owner",),
        probe="/api/v1/models",
        probe_field="models",
        settings={**STANDARD, "top_k": "top_k", "repetition_penalty": "repeat_penalty"},
    ),
    "tgi": Dialect(
        "TGI",
        probe="/info",
        probe_field="model_id",
        off={"top_p": None},
        top_logprobs=5,
        metrics={"running": "tgi_batch_current_size", "waiting": "tgi_queue_size"},
    ),
    "hf-router": Dialect("Inference Providers"),
    "transformers": Dialect(
        "transformers serve",
        thinking="template",
        usage_option=False,
    ),
    "chatui": Dialect(
        "chatui",
        owners=("chatui",),
        settings={
            **SAMPLING,
            "no_repeat_ngram_size": "no_repeat_ngram_size",
            "thinking_budget": "thinking_budget",
        },
        max_stop=16,
        thinking="both",
        continues="flag",
        top_logprobs=20,
        prompt="vllm",
        metrics={
            "running": "chatui:num_requests_running",
            "waiting": "chatui:num_requests_waiting",
            "cache_usage": "chatui:kv_cache_usage_perc",
            "looked_up": "chatui:prefix_cache_queries_total",
            "found": "chatui:prefix_cache_hits_total",
        },
    ),
    "openai": Dialect("OpenAI API"),
}
"""The kinds of servers by name. "openai" is any other one."""
