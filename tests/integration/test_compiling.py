"""A step compiled by a process of its own: the same logits as the step it stands for, made once."""

import copy
import hashlib
import shutil
import threading
import time
from pathlib import Path
from typing import Any

import pytest
import torch
from torch._inductor import aoti_compile_and_package, aoti_load_package
from transformers import MistralConfig

from chatui import engine
from chatui.engine.batching import compiling, forward
from chatui.engine.batching.forward import DecodeFunction, PromptChunk
from chatui.engine.kernels import ops
from chatui.engine.kernels.built_files import discard_damaged
from chatui.engine.kernels.int8_kv import from_stored
from chatui.engine.kernels.quantized import Int8Linear, linear_layers, of_levels
from chatui.engine.loading.loaded_model import LoadedModel
from chatui.engine.loading.loader import load
from chatui.generation_settings import GenerationSettings
from chatui.model_spec import ModelSpec
from chatui.settings import AppSettings, KvDtype, Quantization
from tests import models

IDS = [101, 32, 7, 45, 200, 201, 45, 7, 99]
TABLES = [models.table(row) for row in range(3)]
KEPT_SECONDS = 7 * 86400.0
LONG = 1800.0  # seconds: the compiler gives way to whatever else this machine does


def over_blocks_of(loaded: LoadedModel, blocks: int = 6, kv_dtype: KvDtype = "auto") -> forward.Forward:
    model = copy.deepcopy(loaded.model)
    over_blocks = forward.Forward(model, models.cache_of(model, blocks, kv_dtype))
    for row in range(3):
        over_blocks.prefill([PromptChunk(TABLES[row], 0, IDS[: 4 + row])])
    return over_blocks


def kept_folder(over_blocks: forward.Forward, cache_dir: Path) -> Path:
    """Where what is compiled stays until the engine, the libraries, the machine or this test is another one.

    Compiling takes a minute, and each run would make the same from the same.
    """
    sources = [*Path(engine.__file__).parent.rglob("*.py"), Path(__file__), Path(models.__file__)]
    digest = hashlib.sha256(b"".join(path.read_bytes() for path in sorted(sources))).hexdigest()[:12]
    place = compiling.compiled_folder(over_blocks.step, over_blocks.cache, cache_dir)
    for old in place.parent.glob("test-*"):
        if old.stat().st_mtime < time.time() - KEPT_SECONDS:
            shutil.rmtree(old, ignore_errors=True)
    return place.with_name(f"test-{place.name}-{digest}")


@pytest.mark.exhaustive  # a step with our own kernels, and what becomes of it, are in every run: see below
@pytest.mark.parametrize("kv_dtype", ["auto", "int8"])
def test_a_compiled_step_gives_the_same_logits_and_is_made_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, kv_dtype: KvDtype
) -> None:
    folder = models.save(tmp_path / "model", "gemma3")
    template = tmp_path / "template.jinja"
    template.write_text(str(models.loaded(folder).tokenizer.chat_template))
    spec = ModelSpec(
        str(folder),
        device_map="cpu",
        chat_template=template,
        generation=GenerationSettings(top_k=3, stop=("x",)),
        kv_dtype=kv_dtype,
    )
    loaded = models.loaded(folder)
    over_blocks = over_blocks_of(loaded, kv_dtype=kv_dtype)
    target = compiling.compiled_folder(over_blocks.step, over_blocks.cache, tmp_path)
    made: list[DecodeFunction] = []
    done = threading.Event()

    def ready(decode: DecodeFunction) -> None:
        made.append(decode)
        done.set()

    failures: list[object] = []

    def failed(*error: object) -> None:
        failures.append(error)
        done.set()

    monkeypatch.setattr(compiling.log, "info", failed)
    compiling.compile_in_background(spec, over_blocks.step, target, ready)
    assert done.wait(LONG)
    assert not failures
    for rows in (1, 3):
        for length in (0, 5):
            arguments = ([5, 6, 7][:rows], TABLES[:rows], [4 + length, 5 + length, 6 + length][:rows])
            wanted = over_blocks.decode(*arguments)
            compiled = forward.Forward(over_blocks.model, over_blocks.cache)
            compiled.offer(made[0])
            torch.testing.assert_close(compiled.decode(*arguments), wanted, atol=1e-4, rtol=1e-4)
            assert compiled.faster
    written = {path.name: path.stat().st_mtime_ns for path in target.iterdir()}
    done.clear()
    compiling.compile_in_background(spec, over_blocks.step, target, ready)
    assert done.wait(LONG)
    assert {path.name: path.stat().st_mtime_ns for path in target.iterdir()} == written


@pytest.mark.parametrize(
    ("quantization", "kv_dtype"),
    [
        ("int4", "auto"),
        pytest.param("int4", "int8", marks=pytest.mark.exhaustive),
        pytest.param("none", "auto", marks=pytest.mark.exhaustive),
    ],
)
def test_a_step_with_our_own_kernels_gives_the_same_logits(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, quantization: Quantization, kv_dtype: KvDtype
) -> None:
    monkeypatch.setenv("AOT_INDUCTOR_COMPILE_WRAPPER_OPT_LEVEL", "O0")  # what calls the kernels: half the time
    cache_dir = AppSettings().cache_dir
    ops.load(cache_dir)  # built once for each version of their sources; the process that compiles finds them as well
    if ops.compiler() is None:
        pytest.skip("there is no C++ compiler here")
    sizes = {**models.SMALL, "hidden_size": 64, "intermediate_size": 128, "head_dim": 16}
    monkeypatch.setitem(models.CONFIGS, "wide", MistralConfig(**sizes, sliding_window=8))
    folder = models.save(tmp_path / "model", "wide")
    spec = ModelSpec(str(folder), device_map="cpu", dtype="bfloat16", quantization=quantization, kv_dtype=kv_dtype)
    over_blocks = over_blocks_of(load(spec, tmp_path, lambda _: None), kv_dtype=kv_dtype)
    cache = over_blocks.cache
    row = torch.zeros(1, 2, 2, 16).bfloat16()
    assert not ops.takes(ops.BLOCK) or ops.attends(row, cache.keys[0], cache.values[0])
    target = kept_folder(over_blocks, cache_dir)
    discard_damaged(target)
    compiling.compile_in_subprocess(spec, target, compiling.tensors_digest(over_blocks.step), 0)
    compiled = compiling.CompiledDecode(target, over_blocks.step)
    before = [tensor.clone() for tensor in over_blocks._tensors]

    def decoded(decode: DecodeFunction, rows: int, length: int) -> tuple[torch.Tensor, list[torch.Tensor]]:
        for tensor, old in zip(over_blocks._tensors, before, strict=True):
            tensor.copy_(old)
        over_blocks._decode = decode
        at = [4 + length, 5 + length, 6 + length]
        logits = over_blocks.decode([5, 6, 7][:rows], TABLES[:rows], at[:rows])
        half = len(before) // 2
        return logits, [
            from_stored(tensor, torch.bfloat16, 2 if index < half else 3).clone()
            for index, tensor in enumerate(over_blocks._tensors)
        ]

    for rows in (1, 3):
        for length in (0, 5, 50, 70):
            wanted, stored = decoded(over_blocks.step, rows, length)
            found, kept = decoded(compiled, rows, length)
            # What bfloat16 rounds otherwise may become another one of the 255 numbers of a group.
            assert (found - wanted).float().norm() <= 0.1 * wanted.float().norm()
            for tensor, other in zip(kept, stored, strict=True):
                torch.testing.assert_close(tensor, other, atol=0.1, rtol=0.05)


def test_it_is_made_once_in_the_background_and_handed_over(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    over_blocks, target = over_blocks_of(models.ready("llama")), tmp_path / "made"
    orders: list[tuple[object, ...]] = []
    handed_over: list[object] = []
    failures: list[object] = []
    done = threading.Semaphore(0)

    def make(*order: object) -> None:
        assert over_blocks._compiling
        orders.append(order)
        if len(orders) == 1:
            raise RuntimeError("on purpose")
        target.mkdir()

    def ready(decode: object) -> None:
        handed_over.append(decode)
        done.release()

    def failed(*error: object) -> None:
        failures.append(error)
        done.release()

    monkeypatch.setattr(compiling, "discard_damaged", lambda folder: None)
    monkeypatch.setattr(compiling, "compile_in_subprocess", make)
    monkeypatch.setattr(compiling, "CompiledDecode", lambda folder, step: (folder, step))
    monkeypatch.setattr(compiling.log, "info", failed)
    for _ in range(3):
        compiling.compile_in_background(ModelSpec("x"), over_blocks.step, target, ready, over_blocks.beside_compiler)
        assert done.acquire(timeout=LONG)
        assert not over_blocks._compiling
    assert len(failures) == 1
    assert [order[:2] for order in orders] == 2 * [(ModelSpec("x"), target)]
    assert handed_over == 2 * [(target, over_blocks.step)]


def test_what_shapes_the_step_decides_its_place(tmp_path: Path) -> None:
    first, larger, other = (
        over_blocks_of(models.ready("llama")),
        over_blocks_of(models.ready("llama"), blocks=20),
        over_blocks_of(models.ready("mistral")),
    )
    place, same, another = (
        compiling.compiled_folder(each.step, each.cache, tmp_path) for each in (first, larger, other)
    )
    assert place == same, "however much memory there is"
    assert place != another


def test_layers_packed_in_another_form_than_the_servers_are_not_compiled(tmp_path: Path) -> None:
    model, target = copy.deepcopy(models.ready("llama").model), tmp_path / "made"
    here = forward.DecodeStep(model)
    tensors = compiling.tensors_digest(here)
    assert compiling.tensors_digest(forward.DecodeStep(copy.deepcopy(model))) == tensors
    for name, layer in linear_layers(model).items():
        model.set_submodule(name, Int8Linear(layer.weight))
    with pytest.raises(RuntimeError, match="another form"):
        compiling.compile_step(model, target, "auto", tensors)
    assert not list(tmp_path.iterdir())


def test_other_code_of_ours_or_of_the_model_is_compiled_anew(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    over_blocks = over_blocks_of(models.ready("llama"))
    before = compiling.compiled_folder(over_blocks.step, over_blocks.cache, tmp_path)
    files = compiling._sources(over_blocks.step)
    assert {"forward.py", "attention.py", "quantized.py", "modeling_llama.py"} <= {file.name for file in files}
    changed = tmp_path / "attention.py"
    changed.write_text("changed")
    monkeypatch.setattr(compiling, "_sources", lambda _: [changed, *files[1:]])
    assert compiling.compiled_folder(over_blocks.step, over_blocks.cache, tmp_path) != before


@pytest.mark.exhaustive  # the kernel itself, and a compiled step with the one for 4 bits, are in every run
def test_a_compiled_layer_with_levels_of_8_bits_gives_the_same_bits(tmp_path: Path) -> None:
    ops.load(AppSettings().cache_dir)
    if not ops.takes(ops.BLOCK):
        pytest.skip("this CPU lacks AVX2, or there is no C++ compiler here")
    layer = of_levels(models.two_planes(torch.randint(-128, 128, (128, 64)), 0), 64)
    several: Any = ({0: torch.export.Dim("rows", min=2, max=64)},)
    options: Any = {"aot_inductor.custom_ops_to_c_shims": ops.SHIMS}
    with torch.no_grad():
        program = torch.export.export(layer, (torch.zeros(3, 64).bfloat16(),), dynamic_shapes=several, strict=False)
        path = aoti_compile_and_package(program, package_path=str(tmp_path / "layer.pt2"), inductor_configs=options)
        compiled: Any = aoti_load_package(path)
        for rows in (2, 9):
            x = torch.randn(rows, 64).bfloat16()
            assert torch.equal(compiled(x), layer(x))


def test_without_a_compiler_or_memory_nothing_is_handed_over(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(RuntimeError, match="no C\\+\\+ compiler"):
        compiling.compile_in_subprocess(ModelSpec("x"), tmp_path / "made", "", 0)
    monkeypatch.undo()
    with pytest.raises(RuntimeError, match="not enough memory"):
        compiling.compile_in_subprocess(ModelSpec("x"), tmp_path / "made", "", 2**60)
    with pytest.raises(RuntimeError, match="no model folder"):
        compiling.compile_in_subprocess(ModelSpec("./nothing"), tmp_path / "made", "", 0)
    assert not (tmp_path / "made").exists()
