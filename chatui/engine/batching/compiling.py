"""A decode step compiled ahead of time: made by a process of its own in the background, kept on disk.

engine/compile_worker.py is that process. What it makes holds no weights, so it serves every model of the same shape;
those of this process are handed to it when it is loaded.
"""

import atexit
import hashlib
import inspect
import json
import logging
import shutil
import subprocess
import tempfile
import threading
import zipfile
from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from pathlib import Path
from typing import Any

import psutil
import torch
import transformers
from filelock import FileLock
from pydantic import TypeAdapter
from safetensors.torch import load_file, save_file
from torch._inductor import aoti_compile_and_package
from transformers import PreTrainedModel

from chatui.engine.batching.attention_probe import probe_layout
from chatui.engine.batching.blocks import BLOCK
from chatui.engine.batching.forward import DecodeFunction, DecodeStep, span_of
from chatui.engine.batching.kv_cache import KVCache
from chatui.engine.batching.shared_object import SharedObject
from chatui.engine.kernels import dense, ops
from chatui.engine.kernels.built_files import discard_damaged, publish
from chatui.engine.kernels.levels import GROUP
from chatui.model_spec import ModelSpec
from chatui.settings import KvDtype
from chatui.subprocesses import module_command, module_environment

log = logging.getLogger(__name__)

WORKER = "chatui.engine.compile_worker"
# Raise when what is compiled changes, so that old results are made anew.
VERSION = 3
SINGLE, SEVERAL, CONSTANTS = "one.so", "several.so", "constants.safetensors"
MAX_ROWS = 256
# Blocks of a sequence, and of all, up to which what is compiled is correct.
MAX_BLOCKS = 2**24
OPTIONS = {
    # Weights are shared with this process instead.
    "aot_inductor.package_constants_in_so": False,
    # Block tables and positions are ours, and checked.
    "assert_indirect_indexing": False,
    # Lets a product and a sum become one instruction.
    "cpp.enable_floating_point_contract_flag": "fast",
}
# The process holds the model a second time while it works.
MEMORY_NEEDED = 2.5


COMPILE_JOB = TypeAdapter(ModelSpec)
"""To JSON and back: a spec has paths and settings, which `json` does not know."""


class CompiledDecode:
    """Compiled steps: one made for a single row, one for any number of them."""

    def __init__(self, folder: Path, step: DecodeStep) -> None:
        held = {**load_file(folder / CONSTANTS), **_tensors(step)}
        # The compiler adds the group size of int4 products, and nothing else: torch/_inductor/quantized_lowerings.py.
        group = torch.tensor(GROUP)
        self._single = SharedObject(folder / SINGLE, held, group)
        self._several = SharedObject(folder / SEVERAL, held, group)

    def __call__(
        self,
        ids: torch.Tensor,
        tables: torch.Tensor,
        positions: torch.Tensor,
        span: torch.Tensor,
        tensors: list[torch.Tensor],
    ) -> torch.Tensor:
        """As DecodeStep.forward."""
        run = self._single if ids.shape[0] == 1 else self._several
        return run([ids, tables, positions, span, *tensors])


def compiled_folder(step: DecodeStep, cache: KVCache, cache_dir: Path) -> Path:
    """The folder for the compiled form of this step: what shapes it, and what machine and libraries it is made for."""
    config: Any = step.model.config
    about = [
        VERSION,
        torch.__version__,
        [hashlib.sha256(file.read_bytes()).hexdigest() for file in _sources(step)],
        transformers.__version__,
        torch.backends.cpu.get_cpu_capability(),
        torch.get_num_threads(),
        _cpu_name(),
        ops.name(),
        [(tuple(tensor.shape[1:]), str(tensor.dtype)) for tensor in cache.tensors],
        config.to_json_string(),
        tensors_digest(step),
    ]
    return cache_dir / "compiled" / _digest(about)


def tensors_digest(step: DecodeStep) -> str:
    """What tells the weights of a step from others: their names, shapes and types.

    They may differ between two processes that load the same model, for each measures which form of a layer is faster.
    """
    return _digest([(name, tuple(tensor.shape), str(tensor.dtype)) for name, tensor in sorted(_tensors(step).items())])


def compile_in_background(
    spec: ModelSpec,
    step: DecodeStep,
    folder: Path,
    ready: Callable[[DecodeFunction], None],
    beside: Callable[[], AbstractContextManager[None]] = nullcontext,
) -> None:
    """Let another process compile, at the lowest priority, and hand over the result; failures are only logged.

    `beside` is entered while it compiles.
    """

    def work() -> None:
        try:
            discard_damaged(folder)
            if not folder.is_dir():
                with beside():
                    compile_in_subprocess(spec, folder, tensors_digest(step), _nbytes(step))
            ready(CompiledDecode(folder, step))
        except Exception as error:
            log.info("the step was not compiled: %s", error)

    threading.Thread(target=work, name="chatui-compile", daemon=True).start()


def compile_in_subprocess(spec: ModelSpec, folder: Path, tensors: str, weight_bytes: int) -> None:
    """Let another process compile into `folder`, and wait. `tensors` is the digest of those that the step has here.

    Raises RuntimeError where that is not possible.
    """
    if ops.compiler() is None:
        raise RuntimeError("there is no C++ compiler here")
    if psutil.virtual_memory().available < MEMORY_NEEDED * weight_bytes:
        raise RuntimeError("there is not enough memory to hold the model a second time")
    folder.parent.mkdir(parents=True, exist_ok=True)
    with FileLock(f"{folder}.lock", timeout=3600):
        if folder.is_dir():
            return
        command = module_command(WORKER, COMPILE_JOB.dump_json(spec).decode(), str(folder), tensors)
        process = subprocess.Popen(  # noqa: S603
            command, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True, env=module_environment()
        )
        atexit.register(process.terminate)
        _, stderr = process.communicate()
        atexit.unregister(process.terminate)
        if process.returncode:
            raise RuntimeError((stderr.strip().splitlines() or ["no reason given"])[-1])


def compile_step(model: PreTrainedModel, folder: Path, kv_dtype: KvDtype, tensors: str) -> None:
    """Compile both forms into `folder`, which is there when it is whole. Takes a minute or two.

    Raises RuntimeError, also where `tensors` is not the digest of those that the step has here.
    """
    shape = probe_layout(model)
    if shape is None:
        raise RuntimeError("the attention of this model is not the plain kind")
    shape = shape.in_int8() if kv_dtype == "int8" else shape
    windowed_blocks = None if shape.windowed is None else 5
    cache, step = KVCache.allocate(shape, 8, model.device, windowed_blocks), DecodeStep(model).eval()
    if tensors_digest(step) != tensors:
        raise RuntimeError("the layers were packed in another form than those of the server")
    for left_over in folder.parent.glob(f"{folder.name}.tmp-*"):
        shutil.rmtree(left_over, ignore_errors=True)
    scratch = Path(tempfile.mkdtemp(prefix=f"{folder.name}.tmp-", dir=folder.parent))
    try:
        constants: dict[str, torch.Tensor] = {}
        for name, rows in ((SINGLE, 1), (SEVERAL, 4)):
            constants |= _export(step, cache, rows, scratch / name)
        save_file({key: tensor.contiguous() for key, tensor in constants.items()}, scratch / CONSTANTS)
        publish(scratch, folder)
    finally:
        shutil.rmtree(scratch, ignore_errors=True)


def _export(step: DecodeStep, cache: KVCache, rows: int, path: Path) -> Mapping[str, torch.Tensor]:
    """Compile the step for `rows` rows (1, or any number) to `path`; the constants that are no weights.

    What is compiled serves caches of any size.
    """
    tensors, example, count = cache.tensors, 3, cache.blocks + 1
    ids, tables = torch.zeros(rows, dtype=torch.long), torch.zeros(rows, example, dtype=torch.long)
    inputs = ids, tables, torch.arange(rows), span_of(BLOCK * example, ids.device), tensors
    held, windowed = ({0: torch.export.Dim(name, min=2, max=MAX_BLOCKS)} for name in ("held", "windowed"))
    length = torch.export.Dim("blocks", min=2, max=MAX_BLOCKS)
    several = {} if rows == 1 else {0: torch.export.Dim("rows", min=2, max=MAX_ROWS)}
    blocks = [held if len(tensor) == count else windowed for tensor in tensors]
    dynamic: Sequence[Any] = (several, {**several, 1: length}, several, {0: length}, blocks)
    with torch.no_grad():
        program = torch.export.export(step, inputs, dynamic_shapes=tuple(dynamic), strict=False)
        target = str(path.with_suffix(".pt2"))
        options = {**OPTIONS, "aot_inductor.custom_ops_to_c_shims": {**ops.SHIMS, **dense.SHIMS}}
        package = aoti_compile_and_package(program, package_path=target, inductor_configs=options)
    with zipfile.ZipFile(package) as files:
        [library] = [name for name in files.namelist() if name.endswith(".so")]
        path.write_bytes(files.read(library))
    Path(package).unlink()
    return {name: tensor for name, tensor in program.constants.items() if isinstance(tensor, torch.Tensor)}


def _sources(step: DecodeStep) -> list[Path]:
    """The files whose code is compiled, beside that of the libraries: ours, and what came with the model."""
    own = Path(inspect.getfile(type(step.model)))
    return [*sorted(Path(__file__).parent.glob("*.py")), *sorted(Path(ops.__file__).parent.glob("*.py")), own]


def _tensors(step: DecodeStep) -> dict[str, torch.Tensor]:
    """All weights and buffers by all their names: tied ones have several, and some buffers are in no state dict."""
    return {**dict(step.named_parameters(remove_duplicate=False)), **dict(step.named_buffers(remove_duplicate=False))}


def _digest(about: object) -> str:
    return hashlib.sha256(json.dumps(about, default=str).encode()).hexdigest()[:24]


def _cpu_name() -> str:
    info = Path("/proc/cpuinfo")
    lines = info.read_text().splitlines() if info.is_file() else []
    return next((line.partition(":")[2].strip() for line in lines if line.startswith("flags")), "")


def _nbytes(step: DecodeStep) -> int:
    return sum(tensor.nbytes for tensor in step.state_dict().values())
