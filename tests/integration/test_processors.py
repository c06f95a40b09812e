"""Which form of the kernels a CPU gets, and when it is used."""

import os
import platform
import shutil
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

import pytest
import torch

from chatui.engine.kernels import ops, processors
from chatui.engine.kernels.levels import GROUP, unpacked
from chatui.engine.kernels.quantized import Int4Linear
from chatui.engine.kernels.rounding import rounded
from chatui.settings import AppSettings

TESTS = [str(Path(__file__).with_name(name)) for name in ("test_ops.py", "test_attend.py")]


def example(outputs: int) -> tuple[Int4Linear, torch.Tensor, torch.Tensor]:
    """A layer, what it is given, bfloat16 [20, 96], and what PyTorch's product makes of that."""
    generator = torch.Generator().manual_seed(outputs)
    levels = rounded(torch.randn(outputs, 96, generator=generator))
    x = torch.randn(20, 96, generator=generator).bfloat16()
    packed = ops.pack(unpacked(levels.nibbles).int(), own=False)
    theirs = torch.ops.aten._weight_int4pack_mm_for_cpu(x, packed, GROUP, levels.scales_and_zeros)
    return Int4Linear(levels, 96), x, theirs


@pytest.mark.parametrize(
    ("machine", "capability", "vnni", "bf16", "wanted"),
    [
        ("x86_64", "AVX512", True, True, processors.AVX512_BF16),
        ("x86_64", "AVX512", True, False, processors.AVX512),
        ("x86_64", "AVX512", False, False, processors.AVX2),
        ("x86_64", "AVX2", False, True, processors.AVX2),
        ("x86_64", "AVX2", True, False, processors.AVX_VNNI),
        ("x86_64", "DEFAULT", False, False, processors.SSSE3),
        ("aarch64", "DEFAULT", False, False, processors.NEON),
        ("aarch64", "SVE256", False, False, processors.NEON),
        ("s390x", "ZVECTOR", False, False, None),
    ],
)
def test_a_cpu_gets_what_it_can_run(
    monkeypatch: pytest.MonkeyPatch,
    machine: str,
    capability: str,
    vnni: bool,
    bf16: bool,
    wanted: processors.Processor | None,
) -> None:
    monkeypatch.setattr(platform, "machine", lambda: machine)
    monkeypatch.setattr(torch.backends.cpu, "get_cpu_capability", lambda: capability)
    monkeypatch.setattr(torch.cpu, "_is_vnni_supported", lambda: vnni)
    monkeypatch.setattr(torch.cpu, "_is_avx512_bf16_supported", lambda: bf16)
    features = {"x86_64": ["ssse3", *(["avx_vnni"] if wanted is processors.AVX_VNNI else [])]}.get(machine, [])
    monkeypatch.setattr(processors, "features", lambda: frozenset(features))
    assert processors.current() is wanted
    assert processors.is_known() == (wanted is not None and wanted.capability == capability)


def test_an_arm_with_products_of_bytes_uses_them(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(platform, "machine", lambda: "aarch64")
    monkeypatch.setattr(torch.backends.cpu, "get_cpu_capability", lambda: "DEFAULT")
    monkeypatch.setattr(processors, "CPU_INFO", tmp_path / "cpuinfo")
    wanted = {None: processors.NEON, "fp asimd": processors.NEON, "fp asimd asimddp": processors.NEON_DOT}
    for features, processor in wanted.items():
        if features is not None:
            processors.CPU_INFO.write_text(f"Features\t: {features}\n")
        processors.features.cache_clear()
        assert processors.current() is processor
    processors.features.cache_clear()


@pytest.fixture
def built() -> None:
    ops.load(AppSettings().cache_dir)  # once for each version of their sources
    if not ops.name():
        pytest.skip("there is no C++ compiler here")


@pytest.mark.usefixtures("built")
@pytest.mark.parametrize("outputs", [64, 192, 80])
def test_levels_are_packed_for_the_kernel_where_it_takes_them(outputs: int) -> None:
    layer, x, theirs = example(outputs)
    assert layer.is_ours() == (outputs % ops.BLOCK == 0)
    assert (layer(x).float() - theirs.float()).norm() <= 0.02 * theirs.float().norm()


@pytest.mark.usefixtures("built")
def test_what_was_packed_before_the_kernel_was_in_use_stays_pytorchs(monkeypatch: pytest.MonkeyPatch) -> None:
    with monkeypatch.context() as patch:
        patch.setattr(ops, "_loaded", {})
        layer, x, theirs = example(64)
    assert ops.takes(64)
    assert not layer.is_ours()
    assert torch.equal(layer(x), theirs)


@pytest.mark.usefixtures("built")
@pytest.mark.parametrize("faster", [True, False])
def test_where_nobody_has_measured_it_the_kernel_is_used_if_it_is_faster(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, faster: bool
) -> None:
    file = Path(next(iter(ops._loaded.values()))._name)
    monkeypatch.setattr(ops, "_loaded", {})
    monkeypatch.setattr(ops, "_built", lambda *_: file)
    monkeypatch.setattr(ops, "is_faster", lambda *_: faster)
    monkeypatch.setattr(processors, "is_known", lambda: False)
    ops.load(tmp_path)
    assert ops.name() == (file.stem if faster else "")


@pytest.mark.parametrize("processor", [processors.NEON, processors.NEON_DOT])
def test_everything_compiles_for_arm(processor: processors.Processor) -> None:
    compiler = shutil.which("aarch64-linux-gnu-g++")
    if compiler is None:
        pytest.skip("there is no cross compiler for ARM here")
    folder = Path(ops.__file__).parent
    # layers.cpp takes longest, and has the vectors of linear.cpp.
    sources = [str(folder / name) for name in ops.SOURCES if name != "layers.cpp"]
    options = [*ops.FLAGS, *processor.flags, "-fsyntax-only", "-Wall", "-Werror", "-I", str(ops.TORCH / "include")]
    subprocess.run([compiler, *options, *sources], check=True)


def product_check(compiler: str, options: Sequence[str], folder: Path) -> str:
    """A program that checks the products of levels, built in this folder."""
    program, source = folder / "check", Path(__file__).with_name("product_check.cpp")
    folders = ["-I", str(Path(ops.__file__).parent), "-I", str(ops.TORCH / "include")]
    command = [compiler, "-O3", "-std=c++17", "-fopenmp", *options, *folders, str(source), "-o", str(program)]
    subprocess.run(command, check=True)
    return str(program)


@pytest.mark.exhaustive
@pytest.mark.parametrize("processor", [processors.NEON, processors.NEON_DOT])
def test_the_products_of_levels_on_an_emulated_arm(processor: processors.Processor, tmp_path: Path) -> None:
    compiler, emulator = shutil.which("aarch64-linux-gnu-g++"), shutil.which("qemu-aarch64")
    if compiler is None or emulator is None:
        pytest.skip("there is no cross compiler for ARM here, or no emulator")
    program = product_check(compiler, ["-static", *processor.flags], tmp_path)
    subprocess.run([emulator, "-cpu", "max", program], check=True)


@pytest.mark.usefixtures("built")
def test_the_products_of_levels_with_an_emulated_avx_vnni(tmp_path: Path) -> None:
    compiler = ops.compiler()
    if compiler is None or torch.backends.cpu.get_cpu_capability() not in ("AVX512", "AVX2"):
        pytest.skip("this CPU lacks AVX2, or there is no C++ compiler here")
    program = product_check(compiler, ["-DEMULATES_AVX_VNNI", *processors.AVX2.flags], tmp_path)
    subprocess.run([program], check=True)


@pytest.mark.usefixtures("built")
def test_everything_compiles_for_avx_vnni() -> None:
    compiler = ops.compiler()
    if compiler is None or platform.machine() != "x86_64":
        pytest.skip("this is no x86 CPU, or there is no C++ compiler here")
    folder = Path(ops.__file__).parent
    options = [
        *ops.FLAGS,
        *processors.AVX_VNNI.flags,
        "-fsyntax-only",
        "-Wall",
        "-Werror",
        "-I",
        str(ops.TORCH / "include"),
    ]
    subprocess.run([compiler, *options, str(folder / "int4.cpp"), str(folder / "int8.cpp")], check=True)


def test_an_old_compiler_builds_for_a_plainer_kind_of_cpu(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    asked = list[processors.Processor]()

    def build(target: Path, processor: processors.Processor) -> None:
        asked.append(processor)
        if processor.plainer is not None:
            raise RuntimeError("unrecognized command-line option")

    monkeypatch.setattr(ops, "_build", build)
    made = ops._built(tmp_path, processors.AVX_VNNI)
    assert asked == [processors.AVX_VNNI, processors.AVX2]
    assert made == ops._built_for(tmp_path, processors.AVX2)
    for processor in (processors.AVX512_BF16, processors.AVX_VNNI, processors.NEON_DOT):
        assert processor.plainer is not None
        assert processor.plainer.strip == processor.strip, "levels are packed before it is known which one is built"


@pytest.mark.exhaustive  # builds them: half a minute
def test_the_kernels_for_any_cpu() -> None:
    """Their tests, where PyTorch takes the CPU for one without AVX2."""
    run = [sys.executable, "-m", "pytest", "-q", "-m", "not exhaustive", "-p", "no:cacheprovider", *TESTS]
    subprocess.run(run, check=True, env={**os.environ, "ATEN_CPU_CAPABILITY": "default"})
