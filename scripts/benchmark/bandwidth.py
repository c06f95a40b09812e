"""How fast this machine reads its memory: the ceiling for a model whose weights are read once for each token.

Run as a program, so that the process which measures servers need not hold torch and a large buffer.
"""

import asyncio
import sys

from scripts.benchmark.server_process import ROOT


async def gigabytes_per_second(size: int) -> float:
    """Of reading so many bytes, as the server itself measures it; in a process of its own."""
    process = await asyncio.create_subprocess_exec(
        sys.executable, "-m", "scripts.benchmark.bandwidth", str(size), cwd=ROOT, stdout=asyncio.subprocess.PIPE
    )
    output, _ = await process.communicate()
    return float(output)


def read_memory(size: int) -> float:
    """The same, here."""
    import torch

    from chatui.engine.loading.bandwidth import measure_bandwidth

    return measure_bandwidth(torch.device("cuda" if torch.cuda.is_available() else "cpu"), size) / 1e9


if __name__ == "__main__":
    print(round(read_memory(int(sys.argv[1])), 2))
