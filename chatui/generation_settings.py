"""Defines each setting of a reply: name, range, default and help, for sliders, flags, API validation and docs."""

from collections.abc import Mapping
from typing import Annotated, Any, Literal, Self

from pydantic import BaseModel, ConfigDict, Field, ValidationError, field_validator

from chatui import setting_values

MIN_TEMPERATURE = 1e-5
"""Logits divided by less may overflow float32. vLLM has the same limit: _SAMPLING_EPS in
https://github.com/vllm-project/vllm/blob/main/vllm/sampling_params.py"""

Thinking = Literal["auto", "off", "on", "minimal", "low", "medium", "high"]
StopString = Annotated[str, Field(min_length=1, max_length=200)]


class GenerationSettings(BaseModel):
    """Generation settings of a reply. Names and meanings are those of `transformers.GenerationConfig`.

    That has nothing about thinking: `thinking_budget` is a name of Qwen's and Seed-OSS.

    `json_schema_extra["step"]` is the slider's step; a field without one is not a slider.
    """

    model_config = ConfigDict(frozen=True, extra="forbid", strict=True, allow_inf_nan=False)

    max_new_tokens: int = Field(
        512,
        ge=0,
        le=8192,
        title="Max new tokens",
        description="The most tokens that one reply may have, its thought among them (a token is about three quarters "
        "of a word). 0 lets it go on until it is done or the context is full.",
        json_schema_extra={"step": 1},
    )
    temperature: float = Field(
        0.7,
        ge=0.0,
        le=2.0,
        title="Temperature",
        description="How daring the choice of words is. 0 always takes the likeliest token (greedy).",
        json_schema_extra={"step": 0.05},
    )
    top_p: float = Field(
        0.95,
        gt=0.0,
        le=1.0,
        title="Top-p",
        description="Choose only among the likeliest tokens that together have this probability. 1 is off.",
        json_schema_extra={"step": 0.01},
    )
    top_k: int = Field(
        0,
        ge=0,
        le=200,
        title="Top-k",
        description="Choose only among this many of the likeliest tokens. 0 is off.",
        json_schema_extra={"step": 1},
    )
    min_p: float = Field(
        0.0,
        ge=0.0,
        le=1.0,
        title="Min-p",
        description="Drop tokens less likely than this share of the likeliest one. 0 is off.",
        json_schema_extra={"step": 0.01},
    )
    repetition_penalty: float = Field(
        1.0,
        ge=0.5,
        le=2.0,
        title="Repetition penalty",
        description="Above 1, tokens already in the conversation become less likely. 1 is off.",
        json_schema_extra={"step": 0.01},
    )
    no_repeat_ngram_size: int = Field(
        0,
        ge=0,
        le=20,
        title="No-repeat n-gram size",
        description="No sequence of this many tokens occurs twice, those of the prompt among them. 0 is off.",
        json_schema_extra={"step": 1},
    )
    seed: int | None = Field(
        None,
        ge=0,
        le=2**32 - 1,
        title="Seed",
        description="The same seed and settings give the same reply again. Empty takes a new one each time.",
    )
    stop: tuple[StopString, ...] = Field(
        (),
        max_length=16,
        title="Stop strings",
        description="The reply ends just before any of these.",
    )
    thinking: Thinking = Field(
        "auto",
        title="Thinking",
        description="Whether the model thinks before it answers, and how much.",
    )
    thinking_budget: int = Field(
        0,
        ge=0,
        le=32768,
        title="Thinking budget",
        description="The most tokens of a thought; then it is ended and the answer begins. 0 is no limit but the "
        "reply's, of which a quarter is kept for the answer.",
        json_schema_extra={"step": 1},
    )

    @field_validator("stop", mode="before")
    @classmethod
    def _stop_as_tuple(cls, value: object) -> object:
        if isinstance(value, str):
            return (value,)
        return tuple(value) if isinstance(value, list) else value

    @field_validator("temperature")
    @classmethod
    def _greedy_below_the_smallest(cls, value: float) -> float:
        """A temperature that is too small to divide by means greedy, which is what it comes to."""
        return value if value >= MIN_TEMPERATURE else 0.0

    @classmethod
    def from_values(cls, values: Mapping[str, Any]) -> Self:
        """Validate values from outside. Raises SettingsError that names the first invalid field."""
        try:
            return cls(**values)
        except ValidationError as error:
            raise setting_values.settings_error(error) from None

    @classmethod
    def from_generation_config(cls, config: Mapping[str, Any]) -> Self:
        """The model's defaults, from its `generation_config`. Missing and invalid ones get the defaults here.

        An explicit `do_sample: false` means greedy decoding, so the temperature is 0.
        """
        values = {name: config[name] for name in cls.model_fields if config.get(name) is not None}
        if config.get("do_sample") is False:
            values["temperature"] = 0.0
        for name, value in list(values.items()):
            if cls.model_fields[name].annotation is float and isinstance(value, int):
                value = values[name] = float(value)
            try:
                cls(**{name: value})
            except ValidationError:
                del values[name]
        return cls(**values)
