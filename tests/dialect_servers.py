"""Written servers, one of each kind that the client knows, with the oddities of their sources and documentation."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

from starlette.responses import Response

from tests.remote_servers import Answer, FakeServer, Fields, Piece, chunk, error

LONGEST = 400
"""Characters of a conversation from which on it does not fit the context of any of them."""
END = "<END>"
"""The stop string that ends the reply of a server that was told it."""


def nested(status: int, message: str, **more: Any) -> Response:
    """An error as OpenAI has it."""
    return error(status, {"error": {"message": message, "type": "invalid_request_error", "code": None, **more}})


def flat(status: int, message: str) -> Response:
    """An error of SGLang."""
    return error(status, {"object": "error", "message": message, "type": "BadRequest", "param": None, "code": status})


def of_tgi(status: int, message: str) -> Response:
    """An error of TGI."""
    return error(status, {"error": message, "error_type": "validation"})


def detail(status: int, message: str) -> Response:
    """An error of FastAPI."""
    return error(status, {"detail": message})


@dataclass(frozen=True)
class Kind:
    """How a kind of server answers.

    `thought` is the field of its thoughts, "" if they stand in the text between tags. `takes` are the fields beyond
    OpenAI's that it takes, None if it ignores those that it does not know. `reason` is that of the end, with `ending`
    beside it, `stop_reason` that of a stop string. `too_long` is its answer to a conversation that does not fit.
    """

    models: Sequence[Fields]
    routes: Fields = field(default_factory=dict)
    thought: str = "reasoning_content"
    takes: frozenset[str] | None = None
    refuse: Callable[[int, str], Response] = nested
    max_stop: int = 1000
    usage: Literal["asked", "always"] = "asked"
    usage_more: Fields = field(default_factory=dict)
    delta_more: Fields = field(default_factory=dict)
    before: Sequence[Piece] = ()
    reason: str = "stop"
    ending: Fields = field(default_factory=dict)
    stop_ending: Fields = field(default_factory=dict)
    last: Fields = field(default_factory=dict)
    too_long: Answer | None = None

    def server(self) -> FakeServer:
        """A server of this kind."""
        return FakeServer([self.answer], list(self.models), dict(self.routes))

    def answer(self, body: Fields) -> Answer:
        """The answer to a request for a reply."""
        if problem := self._problem(body):
            return self.refuse(422 if self.refuse in (of_tgi, detail) else 400, problem)
        if self.too_long is not None and sum(len(message["content"]) for message in body["messages"]) > LONGEST:
            return self.too_long
        stops = END in body.get("stop", ())
        ending = self.stop_ending if stops else self.ending
        usage = {"prompt_tokens": 9, "completion_tokens": 4, "total_tokens": 13, **self.usage_more}
        told = self.usage == "always" or bool(body.get("stream_options", {}).get("include_usage"))
        stream = [*self.before, *self._thought(), self._piece(content="Hello"), self._piece(content=" there")]
        stream += [] if stops else [self._piece(content="<EN"), self._piece(content="D>more")]
        finish = chunk(self.delta_more, self.reason, **self.last)
        finish["choices"][0] |= ending
        if self.usage == "always":
            return [*stream, {**finish, "usage": usage}]
        return [*stream, finish, *([{"choices": [], "usage": usage}] if told else []), b"data: [DONE]\n\n"]

    def _problem(self, body: Fields) -> str:
        known = {"model", "messages", "stream", "stream_options", "max_tokens", "temperature", "top_p", "seed", "stop"}
        if self.takes is not None and (unknown := sorted(set(body) - known - self.takes)):
            return f"Unexpected fields in the request: {unknown}"
        if len(body.get("stop", ())) > self.max_stop:
            return f"`stop` supports up to {self.max_stop} stop sequences"
        if self.refuse is of_tgi and not 0 < body.get("top_p", 0.5) < 1:
            return "`top_p` must be > 0.0 and < 1.0"
        return ""

    def _thought(self) -> list[Piece]:
        if not self.thought:
            return ["<think>hm", "</think>"]
        return [self._piece(**{self.thought: "hm"})]

    def _piece(self, **delta: Any) -> Fields:
        return chunk({**self.delta_more, **delta})


CONTEXT = "This model's maximum context length is 100 tokens. However, your messages have 900 tokens."
VLLM = Kind(
    [{"id": "org/m", "owned_by": "vllm", "root": "/models/m", "max_model_len": 4096}],
    {"/version": {"version": "0.32.0"}},
    thought="reasoning",
    max_stop=4,
    usage_more={"prompt_tokens_details": {"cached_tokens": 5}},
    ending={"stop_reason": 151645},
    stop_ending={"stop_reason": END},
    too_long=nested(400, CONTEXT, param="input_tokens"),
)
SGLANG = Kind(
    [{"id": "org/m", "owned_by": "sglang", "root": "org/m", "parent": None, "max_model_len": 4096}],
    {"/get_model_info": {"model_path": "org/m"}, "/server_info": {"version": "0.6", "api_key": "secret"}},
    refuse=flat,
    usage_more={"reasoning_tokens": 1, "prompt_tokens_details": None},
    delta_more={"reasoning_content": None},
    ending={"matched_stop": 151645},
    stop_ending={"matched_stop": END},
    too_long=flat(400, "The input (900 tokens) is longer than the model's context length (100 tokens)."),
)
LLAMA_CPP = Kind(
    [{"id": "/models/m.gguf", "owned_by": "llamacpp", "meta": {"n_ctx": 4096, "n_ctx_train": 8192, "n_params": 7}}],
    {"/props": {"default_generation_settings": {"n_ctx": 4096}, "chat_template": "x", "build_info": "b9000"}},
    before=[
        b":\n\n",
        chunk({"role": "assistant", "content": None}),
        {"choices": [], "prompt_progress": {"total": 9, "cache": 5, "processed": 7}},
    ],
    last={"timings": {"prompt_n": 4, "cache_n": 5, "prompt_ms": 2000.0, "predicted_ms": 500.0}},
    too_long=error(
        400,
        {
            "error": {
                "code": 400,
                "type": "exceed_context_size_error",
                "message": "the request exceeds the available context size",
                "n_ctx": 100,
                "n_prompt_tokens": 900,
            }
        },
    ),
)
OLLAMA = Kind(
    [{"id": "m:latest", "owned_by": "library"}],
    {
        "/api/version": {"version": "0.40.12"},
        "/api/show": {"capabilities": ["completion", "thinking"], "details": {"quantization_level": "Q4_K_M"}},
        "/api/ps": {"models": [{"name": "m:latest", "context_length": 4096, "size": 7}]},
    },
    thought="reasoning",
    before=[chunk({"role": "assistant", "content": ""}, "load")],
)
LM_STUDIO = Kind(
    [{"id": "org/m", "owned_by": "organization_owner"}, {"id": "text-embedding-x", "owned_by": "organization_owner"}],
    {
        "/api/v1/models": {
            "models": [
                {
                    "type": "llm",
                    "key": "org/m",
                    "max_context_length": 9999,
                    "quantization": {"name": "Q4_K_M"},
                    "loaded_instances": [{"id": "org/m", "config": {"context_length": 4096}}],
                },
                {"type": "embedding", "key": "text-embedding-x", "loaded_instances": []},
            ]
        }
    },
    too_long=[],
)
TGI = Kind(
    [{"id": "org/m", "owned_by": "org/m", "created": 0}],
    {"/info": {"model_id": "org/m", "max_total_tokens": 4096, "model_dtype": "torch.float16", "version": "3.3.6"}},
    thought="",
    refuse=of_tgi,
    max_stop=4,
    reason="eos_token",
    stop_ending={"finish_reason": "stop_sequence"},
    too_long=of_tgi(422, "Input validation error: `inputs` must have less than 100 tokens. Given: 900"),
)
ROUTER = Kind(
    [
        {
            "id": "org/m",
            "owned_by": "org",
            "providers": [{"provider": "a", "context_length": 8192}, {"provider": "b", "context_length": 4096}, {}],
        }
    ],
    max_stop=4,
    before=[b": PROCESSING\n\n"],
    too_long=nested(400, CONTEXT),
)
TRANSFORMERS = Kind(
    [{"id": "org/m", "owned_by": "org"}, {"id": "gpt2", "owned_by": ""}],
    {"/health": {"status": "ok"}},
    takes=frozenset({"chat_template_kwargs", "generation_config"}),
    refuse=detail,
    usage="always",
)
OPENAI = Kind(
    [{"id": "m", "owned_by": "system"}],
    takes=frozenset(),
    max_stop=4,
    too_long=nested(400, CONTEXT, code="context_length_exceeded", param="messages"),
)
