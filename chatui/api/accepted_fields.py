"""Request fields of OpenAI-compatible servers: aliases, fields without effect, and values that are normalized.

Taken from the request fields of OpenAI, vLLM, SGLang, llama.cpp, Ollama, LM Studio, Mistral, DeepSeek, Groq, xAI,
OpenRouter, LiteLLM and text-generation-webui.
"""

from collections.abc import Mapping
from typing import Any, get_args

from chatui.generation_settings import GenerationSettings

FIELD_ALIASES = {
    "max_tokens": "max_new_tokens",
    "max_completion_tokens": "max_new_tokens",
    "n_predict": "max_new_tokens",
    "num_predict": "max_new_tokens",
    "random_seed": "seed",
    "reasoning_budget": "thinking_budget",
    "repeat_penalty": "repetition_penalty",
    "thinking_token_budget": "thinking_budget",
}
"""Other servers' names of generation settings -> their names here."""

NEUTRAL_VALUES: Mapping[str, tuple[Any, ...]] = {
    "adaptive_target": (-1,),
    "add_special_tokens": (False,),
    "allowed_token_ids": ([],),
    "audio": (),
    "background": (False,),
    "bad_words": ([],),
    "ban_eos_token": (False,),
    "best_of": (1,),
    "chat_template_kwargs": ({},),
    "custom_token_bans": ("",),
    "data_sources": ([],),
    "deferred": (False,),
    "documents": ([],),
    "dry_multiplier": (0,),
    "dynamic_temperature": (False,),
    "dynatemp_range": (0,),
    "echo": (False,),
    "enable_thinking": (),
    "encoder_repetition_penalty": (1,),
    "epsilon_cutoff": (0,),
    "eta_cutoff": (0,),
    "extra_body": ({},),
    "format": ("",),
    "frequency_penalty": (0,),
    "function_call": ("none", "auto"),
    "functions": ([],),
    "grammar": ("",),
    "guidance_scale": (1,),
    "guided_choice": ([],),
    "guided_grammar": ("",),
    "guided_json": (),
    "guided_regex": ("",),
    "id_slot": (-1,),
    "include_reasoning": (True,),
    "include_stop_str_in_output": (False,),
    "json_schema": ({},),
    "length_penalty": (1,),
    "logit_bias": ({}, []),
    "lora": ([],),
    "min_tokens": (0,),
    "mirostat": (0,),
    "mirostat_mode": (0,),
    "modalities": (["text"], []),
    "models": ([],),
    "moderation": (),
    "n": (1,),
    "n_probs": (0,),
    "negative_prompt": ("",),
    "num_beams": (1,),
    "options": ({},),
    "parallel_tool_calls": (False, True),
    "penalty_alpha": (0,),
    "plugins": ([],),
    "prediction": (),
    "presence_penalty": (0,),
    "prompt_logprobs": (0,),
    "prompt_mode": (),
    "reasoning": ({},),
    "reasoning_effort": ("medium", "auto", "default"),
    "reasoning_format": ("auto", "deepseek", "parsed"),
    "repeat_last_n": (-1,),
    "repetition_penalty_range": (0, -1),
    "response_format": ({"type": "text"},),
    "return_images": (False,),
    "return_related_questions": (False,),
    "return_token_ids": (False,),
    "return_tokens_as_token_ids": (False,),
    "safe_prompt": (False,),
    "samplers": ([],),
    "search_parameters": ({"mode": "off"},),
    "separate_reasoning": (True,),
    "skew": (0,),
    "skip_special_tokens": (True,),
    "smoothing_factor": (0,),
    "spaces_between_special_tokens": (True,),
    "stop_token_ids": ([],),
    "stream_reasoning": (True,),
    "structured_outputs": ({},),
    "tfs": (1,),
    "tfs_z": (1,),
    "think": (),
    "thinking": ({"type": "auto"}, {}),
    "timings_per_token": (False, True),
    "tool_choice": ("none", "auto"),
    "tools": ([],),
    "top_a": (0,),
    "top_n_sigma": (-1, 0),
    "transforms": ([],),
    "truncate_prompt_tokens": (-1,),
    "typ_p": (1,),
    "typical": (1,),
    "typical_p": (1,),
    "use_beam_search": (False,),
    "verbosity": ("medium",),
    "web_search_options": (),
    "xtc_probability": (0,),
}
"""Unsupported fields -> the values, besides null, that ask for nothing and are accepted."""

IGNORED_FIELDS = {
    "adaptive_decay",
    "backend_sampling",
    "cache_prompt",
    "cache_salt",
    "chat_id",
    "debug",
    "disable_tool_validation",
    "draft_model",
    "dry_allowed_length",
    "dry_base",
    "dry_penalty_last_n",
    "dry_range",
    "dry_sequence_breakers",
    "dynatemp_exponent",
    "dynatemp_high",
    "dynatemp_low",
    "extra_headers",
    "keep_alive",
    "metadata",
    "mirostat_eta",
    "mirostat_tau",
    "n_discard",
    "n_keep",
    "perf_metrics_in_response",
    "priority",
    "prompt_cache_key",
    "prompt_cache_options",
    "prompt_cache_retention",
    "provider",
    "request_id",
    "return_progress",
    "route",
    "safety_identifier",
    "service_tier",
    "session_id",
    "smoothing_curve",
    "store",
    "tool_prompt",
    "trace",
    "ttl",
    "usage",
    "xtc_threshold",
}
"""Ignored fields: for another server's operation, cache or accounts, or parameters of samplers that are off."""

PENALTY_RANGE_FIELDS = {"repeat_last_n", "repetition_penalty_range"}
"""Fields for the range of the repetition penalty. They are ignored if the penalty is off."""

IGNORED_MESSAGE_FIELDS = {
    "annotations",
    "cache_control",
    "created",
    "createdAt",
    "created_at",
    "date",
    "done",
    "finish_reason",
    "id",
    "index",
    "metadata",
    "model",
    "name",
    "object",
    "parent_id",
    "provider_specific_fields",
    "reasoning_details",
    "status",
    "thinking_blocks",
    "timestamp",
    "timings",
    "type",
    "updatedAt",
    "updated_at",
    "usage",
    "weight",
}
"""Ignored fields of a message. They are not passed to the chat template."""

IGNORED_PART_FIELDS = {"annotations", "cache_control", "citations", "id", "logprobs", "prompt_cache_breakpoint"}
"""Ignored fields of a part of a message's content."""

TEXT_PART_TYPES = {"text", "input_text", "output_text"}
"""Types of content parts that are text, the last two from the Responses API."""

INT64 = range(-(2**63), 2**63)
INTEGER_SETTINGS = {
    name
    for name, field in GenerationSettings.model_fields.items()
    if int in (field.annotation, *get_args(field.annotation))
}
"""Settings with integer values."""

SCHEMA_CHANGES: Mapping[str, Mapping[str, Any]] = {
    "max_new_tokens": {"minimum": -1, "maximum": None, "not": {"const": 0}},
    "thinking_budget": {"minimum": -1, "maximum": None},
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
"""Changes to the JSON Schemas of settings, for the values that normalize() accepts; None removes a keyword."""


def normalize(setting: str, value: Any) -> Any:
    """The value of a setting in the range of GenerationSettings: -1 is off, and a cap above the limit is the limit.

    A thinking budget of 0 is as small as one can be, since 0 is no limit in GenerationSettings. A seed is any 64-bit
    number, as at OpenAI; it is reduced modulo 2**32. Invalid values are returned unchanged, for GenerationSettings to
    refuse.
    """
    if setting in INTEGER_SETTINGS and isinstance(value, float) and value.is_integer():
        value = int(value)  # JSON knows one kind of number
    if setting == "stop":
        strings = [value] if isinstance(value, str) else value
        return [text for text in strings if text != ""] if isinstance(strings, list) else value
    if isinstance(value, bool) or not isinstance(value, int):
        return value
    if setting == "thinking_budget" and value == 0:
        return 1
    if setting in LIMITS:
        return 0 if value == -1 else min(value, LIMITS[setting])
    if setting == "top_k":
        return 0 if value == -1 else value
    if setting == "seed" and value in INT64:
        return None if value == -1 else value % 2**32
    return value


LIMITS: Mapping[str, int] = {
    name: bound.le
    for name in ("max_new_tokens", "thinking_budget")
    for bound in GenerationSettings.model_fields[name].metadata
    if hasattr(bound, "le")
}
"""The highest value of each setting that caps tokens."""
