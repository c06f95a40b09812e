"""The Memory page of the Inspect view: what the model takes, how the context fills, and all figures. Pure."""

from collections.abc import Sequence

from chatui import estimates
from chatui.chat import ModelAnatomy, ModelInfo
from chatui.i18n import N_, _, format_number, localize_numbers
from chatui.inspection import Inspection
from chatui.server_facts import ServerActivity
from chatui.store.records import StoredMessage
from chatui.ui.inspector import charts, remote_view
from chatui.ui.inspector.charts import BarPart, ContextTurn
from chatui.ui.inspector.formula_rows import (
    UNKNOWN_ANATOMY,
    FormulaRow,
    figure_row,
    folded,
    formula_list,
    titled_list,
)
from chatui.units import human_bytes, human_count

MAX_TURNS = 40
"""Columns of the context chart; a longer conversation shows its last turns."""


def memory_view(
    inspection: Inspection, path: Sequence[StoredMessage] = (), activity: ServerActivity | None = None
) -> str:
    """Charts of the memory and of the context; the figures and formulas are folded below them.

    `path` are the messages up to the reply, `activity` is what a server of the model tells now.
    """
    anatomy, server = inspection.model.anatomy, inspection.model.server
    if server is not None:
        return remote_view.memory(inspection, server, activity) + _context_chart(inspection, path)
    if anatomy is None:
        return _(UNKNOWN_ANATOMY)
    rows = [*_weight_rows(inspection, anatomy), *_cache_rows(inspection, anatomy), *_turn_rows(inspection, anatomy)]
    precisions = [figure_row(estimates.weights(anatomy, name), name) for name in anatomy.weights]
    numbers = formula_list(rows) + titled_list(_("The weights in other precisions"), precisions)
    return _memory_chart(inspection, anatomy) + _context_chart(inspection, path) + folded(numbers)


def _memory_chart(inspection: Inspection, anatomy: ModelAnatomy) -> str:
    """Predicted and allocated bytes, on the scale of the machine's memory if that is known."""
    model = inspection.model

    def part(label: str, size: float, kind: str) -> BarPart:
        return BarPart(label, size, localize_numbers(human_bytes(size)), kind)

    weights = [anatomy.weights[model.precision]] if model.precision in anatomy.weights else []
    kv_cache = estimates.kv_cache(anatomy, model.max_cached_tokens, model.windowed_tokens)
    activations = estimates.activations(anatomy, model.context_length)
    predicted = [
        *(part(_("weights"), size, "weights") for size in weights),
        part(_("KV cache"), kv_cache.value, "kv"),
        part(_("activations, peak"), activations.value, "activations"),
    ]
    allocated = [part(_("weights"), model.weight_bytes, "weights"), part(_("KV cache"), model.kv_bytes, "kv")]
    total = model.memory_bytes or max(sum(part.size for part in parts) for parts in (predicted, allocated))
    title = (
        _("Of the {size} of memory of this machine", size=localize_numbers(human_bytes(total)))
        if model.memory_bytes
        else _("What the model takes in memory")
    )
    return charts.stacked(title, [(_("predicted"), predicted), (_("allocated"), allocated)], total)


def _context_chart(inspection: Inspection, path: Sequence[StoredMessage]) -> str:
    """How the context filled turn by turn; "" if no turn has counts."""
    finishes = [message.finish for message in path if message.role == "assistant" and message.finish is not None]
    if not finishes and inspection.finish is not None:
        finishes = [inspection.finish]
    finishes = [finish for finish in finishes if finish.told_prompt_tokens is not None]
    turns = [ContextTurn(finish.cached_tokens, finish.prompt_tokens, finish.completion_tokens) for finish in finishes]
    knows_cached = all(finish.told_cached_tokens is not None for finish in finishes[-MAX_TURNS:])
    limit = inspection.model.context_length
    if not turns or not turns[-1].prompt or not limit:
        return ""
    # A few tokens of a large context would be invisible on the scale of all of it.
    edge = min(limit, max(10 * -(-turn.tokens // 5) for turn in turns[-MAX_TURNS:]))
    limit_label = _("full at {limit} tokens", limit=format_number(limit))
    if edge < limit:
        limit_label = _(
            "upper edge: {edge} tokens; the context is full at {limit}",
            edge=format_number(edge),
            limit=format_number(limit),
        )
    return charts.context_columns(
        _(
            "The context, turn by turn: {count} of {limit} tokens",
            count=format_number(turns[-1].tokens),
            limit=format_number(limit),
        ),
        turns[-MAX_TURNS:],
        edge,
        (_("cached"), _("computed") if knows_cached else _("computed, or not told"), _("the reply")),
        limit_label,
    )


def _weight_rows(inspection: Inspection, anatomy: ModelAnatomy) -> list[FormulaRow]:
    model = inspection.model
    count = human_count(anatomy.parameters)
    rows = [
        FormulaRow(
            N_("Parameters"), f"{count} ({anatomy.parameters:,})", N_("Counted in the checkpoint, tied ones once.")
        )
    ]
    if anatomy.active != anatomy.parameters:
        active = f"{human_count(anatomy.active)} ({anatomy.active:,})"
        rows.append(FormulaRow(N_("Active parameters per token"), active, N_("The experts chosen, and the rest.")))
    loaded = N_(f"The sum over all tensors as they are held: {model.precision}.")
    rows.append(FormulaRow(N_("Weights, loaded"), human_bytes(model.weight_bytes), loaded))
    if model.measured_bytes:
        measured = human_bytes(model.measured_bytes)
        rows.append(
            FormulaRow(
                N_("Process memory (RSS), loaded"), measured, N_("Resident memory after loading less before it.")
            )
        )
    return rows


def _cache_rows(inspection: Inspection, anatomy: ModelAnatomy) -> list[FormulaRow]:
    model = inspection.model
    layers = (
        N_(f"{anatomy.layers} layers, keys and values of each.")
        if anatomy.layers != 1
        else N_("The keys and values of the one layer.")
    )
    return [
        FormulaRow(N_("KV cache, one token"), human_bytes(anatomy.kv_per_token), layers),
        figure_row(
            estimates.kv_cache(anatomy, model.max_cached_tokens, model.windowed_tokens), N_("KV cache, predicted")
        ),
        FormulaRow(
            N_("KV cache, allocated"),
            human_bytes(model.kv_bytes),
            N_("The sum over the tensors of all blocks; on a CPU memory is taken as they are filled."),
        ),
        *_error_rows(model),
        figure_row(estimates.activations(anatomy, model.context_length), N_("Activations, peak")),
    ]


def _error_rows(model: ModelInfo) -> list[FormulaRow]:
    """What int8 does to the KV cache, if it is in int8."""
    if model.kv_divergence is None:
        return []
    how = N_(
        "The mean KL divergence of the probabilities of the next token from those with the KV cache in full precision, "
        "over a fixed text of one block (64 tokens), measured when the model was loaded. 0 is no difference."
    )
    return [FormulaRow(N_("KV cache in int8, error"), N_(f"{model.kv_divergence:.6f} nats"), how)]


def _turn_rows(inspection: Inspection, anatomy: ModelAnatomy) -> list[FormulaRow]:
    prompt, reply_tokens = inspection.prompt, len(inspection.traces)
    held = estimates.kv_held(anatomy, len(prompt.token_ids) + reply_tokens)
    turn_tokens = max(1, prompt.source_tokens("message", "start") + reply_tokens)
    return [
        figure_row(held, N_("This conversation")),
        figure_row(estimates.turn(anatomy, turn_tokens), N_("A turn like this one adds")),
        figure_row(
            estimates.last_turn(anatomy, turn_tokens, inspection.model.context_length), N_("The context is full at")
        ),
    ]
