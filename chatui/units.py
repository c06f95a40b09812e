"""Writes numbers of bytes and of parameters with their units."""


def human_bytes(count: float) -> str:
    """Format a number of bytes in powers of 1000: 269 MB, 16.1 GB."""
    for unit in ("B", "kB", "MB"):
        if count < 999.5:
            return f"{count:.0f} {unit}"
        count /= 1000
    return f"{count:.1f} GB"


def human_count(count: int) -> str:
    """Format a number of parameters: 135M, 8.03B."""
    if count < 1_000_000:
        return f"{count:,}"
    return f"{count / 1e6:.0f}M" if count < 999_500_000 else f"{count / 1e9:.3g}B"
