"""Results -> tables for the console. Pure."""

from collections.abc import Sequence

from scripts.benchmark import baseline
from scripts.benchmark.figures import (
    InterruptionFigures,
    WaveFigures,
    interruption_figures,
    median_or_none,
    wave_figures,
)
from scripts.benchmark.results import Results, Scene, processor, versions

WAVE_HEAD = (
    *("users", "server", "prompt", "tokens/s", "while all write", "ms per token", "first token s", "p95 s"),
    *("second turn s", "prompt kept"),
)
INTERRUPTION_HEAD = (
    *("server", "prompt", "ms per token", "meanwhile", "slower by", "longest gap ms", "other's first token s"),
)
NOTES = """Medians; in brackets, how many times better than the plain page. tokens/s: of all users, from the first token
of the first to the last of all. While all write: the same only while every user's reply is being written. Second turn:
time to the first token of the next message, and how much of that prompt was not read again."""

NOISY_PERCENT = 10

Rows = list[list[str]]


def format_number(value: float | None, unit: str = "") -> str:
    """Three digits, or a dash for what is not known."""
    if value is None:
        return "–"
    if abs(value) >= 99.95:
        return f"{value:,.0f}{unit}"
    return f"{value:.{1 if abs(value) >= 9.995 else 2}f}{unit}"


def format_count(value: float | None) -> str:
    """A number of tokens."""
    return "–" if value is None else f"{value:,.0f}"


def format_ratio(value: float | None, base: float | None, smaller_is_better: bool = False) -> str:
    """A figure with how many times better than the baseline it is."""
    if not value or not base:
        return format_number(value)
    return f"{format_number(value)} ({format_number(base / value if smaller_is_better else value / base)}×)"


def table(head: Sequence[str], rows: Rows) -> str:
    """Markdown with columns in line; numbers to the right."""
    widths = [max(len(row[column]) for row in [list(head), *rows]) for column in range(len(head))]
    left = [name == "server" for name in head]

    def line(cells: Sequence[str]) -> str:
        padded = (
            cell.ljust(width) if to_left else cell.rjust(width)
            for cell, width, to_left in zip(cells, widths, left, strict=True)
        )
        return f"| {' | '.join(padded)} |"

    rule = ("-" * width if to_left else "-" * (width - 1) + ":" for width, to_left in zip(widths, left, strict=True))
    return "\n".join([line(head), f"| {' | '.join(rule)} |", *map(line, rows)])


def text(results: Results) -> str:
    """The whole report."""
    options = results.options
    parts = [_heading(results)]
    for prompt in options.prompts:
        parts.append(f"## Prompts of about {prompt:,} tokens, replies of {options.tokens:,}")
        parts.append(table(WAVE_HEAD, _wave_rows(results, prompt)))
    longest = max(options.prompts)
    parts.append(f"## One user writes, another sends a prompt of about {longest:,} tokens")
    parts.append(table(INTERRUPTION_HEAD, _interruption_rows(results, longest)))
    parts += [NOTES, _memory(results)]
    if (others := median_or_none(results.others_busy)) is not None and others > NOISY_PERCENT:
        parts.append(f"Other programs kept {others:.0f} % of this machine busy: compare within this run only.")
    if failures := results.failures():
        parts.append("\n".join(["Not measured:", *(f"- {failure}" for failure in failures)]))
    return "\n\n".join(parts)


def _heading(results: Results) -> str:
    known = versions()
    packages = ", ".join(f"{name} {known[name]}" for name in ("torch", "transformers") if name in known)
    rounds = results.options.rounds
    return f"# {results.started}, {processor()}, {packages}, {rounds} round{'s' * (rounds > 1)}"


def _wave_rows(results: Results, prompt: int) -> Rows:
    rows = []
    for users in results.options.users:
        scene = Scene(prompt, users)
        base = wave_figures(results.waves(scene, baseline.NAME))
        for server in results.servers:
            own = wave_figures(results.waves(scene, server))
            rows.append([str(users), server, *_wave_cells(own, base if server != baseline.NAME else wave_figures([]))])
    return rows


def _wave_cells(own: WaveFigures, base: WaveFigures) -> list[str]:
    kept = 100 * own.cached / own.second_prompt if own.cached is not None and own.second_prompt else None
    return [
        format_count(own.prompt_tokens),
        format_ratio(own.tokens_per_second, base.tokens_per_second),
        format_number(own.together),
        format_number(own.ms_per_token),
        format_ratio(own.first, base.first, smaller_is_better=True),
        format_number(own.first_p95),
        format_ratio(own.second, base.second, smaller_is_better=True),
        format_number(kept, " %"),
    ]


def _interruption_rows(results: Results, prompt: int) -> Rows:
    scene = Scene(prompt)
    base = interruption_figures(results.interruptions(scene, baseline.NAME))
    rows = []
    for server in results.servers:
        own = interruption_figures(results.interruptions(scene, server))
        rows.append([server, *_interruption_cells(own, base if server != baseline.NAME else interruption_figures([]))])
    return rows


def _interruption_cells(own: InterruptionFigures, base: InterruptionFigures) -> list[str]:
    return [
        format_count(own.other_prompt),
        format_number(own.quiet_ms),
        format_number(own.meanwhile_ms),
        format_number(own.slowdown, "×"),
        format_number(own.longest_gap_ms),
        format_ratio(own.other_first, base.other_first, smaller_is_better=True),
    ]


def _memory(results: Results) -> str:
    """How near one user's speed comes to what reading the weights once for each token allows."""
    speed = median_or_none(results.bandwidth)
    lines = [
        f"Memory reads: {format_number(speed)} GB/s ({format_number(results.least_weight_bytes / 1e6)} MB at a time)."
    ]
    alone = Scene(min(results.options.prompts), 1)
    for server, weights in results.weight_bytes.items():
        took = wave_figures(results.waves(alone, server)).ms_per_token
        if weights and took and speed:
            ceiling = speed * 1e9 / weights
            percent = 100 * 1000 / took / ceiling
            lines.append(
                f"- {server}: {format_number(weights / 1e6)} MB of weights allow {format_number(ceiling)} tokens/s for "
                f"one user; it writes {format_number(1000 / took)}, {format_number(percent)} % of that."
            )
    return "\n".join(lines)
