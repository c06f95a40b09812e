import errno
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from huggingface_hub import constants, errors
from huggingface_hub.utils import close_session, httpx

from chatui.errors import HubError
from chatui.models import hub as hub_module
from chatui.models import hub_errors, hub_requests
from chatui.models.hub import PAGE_SIZE, Hub, HubFile, ModelSearch
from chatui.models.model_card import Evaluation
from tests.local_hub import LocalHub

TOKEN = "hf_" + "0" * 20
CARD = {
    "license": "other",
    "license_name": "llama3.1",
    "language": ["en", "de"],
    "model-index": [
        {
            "name": "a model",
            "results": [
                {
                    "task": {"type": "text-generation"},
                    "dataset": {"type": "gsm8k", "name": "GSM8K"},
                    "metrics": [{"type": "accuracy", "value": 57.2}],
                    "source": {"url": "https://example.org/leaderboard", "name": "A leaderboard"},
                }
            ],
        }
    ],
}
FACTS: dict[str, Any] = {
    "pipeline_tag": "text-generation",
    "library_name": "transformers",
    "tags": ["safetensors", "text-generation", "en", "de", "license:other", "math"],
    "downloads": 7,
    "likes": 3,
    "lastModified": "2026-11-01T12:00:00.000Z",
    "trendingScore": 9,
    "cardData": CARD,
    "safetensors": {"parameters": {"BF16": 1000, "F32": 24}, "total": 1024},
    "evalResults": [
        {
            "filename": ".eval_results/gpqa.yaml",
            "verified": False,
            "data": {
                "dataset": {"id": "Idavidrein/gpqa", "task_id": "gpqa_diamond"},
                "value": 41.2,
                "date": "2026-10-01",
                "source": {"url": "https://example.org/logs", "name": "Logs"},
            },
        }
    ],
}


@pytest.fixture(autouse=True)
def fresh_client() -> Iterator[None]:
    """Requests that were never answered keep the shared client of huggingface_hub."""
    yield
    close_session()


LINGERING = "lingering"
"""The text of searches that huggingface_hub still repeats in a thread while later tests run."""


def queries(hub: LocalHub) -> list[str]:
    """The queries for models, without those of earlier tests."""
    return [seen.query for seen in hub.seen if seen.path.startswith("/api/models") and LINGERING not in seen.query]


def names(found: hub_module.SearchPage) -> list[str]:
    return [model.id for model in found.models]


def test_facts_of_a_model(hub: LocalHub) -> None:
    hub.add("owner/model", {"config.json": b"{}", "model.safetensors": b"12345678"}, facts=FACTS)
    repository = hub.repositories["owner/model"]
    model = Hub().model("owner/model")
    assert (model.id, model.author, model.commit) == ("owner/model", "owner", repository.commit)
    assert (model.downloads, model.likes, model.task, model.library) == (7, 3, "text-generation", "transformers")
    assert (model.licence, model.languages, model.gated, model.private) == ("llama3.1", ("en", "de"), False, False)
    assert model.updated
    assert model.updated.year == 2026
    assert (dict(model.parameters), model.total_parameters) == ({"BF16": 1000, "F32": 24}, 1024)
    assert model.files == (
        HubFile("config.json", 2, repository.etag("config.json")),
        HubFile("model.safetensors", 8, repository.etag("model.safetensors")),
    )


def test_the_config_of_a_model_is_read_and_not_kept(hub: LocalHub, tmp_path: Path) -> None:
    hub.add("owner/tiny", {"config.json": b'{"model_type": "llama"}', "model.safetensors": b"x"})
    hub.add("owner/bare", {"README.md": b"x", "config.json": b"[]"})
    hub_client = Hub()
    assert hub_client.config(hub_client.model("owner/tiny")) == {"model_type": "llama"}
    assert hub_client.config(hub_client.model("owner/bare")) == {}
    assert not list(tmp_path.rglob("config.json"))
    hub.fault("/config.json", status=500)
    broken = Hub()
    with pytest.raises(HubError):
        broken.config(broken.model("owner/tiny"))


def test_every_evaluation_result_has_a_source(hub: LocalHub) -> None:
    hub.add("owner/model", {}, facts={**FACTS, "model-index": CARD["model-index"]})
    assert Hub().evaluations("owner/model") == (
        Evaluation("Idavidrein/gpqa", "gpqa_diamond", 41.2, "Logs", "https://example.org/logs", "2026-10-01"),
        Evaluation("GSM8K", "accuracy", 57.2, "A leaderboard", "https://example.org/leaderboard"),
    )


def test_gguf_facts_come_from_the_header_that_the_hub_read(hub: LocalHub) -> None:
    hub.add("owner/gguf", {}, facts={"gguf": {"total": 134515008, "architecture": "llama", "context_length": 2048}})
    model = Hub().model("owner/gguf")
    assert (model.total_parameters, model.gguf["context_length"]) == (134515008, 2048)
    assert Hub().model("owner/gguf").licence == ""


@pytest.mark.parametrize(
    "search",
    [
        ModelSearch("wanted"),
        ModelSearch(tags=("math",)),
        ModelSearch(language="de"),
        ModelSearch(licence="other"),
        ModelSearch(library="safetensors"),
    ],
)
def test_search_filters(hub: LocalHub, search: ModelSearch) -> None:
    hub.add("owner/wanted", {}, facts=FACTS)
    hub.add("owner/image", {}, facts={**FACTS, "pipeline_tag": "text-to-image"})
    hub.add("owner/secret-wanted", {}, facts=FACTS, private=True)
    hub.add("owner/other", {}, facts={"pipeline_tag": "text-generation", "tags": ["gguf"]})
    found = Hub().search(search)
    assert names(found) == ["owner/wanted"]
    assert (found.models[0].total_parameters, found.models[0].licence, found.has_more) == (1024, "llama3.1", False)
    (query,) = queries(hub)
    assert "expand=safetensors" in query


@pytest.mark.parametrize("sort", ["trending_score", "downloads", "likes", "last_modified"])
def test_pages_are_sorted_and_none_is_left_out(hub: LocalHub, sort: hub_module.Sort) -> None:
    hub.page_size = 15  # less than ours: huggingface_hub follows the Link header
    key = {"trending_score": "trendingScore", "last_modified": "lastModified"}.get(sort, sort)
    for index in range(45):
        value: Any = f"2026-01-01T00:00:{index:02}.000Z" if sort == "last_modified" else index
        hub.add(f"owner/m{index}", {}, facts={**FACTS, key: value})
    hub_client = Hub()
    pages = [hub_client.search(ModelSearch(sort=sort), number) for number in (1, 2, 3)]
    assert [len(page.models) for page in pages] == [PAGE_SIZE, PAGE_SIZE, 5]
    assert [page.has_more for page in pages] == [True, True, False]
    assert [name for page in pages for name in names(page)] == [f"owner/m{index}" for index in range(44, -1, -1)]
    with pytest.raises(HubError, match="first 1000 models"):
        hub_client.search(ModelSearch(), 51)


def test_answers_are_cached_until_they_are_forgotten(hub: LocalHub, monkeypatch: pytest.MonkeyPatch) -> None:
    hub.add("owner/model", {}, facts=FACTS)
    hub_client = Hub()
    for _ in range(3):
        hub_client.search(ModelSearch())
        hub_client.model("owner/model")
    assert len(queries(hub)) == 2
    hub_client.forget()
    hub_client.model("owner/model")
    assert len(queries(hub)) == 3
    monkeypatch.setattr(hub_requests, "CACHE_ENTRIES", 1)
    hub_client.search(ModelSearch("x"))
    hub_client.search(ModelSearch("y"))
    assert len(hub_client._requests._cache) == 1


@pytest.mark.parametrize(
    ("name", "kind", "says"),
    [
        ("owner/private", "missing", "or it is private"),
        ("owner/absent", "missing", "no model 'owner/absent' on the Hub"),
        ("a b//c", "invalid name", "neither a folder here nor a name"),
    ],
)
def test_what_is_not_there(hub: LocalHub, name: str, kind: str, says: str) -> None:
    hub.add("owner/private", {}, private=True)
    hub.tokens = {TOKEN: set()}
    for token in (None, TOKEN):
        with pytest.raises(HubError, match=says) as raised:
            Hub(token=token).model(name)
        assert raised.value.kind == kind
        assert raised.value.remedy
    hub.tokens = {TOKEN: {"owner/private"}}
    assert Hub(token=TOKEN).model("owner/private").private


def test_a_token_that_is_not_valid(hub: LocalHub) -> None:
    hub.add("owner/model", {})
    with pytest.raises(HubError, match="HTTP 401") as raised:
        Hub(token=TOKEN).model("owner/model")
    assert raised.value.kind == "unauthorized"
    assert TOKEN not in f"{raised.value!r} {raised.value} {raised.value.__cause__}"


def test_renamed_and_other_revisions(hub: LocalHub) -> None:
    commit = hub.add("owner/new", {}).commit
    hub.renamed["owner/old"] = "owner/new"
    assert Hub().model("owner/old").id == "owner/new"
    assert Hub().model("owner/new", commit).commit == commit
    with pytest.raises(HubError, match="no revision 'v9'"):
        Hub().model("owner/new", "v9")


def ask_model(hub_client: Hub) -> object:
    return hub_client.model("owner/model")


def ask_search(hub_client: Hub) -> object:
    return hub_client.search(ModelSearch(LINGERING))


@pytest.mark.parametrize("ask", [ask_model, ask_search])
@pytest.mark.parametrize(
    ("fault", "kind", "retry_after"),
    [
        ({"status": 429, "headers": {"Retry-After": "3600"}}, "rate limited", 3600),
        ({"status": 429, "headers": {"RateLimit": '"api";r=0;t=300'}}, "rate limited", 300),
        ({"status": 500}, "server", None),
        ({"hold": 0}, "unreachable", None),
        ({"cut": 0}, "unreachable", None),
    ],
    ids=["retry after", "rate limit", "broken", "never answers", "cut"],
)
def test_faults_end_within_the_time_limit(
    hub: LocalHub,
    ask: Callable[[Hub], object],
    fault: dict[str, Any],
    kind: str,
    retry_after: int | None,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(hub_requests, "PROBE_SECONDS", 0.5 if "hold" in fault else 30.0)
    hub.add("owner/model", {}, facts=FACTS)
    hub.fault("GET /api/models", times=99, **fault)
    with pytest.raises(HubError) as raised:
        ask(Hub(time_limit=0.5))
    assert (raised.value.kind, raised.value.retry_after) == (kind, retry_after)
    assert raised.value.remedy


def test_few_questions_wait_at_once(hub: LocalHub, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(hub_requests, "MAX_WAITING", 1)
    monkeypatch.setattr(hub_requests, "PROBE_SECONDS", 0.01)
    hub.fault("GET /api/models", times=99, hold=0)
    hub_client = Hub(time_limit=0.01)
    for _ in range(3):
        with pytest.raises(HubError, match="did not answer in time"):
            hub_client.search(ModelSearch(f"{LINGERING} alone"))
    assert sum("alone" in seen.query for seen in hub.seen) <= 1


def test_offline_and_without_a_network(hub: LocalHub, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(HubError, match="cannot be reached") as raised:
        Hub(endpoint="http://127.0.0.1:1").model("owner/model")
    assert raised.value.kind == "unreachable"
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    for ask in (ask_model, ask_search):
        with pytest.raises(HubError, match="offline mode is on"):
            ask(Hub())


def test_a_client_that_another_thread_closes_is_replaced(hub: LocalHub) -> None:
    hub.add("owner/model", {}, facts=FACTS)
    held = hub.fault("GET /api/models/owner/model", hold=0)
    found: list[str] = []
    asking = threading.Thread(target=lambda: found.append(Hub(time_limit=120.0).model("owner/model").id))
    asking.start()
    assert held.reached.wait(120)
    close_session()  # as huggingface_hub does where a request of another thread finds no connection
    hub.heal()
    asking.join(120)
    assert found == ["owner/model"]  # by the first answer if all of it had arrived, else by a second one


def test_another_server_in_place_of_the_hub(hub: LocalHub) -> None:
    hub.fault("GET /api/models/owner/model", status=200, headers={"Content-Type": "text/html"})
    with pytest.raises(HubError, match="not one of the Hub's"):
        Hub().model("owner/model")


@pytest.mark.parametrize(
    ("error", "kind"),
    [
        (OSError(errno.ENOSPC, "No space left on device"), "disk full"),
        (httpx.ProxyError("407"), "unreachable"),
        (httpx.ReadTimeout("slow"), "unreachable"),
        (ConnectionResetError(), "unreachable"),
        (errors.LocalEntryNotFoundError("no"), "unreachable"),
        (errors.OfflineModeIsEnabled("no"), "offline"),
        (errors.HFValidationError("no"), "invalid name"),
        (KeyError("other"), None),
        (PermissionError(errno.EACCES, "no"), None),
    ],
)
def test_errors_without_an_answer(error: Exception, kind: str | None) -> None:
    known = hub_errors.hub_error("owner/model", None, error)
    assert (known and known.kind) == kind
    assert known is None or known.remedy
