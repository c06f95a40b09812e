"""Memory, ceiling and the persona's price of a reply as rows, each of which opens to its formula. Pure."""

from collections.abc import Iterable, Sequence

from chatui import estimates
from chatui.chat import ModelAnatomy, ModelInfo
from chatui.estimates import Figure
from chatui.i18n import N_, _, figures, number, percent, translated
from chatui.inspection import Inspection
from chatui.model_spec import human_bytes, human_count
from chatui.store.records import StoredMessage
from chatui.ui.chat.transcript import plain
from chatui.ui.inspector import charts
from chatui.ui.inspector.charts import BarPart, ContextTurn, LabelledBar

Row = tuple[str, str, str]
"""A number's name, the number, and its formula."""

ENOUGH = 32
"""Tokens that must have been read for their speed to say anything."""

UNKNOWN = N_("What this model is made of was not kept.")
UNMEASURED = N_("How fast this device reads its memory was not measured, so its highest possible speed is not known.")


MAX_TURNS = 40
"""Columns of the picture of a context that fills: the last turns of a longer conversation."""


def memory(inspection: Inspection, path: Sequence[StoredMessage] = ()) -> str:
    """What the model and its conversations take, and how the context fills; numbers and formulas are one click deeper.

    `path` are the messages up to the reply.
    """
    model, anatomy = inspection.model, inspection.model.anatomy
    if anatomy is None:
        return _(UNKNOWN)
    predicted = [
        BarPart(_("weights"), size, figures(human_bytes(size)), "weights")
        for size in ([anatomy.weights[model.precision]] if model.precision in anatomy.weights else [])
    ]
    kv = estimates.keys_and_values(anatomy, model.slots, model.context_length)
    reading = estimates.activations(anatomy, model.context_length)
    predicted += [
        BarPart(_("keys and values"), kv.value, figures(human_bytes(kv.value)), "kv"),
        BarPart(_("activations, at most"), reading.value, figures(human_bytes(reading.value)), "activations"),
    ]
    really = [
        BarPart(_("weights"), model.weight_bytes, figures(human_bytes(model.weight_bytes)), "weights"),
        BarPart(_("keys and values"), model.kv_bytes, figures(human_bytes(model.kv_bytes)), "kv"),
    ]
    whole = model.memory_bytes or max(sum(part.size for part in parts) for parts in (predicted, really))
    title = (
        _("Of the {size} of memory of this machine", size=figures(human_bytes(whole)))
        if model.memory_bytes
        else _("What the model takes in memory")
    )
    picture = charts.stacked(title, [(_("predicted"), predicted), (_("held"), really)], whole)
    return picture + _context(inspection, path) + _deeper(_memory_rows(inspection, anatomy))


def _context(inspection: Inspection, path: Sequence[StoredMessage]) -> str:
    """How the context filled, turn by turn; nothing where only this reply is known."""
    finishes = [message.finish for message in path if message.role == "assistant" and message.finish is not None]
    turns = [ContextTurn(one.cached_tokens, one.prompt_tokens, one.completion_tokens) for one in finishes]
    if not turns and inspection.finish is not None:
        one = inspection.finish
        turns = [ContextTurn(one.cached_tokens, one.prompt_tokens, one.completion_tokens)]
    if not turns:
        return ""
    most = inspection.model.context_length
    # Little of a large context could not be seen on the scale of all of it.
    edge = min(most, max(10 * -(-turn.tokens // 5) for turn in turns[-MAX_TURNS:]))
    said = _("full at {most} tokens", most=number(most))
    if edge < most:
        said = _("upper edge: {edge} tokens; the context is full at {most}", edge=number(edge), most=number(most))
    return charts.filling(
        _("The context, turn by turn: {count} of {most} tokens", count=number(turns[-1].tokens), most=number(most)),
        turns[-MAX_TURNS:],
        edge,
        (_("remembered"), _("read anew"), _("the reply")),
        said,
    )


def _deeper(numbers: str) -> str:
    """Numbers behind a picture."""
    return f'<details class="numbers"><summary>{_("All numbers and their formulas")}</summary>{numbers}</details>'


def _memory_rows(inspection: Inspection, anatomy: ModelAnatomy) -> str:
    model, tokens = inspection.model, _tokens(inspection)
    name = human_count(anatomy.parameters)
    rows: list[Row] = [
        (N_("Parameters"), f"{name} ({anatomy.parameters:,})", N_("Counted in the checkpoint, tied ones once."))
    ]
    if anatomy.active != anatomy.parameters:
        rows.append(
            (
                N_("Active for one token"),
                f"{human_count(anatomy.active)} ({anatomy.active:,})",
                N_("The experts chosen, and the rest."),
            )
        )
    rows.append(
        (
            N_("Weights, loaded"),
            human_bytes(model.weight_bytes),
            N_(f"The sum over all tensors as they are held: {model.precision}."),
        )
    )
    if model.measured_bytes:
        rows.append(
            (
                N_("Process grew by, loading"),
                human_bytes(model.measured_bytes),
                N_("Resident memory after loading less before it."),
            )
        )
    rows.append(
        (
            N_("Keys and values, one token"),
            human_bytes(anatomy.kv_per_token),
            N_(f"{anatomy.layers} layers, keys and values of each.")
            if anatomy.layers != 1
            else N_("The keys and values of the one layer."),
        )
    )
    slots = estimates.keys_and_values(anatomy, model.slots, model.context_length)
    name = N_(f"Keys and values, {model.slots} slots, predicted")
    rows.append(_row(slots, name if model.slots != 1 else N_("Keys and values, one slot, predicted")))
    rows.append(
        (N_("Keys and values, held"), human_bytes(model.kv_bytes), N_("The sum over the tensors of all slots."))
    )
    rows.append(_row(estimates.activations(anatomy, model.context_length), N_("Activations, the most")))
    used = human_bytes(tokens * anatomy.kv_per_token)
    rows.append((N_("This conversation"), used, N_(f"{tokens:,} tokens × {anatomy.kv_per_token:,} B")))
    size = _turn(inspection)
    rows.append(_row(estimates.turn(anatomy, size), N_("A turn like this one adds")))
    rows.append(_row(estimates.last_turn(anatomy, size, model.context_length), N_("The context is full at")))
    other = [(precision, estimates.weights(anatomy, precision)) for precision in anatomy.weights]
    return (
        details(rows)
        + heading(_("The weights in other precisions"))
        + details(_row(figure, precision) for precision, figure in other)
    )


def ceiling(inspection: Inspection) -> str:
    """What this device's memory allows at best, how much of it was reached, and what would change it."""
    model, anatomy, finish = inspection.model, inspection.model.anatomy, inspection.finish
    if anatomy is None:
        return _(UNKNOWN)
    if not anatomy.bandwidth:
        return _(UNMEASURED)
    # Half of the reply, on average: that much of it has been written when a token is.
    tokens = len(inspection.prompt.token_ids) + len(inspection.traces) // 2
    rows = finish.rows if finish else 1.0
    bandwidth, read, kept = anatomy.bandwidth, model.read_bytes, tokens * anatomy.kv_per_token
    needed = read + rows * kept
    best = bandwidth / needed if needed else 0.0
    times = N_(f"{rows:.1f} replies at once × ") if rows > 1.05 else ""
    shown: list[Row] = [
        (
            N_("Memory read in a second"),
            f"{human_bytes(bandwidth)}/s",
            N_("Measured when the model was loaded, the best of several."),
        ),
        (N_("Read in one step"), human_bytes(needed), _read_formula(model, anatomy, tokens, times)),
        (
            N_("Highest possible"),
            f"{estimates.human_speed(best)} tokens/s",
            N_(f"{human_bytes(bandwidth)}/s ÷ {human_bytes(needed)}, for a step writes one token of each reply"),
        ),
    ]
    if finish is not None and finish.completion_tokens > 1 and best:
        speed = finish.tokens_per_second
        share = N_(f"{speed:,.1f} tokens/s ÷ {best:,.1f} tokens/s")
        shown += [
            (
                N_("Reached"),
                f"{estimates.human_speed(speed)} tokens/s",
                N_(f"{finish.completion_tokens - 1:,} tokens ÷ {finish.decode_seconds:.3f} s")
                if finish.completion_tokens != 2
                else N_(f"one token ÷ {finish.decode_seconds:.3f} s"),
            ),
            (N_("Share of the ceiling"), f"{speed / best:.1%}", share),
        ]
    precisions = [
        _row(estimates.ceiling(anatomy, precision, 1, tokens), N_(f"{precision}, one reply"))
        for precision in anatomy.read
    ]
    batches = [
        _row(
            estimates.ceiling(anatomy, _precision(model, anatomy), count, tokens),
            N_(f"{count} replies at once, in all") if count > 1 else N_("One reply"),
        )
        for count in (1, 2, 4, 8, 16)
    ]
    return _speeds(inspection, anatomy, best, tokens) + _deeper(
        details(shown)
        + heading(_("In other precisions"))
        + details(precisions)
        + heading(_("Where writing together moves it ({precision})", precision=_precision(model, anatomy)))
        + details(batches)
    )


def _speeds(inspection: Inspection, anatomy: ModelAnatomy, best: float, tokens: int) -> str:
    """What each precision allows at most, and a line where this reply was."""
    finish = inspection.finish
    allowed = [(precision, estimates.ceiling(anatomy, precision, 1, tokens).value) for precision in anatomy.read]
    own = _precision(inspection.model, anatomy)
    rows = [
        LabelledBar(name, speed, _("{speed} tokens/s", speed=figures(estimates.human_speed(speed))), name == own)
        for name, speed in allowed
    ]
    mark = None
    if finish is not None and finish.completion_tokens > 1 and best:
        # Of several replies at once each has its part of the step.
        speed = finish.tokens_per_second
        said = _(
            "this reply: {speed} tokens/s, {share} of what its step allows",
            speed=figures(estimates.human_speed(speed)),
            share=percent(speed / best),
        )
        mark = said, speed
    return charts.bars(_("The highest possible speed in each precision"), rows, mark)


def persona(inspection: Inspection) -> str:
    """What the persona costs at every turn."""
    prompt, finish, anatomy = inspection.prompt, inspection.finish, inspection.model.anatomy
    tokens = sum(span.tokens for span in prompt.spans if span.source == "persona")
    rows: list[Row] = [
        (
            N_("The persona"),
            N_(f"{tokens:,} tokens") if tokens != 1 else N_("one token"),
            N_(f"of {len(prompt.token_ids):,} tokens of the prompt"),
        )
    ]
    read = len(prompt.token_ids) - finish.cached_tokens if finish else 0
    if finish is not None and finish.prefill_seconds > 0 and read >= ENOUGH:
        each = finish.prefill_seconds / read
        formula = N_(
            f"{tokens:,} tokens × {1000 * each:.2f} ms, as this prompt was read; nothing where it is remembered"
        )
        rows.append((N_("Reading it anew"), f"{1000 * tokens * each:,.0f} ms", formula))
    elif finish is not None:
        formula = (
            N_(f"Only {read:,} tokens of this prompt were read, too few to tell what reading the persona takes.")
            if read != 1
            else N_("Only one token of this prompt was read, too few to tell what reading the persona takes.")
        )
        rows.append((N_("Reading it anew"), N_("not this time: it was remembered"), formula))
    if anatomy is not None:
        figure = estimates.turn(anatomy, tokens)
        rows.append((N_("Its keys and values"), figure.text, figure.formula))
        rows.append(
            (
                N_("Its part of the context"),
                f"{tokens / inspection.model.context_length:.1%}",
                _part(tokens, inspection.model),
            )
        )
    return details(rows)


def heading(text: str) -> str:
    """Between two lists of numbers."""
    return f"\n\n#### {text}\n\n"


def details(rows: Iterable[Row]) -> str:
    """Numbers, each of which opens to its formula; what is English in them is translated here."""
    made = [
        f"<details><summary><span>{told(name)}</span><b>{told(value)}</b></summary><p>{told(formula)}</p></details>"
        for name, value, formula in rows
    ]
    return f'<div class="figures">{"".join(made)}</div>'


def told(text: str) -> str:
    """A text of a row in the language spoken now, as markup."""
    known = translated(text)
    return plain(known if known != text else figures(text))


def _row(figure: Figure, name: str) -> Row:
    return name, figure.text, figure.formula


def _part(tokens: int, model: ModelInfo) -> str:
    return N_(f"{tokens:,} ÷ {model.context_length:,} tokens")


def _tokens(inspection: Inspection) -> int:
    return len(inspection.prompt.token_ids) + len(inspection.traces)


def _turn(inspection: Inspection) -> int:
    """Tokens of this turn: the message and what belongs to it, and the reply."""
    asked = sum(span.tokens for span in inspection.prompt.spans if span.source in ("message", "start"))
    return max(1, asked + len(inspection.traces))


def _read_formula(model: ModelInfo, anatomy: ModelAnatomy, tokens: int, times: str) -> str:
    return N_(
        f"{human_bytes(model.read_bytes)} of weights (all but the table of embeddings where it is only looked up) + "
        f"{times}{tokens:,} tokens × {anatomy.kv_per_token:,} B of keys and values"
    )


def _precision(model: ModelInfo, anatomy: ModelAnatomy) -> str:
    """The precision of the arithmetic that is nearest to what was loaded."""
    return min(anatomy.read, key=lambda name: abs(anatomy.read[name] - model.read_bytes))
