"""The Ceiling page of the Inspect view: the speed that the memory bandwidth allows, and the share reached. Pure."""

from dataclasses import dataclass, replace

from chatui import estimates
from chatui.chat import Finish, ModelAnatomy, ModelInfo
from chatui.i18n import N_, _, format_percent, localize_numbers
from chatui.inspection import Inspection
from chatui.server_facts import ServerActivity
from chatui.ui.inspector import charts, remote_view
from chatui.ui.inspector.charts import LabelledBar
from chatui.ui.inspector.formula_rows import (
    UNKNOWN_ANATOMY,
    FormulaRow,
    figure_row,
    folded,
    formula_list,
    nearest_precision,
    titled_list,
)
from chatui.units import human_bytes

UNKNOWN_BANDWIDTH = N_(
    "How fast this device reads its memory was not measured, so its highest possible speed is not known."
)
BATCH_SIZES = (1, 2, 4, 8, 16)


@dataclass(frozen=True)
class StepRead:
    """What one decoding step reads: `tokens` of context for each of `batch` replies, `size` bytes in all.

    It writes `tokens_per_step` tokens of this reply. `best` is its highest possible speed, in tokens per second.
    """

    tokens: int
    batch: float
    size: float
    tokens_per_step: float
    best: float


def ceiling_view(inspection: Inspection, activity: ServerActivity | None = None) -> str:
    """A chart of the highest possible speed by precision; the figures and formulas are folded below it.

    `activity` is what a server of the model tells now.
    """
    model, anatomy = inspection.model, inspection.model.anatomy
    if model.server is not None:
        return remote_view.ceiling(inspection, model.server, activity)
    if anatomy is None:
        return _(UNKNOWN_ANATOMY)
    if not anatomy.bandwidth:
        return _(UNKNOWN_BANDWIDTH)
    measured = anatomy.bandwidth
    anatomy = replace(anatomy, bandwidth=max(measured, _bandwidth_reached(inspection, anatomy)))
    step = _step_read(inspection, anatomy)
    rows = [*_step_rows(model, anatomy, measured, step), *_reached_rows(inspection.finish, step)]
    loaded_precision = nearest_precision(model, anatomy)
    precisions = [
        figure_row(estimates.max_tokens_per_second(anatomy, precision, 1, step.tokens), N_(f"{precision}, one reply"))
        for precision in anatomy.read
    ]
    batches = [
        figure_row(
            estimates.max_tokens_per_second(anatomy, loaded_precision, count, step.tokens),
            N_(f"{count} replies at once, in all") if count > 1 else N_("One reply"),
        )
        for count in BATCH_SIZES
    ]
    return _speed_chart(inspection, anatomy, step) + folded(
        formula_list(rows)
        + titled_list(_("In other precisions"), precisions)
        + titled_list(_("By batch size ({precision})", precision=loaded_precision), batches)
    )


def _bandwidth_reached(inspection: Inspection, anatomy: ModelAnatomy) -> float:
    """Bytes per second that this reply has read; 0 if it has no speed."""
    finish, step = inspection.finish, _step_read(inspection, anatomy)
    if finish is None or finish.completion_tokens < 2:
        return 0.0
    return finish.tokens_per_second / step.tokens_per_step * step.size


def _step_read(inspection: Inspection, anatomy: ModelAnatomy) -> StepRead:
    # On average over the reply, half of it is in the context.
    tokens = len(inspection.prompt.token_ids) + len(inspection.traces) // 2
    batch = inspection.finish.rows if inspection.finish else 1.0
    size = inspection.model.read_bytes + batch * estimates.kv_seen(anatomy, tokens).value
    tokens_per_step = inspection.finish.tokens_per_step if inspection.finish else 1.0
    return StepRead(tokens, batch, size, tokens_per_step, tokens_per_step * anatomy.bandwidth / size if size else 0.0)


def _step_rows(model: ModelInfo, anatomy: ModelAnatomy, measured: float, step: StepRead) -> list[FormulaRow]:
    bandwidth = human_bytes(anatomy.bandwidth)
    times = N_(f"batch of {step.batch:.1f} replies × ") if step.batch > 1.05 else ""
    read = f"{human_bytes(anatomy.bandwidth)}/s ÷ {human_bytes(step.size)}"
    highest = (
        N_(f"{read}, for a step writes one token of each reply")
        if step.tokens_per_step == 1
        else N_(f"{read} × {step.tokens_per_step:.2f}, the tokens of this reply that a step wrote by prompt lookup")
    )
    return [
        FormulaRow(
            N_("Memory bandwidth"),
            f"{bandwidth}/s",
            N_("Measured when the model was loaded, the best of several.")
            if anatomy.bandwidth == measured
            else N_("This reply read so fast; when the model was loaded, other programs slowed the measurement."),
        ),
        FormulaRow(
            N_("Bytes read per step"), human_bytes(step.size), _step_formula(model, anatomy, step.tokens, times)
        ),
        FormulaRow(
            N_("Highest possible"),
            f"{estimates.human_speed(step.best)} tokens/s",
            highest,
        ),
    ]


def _step_formula(model: ModelInfo, anatomy: ModelAnatomy, tokens: int, times: str) -> str:
    seen = estimates.kv_seen(anatomy, tokens)
    return N_(
        f"{human_bytes(model.read_bytes)} of weights (all but the table of embeddings where it is only looked up) + "
        f"{times}{seen.text} of KV cache ({seen.formula})"
    )


def _reached_rows(finish: Finish | None, step: StepRead) -> list[FormulaRow]:
    """The speed of this reply and its share of the ceiling; empty if the reply has no speed."""
    if finish is None or finish.completion_tokens < 2 or not step.best:
        return []
    speed, best = finish.tokens_per_second, step.best
    formula = (
        N_(f"{finish.completion_tokens - 1:,} tokens ÷ {finish.decode_seconds:.3f} s")
        if finish.completion_tokens != 2
        else N_(f"one token ÷ {finish.decode_seconds:.3f} s")
    )
    share = N_(f"{speed:,.1f} tokens/s ÷ {best:,.1f} tokens/s")
    return [
        FormulaRow(N_("Reached"), f"{estimates.human_speed(speed)} tokens/s", formula),
        FormulaRow(N_("Share of the ceiling"), f"{speed / best:.1%}", share),
    ]


def _speed_chart(inspection: Inspection, anatomy: ModelAnatomy, step: StepRead) -> str:
    """The highest possible speed in each precision, with a mark at the speed of this reply."""
    finish = inspection.finish
    precision = nearest_precision(inspection.model, anatomy)
    speeds = [(name, estimates.max_tokens_per_second(anatomy, name, 1, step.tokens).value) for name in anatomy.read]
    rows = [
        LabelledBar(
            name, speed, _("{speed} tokens/s", speed=localize_numbers(estimates.human_speed(speed))), name == precision
        )
        for name, speed in speeds
    ]
    mark = None
    if finish is not None and finish.completion_tokens > 1 and step.best:
        # The share is that of the whole step, which generated a token of each reply in the batch.
        speed = finish.tokens_per_second
        label = _(
            "this reply: {speed} tokens/s, {share} of what its step allows",
            speed=localize_numbers(estimates.human_speed(speed)),
            share=format_percent(speed / step.best),
        )
        mark = label, speed
    return charts.bars(_("The highest possible speed in each precision"), rows, mark)
