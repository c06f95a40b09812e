"""Finds models on the Hugging Face Hub, and reads what it says about one, within time limits and with a cache.

Knows the Hub through huggingface_hub alone. Every error is a HubError.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from datetime import datetime
from itertools import islice
from typing import TYPE_CHECKING, Any, Literal

from chatui.errors import HubError
from chatui.models.hub_requests import MAX_JSON_BYTES, TIME_LIMIT, HubRequests
from chatui.models.model_card import Evaluation, from_card_data, from_model_index

if TYPE_CHECKING:
    from huggingface_hub import ModelInfo

Sort = Literal["trending_score", "downloads", "likes", "last_modified"]
Library = Literal["safetensors", "gguf"]
PAGE_SIZE = 20
MAX_RESULTS = 1000
FACTS = (
    "author",
    "cardData",
    "downloads",
    "gated",
    "gguf",
    "lastModified",
    "library_name",
    "likes",
    "pipeline_tag",
    "private",
    "safetensors",
    "sha",
    "tags",
)
"""What is asked for each model, by the names in https://huggingface.co/docs/hub/api."""
EVALUATIONS = ("evalResults", "model-index")


@dataclass(frozen=True)
class HubFile:
    """A file of a model. `etag` is the name of its content in the HF cache: its SHA-256, or its git hash if small."""

    path: str
    size: int
    etag: str


@dataclass(frozen=True)
class HubModel:
    """What the Hub says about a model. `parameters` are numbers by dtype, from the headers of its safetensors files.

    `base_models` are those that it was made of. `gguf` has the fields of a GGUF header that the Hub reads, such as
    "total", "architecture" and "context_length".
    `files` is empty in search results.
    """

    id: str
    author: str = ""
    commit: str = ""
    downloads: int = 0
    likes: int = 0
    updated: datetime | None = None
    licence: str = ""
    gated: bool = False
    private: bool = False
    task: str = ""
    library: str = ""
    languages: tuple[str, ...] = ()
    tags: tuple[str, ...] = ()
    base_models: tuple[str, ...] = ()
    parameters: Mapping[str, int] = field(default_factory=dict)
    gguf: Mapping[str, Any] = field(default_factory=dict)
    files: tuple[HubFile, ...] = ()
    evaluations: tuple[Evaluation, ...] = ()

    @property
    def total_parameters(self) -> int | None:
        """The number of parameters, from the headers of the files; None if the Hub does not state it."""
        total = sum(self.parameters.values()) or self.gguf.get("total")
        return int(total) if total else None


@dataclass(frozen=True)
class ModelSearch:
    """What to look for. `tags` are further tags of the Hub, such as a domain; `language` is an ISO 639-1 code.

    `parameters` is a range as huggingface_hub has it, such as "min:1B,max:8B".
    """

    text: str = ""
    task: str = "text-generation"
    tags: tuple[str, ...] = ()
    language: str = ""
    licence: str = ""
    library: Library | None = None
    author: str = ""
    parameters: str = ""
    sort: Sort = "trending_score"


@dataclass(frozen=True)
class SearchPage:
    """One page of a search. `number` starts at 1."""

    models: tuple[HubModel, ...]
    number: int
    has_more: bool


class Hub:
    """The Hub at `endpoint` (HF_ENDPOINT by default), asked with `token` (the stored one by default)."""

    def __init__(self, endpoint: str | None = None, token: str | None = None, time_limit: float = TIME_LIMIT) -> None:
        self._requests = HubRequests(endpoint, token, time_limit)

    def search(self, search: ModelSearch, page: int = 1) -> SearchPage:
        """A page of models. Raises HubError."""
        end = page * PAGE_SIZE
        if not 1 <= page <= MAX_RESULTS // PAGE_SIZE:
            raise HubError(
                "missing", f"Only the first {MAX_RESULTS} models of a search are shown.", "Narrow the search."
            )

        def ask() -> SearchPage:
            found = self._requests.api().list_models(**_search_arguments(search), limit=end + 1)
            models = tuple(map(hub_model, islice(found, end - PAGE_SIZE, end + 1)))
            return SearchPage(models[:PAGE_SIZE], page, len(models) > PAGE_SIZE)

        return self._requests.cached(
            (search, page), f"a search for {search.text!r}" if search.text else "a search", ask
        )

    def model(self, name: str, revision: str | None = None) -> HubModel:
        """What the Hub says about a model, with its files and their sizes. Raises HubError."""

        def ask() -> HubModel:
            limit = self._requests.time_limit
            info = self._requests.api().model_info(name, revision=revision, files_metadata=True, timeout=limit)
            return hub_model(info)

        return self._requests.cached((name, revision), name, ask, revision)

    def evaluations(self, name: str) -> tuple[Evaluation, ...]:
        """The evaluation results in a model's card, each with its source. Raises HubError."""

        def ask() -> tuple[Evaluation, ...]:
            expand: Any = list(EVALUATIONS)
            return _evaluations(self._requests.api().model_info(name, expand=expand, timeout=self._requests.time_limit))

        return self._requests.cached(("evaluations", name), name, ask)

    def config(self, model: HubModel) -> dict[str, Any]:
        """The config.json of a model, {} if it has none. Nothing is written to the cache. Raises HubError."""
        size = next((file.size for file in model.files if file.path == "config.json"), 0)
        if not 0 < size <= MAX_JSON_BYTES:
            return {}

        def ask() -> dict[str, Any]:
            url = f"{self._requests.endpoint}/{model.id}/resolve/{model.commit or 'main'}/config.json"
            config = self._requests.json(url)
            return config if isinstance(config, dict) else {}

        return self._requests.cached(("config", model.id, model.commit), model.id, ask)

    def forget(self) -> None:
        """Empty the cache, as after a new token."""
        self._requests.forget()


def page_url(name: str) -> str:
    """The address of a model's page on the Hub."""
    from huggingface_hub import constants

    return f"{constants.ENDPOINT}/{name}"


def hub_model(info: "ModelInfo") -> HubModel:
    """The facts in an answer of huggingface_hub."""
    card: Mapping[str, Any] = info.card_data.to_dict() if info.card_data else {}
    tags = tuple(info.tags or ())
    return HubModel(
        id=info.id,
        author=info.author or info.id.partition("/")[0],
        commit=info.sha or "",
        downloads=info.downloads or 0,
        likes=info.likes or 0,
        updated=info.last_modified,
        licence=_licence(card, tags),
        gated=bool(info.gated),
        private=bool(info.private),
        task=info.pipeline_tag or "",
        library=info.library_name or "",
        languages=_texts(card.get("language")),
        tags=tags,
        base_models=_texts(card.get("base_model")),
        parameters=dict(info.safetensors.parameters) if info.safetensors else {},
        gguf=dict(info.gguf or {}),
        files=tuple(
            HubFile(file.rfilename, file.size, file.lfs.sha256 if file.lfs else file.blob_id or "")
            for file in info.siblings or ()
            if file.size is not None
        ),
        evaluations=_evaluations(info),
    )


def _search_arguments(search: ModelSearch) -> dict[str, Any]:
    tags = [*search.tags]
    tags += [search.language] if search.language else []
    tags += [f"license:{search.licence}"] if search.licence else []
    tags += [search.library] if search.library else []
    return {
        "search": search.text or None,
        "pipeline_tag": search.task or None,
        "filter": tags or None,
        "author": search.author or None,
        "num_parameters": search.parameters or None,
        "sort": search.sort,
        "expand": list(FACTS),
    }


def _licence(card: Mapping[str, Any], tags: tuple[str, ...]) -> str:
    """The licence's identifier, or its own name where the identifier is "other"."""
    licence = card.get("license") or next((tag[8:] for tag in tags if tag.startswith("license:")), "")
    return str(card.get("license_name") or "other") if licence == "other" else ", ".join(_texts(licence))


def _texts(value: Any) -> tuple[str, ...]:
    """A value of a model card that may be one text or a list of them."""
    if isinstance(value, str):
        return (value,)
    return tuple(item for item in value if isinstance(item, str)) if isinstance(value, list) else ()


def _evaluations(info: "ModelInfo") -> tuple[Evaluation, ...]:
    """The results in the files of .eval_results and in the model index, each with a URL: at least the model's page."""
    card = info.card_data
    found = from_card_data(card, info.eval_results).evaluations
    index: Any = info.model_index
    if index and not (card and card.eval_results):
        found = (*found, *from_model_index(index))
    return tuple(result if result.url else replace(result, url=page_url(info.id)) for result in found)
