import json
from typing import Any, get_args

import pytest
from huggingface_hub import constants

from chatui.models.hub import Hub, HubModel
from chatui.models.leaderboards import ARENA, BY_DOMAIN, OPEN_LLM, TAGS, Domain, Leaderboards, arena_name
from chatui.models.model_card import Evaluation
from tests.local_hub import LocalHub

HARNESS: dict[str, Any] = {
    "results": {
        "leaderboard_ifeval": {"inst_level_strict_acc,none": 0.5, "alias": " - leaderboard_ifeval"},
        "leaderboard_mmlu_pro": {"acc,none": 0.25},
        "leaderboard_bbh": {"acc_norm,none": "not a number"},
        "leaderboard_gpqa": {"acc_norm,none": 0.1},
    },
    "groups": {"leaderboard_gpqa": {"acc_norm,none": 0.3}},
}
ROW = {
    "model_name": "tiny-8b-instruct",
    "rating": 1234.56,
    "rank": 7,
    "vote_count": 4321,
    "category": "overall",
    "leaderboard_publish_date": "2026-09-13",
}
WHERE = "\"model_name\"='tiny-8b-instruct' AND \"category\"='overall'"
MODEL = HubModel("owner/Meta-Tiny-8B-Instruct")


@pytest.fixture
def boards(hub: LocalHub) -> LocalHub:
    hub.datasets[OPEN_LLM] = {
        f"{MODEL.id}/results_2024-06-19T03-56-15.142347.json": b"{}",
        f"{MODEL.id}/results_2025-01-02T03-04-05.000001.json": json.dumps(HARNESS).encode(),
        f"{MODEL.id}/requests.json": b"{}",
    }
    hub.rows[ARENA, WHERE] = [ROW]
    return hub


def test_results_have_source_link_and_date(boards: LocalHub) -> None:
    open_llm, arena = Leaderboards().results(MODEL)
    page = f"{boards.url}/datasets/{OPEN_LLM}/blob/main/{MODEL.id}/results_2025-01-02T03-04-05.000001.json"
    assert (open_llm.model, arena.model) == (MODEL.id, MODEL.id)
    assert open_llm.evaluations == tuple(
        Evaluation(benchmark, metric, value, "Open LLM Leaderboard", page, "2025-01-02")
        for benchmark, metric, value in (
            ("IFEval", "inst_level_strict_acc", 0.5),
            ("GPQA", "acc_norm", 0.3),
            ("MMLU-PRO", "acc", 0.25),
        )
    )
    assert arena.evaluations == (
        Evaluation(
            "Chatbot Arena",
            "rating, rank 7 by 4,321 votes",
            1234.6,
            "Chatbot Arena (LMArena)",
            f"{boards.url}/datasets/{ARENA}",
            "2026-09-13",
        ),
    )


def test_a_quantized_model_has_the_results_of_its_base(boards: LocalHub) -> None:
    boards.add("other/Tiny-GGUF", {}, facts={"cardData": {"base_model": MODEL.id}})
    for results in Leaderboards().results(Hub().model("other/Tiny-GGUF")):
        assert results.model == MODEL.id
        assert results.evaluations


def test_without_results_nothing_is_claimed(boards: LocalHub) -> None:
    for results in Leaderboards().results(HubModel("owner/unknown")):
        assert (results.model, results.evaluations, results.error) == ("", (), None)


def test_no_token_is_sent_and_answers_are_kept(boards: LocalHub, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HF_TOKEN", "hf_" + "0" * 20)
    leaderboards = Leaderboards()
    assert leaderboards.results(MODEL) == leaderboards.results(MODEL)
    assert {seen.token for seen in boards.seen} == {None}
    assert len(boards.seen) == 3


@pytest.mark.parametrize("damage", ["gone", "another", "server", "offline"])
def test_data_that_cannot_be_had_is_said(boards: LocalHub, damage: str, monkeypatch: pytest.MonkeyPatch) -> None:
    if damage == "gone":
        boards.datasets.clear()
        boards.fault("/filter", status=404)
    elif damage == "another":
        newest = f"{MODEL.id}/results_2025-01-02T03-04-05.000001.json"
        boards.datasets[OPEN_LLM][newest] = b"[]"
        boards.rows[ARENA, WHERE] = [{"model": "renamed columns"}]
    elif damage == "server":
        boards.fault("GET", status=501, times=9)
    else:
        monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    for results in Leaderboards().results(MODEL):
        assert results.evaluations == ()
        assert results.error


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("Qwen/Qwen2.5-72B-Instruct", "qwen2.5-72b-instruct"),
        ("meta-llama/Meta-Llama-3.1-8B-Instruct", "llama-3.1-8b-instruct"),
        ("owner/it's' OR 1=1", ""),
        ("", ""),
    ],
)
def test_names_of_the_arena(name: str, expected: str) -> None:
    assert arena_name(name) == expected


def test_every_domain_has_a_leaderboard() -> None:
    assert set(BY_DOMAIN) == set(get_args(Domain))
    assert all(board.url.startswith("https://") for boards in BY_DOMAIN.values() for board in boards)
    assert set(TAGS) == set(get_args(Domain)) - {"", "vision"}
