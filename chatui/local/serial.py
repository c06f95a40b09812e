"""One reply at a time with any transformers model: a decode loop that can be stopped inside a forward pass."""

import contextlib
import inspect
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import torch
from transformers import DynamicCache, PreTrainedModel

from chatui.local.engine import Interrupted
from chatui.local.sampling import Sampler


@contextlib.contextmanager
def interruptible(model: PreTrainedModel, unwanted: Callable[[], bool]) -> Iterator[None]:
    """Inside, a forward pass raises Interrupted at the next operation of any layer once `unwanted()` is true."""

    def check(*_: object) -> None:
        if unwanted():
            raise Interrupted

    leaves = [module for module in model.modules() if next(module.children(), None) is None]
    hooks = [leaf.register_forward_pre_hook(check) for leaf in leaves]
    try:
        yield
    finally:
        for hook in hooks:
            hook.remove()


def decode(model: PreTrainedModel, prompt_ids: Sequence[int], sampler: Sampler) -> Iterator[int]:
    """Token ids without end, the first after the whole prompt was read.

    Prepares the inputs as `generate()` does (prepare_inputs_for_generation and its counterpart are transformers'
    own hooks for decoding loops), so state-space and hybrid caches work too, and greedy ids are `generate()`'s.
    """
    steps: Any = model  # the hooks come from GenerationMixin, which is no base of PreTrainedModel
    input_ids = torch.tensor([list(prompt_ids)], device=model.device)
    state = _first_state(model, input_ids)
    first = True
    while True:
        with torch.inference_mode():
            inputs = steps.prepare_inputs_for_generation(
                input_ids,
                next_sequence_length=None if first else 1,
                is_first_iteration=first,
                **state,
            )
            outputs = model(**inputs, return_dict=True)
            state = steps._update_model_kwargs_for_generation(outputs, state)
            token_id = sampler.choose(input_ids, outputs.logits[:, -1])
            input_ids = torch.cat([input_ids, input_ids.new_tensor([[token_id]])], dim=-1)
            first = False
            del outputs, inputs
        yield token_id


def _first_state(model: PreTrainedModel, input_ids: torch.Tensor) -> dict[str, Any]:
    """What the model is told beside the ids, as far as its `forward` takes it; `input_ids` has shape [1, tokens].

    There is no attention mask: nothing is padded, and some linear-attention models read a growing mask wrongly.
    """
    steps: Any = model
    accepted = inspect.signature(model.forward).parameters
    state: dict[str, Any] = {"use_cache": True}
    if "position_ids" in accepted:
        state["position_ids"] = torch.arange(input_ids.shape[1], device=input_ids.device).unsqueeze(0)
    if "logits_to_keep" in accepted:
        state["logits_to_keep"] = 1
    cache = next((name for name in ("past_key_values", "cache_params") if name in accepted), None)
    if cache and steps._supports_default_dynamic_cache():
        state[cache] = DynamicCache(config=model.config.get_text_config(decoder=True))
    return state
