"""Results of public leaderboards for a model, looked up on the Hub by its name, and links to leaderboards by domain."""

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

from chatui.errors import HubError
from chatui.models.hub import HubModel
from chatui.models.hub_requests import MAX_JSON_BYTES, HubRequests
from chatui.models.model_card import Evaluation

Domain = Literal["", "code", "maths", "medicine", "law", "vision"]

OPEN_LLM, OPEN_LLM_NAME = "open-llm-leaderboard/results", "Open LLM Leaderboard"
"""Has a folder for each model with JSON files of lm-evaluation-harness. The table of the same leaderboard is a Parquet
file, which needs one more library. The leaderboard is archived, so newer models have no results."""
TASKS = (
    ("IFEval", "leaderboard_ifeval", "inst_level_strict_acc"),
    ("BBH", "leaderboard_bbh", "acc_norm"),
    ("MATH Lvl 5", "leaderboard_math_hard", "exact_match"),
    ("GPQA", "leaderboard_gpqa", "acc_norm"),
    ("MUSR", "leaderboard_musr", "acc_norm"),
    ("MMLU-PRO", "leaderboard_mmlu_pro", "acc"),
)
"""The benchmark, its name in the files, and the metric that is shown."""
RESULTS = re.compile(r"results_(\d{4}-\d\d-\d\d)T[\d.:-]+\.json")

ARENA, ARENA_NAME = "lmarena-ai/leaderboard-dataset", "Chatbot Arena (LMArena)"
"""Is a Parquet file, so that the dataset viewer of the Hub is asked. Its licence is CC BY 4.0."""
ARENA_MODEL = re.compile(r"[a-z0-9][a-z0-9._-]{0,99}")


@dataclass(frozen=True)
class Leaderboard:
    """A leaderboard to look at."""

    name: str
    url: str


GENERAL = (
    Leaderboard("Chatbot Arena", "https://lmarena.ai/leaderboard"),
    Leaderboard("Open LLM Leaderboard", "https://huggingface.co/spaces/open-llm-leaderboard/open_llm_leaderboard"),
)
BY_DOMAIN: Mapping[Domain, Sequence[Leaderboard]] = {
    "": GENERAL,
    "code": (
        Leaderboard("BigCodeBench", "https://huggingface.co/spaces/bigcode/bigcodebench-leaderboard"),
        Leaderboard("EvalPlus", "https://evalplus.github.io/leaderboard.html"),
    ),
    "maths": (Leaderboard("MathArena", "https://matharena.ai"),),
    "medicine": (
        Leaderboard("Open Medical-LLM", "https://huggingface.co/spaces/openlifescienceai/open_medical_llm_leaderboard"),
    ),
    "law": (Leaderboard("LegalBench (Vals AI)", "https://www.vals.ai/benchmarks/legal_bench"),),
    "vision": (Leaderboard("Open VLM Leaderboard", "https://huggingface.co/spaces/opencompass/open_vlm_leaderboard"),),
}
TAGS: Mapping[Domain, str] = {"code": "code", "maths": "math", "medicine": "medical", "law": "legal"}
"""The tag on the Hub of a domain. Models that see pictures have a task of their own."""


@dataclass(frozen=True)
class LeaderboardResults:
    """What one leaderboard says about a model. `model` is the name under which it has it, "" if it has none.

    `error` is why it could not be asked.
    """

    leaderboard: str
    model: str = ""
    evaluations: tuple[Evaluation, ...] = ()
    error: HubError | None = None


class Leaderboards:
    """Looks up models in the Open LLM Leaderboard and the Chatbot Arena. The user's token is never sent."""

    def __init__(self, requests: HubRequests | None = None) -> None:
        self._requests = requests or HubRequests(None, False)

    def results(self, model: HubModel) -> tuple[LeaderboardResults, ...]:
        """What each leaderboard says about a model, or else about the model that it was made of. Raises nothing."""
        names = tuple(dict.fromkeys((model.id, *model.base_models[:1])))
        found = []
        for leaderboard, look_up in ((OPEN_LLM_NAME, self._open_llm), (ARENA_NAME, self._arena)):
            try:
                known = ((name, look_up(name)) for name in names)
                name, evaluations = next((pair for pair in known if pair[1]), ("", ()))
                found.append(LeaderboardResults(leaderboard, name, evaluations))
            except HubError as error:
                found.append(LeaderboardResults(leaderboard, error=_about_data(leaderboard, error)))
        return tuple(found)

    def _open_llm(self, name: str) -> tuple[Evaluation, ...]:
        """The results in the newest file of the model."""

        def ask() -> tuple[Evaluation, ...]:
            from huggingface_hub import RepoFile
            from huggingface_hub.errors import RemoteEntryNotFoundError

            try:
                items = list(self._requests.api().list_repo_tree(OPEN_LLM, name, repo_type="dataset"))
            except RemoteEntryNotFoundError:
                return ()
            files = [item.path for item in items if isinstance(item, RepoFile) and item.size <= MAX_JSON_BYTES]
            dated = sorted(path for path in files if RESULTS.fullmatch(path.rpartition("/")[2]))
            if not dated:
                return ()
            base = f"{self._requests.endpoint}/datasets/{OPEN_LLM}"
            content = self._requests.json(f"{base}/resolve/main/{dated[-1]}")
            return _open_llm_results(content, dated[-1], f"{base}/blob/main/{dated[-1]}")

        return self._requests.cached(("open llm", name), OPEN_LLM_NAME, ask)

    def _arena(self, name: str) -> tuple[Evaluation, ...]:
        """The rating of a model in all categories together, by the last part of its name."""
        key = arena_name(name)
        if not key:
            return ()

        def ask() -> tuple[Evaluation, ...]:
            from huggingface_hub import constants

            rows = self._requests.json(
                f"{constants.DATASETS_SERVER_ENDPOINT}/filter",
                dataset=ARENA,
                config="text",
                split="latest",
                where=f"\"model_name\"='{key}' AND \"category\"='overall'",
            )["rows"]
            page = f"{self._requests.endpoint}/datasets/{ARENA}"
            return tuple(_arena_result(item["row"], page) for item in rows[:1])

        return self._requests.cached(("arena", key), ARENA_NAME, ask)


def _about_data(leaderboard: str, error: HubError) -> HubError:
    """The error of a leaderboard's data. What is missing is a data set, not a model."""
    if error.kind != "missing":
        return error
    return HubError("missing", f"The data of the {leaderboard} cannot be had from the Hub.", "Open its page instead.")


def arena_name(name: str) -> str:
    """How the Chatbot Arena writes the name of a model on the Hub; "" for names that it cannot have."""
    last = name.rpartition("/")[2].lower().removeprefix("meta-")
    return last if ARENA_MODEL.fullmatch(last) else ""


def _open_llm_results(content: Any, path: str, url: str) -> tuple[Evaluation, ...]:
    """The results in a file of lm-evaluation-harness, as fractions of 1. Groups of tasks come before single ones."""
    date = path.rpartition("/")[2].removeprefix("results_")[:10]
    found = []
    for benchmark, task, metric in TASKS:
        for part in ("groups", "results"):
            value = content.get(part, {}).get(task, {}).get(f"{metric},none")
            if isinstance(value, float | int):
                found.append(Evaluation(benchmark, metric, float(value), OPEN_LLM_NAME, url, date))
                break
    return tuple(found)


def _arena_result(row: Mapping[str, Any], url: str) -> Evaluation:
    rank, votes = int(row["rank"]), int(row["vote_count"])
    date = str(row["leaderboard_publish_date"])[:10]
    metric = f"rating, rank {rank} by {votes:,} votes"
    return Evaluation("Chatbot Arena", metric, round(float(row["rating"]), 1), ARENA_NAME, url, date)
