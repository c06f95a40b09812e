"""Finds models on the Hugging Face Hub, and reads what it says about one, within time limits and with a cache.

Knows the Hub through huggingface_hub alone. Every error is a HubError.
"""

import logging
import threading
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from datetime import datetime
from itertools import islice
from typing import TYPE_CHECKING, Any, Literal, TypeVar

from chatui.errors import HubError
from chatui.models import hub_errors
from chatui.models.model_card import Evaluation, from_card_data, from_model_index

if TYPE_CHECKING:
    from huggingface_hub import HfApi, ModelInfo

Sort = Literal["trending_score", "downloads", "likes", "last_modified"]
Library = Literal["safetensors", "gguf"]
T = TypeVar("T")
log = logging.getLogger(__name__)
PAGE_SIZE = 20
MAX_RESULTS = 1000
TIME_LIMIT = 15.0
"""Seconds for one question to the Hub, with all retries of huggingface_hub."""
PROBE_SECONDS = 3.0
"""Seconds for finding out why there was no answer."""
CACHE_SECONDS = 300.0
CACHE_ENTRIES = 200
MAX_WAITING = 8
"""Questions without an answer that may wait at the same time. Each has a thread until the connection ends."""
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


MAX_CONFIG_BYTES = 10**7


@dataclass(frozen=True)
class HubFile:
    """A file of a model. `etag` is the name of its content in the HF cache: its SHA-256, or its git hash if small."""

    path: str
    size: int
    etag: str


@dataclass(frozen=True)
class HubModel:
    """What the Hub says about a model. `parameters` are numbers by dtype, from the headers of its safetensors files.

    `gguf` has the fields of a GGUF header that the Hub reads, such as "total", "architecture" and "context_length".
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
        self._endpoint = endpoint
        self._token = token
        self._time_limit = time_limit
        self._lock = threading.Lock()
        self._cache: dict[Any, tuple[float, Any]] = {}
        self._waiting = threading.BoundedSemaphore(MAX_WAITING)

    def search(self, search: ModelSearch, page: int = 1) -> SearchPage:
        """A page of models. Raises HubError."""
        end = page * PAGE_SIZE
        if not 1 <= page <= MAX_RESULTS // PAGE_SIZE:
            raise HubError(
                "missing", f"Only the first {MAX_RESULTS} models of a search are shown.", "Narrow the search."
            )

        def ask() -> SearchPage:
            found = self._api().list_models(**_search_arguments(search), limit=end + 1)
            models = tuple(map(hub_model, islice(found, end - PAGE_SIZE, end + 1)))
            return SearchPage(models[:PAGE_SIZE], page, len(models) > PAGE_SIZE)

        return self._cached((search, page), f"a search for {search.text!r}" if search.text else "a search", ask)

    def model(self, name: str, revision: str | None = None) -> HubModel:
        """What the Hub says about a model, with its files and their sizes. Raises HubError."""

        def ask() -> HubModel:
            info = self._api().model_info(name, revision=revision, files_metadata=True, timeout=self._time_limit)
            return hub_model(info)

        return self._cached((name, revision), name, ask, revision)

    def evaluations(self, name: str) -> tuple[Evaluation, ...]:
        """The evaluation results in a model's card, each with its source. Raises HubError."""

        def ask() -> tuple[Evaluation, ...]:
            expand: Any = list(EVALUATIONS)
            return _evaluations(self._api().model_info(name, expand=expand, timeout=self._time_limit))

        return self._cached(("evaluations", name), name, ask)

    def config(self, model: HubModel) -> dict[str, Any]:
        """The config.json of a model, {} if it has none. Nothing is written to the cache. Raises HubError."""
        size = next((file.size for file in model.files if file.path == "config.json"), 0)
        if not 0 < size <= MAX_CONFIG_BYTES:
            return {}

        def ask() -> dict[str, Any]:
            from huggingface_hub import constants
            from huggingface_hub.utils import build_hf_headers, get_session, hf_raise_for_status

            endpoint = self._endpoint or constants.ENDPOINT
            url = f"{endpoint}/{model.id}/resolve/{model.commit or 'main'}/config.json"
            answer = get_session().get(url, headers=build_hf_headers(token=self._token), follow_redirects=True)
            hf_raise_for_status(answer)
            config = answer.json()
            return config if isinstance(config, dict) else {}

        return self._cached(("config", model.id, model.commit), model.id, ask)

    def forget(self) -> None:
        """Empty the cache, as after a new token."""
        with self._lock:
            self._cache.clear()

    def _api(self) -> "HfApi":
        from huggingface_hub import HfApi

        return HfApi(endpoint=self._endpoint, token=self._token)

    def _cached(self, key: Any, name: str, ask: Callable[[], T], revision: str | None = None) -> T:
        with self._lock:
            until, answer = self._cache.get(key, (0.0, None))
        if time.monotonic() < until:
            return answer  # type: ignore[no-any-return]  # the key tells the type
        answer = self._within_limit(name, ask, revision)
        with self._lock:
            while len(self._cache) >= CACHE_ENTRIES:
                del self._cache[next(iter(self._cache))]
            self._cache[key] = (time.monotonic() + CACHE_SECONDS, answer)
        return answer

    def _within_limit(self, name: str, ask: Callable[[], T], revision: str | None) -> T:
        """Run `ask` in a thread. list_models has no time limit, and retries for as long as the Hub tells it to."""
        outcome: list[T] = []
        errors: list[BaseException] = []
        done = threading.Event()
        if not self._waiting.acquire(blocking=False):
            raise hub_errors.no_answer(name)

        def run() -> None:
            try:
                outcome.append(_twice(ask))
            except BaseException as error:
                errors.append(error)
            finally:
                self._waiting.release()
                done.set()

        threading.Thread(target=run, name="hub", daemon=True).start()
        if not done.wait(self._time_limit):
            raise self._why_no_answer(name)
        if not errors:
            return outcome[0]
        known = hub_errors.hub_error(name, revision, errors[0])
        if known is None:
            log.warning("The answer for %s could not be read: %s", name, type(errors[0]).__name__)
            known = hub_errors.unreadable(name)
        raise known from errors[0]

    def _why_no_answer(self, name: str) -> HubError:
        """The reason for which huggingface_hub waits, as rate limits are: asked once more, without retries."""
        from huggingface_hub import constants
        from huggingface_hub.utils import get_session, hf_raise_for_status

        found: list[HubError] = []

        def ask() -> None:
            try:
                url = f"{self._endpoint or constants.ENDPOINT}/api/models"
                hf_raise_for_status(get_session().get(url, params={"limit": 1}, timeout=PROBE_SECONDS))
            except Exception as error:
                found.extend(filter(None, [hub_errors.hub_error(name, None, error)]))

        thread = threading.Thread(target=ask, name="hub", daemon=True)
        thread.start()
        thread.join(PROBE_SECONDS)
        return found[0] if found else hub_errors.no_answer(name)


def _twice(ask: Callable[[], T]) -> T:
    """Ask, and once more if the connection breaks: huggingface_hub closes its client for all threads on an error."""
    from huggingface_hub.utils import httpx

    try:
        return ask()
    except (RuntimeError, httpx.NetworkError):
        return ask()


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
    from huggingface_hub import constants

    card = info.card_data
    found = from_card_data(card, info.eval_results).evaluations
    index: Any = info.model_index
    if index and not (card and card.eval_results):
        found = (*found, *from_model_index(index))
    page = f"{constants.ENDPOINT}/{info.id}"
    return tuple(result if result.url else replace(result, url=page) for result in found)
