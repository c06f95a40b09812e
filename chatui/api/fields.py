"""What clients of OpenAI-compatible servers send, by name: other spellings, values that ask for nothing, caps.

Taken from the request fields of OpenAI, vLLM, SGLang, llama.cpp, Ollama, LM Studio, OpenRouter and LiteLLM.
"""

from collections.abc import Mapping
from typing import Any

from chatui.settings import GenerationSettings

SPELLINGS = {
    "max_tokens": "max_new_tokens",
    "max_completion_tokens": "max_new_tokens",
    "n_predict": "max_new_tokens",
    "repeat_penalty": "repetition_penalty",
}
"""Other servers' names of settings that have another name here."""

NEUTRAL: Mapping[str, tuple[Any, ...]] = {
    "add_special_tokens": (False,),
    "audio": (),
    "best_of": (1,),
    "bad_words": ([],),
    "chat_template_kwargs": ({},),
    "documents": ([],),
    "dry_multiplier": (0,),
    "echo": (False,),
    "extra_body": ({},),
    "frequency_penalty": (0,),
    "function_call": ("none", "auto"),
    "functions": ([],),
    "grammar": ("",),
    "id_slot": (-1,),
    "include_reasoning": (True,),
    "include_stop_str_in_output": (False,),
    "length_penalty": (1,),
    "logit_bias": ({}, []),
    "logprobs": (False,),
    "min_tokens": (0,),
    "mirostat": (0,),
    "modalities": (["text"],),
    "n": (1,),
    "n_probs": (0,),
    "parallel_tool_calls": (False, True),
    "plugins": ([],),
    "prediction": (),
    "presence_penalty": (0,),
    "prompt_logprobs": (0,),
    "reasoning_effort": (),
    "reasoning_format": ("auto", "deepseek"),
    "response_format": ({"type": "text"},),
    "return_token_ids": (False,),
    "return_tokens_as_token_ids": (False,),
    "separate_reasoning": (True,),
    "service_tier": ("auto", "default"),
    "skip_special_tokens": (True,),
    "spaces_between_special_tokens": (True,),
    "stop_token_ids": ([],),
    "store": (False,),
    "stream_reasoning": (True,),
    "tfs_z": (1,),
    "timings_per_token": (False, True),
    "tool_choice": ("none", "auto"),
    "tools": ([],),
    "top_a": (0,),
    "top_logprobs": (0,),
    "transforms": ([],),
    "typical_p": (1,),
    "use_beam_search": (False,),
    "verbosity": ("medium",),
    "web_search_options": (),
    "xtc_probability": (0,),
}
"""What is not done here, and the values that ask for nothing and so are accepted, as null is."""

WITHOUT_EFFECT = {
    "cache_prompt",
    "keep_alive",
    "metadata",
    "priority",
    "prompt_cache_key",
    "prompt_cache_retention",
    "request_id",
    "return_progress",
    "safety_identifier",
    "session_id",
    "usage",
}
"""For the other server's operator, cache or accounts: they change no reply."""

MESSAGE_WITHOUT_EFFECT = {
    "annotations",
    "cache_control",
    "created",
    "created_at",
    "finish_reason",
    "id",
    "metadata",
    "model",
    "name",
    "provider_specific_fields",
    "reasoning_details",
    "thinking_blocks",
    "timestamp",
    "timings",
    "usage",
    "weight",
}
"""What a message may carry beside its text. No chat template is given it."""

PART_WITHOUT_EFFECT = {"annotations", "cache_control", "citations", "id"}
"""The same for a part of a message's content."""

TEXT_PARTS = {"text", "input_text", "output_text"}
"""Types of parts that are text, the last two in the Responses API."""

INT64 = range(-(2**63), 2**63)
WHOLE = {"max_new_tokens", "top_k", "seed"}
"""Settings that are whole numbers."""

MEANT: Mapping[str, Mapping[str, Any]] = {
    "max_new_tokens": {"minimum": -1, "maximum": None, "not": {"const": 0}},
    "top_k": {"minimum": -1},
    "seed": {"anyOf": [{"type": "integer", "minimum": INT64[0], "maximum": INT64[-1]}, {"type": "null"}]},
    "stop": {
        **dict.fromkeys(("type", "items", "maxItems")),
        "anyOf": [
            {"type": "string", "maxLength": 200},
            {"type": "array", "maxItems": 16, "items": {"type": "string", "maxLength": 200}},
        ],
    },
}
"""How the JSON Schemas of settings differ for what `accepted` makes of their values; None takes a word away."""


def accepted(setting: str, value: Any) -> Any:
    """The value of a setting as it is meant: -1 is off, and a cap above the limit is the limit.

    A seed is any 64-bit number, as at OpenAI; one that needs more than 32 bits is folded into them. What means nothing
    is returned as it is, for GenerationSettings to refuse.
    """
    if setting in WHOLE and isinstance(value, float) and value.is_integer():
        value = int(value)  # JSON knows one kind of number
    if setting == "stop":
        strings = [value] if isinstance(value, str) else value
        return [text for text in strings if text != ""] if isinstance(strings, list) else value
    if isinstance(value, bool) or not isinstance(value, int):
        return value
    if setting == "max_new_tokens":
        limit = MAX_NEW_TOKENS
        return limit if value == -1 else min(value, limit)
    if setting == "top_k":
        return 0 if value == -1 else value
    if setting == "seed" and value in INT64:
        return None if value == -1 else value % 2**32
    return value


MAX_NEW_TOKENS: int = next(
    bound.le for bound in GenerationSettings.model_fields["max_new_tokens"].metadata if hasattr(bound, "le")
)
