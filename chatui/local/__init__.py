"""Models that run in this process: the only room that imports torch or transformers."""

import os

# Huge pages for what lies in memory for long, on Linux: keys and values of many conversations are far apart, and looking
# up their pages took a twentieth of a step. PyTorch reads this when it is imported (c10/core/impl/alloc_cpu.cpp).
os.environ.setdefault("THP_MEM_ALLOC_ENABLE", "1")
