"""Many replies at once, for models whose attention can read its keys and values from blocks, or that keep states."""

from collections.abc import Callable
from dataclasses import replace
from functools import partial
from pathlib import Path

from chatui.chat import ChatRequest, ReplyDelta
from chatui.engine.batching import attention_probe, compiling, forward
from chatui.engine.batching.blocks import BLOCK
from chatui.engine.batching.cuda_graphs import GraphedDecode
from chatui.engine.batching.failures import to_generation_error
from chatui.engine.batching.fingerprint import fingerprint
from chatui.engine.batching.fused_decode import fuse
from chatui.engine.batching.fused_prefill import fuse_prefill
from chatui.engine.batching.kv_cache import KVCache
from chatui.engine.batching.kv_error import measure_divergence
from chatui.engine.batching.kv_files import KVFiles
from chatui.engine.batching.scheduler import Scheduler
from chatui.engine.batching.sequence_state import SequenceState, SequenceUpdate
from chatui.engine.loading.loaded_model import LoadedModel
from chatui.engine.loading.weights import free_memory
from chatui.engine.runners.contract import IsCancelled, StepResult
from chatui.engine.runners.loaded_runner import LoadedRunner
from chatui.engine.runners.reply_builder import ReplyBuilder
from chatui.errors import ChatError, ModelError
from chatui.estimates import KVCapacity, kv_capacity
from chatui.kv_size import KVSize
from chatui.model_spec import ModelSpec

# The share of the memory left beside the weights that conversations may take.
KV_SHARE = 0.25


def open_batch_runner(loaded: LoadedModel, spec: ModelSpec) -> "BatchRunner | None":
    """The model with blocks for several conversations, or None where it needs more than plain attention."""
    shape = attention_probe.probe_layout(loaded.model)
    if shape is None or not attention_probe.matches_own_attention(loaded.model, shape):
        loaded.model.set_attn_implementation("sdpa" if loaded.model._supports_sdpa else "eager")
        return None
    divergence = None
    if spec.kv_dtype == "int8":
        divergence = measure_divergence(loaded.model, shape, loaded.tokenizer)
        shape = shape.in_int8()
    budget = spec.kv_memory or int(KV_SHARE * free_memory(spec.device_map))
    capacity = fit_kv_cache(spec, shape.size, loaded.info.context_length, budget)
    cache = KVCache.allocate(shape, capacity.blocks, loaded.model.device, capacity.windowed_blocks)
    anatomy = loaded.info.anatomy
    info = replace(
        loaded.info,
        context_length=capacity.context,
        slots=capacity.conversations,
        kv_bytes=cache.nbytes + (2 * capacity.conversations + capacity.snapshots) * shape.state_bytes,
        kv_tokens=BLOCK * capacity.blocks,
        windowed_tokens=BLOCK * (capacity.windowed_blocks or 0),
        kv_divergence=divergence,
        anatomy=anatomy
        and replace(
            anatomy,
            kv_per_token=shape.bytes_per_token,
            window=shape.window,
            windowed=shape.windowed,
            state_bytes=shape.state_bytes,
        ),
    )
    ahead = forward.Forward(loaded.model, cache)
    files = _open_files(loaded, cache, spec) if ahead.states is None else None
    batch = Scheduler(ahead, info.slots, capacity.context, spec.prompt_lookup_num_tokens, files, capacity.snapshots)
    return BatchRunner(replace(loaded, info=info, shares=loaded), batch)


def _open_files(loaded: LoadedModel, cache: KVCache, spec: ModelSpec) -> KVFiles | None:
    """Where keys and values of this model are kept on disk. Raises ModelError."""
    if spec.kv_cache_dir is None:
        return None
    try:
        return KVFiles(spec.kv_cache_dir, fingerprint(loaded.model, cache), spec.kv_cache_size)
    except OSError as error:
        raise ModelError(
            f"The KV cache cannot be kept in {spec.kv_cache_dir}: {error.strerror or error}.",
            "Name another folder with --kv-cache-dir, or leave it out.",
        ) from error


def fit_kv_cache(spec: ModelSpec, size: KVSize, context: int, budget: int) -> KVCapacity:
    """What fits within `budget` bytes; the whole context if that was chosen."""
    return kv_capacity(size, context, budget, spec.slots, whole=spec.context is not None)


class BatchRunner(LoadedRunner):
    """Several replies at once, in the rows of a batch."""

    def __init__(self, loaded: LoadedModel, batch: Scheduler) -> None:
        super().__init__(loaded)
        self.batch = batch
        self._replies: dict[SequenceState, ReplyBuilder] = {}
        self._started: list[StepResult] = []
        self._after_first_reply: Callable[[], None] | None = None

    def use_faster_decode(self, spec: ModelSpec, cache_dir: Path) -> None:
        """Decode faster: by CUDA graphs on a GPU; on a CPU by layers in C++, or where those do not fit by a compiled
        step, which is made after the first reply if needed.
        """
        ahead = self.batch.forward
        if ahead.states is not None:
            return
        if self.loaded.model.device.type == "cuda":
            ahead.offer(GraphedDecode(ahead.step))
        elif self.loaded.model.device.type == "cpu" and not self._fused():
            folder = compiling.compiled_folder(ahead.step, ahead.cache, cache_dir)
            begin = partial(
                compiling.compile_in_background, spec, ahead.step, folder, ahead.offer, ahead.beside_compiler
            )
            if folder.is_dir():
                begin()
            else:
                self._after_first_reply = begin

    def _fused(self) -> bool:
        """Use layers in C++ if they fit the model; whether they do."""
        fused = fuse(self.batch.forward.step, self.batch.forward.cache)
        if fused is None:
            return False
        self.batch.forward.offer(fused)
        prefill = fuse_prefill(fused, self.batch.forward.cache)
        if prefill is not None:
            self.batch.forward.use_prefill(prefill, fused if fused.has_own_rows else None)
        return True

    def can_begin(self, prepared: object) -> bool:
        """Whether this reply can begin."""
        if not isinstance(prepared, ReplyBuilder):
            raise TypeError("can_begin() takes what prepare() made")
        return self.batch.can_admit(prepared.prompt.token_ids, prepared.chat)

    def prepare(self, request: ChatRequest) -> ReplyBuilder:
        """The reply before its first token. Raises PromptError."""
        return ReplyBuilder(self.loaded, request)

    def begin(self, prepared: object, queue_seconds: float, is_cancelled: IsCancelled) -> object:  # noqa: ARG002
        """Give the reply a row, which is its handle. Steps are short, so nothing asks `is_cancelled` within them."""
        if not isinstance(prepared, ReplyBuilder):
            raise TypeError("begin() takes what prepare() made")
        reply = prepared
        row = self.batch.add(reply.prompt.token_ids, reply.sampler, reply.chat, reply.user)
        if row is None:
            raise RuntimeError("begin() needs can_begin()")
        reply.begin(queue_seconds, row.cached)
        self._replies[row] = reply
        self._started.append(
            (row, ReplyDelta(prompt=reply.prompt, prefilled_tokens=row.cached, snapshot=reply.snapshot_function))
        )
        return row

    def step(self) -> list[StepResult]:
        """Advance; what has happened to which reply. A delta with a finish, or an error, is the last of its reply."""
        results, self._started = self._started, []
        for event in self.batch.step():
            try:
                results.append((event.row, self._delta(event)))
            except Exception as error:
                self.end(event.row)
                results.append((event.row, to_generation_error(error)))
        return results

    def end(self, handle: object) -> None:
        """Nobody wants this reply any more."""
        if isinstance(handle, SequenceState) and handle in self._replies:
            del self._replies[handle]
            self._started = [each for each in self._started if each[0] is not handle]
            self.batch.finish(handle)

    def answer_now(self, handle: object) -> None:
        """End the thought of this reply."""
        if isinstance(handle, SequenceState) and handle in self._replies:
            self._replies[handle].answer_now()

    def forget(self, chat: str) -> None:
        """Overwrite what this chat has left in blocks."""
        self.batch.pool.forget(chat)

    def kv_usage(self) -> float:
        """The share of all K/V blocks that running replies use, from 0 to 1."""
        pool = self.batch.pool
        return 1 - (pool.free + pool.cached) / pool.count

    def reset(self) -> None:
        """Forget every reply and every conversation, as after a failure that nobody foresaw."""
        self._replies.clear()
        self._started.clear()
        self.batch.reset()

    def _delta(self, event: SequenceUpdate) -> ReplyDelta | ChatError:
        reply = self._replies[event.row]
        if event.error is not None:
            del self._replies[event.row]
            return event.error
        if event.token is None:
            reply.cached_tokens = event.row.cached
            return ReplyDelta(prefilled_tokens=event.read, restored_tokens=event.restored)
        delta = reply.push(event.token, event.rows, event.accepted)
        if reply.finished:
            self.end(event.row)
            if self._after_first_reply is not None:
                self._after_first_reply()
                self._after_first_reply = None
        return delta
