"""What the YAML header of a model card (README.md) says: licence, languages, base model, evaluation results.

The format: https://github.com/huggingface/hub-docs/blob/main/modelcard.md?plain=1
"""

from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

MAX_BYTES = 5_000_000


@dataclass(frozen=True)
class Evaluation:
    """One evaluation result.

    `value` is as the card has it, `source` names who says so, `url` is where, and `date` is ISO 8601 or "".
    """

    dataset: str
    metric: str
    value: float | str
    source: str = ""
    url: str = ""
    date: str = ""
    verified: bool = False


@dataclass(frozen=True)
class ModelCardFacts:
    """The facts of a card. "" and empty where it says nothing."""

    license: str = ""
    languages: tuple[str, ...] = ()
    base_models: tuple[str, ...] = ()
    tags: tuple[str, ...] = ()
    evaluations: tuple[Evaluation, ...] = ()


def read_card(path: Path) -> ModelCardFacts:
    """The facts of a README.md; none where there is no such file, or no valid header in it."""
    from huggingface_hub import ModelCard

    try:
        if path.stat().st_size > MAX_BYTES:
            return ModelCardFacts()
        return from_card_data(ModelCard.load(path, ignore_metadata_errors=True).data)
    except Exception:  # a card is written by hand, and a model is good without
        return ModelCardFacts()


def from_card_data(data: Any, eval_results: Iterable[Any] | None = None) -> ModelCardFacts:
    """The facts of huggingface_hub's ModelCardData, and of the EvalResultEntry objects of a ModelInfo if given."""
    license_ = data.get("license") if data is not None else None
    if license_ == "other":
        license_ = data.get("license_name") or license_
    flattened = (data.get("eval_results") if data is not None else None) or ()
    entries = [_entry(entry) for entry in eval_results or ()]
    return ModelCardFacts(
        license=", ".join(_texts(license_)),
        languages=_texts(data.get("language")) if data is not None else (),
        base_models=_texts(data.get("base_model")) if data is not None else (),
        tags=_texts(data.get("tags")) if data is not None else (),
        evaluations=(*entries, *map(_result, flattened)),
    )


def from_model_index(index: Any) -> tuple[Evaluation, ...]:
    """The evaluation results of a model-index by itself, none if it is invalid."""
    from huggingface_hub.repocard_data import model_index_to_eval_results

    try:
        return tuple(map(_result, model_index_to_eval_results(index)[1]))
    except (ValueError, KeyError, TypeError, AttributeError):  # authors write it by hand
        return ()


def _result(result: Any) -> Evaluation:
    """An evaluation from the model-index of a card: huggingface_hub's EvalResult."""
    return Evaluation(
        dataset=str(result.dataset_name or result.dataset_type),
        metric=str(result.metric_name or result.metric_type),
        value=_value(result.metric_value),
        source=str(result.source_name or ""),
        url=str(result.source_url or ""),
        verified=bool(result.verified),
    )


def _entry(entry: Any) -> Evaluation:
    """An evaluation of the newer kind: https://huggingface.co/docs/hub/eval-results."""
    return Evaluation(
        dataset=str(entry.dataset_id),
        metric=str(entry.task_id),
        value=_value(entry.value),
        source=str(entry.source_name or entry.source_org or entry.source_user or ""),
        url=str(entry.source_url or ""),
        date=str(entry.date or ""),
        verified=bool(entry.verify_token),
    )


def _value(value: Any) -> float | str:
    return float(value) if isinstance(value, int | float) and not isinstance(value, bool) else str(value)


def _texts(value: Any) -> tuple[str, ...]:
    if value is None:
        return ()
    return tuple(map(str, value)) if isinstance(value, list | tuple) else (str(value),)
