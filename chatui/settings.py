"""Defines each setting of the program: name, range, default and help, for flags, variables and docs."""

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Literal, Self

from platformdirs import user_cache_path, user_data_path
from pydantic import Field, field_validator, model_validator
from pydantic_settings import (
    BaseSettings,
    EnvSettingsSource,
    InitSettingsSource,
    NoDecode,
    PydanticBaseSettingsSource,
    SettingsConfigDict,
)

from chatui import setting_values
from chatui.generation_settings import GenerationSettings

DEFAULT_MODEL = "HuggingFaceTB/SmolLM2-135M-Instruct"
MB = 10**6
"""Bytes in a megabyte, the unit of the settings of storage."""
# Variables of Gradio and uvicorn, which are read for a setting whose CHATUI_* variable is not set.
FALLBACK_VARIABLES = {
    "host": "GRADIO_SERVER_NAME",
    "port": "GRADIO_SERVER_PORT",
    "forwarded_allow_ips": "FORWARDED_ALLOW_IPS",
}

Dtype = Literal["auto", "bfloat16", "float16", "float32"]
Quantization = Literal["auto", "none", "int8", "int4", "8bit", "4bit"]
Compile = Literal["auto", "off"]
KvDtype = Literal["auto", "int8"]
PATHS = ("chat_template", "cache_dir", "data_dir", "models_dir", "kv_cache_dir", "backends_file")
LogFormat = Literal["text", "json"]
ModelName = Annotated[str, Field(min_length=1)]


class AppSettings(BaseSettings):
    """How the program runs. Each is a flag (`--model`) and an environment variable (`CHATUI_MODEL`)."""

    model_config = SettingsConfigDict(
        env_prefix="CHATUI_",
        frozen=True,
        allow_inf_nan=False,
        extra="ignore",
        cli_kebab_case=True,
        cli_implicit_flags=True,
        cli_hide_none_type=True,
        cli_avoid_json=True,
        protected_namespaces=(),
    )

    model: Annotated[tuple[ModelName, ...], NoDecode] = Field(
        (DEFAULT_MODEL,),
        min_length=1,
        description="Model to chat with: a Hub id, a local folder, a GGUF file or a LoRA adapter. Give it several "
        "times for several models; the first is the default, the others are loaded when they are asked for.",
    )
    backend: Annotated[tuple[ModelName, ...], NoDecode] = Field(
        (),
        description="Server of OpenAI's API whose models can be chatted with: http://host:8000, then if needed "
        ",name=NAME ,key-env=VARIABLE ,header=Name: value ,dialect=NAME ,context=TOKENS ,max-requests=NUMBER "
        ",models=PATTERN. Give it several times for several servers; those with the same name are equal. Without "
        "--model there is then no model in this process.",
    )
    backends_file: Path | None = Field(None, description="TOML file with the same: a table [[backend]] for each.")
    models_dir: Path | None = Field(
        None,
        description="Folder whose models (folders with a config.json, LoRA adapters, GGUF files) can be asked for as "
        "well.",
    )
    idle_unload: float | None = Field(
        None, gt=0, description="Minutes without a reply after which a model is unloaded, until it is asked for again."
    )
    revision: str | None = Field(None, description="Branch, tag or commit of the default model on the Hub.")
    dtype: Dtype = Field(
        "auto", description="Precision of the weights; auto is the checkpoint's own, but on a CPU not float16."
    )
    device_map: str = Field("auto", description="Where the weights go: auto, cpu, cuda, cuda:1, mps ...")
    quantization: Quantization = Field(
        "auto",
        description="Weights in fewer bits: int8 or int4 on the CPU, 8bit or 4bit by bitsandbytes; "
        "auto keeps what the file has, none unpacks it.",
    )
    slots: int = Field(16, ge=1, le=256, description="Most conversations answered at once.")
    kv_memory: float | None = Field(
        None, gt=0, description="GB that those conversations may take; a quarter of the free memory if left out."
    )
    kv_dtype: KvDtype = Field(
        "auto",
        description="Type of the keys and values (K/V) of conversations: int8 takes about half as much memory; auto is "
        "the type of the activations.",
    )
    kv_cache_dir: Path | None = Field(
        None,
        description="Folder where what was computed of conversations (K/V) is kept, so that after a restart they go on "
        "without being read again. Off if left out.",
    )
    kv_cache_size: float = Field(
        10,
        gt=0,
        description="Most GB that this folder may take: what was used longest ago goes first. What was not used for a "
        "week goes too.",
    )
    compile: Compile = Field(
        "auto", description="Compile the model's step in the background after the first replies; off never does."
    )
    prompt_lookup_num_tokens: int = Field(
        7,
        ge=0,
        le=15,
        description="Most tokens that a step tries ahead where a reply repeats earlier text; it stays the same reply.",
    )
    chat_template: Path | None = Field(
        None, description="File with a chat template (Jinja) to use instead of the default model's own."
    )
    queue: int = Field(64, ge=1, le=10_000, description="Most requests that may wait; more are turned away.")
    max_replies: int = Field(
        16,
        ge=0,
        description="Most replies that one user may have written at once in the page, or wait for; 0 is no limit.",
    )
    max_conversations: int = Field(
        20_000,
        ge=0,
        description="Most chats that one user may keep, deleted ones among them until they are removed; 0 is no limit.",
    )
    max_personas: int = Field(500, ge=0, description="Most personas that one user may keep; 0 is no limit.")
    max_storage: int = Field(
        2000, ge=0, description="Most MB that one user's chats and personas may take; 0 is no limit."
    )
    max_total_storage: int = Field(
        20_000,
        ge=0,
        description="Most MB that the whole database may take before guests (no login) can begin no new chats; 0 is no "
        "limit.",
    )
    min_free_disk: int = Field(
        200,
        ge=0,
        description="MB that must be free on the database's disk, or guests can begin no new chats; 0 is no limit.",
    )
    max_uploads: int = Field(
        1000, ge=0, description="Most MB that uploaded files may take on the disk until they are read; 0 is no limit."
    )
    graceful_timeout: float = Field(
        0,
        ge=0,
        description="Seconds for which running replies may go on after the server is told to end. What then still runs "
        "is interrupted, and can be continued.",
    )
    inspect: bool = Field(
        True, description="Keep how each reply came about, to be looked at with Inspect; --no-inspect does not."
    )
    generation: Annotated[GenerationSettings, NoDecode] = Field(
        default_factory=GenerationSettings,
        description="Defaults of the page and of /v1 instead of the model's own, such as --generation.temperature 0.3.",
    )
    trust_remote_code: bool = Field(
        False, description="Run Python code that comes with the model. Only for models whose code you have read."
    )
    host: str = Field("127.0.0.1", min_length=1, description="Address to listen on; 0.0.0.0 is every network.")
    port: int = Field(7860, ge=0, le=65535, description="Port to listen on; 0 takes any free one.")
    root_path: str = Field("", description="Path under which a reverse proxy shows the page, such as /chat.")
    forwarded_allow_ips: str = Field(
        "127.0.0.1,::1",
        description="Addresses or networks of reverse proxies, comma-separated, which are believed who asks; * is any.",
    )
    allowed_hosts: str = Field(
        "",
        description="Names, comma-separated, by which the server may be asked for besides this computer's own, such as "
        "chat.example.org or *.example.org; * is any. Needed behind a proxy when it listens on this computer only.",
    )
    auth: str | None = Field(
        None, repr=False, description="Ask for a login: user:password, or a file with one user:password on each line."
    )
    admin: str = Field(
        "",
        description="Logins of --auth, comma-separated, that may load, unload, fetch and delete models. Without "
        "--auth, who uses the server on its own computer may do so, if nobody else is served.",
    )
    allow_models: Annotated[tuple[ModelName, ...], NoDecode] = Field(
        (),
        description="Models, comma-separated, that all others may choose besides the default one; if left out, those "
        "of --model and --models-dir.",
    )
    tokens_per_minute: int = Field(
        0, ge=0, description="Most tokens that one user may take in a minute, prompts included; 0 is no limit."
    )
    tokens_per_day: int = Field(0, ge=0, description="The same for a day (UTC); 0 is no limit.")
    api_key: Annotated[tuple[str, ...], NoDecode] = Field(
        (),
        repr=False,
        description="Key that programs must send to /v1; without one, /v1 serves this computer only. Several times for "
        "several keys, each with a name and limits: NAME:KEY,tokens-per-minute=NUMBER,tokens-per-day=NUMBER.",
    )
    share: bool = Field(False, description="Print a public gradio.live link; needs --auth.")
    share_without_login: bool = Field(False, description="Allow --share to everyone who has the link.")
    cache_dir: Path = Field(
        default_factory=lambda: setting_values.user_folder(user_cache_path, "cache_dir"),
        description="Folder for models that were converted or compiled.",
    )
    data_dir: Path = Field(
        default_factory=lambda: setting_values.user_folder(user_data_path, "data_dir"),
        description="Folder where conversations and personas are kept.",
    )
    database_url: str | None = Field(
        None,
        repr=False,
        description="Database to keep them in instead: postgresql://user:password@host/name or sqlite:///file.",
    )

    otlp_endpoint: str | None = Field(
        None,
        pattern="^https?://.+",
        description="Address of an OpenTelemetry collector that takes traces by OTLP over HTTP, such as "
        "http://localhost:4318. Off if left out, and OTEL_EXPORTER_OTLP_ENDPOINT as well.",
    )
    log_format: LogFormat = Field(
        "text", description="json writes each log record as an object on one line, and one at the end of each reply."
    )

    @classmethod
    def settings_customise_sources(
        cls,
        settings_cls: type[BaseSettings],
        init_settings: PydanticBaseSettingsSource,
        env_settings: PydanticBaseSettingsSource,
        dotenv_settings: PydanticBaseSettingsSource,
        file_secret_settings: PydanticBaseSettingsSource,
    ) -> tuple[PydanticBaseSettingsSource, ...]:
        """Add FALLBACK_VARIABLES after the CHATUI_* ones. A Space sets Gradio's, to say where an app listens.

        An empty variable counts as unset. An empty flag does not: `model_config` has no `env_ignore_empty`.
        """
        setting_values.refuse_empty_secrets()
        fallback_values = {name: value for name, key in FALLBACK_VARIABLES.items() if (value := os.environ.get(key))}
        fallback_settings = InitSettingsSource(settings_cls, fallback_values)
        env_settings = EnvSettingsSource(settings_cls, env_ignore_empty=True)
        return init_settings, env_settings, dotenv_settings, file_secret_settings, fallback_settings

    @field_validator("*", mode="before")
    @classmethod
    def _strip_quotes(cls, value: object) -> object:
        return setting_values.strip_quotes(value) if isinstance(value, str) else value

    @field_validator("model", "allow_models", mode="before")
    @classmethod
    def _split_models(cls, value: object) -> object:
        """Split a text of several names, which flags and the variable have. A path with a comma is one name."""
        return setting_values.model_names(value) if isinstance(value, str) else value

    @field_validator("backend", mode="before")
    @classmethod
    def _split_backends(cls, value: object) -> object:
        """Split a text of several backends, which flags and the variable have."""
        return setting_values.split_backends(value) if isinstance(value, str) else value

    @field_validator("api_key", mode="before")
    @classmethod
    def _split_keys(cls, value: object) -> object:
        """Split a text of several keys, which flags and the variable have."""
        return setting_values.split_keys(value) if isinstance(value, str) else value or ()

    @field_validator("generation", mode="before")
    @classmethod
    def _parse_generation(cls, value: object) -> object:
        """Convert the text of flags to numbers, for the strict types of GenerationSettings. The variable has JSON."""
        value = setting_values.json_value(setting_values.strip_quotes(value)) if isinstance(value, str) else value
        if not isinstance(value, Mapping):
            return value
        numeric = [name for name in GenerationSettings.model_fields if name not in ("stop", "thinking")]
        return {
            name: setting_values.number_from_text(item) if name in numeric else item for name, item in value.items()
        }

    @field_validator(*PATHS, mode="before")
    @classmethod
    def _check_path(cls, value: object) -> object:
        if isinstance(value, str) and not value.strip():
            raise ValueError("a path cannot be empty")
        return value

    @field_validator("host")
    @classmethod
    def _strip_brackets(cls, value: str) -> str:
        """Remove the brackets that an IPv6 address has in URLs."""
        return value[1:-1] if value.startswith("[") and value.endswith("]") else value

    @field_validator("root_path")
    @classmethod
    def _normalize_path(cls, value: str) -> str:
        return setting_values.url_path(value)

    @field_validator("allowed_hosts")
    @classmethod
    def _normalize_hosts(cls, value: str) -> str:
        return setting_values.host_names(value)

    @field_validator(*PATHS)
    @classmethod
    def _expand_user(cls, value: Path | None) -> Path | None:
        """Expand ~, which no shell expands in a variable or after `--flag=`."""
        return value and setting_values.expand_user(value)

    @field_validator("forwarded_allow_ips")
    @classmethod
    def _check_proxies(cls, value: str) -> str:
        setting_values.check_networks(value)
        return value

    # Not a constraint of the field: pydantic's error would show the key on the console.
    @model_validator(mode="after")
    def _check_api_key(self) -> Self:
        setting_values.api_keys(self.api_key)
        return self

    @model_validator(mode="after")
    def _check_admin(self) -> Self:
        if self.admin and not self.auth:
            raise ValueError("--admin names logins, of which there are none: add --auth user:password")
        return self

    @model_validator(mode="after")
    def _check_share(self) -> Self:
        if self.share and not self.auth and not self.share_without_login:
            raise ValueError(
                "--share gives anyone with the link this computer's model: add --auth user:password, "
                "or --share-without-login if that is what you want"
            )
        return self
