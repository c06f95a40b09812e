"""The kinds of CPU that the kernels are built for, and which one this is."""

import functools
import platform
from dataclasses import dataclass, replace
from pathlib import Path

import torch


@dataclass(frozen=True)
class Processor:
    """How a kind of CPU gets what is built."""

    flags: tuple[str, ...]
    """The compiler's."""
    capability: str
    """PyTorch's, for which the product of int4 layers was measured to be the faster one, "" where nobody did."""
    strip: int
    """Outputs whose levels lie together."""
    plainer: "Processor | None" = None
    """What runs there too, with levels that lie in the same way, for compilers that do not know this one's flags."""


AVX512 = Processor(
    ("-mavx512f", "-mavx512bw", "-mavx512vl", "-mavx512dq", "-mavx512vnni", "-mfma"),
    "AVX512",
    strip=32,
)
AVX512_BF16 = replace(AVX512, flags=(*AVX512.flags, "-mavx512bf16"), plainer=AVX512)
AVX2 = Processor(("-mavx2", "-mfma"), "AVX2", strip=16)
# Intel's since 2021 that have no AVX-512, and others.
AVX_VNNI = replace(AVX2, flags=(*AVX2.flags, "-mavxvnni"), plainer=AVX2)
# In vectors of 128 bits, which nearly every other CPU has.
SSSE3 = Processor(("-mssse3",), "", strip=16)
NEON = Processor((), "", strip=16)
NEON_DOT = replace(NEON, flags=("-march=armv8.2-a+dotprod",), plainer=NEON)
CPU_INFO = Path("/proc/cpuinfo")


def current() -> Processor | None:
    """What this CPU can run."""
    capability = torch.backends.cpu.get_cpu_capability()
    if capability == "AVX512" and torch.cpu._is_vnni_supported():
        return AVX512_BF16 if torch.cpu._is_avx512_bf16_supported() else AVX512
    if capability in ("AVX512", "AVX2"):
        return AVX_VNNI if "avx_vnni" in features() else AVX2
    if platform.machine() == "aarch64":
        return NEON_DOT if "asimddp" in features() else NEON
    return SSSE3 if platform.machine() == "x86_64" and "ssse3" in features() else None


@functools.cache
def features() -> frozenset[str]:
    """The names of this CPU's instruction sets, as Linux has them: avx_vnni and asimddp are products of four bytes."""
    try:
        return frozenset(CPU_INFO.read_text().split())
    except OSError:
        return frozenset()


def is_known() -> bool:
    """Whether the product of int4 layers is known to be faster than PyTorch's on this kind of CPU."""
    processor = current()
    return processor is not None and processor.capability == torch.backends.cpu.get_cpu_capability()


def required() -> Processor:
    """What this CPU can run. Raises RuntimeError where it is none of these."""
    processor = current()
    if processor is None:
        raise RuntimeError("this CPU has no kernels for levels")
    return processor
