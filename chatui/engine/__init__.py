"""Models that run in this process: the only room that imports torch or transformers."""

import os

# Huge pages on Linux: keys and values of many conversations lie far apart, and looking up their pages took a twentieth
# of a step. PyTorch reads this when it first allocates (c10/core/impl/alloc_cpu.h).
os.environ.setdefault("THP_MEM_ALLOC_ENABLE", "1")
