"""One reply at a time with any transformers model: a decode loop that can be stopped inside a forward pass."""

import contextlib
from collections.abc import Callable, Iterator, Sequence

import torch
from transformers import PreTrainedModel

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
    input_ids = torch.tensor([list(prompt_ids)], device=model.device)
    state: dict[str, object] = {
        "use_cache": True,
        "attention_mask": torch.ones_like(input_ids),
        "logits_to_keep": 1,
    }
    if not model._supports_logits_to_keep():
        del state["logits_to_keep"]
    first = True
    while True:
        with torch.inference_mode():
            inputs = model.prepare_inputs_for_generation(
                input_ids,
                next_sequence_length=None if first else 1,
                is_first_iteration=first,
                **state,
            )
            outputs = model(**inputs, return_dict=True)
            state = model._update_model_kwargs_for_generation(outputs, state)
            token_id = sampler.choose(input_ids, outputs.logits[:, -1])
            input_ids = torch.cat([input_ids, input_ids.new_tensor([[token_id]])], dim=-1)
            first = False
            del outputs, inputs
        yield token_id
