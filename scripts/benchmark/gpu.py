"""`scripts/bench gpu`: what the engine does on one GPU, with random weights that are made there.

Two shapes: a Llama of 8B and a Qwen3 of 0.6B, in bfloat16. For each: 1, 4, 16 and 64 users with prompts of 50 tokens,
and one prompt of 4,000. Decoding is compared with the memory bandwidth measured on the device, and all of it with
transformers' own continuous batching of the same prompts. What does not fit into the time is left out, and said so.
Without a GPU a tiny shape runs on the CPU, which shows only that everything works.
"""

import argparse
import random
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from statistics import median
from typing import Any

import torch
from transformers import (
    AutoModelForCausalLM,
    GenerationConfig,
    LlamaConfig,
    PreTrainedConfig,
    PreTrainedModel,
    Qwen3Config,
)
from transformers.generation.configuration_utils import ContinuousBatchingConfig

from chatui.engine.batching import attention
from chatui.engine.batching.attention_probe import probe_layout
from chatui.engine.batching.cuda_graphs import GraphedDecode
from chatui.engine.batching.forward import Forward
from chatui.engine.batching.kv_cache import KVCache
from chatui.engine.batching.scheduler import Scheduler
from chatui.engine.batching.sequence_state import SequenceState
from chatui.engine.loading.bandwidth import measure_bandwidth
from chatui.engine.sampling.sampler import Sampler
from chatui.estimates import blocks_for
from chatui.generation_settings import GenerationSettings

SHAPES: dict[str, PreTrainedConfig] = {
    "8b": LlamaConfig(
        hidden_size=4096,
        intermediate_size=14336,
        num_hidden_layers=32,
        num_attention_heads=32,
        num_key_value_heads=8,
        vocab_size=128256,
        max_position_embeddings=8192,
    ),
    "0.6b": Qwen3Config(
        hidden_size=1024,
        intermediate_size=3072,
        num_hidden_layers=28,
        num_attention_heads=16,
        num_key_value_heads=8,
        head_dim=128,
        vocab_size=151936,
        max_position_embeddings=8192,
        tie_word_embeddings=True,
    ),
    "tiny": LlamaConfig(
        hidden_size=64,
        intermediate_size=128,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=2,
        vocab_size=512,
        max_position_embeddings=8192,
    ),
}
ENGINES = ("chatui", "transformers")


@dataclass
class Measured:
    """One run of some users: seconds to each first token, and of all together; seconds of steps in which all wrote."""

    users: int
    tokens: int
    first: list[float]
    seconds: float
    steps: list[float] = field(default_factory=list)

    @property
    def speed(self) -> float:
        """Tokens per second in all, reading the prompts included."""
        return self.users * self.tokens / self.seconds


class OwnEngine:
    """The scheduler over the model, with CUDA graphs where there is a GPU."""

    def __init__(self, model: PreTrainedModel, cases: Sequence[tuple[int, int]], tokens: int) -> None:
        """Ready for so many users with prompts of so many tokens, and replies of `tokens`."""
        layout = probe_layout(model)
        if layout is None:
            raise RuntimeError("the attention of this model is not the plain kind")
        users, length = max(users for users, _ in cases), max(prompt for _, prompt in cases) + tokens + 1
        # Each row may need one more block soon.
        blocks = max(users * (blocks_for(prompt + tokens) + 1) for users, prompt in cases)
        cache = KVCache.allocate(layout, blocks, model.device)
        forward = Forward(model, cache)
        if model.device.type == "cuda":
            forward.offer(GraphedDecode(forward.step))
        self._scheduler = Scheduler(forward, users, length)

    def run(self, prompts: Sequence[Sequence[int]], tokens: int) -> Measured:
        """Write so many tokens behind each prompt."""
        settings, scheduler = GenerationSettings(temperature=0.0), self._scheduler
        began = time.perf_counter()
        rows = [scheduler.add(tuple(prompt), Sampler(settings, 0)) for prompt in prompts]
        first = dict[SequenceState, float]()
        steps, written = list[float](), 0
        while scheduler.rows:
            step_began = time.perf_counter()
            events = [event for event in scheduler.step() if event.token is not None]
            now = time.perf_counter()
            if len(events) == len(prompts) and len(first) == len(prompts):
                steps.append(now - step_began)
            for event in events:
                first.setdefault(event.row, now - began)
                written += 1
                if len(event.row.output_ids) == tokens:
                    scheduler.finish(event.row)
        if None in rows or written != tokens * len(prompts):
            raise RuntimeError(f"{written} tokens were written instead of {tokens * len(prompts)}")
        found = Measured(len(prompts), tokens, list(first.values()), time.perf_counter() - began, steps)
        scheduler.pool.clear()
        return found


def run_transformers(model: PreTrainedModel, prompts: Sequence[Sequence[int]], tokens: int) -> Measured:
    """The same by transformers' continuous batching. Its cache is made anew for each run, which does not count."""
    config = GenerationConfig(max_new_tokens=tokens, do_sample=False, eos_token_id=-1, pad_token_id=0)
    options = ContinuousBatchingConfig(max_memory_percent=0.5, allow_block_sharing=False)
    began = time.perf_counter()
    batching: Any = model
    found = batching.generate_batch(
        [list(prompt) for prompt in prompts], config, continuous_batching_config=options, record_timestamps=True
    )
    outputs = list(found.values())
    written = sum(len(output.generated_tokens) for output in outputs)
    if written != tokens * len(prompts):
        raise RuntimeError(f"transformers wrote {written} tokens instead of {tokens * len(prompts)}")
    started = min(output.created_time for output in outputs)
    ends = [output.timestamps for output in outputs]
    seconds = max(end[-1] for end in ends) - started
    if not 0 < seconds <= time.perf_counter() - began:
        raise RuntimeError("the timestamps of transformers are of another clock")
    return Measured(len(prompts), tokens, [end[0] - started for end in ends], seconds)


@contextmanager
def random_model(config: PreTrainedConfig, device: torch.device) -> Iterator[PreTrainedModel]:
    """A model of random weights in bfloat16, made on the device."""
    torch.manual_seed(0)
    with torch.device(device):
        model: PreTrainedModel = AutoModelForCausalLM.from_config(config, dtype=torch.bfloat16)
    model.eval()
    model.generation_config = GenerationConfig(eos_token_id=None)
    try:
        yield model
    finally:
        del model
        if device.type == "cuda":
            torch.cuda.empty_cache()


def prompts_of(users: int, tokens: int, vocabulary: int, seed: int) -> list[list[int]]:
    """Prompts that have nothing in common."""
    chosen = random.Random(f"{seed} {users} {tokens}")
    return [[chosen.randrange(vocabulary) for _ in range(tokens)] for _ in range(users)]


def measure_shape(name: str, given: argparse.Namespace, device: torch.device, end: float) -> None:
    """Print the figures of one shape, until `end` by the clock."""
    cases = [(users, given.prompt) for users in given.users] + [(1, given.long_prompt)]
    with random_model(SHAPES[name], device) as model:
        weights = sum(parameter.nbytes for parameter in model.parameters())
        bandwidth = measure_bandwidth(device, weights)
        print(f"{name}: {weights / 1e9:.2f} GB of weights, bandwidth {bandwidth / 1e9:.0f} GB/s", flush=True)
        engines: dict[str, Callable[..., Measured]] = {}
        if "chatui" in given.engines:
            engines["chatui"] = OwnEngine(model, cases, given.tokens).run
        if "transformers" in given.engines:
            engines["transformers"] = lambda prompts, tokens: run_transformers(model, prompts, tokens)
        for users, prompt in cases:
            runs: dict[str, list[Measured]] = {engine: [] for engine in engines}
            for round_ in range(-1, given.rounds):  # the first makes graphs and counts for nothing
                for engine, run in engines.items():
                    if time.monotonic() > end:
                        print(f"{name}, {_users(users)}, {prompt} tokens: left out, the time is up", flush=True)
                        return
                    model.set_attn_implementation(attention.NAME if engine == "chatui" else "sdpa")
                    found = run(prompts_of(users, prompt, SHAPES[name].vocab_size, round_), given.tokens)
                    if round_ >= 0:
                        runs[engine].append(found)
            for engine, measured in runs.items():
                print(line_of(name, engine, prompt, measured, weights / bandwidth), flush=True)


def _users(count: int) -> str:
    return f"{count} user{'s' if count > 1 else ''}"


def line_of(name: str, engine: str, prompt: int, runs: Sequence[Measured], at_best: float) -> str:
    """The medians of these runs. `at_best` are the seconds in which the device reads all weights once."""
    users = runs[0].users
    text = (
        f"{name}, {_users(users)}, {prompt} tokens, {engine}: first token after "
        f"{1000 * median(second for run in runs for second in run.first):.0f} ms, "
        f"{median(run.speed for run in runs):.0f} tokens/s in all"
    )
    steps = [step for run in runs for step in run.steps]
    if not steps:
        return text
    step = median(steps)
    return f"{text}, a step of {1000 * step:.2f} ms: {users / step:.0f} tokens/s, {at_best / step:.0%} of the bandwidth"


def main(arguments: Sequence[str]) -> int:
    """Measure and print."""
    parser = argparse.ArgumentParser("scripts/bench gpu", description=__doc__, allow_abbrev=False)
    cuda = torch.cuda.is_available()

    def numbers(text: str) -> list[int]:
        return [int(part) for part in text.split(",")]

    def names(known: Sequence[str]) -> Callable[[str], list[str]]:
        def parse(text: str) -> list[str]:
            chosen = text.split(",")
            if not set(chosen) <= set(known):
                raise argparse.ArgumentTypeError(f"one or some of {', '.join(known)}")
            return chosen

        return parse

    shapes = ["8b", "0.6b"] if cuda else ["tiny"]
    parser.add_argument("--shapes", type=names(list(SHAPES)), default=shapes, help=f"{','.join(shapes)} if left out")
    parser.add_argument("--users", type=numbers, default=[1, 4, 16, 64], help="at once; 1,4,16,64 if left out")
    parser.add_argument("--prompt", type=int, default=50, help="tokens of each prompt; 50 if left out")
    parser.add_argument("--long-prompt", type=int, default=4000, help="tokens of one prompt; 4000 if left out")
    parser.add_argument("--tokens", type=int, default=64, help="of each reply; 64 if left out")
    parser.add_argument("--rounds", type=int, default=3, help="of each case; 3 if left out")
    parser.add_argument("--engines", type=names(ENGINES), default=list(ENGINES), help="both if left out")
    parser.add_argument("--seconds", type=float, default=450, help="after which nothing new begins; 450 if left out")
    given = parser.parse_args(arguments)
    device = torch.device("cuda" if cuda else "cpu")
    print(f"{torch.cuda.get_device_name() if cuda else 'No GPU: the CPU'}, PyTorch {torch.__version__}", flush=True)
    end = time.monotonic() + given.seconds
    for name in given.shapes:
        measure_shape(name, given, device, end)
    return 0
