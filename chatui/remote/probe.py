"""Asks a server which kind it is, which models it has, and what it tells of them. Blocking, for a thread of its own."""

import fnmatch
import re
import time
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import httpx

from chatui import shallow_json
from chatui.i18n import N_
from chatui.remote.backend_spec import BackendSpec
from chatui.remote.dialects import DIALECTS
from chatui.remote.json_fields import Fields, as_count, as_object, as_objects, as_text
from chatui.remote.server_errors import read_error

DETAILS_SECONDS = 60.0
"""How often what goes beyond the list of models is asked again."""
MAX_MODELS = 1000
MAX_ID_CHARACTERS = 300
MAX_BYTES, MAX_SECONDS = 16_000_000, 15.0
"""Of one response."""
MAX_DETAILS_SECONDS = 30.0
"""How long the details of all models are asked for: a server that answers slowly is not asked for more."""


@dataclass(frozen=True)
class RemoteModel:
    """A model as its server lists it. What the server does not tell is 0, "" or None.

    `context` is in tokens. `template` is its chat template. `thinks`: the server says that it thinks before it answers.
    A `loaded` model answers at once.
    """

    id: str
    context: int = 0
    parameters: int = 0
    weight_bytes: int = 0
    precision: str = ""
    revision: str = ""
    template: str = ""
    thinks: bool = False
    loaded: bool = True


@dataclass(frozen=True)
class ServerReport:
    """What a server has told. `dialect` is a name of DIALECTS, `software` its name and version, `seconds` the time that
    the list of models took."""

    dialect: str
    software: str
    models: tuple[RemoteModel, ...]
    seconds: float = field(compare=False)


class ProbeError(Exception):
    """The server gave no list of models. `loading`: it will, once its model is loaded. `refused`: it wants a key."""

    def __init__(self, message: str, loading: bool = False, refused: bool = False) -> None:
        super().__init__(message)
        self.loading, self.refused = loading, refused


class Probe:
    """Probes one server again and again. What does not change with each list is kept for a while."""

    def __init__(self, client: httpx.Client, spec: BackendSpec) -> None:
        """`client` has the server's address and headers."""
        self._client, self._spec = client, spec
        self._dialect = spec.dialect
        self._listed: list[str] = []
        self._details: dict[str, RemoteModel] = {}
        self._software = ""
        self._detailed_at = float("-inf")
        self._details_until = 0.0

    def read(self) -> ServerReport:
        """What the server tells now. Raises ProbeError."""
        started = time.monotonic()
        entries, server_header = self._list()
        seconds = time.monotonic() - started
        ids = [entry["id"] for entry in entries]
        if ids != self._listed or started - self._detailed_at >= DETAILS_SECONDS:
            self._details_until = time.monotonic() + MAX_DETAILS_SECONDS
            self._dialect = self._spec.dialect or self._detect(entries, server_header)
            self._software = self._read_software()
            extra = self._read_extra()
            chats = [entry for entry in entries if not _is_embedding(entry, extra)]
            self._details = {entry["id"]: self._read_model(entry, extra) for entry in chats}
            self._listed, self._detailed_at = ids, started
        return ServerReport(self._dialect, self._software, tuple(self._details.values()), seconds)

    def _list(self) -> tuple[list[Fields], str]:
        """(the entries of /v1/models, the response's Server header). Raises ProbeError."""
        try:
            response = self._request("GET", "/v1/models")
        except (httpx.HTTPError, httpx.InvalidURL) as error:
            raise ProbeError(connection_problem(error)) from None
        if response.is_redirect:
            raise ProbeError(N_("it redirects to another address, which is not followed"))
        if response.status_code != 200:
            told = read_error(response.status_code, response.content, response.headers)
            if response.status_code in (401, 403):
                raise ProbeError(N_("it does not accept the key"), refused=True)
            raise ProbeError(told.message or f"status {told.status}", loading=told.is_busy)
        listed = _json(response)
        data = listed.get("data") if isinstance(listed, dict) else listed
        if not isinstance(data, list):
            raise ProbeError(N_("its /v1/models is no list of models; is it a server of OpenAI's API?"))
        entries = as_objects(data)
        by_id = {entry["id"]: entry for entry in entries if _is_id(entry.get("id")) and self._is_served(entry["id"])}
        return list(by_id.values())[:MAX_MODELS], response.headers.get("server", "")

    def _is_served(self, id: str) -> bool:
        patterns = self._spec.models
        return not patterns or any(fnmatch.fnmatchcase(id, pattern) for pattern in patterns)

    def _detect(self, entries: Sequence[Fields], server_header: str) -> str:
        """The name of the server's dialect."""
        if server_header.lower().startswith("llama.cpp"):
            return "llama.cpp"
        if any("providers" in entry for entry in entries):
            return "hf-router"
        owners = {entry.get("owned_by") for entry in entries}
        for name, dialect in DIALECTS.items():
            if owners & set(dialect.owners):
                return name
        for name, dialect in DIALECTS.items():
            if dialect.probe and dialect.probe_field in self._get(dialect.probe):
                return name
        title = self._get("/openapi.json").get("info", {})
        known = str(title.get("title", "")).lower() if isinstance(title, dict) else ""
        if "vllm" in known:
            return "vllm"
        # transformers serve lists whole repositories, by their owners, and nothing else.
        lists_owners = entries and all(entry.get("owned_by") == _repository_owner(entry["id"]) for entry in entries)
        if lists_owners and isinstance(self._get("/health").get("status"), str):
            return "transformers"
        return "openai"

    def _read_software(self) -> str:
        title = DIALECTS[self._dialect].title
        # SGLang tells its version only together with its keys, which are not asked for.
        route, field = {
            "vllm": ("/version", "version"),
            "llama.cpp": ("/props", "build_info"),
            "ollama": ("/api/version", "version"),
            "tgi": ("/info", "version"),
        }.get(self._dialect, ("", ""))
        version = self._get(route).get(field) if route else None
        return f"{title} {version[:60]}" if isinstance(version, str) and version else title

    def _read_extra(self) -> Fields:
        """What other routes tell of all models."""
        if self._dialect == "llama.cpp":
            return self._get("/props")
        if self._dialect == "tgi":
            return self._get("/info")
        if self._dialect == "ollama":
            return {as_text(entry.get("name")): entry for entry in as_objects(self._get("/api/ps").get("models"))}
        if self._dialect == "lm-studio":
            return _lm_studio_models(as_objects(self._get("/api/v1/models").get("models"))) or {
                as_text(entry.get("id")): entry for entry in as_objects(self._get("/api/v0/models").get("data"))
            }
        return {}

    def _read_model(self, entry: Fields, extra: Fields) -> RemoteModel:
        model = RemoteModel(
            entry["id"],
            context=as_count(entry.get("max_model_len"), _context_of_providers(entry)),
            weight_bytes=as_count(entry.get("weight_bytes")),
            revision=as_text(entry.get("revision")),
        )
        read = {
            "llama.cpp": self._read_llama_cpp,
            "tgi": self._read_tgi,
            "ollama": self._read_ollama,
            "lm-studio": self._read_lm_studio,
        }.get(self._dialect)
        model = read(model, entry, extra) if read else model
        return replace(model, context=model.context or self._spec.context or 0)

    def _read_llama_cpp(self, model: RemoteModel, entry: Fields, props: Fields) -> RemoteModel:
        """https://github.com/ggml-org/llama.cpp/blob/master/tools/server/README.md. `n_ctx` is that of one slot."""
        meta, settings = as_object(entry.get("meta")), as_object(props.get("default_generation_settings"))
        status = as_object(entry.get("status")).get("value", "loaded")
        return replace(
            model,
            context=as_count(meta.get("n_ctx"), settings.get("n_ctx"), meta.get("n_ctx_train")),
            parameters=as_count(meta.get("n_params")),
            weight_bytes=as_count(meta.get("size")),
            precision=as_text(meta.get("ftype")),
            template=as_text(props.get("chat_template")),
            loaded=status in ("loaded", "sleeping"),
        )

    def _read_tgi(self, model: RemoteModel, _entry: Fields, info: Fields) -> RemoteModel:
        """https://huggingface.co/docs/text-generation-inference/reference/api_reference"""
        context = as_count(info.get("max_total_tokens"))
        return replace(model, context=context, precision=as_text(info.get("model_dtype")).removeprefix("torch."))

    def _read_ollama(self, model: RemoteModel, _entry: Fields, running: Fields) -> RemoteModel:
        """https://docs.ollama.com/api. A prompt is cut at `num_ctx`, which is not the model's own context."""
        shown = self._told("POST", "/api/show", {"model": model.id})
        parameters = re.search(r"^num_ctx\s+(\d+)", as_text(shown.get("parameters")), re.MULTILINE)
        now = as_object(running.get(model.id))
        details = as_object(shown.get("details"))
        return replace(
            model,
            context=as_count(now.get("context_length"), int(parameters[1]) if parameters else 0),
            parameters=as_count(as_object(shown.get("model_info")).get("general.parameter_count")),
            weight_bytes=as_count(now.get("size")),
            precision=as_text(details.get("quantization_level")),
            thinks="thinking" in (shown.get("capabilities") or ()),
            loaded=bool(now),
        )

    def _read_lm_studio(self, model: RemoteModel, _entry: Fields, listed: Fields) -> RemoteModel:
        """https://lmstudio.ai/docs/developer/rest. /api/v0/models came before /api/v1/models."""
        told = as_object(listed.get(model.id))
        quantization = told.get("quantization")
        return replace(
            model,
            context=as_count(told.get("loaded_context_length"), told.get("max_context_length")),
            weight_bytes=as_count(told.get("size_bytes")),
            precision=as_text(quantization) or as_text(as_object(quantization).get("name")),
            loaded=told.get("state", "loaded") == "loaded",
        )

    def _get(self, path: str) -> Fields:
        """The JSON object at a path; empty if there is none."""
        return self._told("GET", path)

    def _told(self, method: str, path: str, body: Fields | None = None) -> Fields:
        if time.monotonic() > self._details_until:
            return {}
        try:
            return as_object(_json(self._request(method, path, body)))
        except (httpx.HTTPError, httpx.InvalidURL):
            return {}

    def _request(self, method: str, path: str, body: Fields | None = None) -> httpx.Response:
        """A response that has ended within MAX_BYTES and MAX_SECONDS. Raises httpx.HTTPError."""
        deadline = time.monotonic() + MAX_SECONDS
        content = bytearray()
        with self._client.stream(method, path, json=body) as response:
            for piece in response.iter_bytes():
                content += piece
                if len(content) > MAX_BYTES or time.monotonic() > deadline:
                    raise httpx.ReadTimeout("a response without end")
        return httpx.Response(response.status_code, headers=_plain_headers(response), content=bytes(content))


def _context_of_providers(entry: Fields) -> Any:
    """The smallest context of a model's providers: the router may choose any of them."""
    contexts = [as_count(as_object(each).get("context_length")) for each in as_objects(entry.get("providers"))]
    return min(filter(None, contexts), default=0)


def _plain_headers(response: httpx.Response) -> dict[str, str]:
    """Its headers without those of an encoding that was undone."""
    return {
        name: value for name, value in response.headers.items() if name not in ("content-encoding", "content-length")
    }


def _json(response: httpx.Response) -> Any:
    """The JSON of a successful response; None if there is none."""
    if response.status_code != 200:
        return None
    try:
        return shallow_json.loads(response.content)
    except ValueError:
        return None


def _is_id(value: Any) -> bool:
    """Whether it can be the name of a model, which people see."""
    return isinstance(value, str) and 0 < len(value) <= MAX_ID_CHARACTERS and value.isprintable()


def _is_embedding(entry: Fields, extra: Fields) -> bool:
    """Whether a model writes no text: LM Studio and routers list those that embed it beside the others."""
    kind = as_object(extra.get(entry["id"])).get("type", entry.get("type"))
    return isinstance(kind, str) and kind.startswith("embedding")


def _repository_owner(id: str) -> str:
    return id.partition("/")[0] if "/" in id else ""


def _lm_studio_models(models: Sequence[Fields]) -> Fields:
    """The models of /api/v1/models by what /v1/models calls them: their keys, and the names of those in memory."""
    told: dict[str, Fields] = {}
    for model in models:
        instances = as_objects(model.get("loaded_instances"))
        state = "loaded" if instances else "not-loaded"
        named = [(each.get("id"), as_object(each.get("config")).get("context_length")) for each in instances]
        for name, context in [(model.get("key"), named[0][1] if named else None), *named]:
            told[as_text(name)] = {**model, "state": state, "loaded_context_length": context}
    return told


def connection_problem(error: Exception) -> str:
    """Why a server could not be reached, in words."""
    if isinstance(error, httpx.ConnectTimeout | httpx.ConnectError):
        return N_("it cannot be reached")
    if isinstance(error, httpx.TimeoutException):
        return N_("it does not answer in time")
    return N_("the connection broke")
