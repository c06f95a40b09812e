"""Writes a Python script that reproduces a reply token for token with torch and transformers alone. Pure."""

import textwrap
import zlib
from dataclasses import dataclass

from chatui import python_client
from chatui.generation_settings import GenerationSettings
from chatui.inspection import Inspection
from chatui.python_code import MAX_LINE_LENGTH, call, comment_lines, literal, quoted, value
from chatui.python_model_loading import introduction, is_gguf, loading_code

EXPLICIT_SETTINGS = {
    *("max_new_tokens", "temperature", "top_p", "top_k", "min_p", "seed", "stop"),
    *("thinking", "thinking_budget"),
}
GENERATE_ARGUMENTS = tuple(name for name in GenerationSettings.model_fields if name not in EXPLICIT_SETTINGS)
"""Settings that the script passes to `generate()` unchanged. It implements the others itself."""

HELPER_FUNCTIONS = """\

def checksum(ids):
    return zlib.crc32(str(ids).encode())


def text_of(ids):
    return tokenizer.decode(ids, skip_special_tokens=True, clean_up_tokenization_spaces=False)

"""
SET_CHAT_TEMPLATE = """\
# chatui was given this template, or chose it, in place of the default of the model's tokenizer.
tokenizer.chat_template = {text}
"""
# Sets the same tokens as chatui.engine.text.prompt does.
SET_CONTROL_TOKENS = """\
# What a person typed stays text, even where it reads like a control token.
tokenizer.chat_control_tokens = [
    token
    for token, token_id in tokenizer.get_added_vocab().items()
    if token_id not in tokenizer._encode_without_added_tokens("\\n" + token)
]
"""
NEW_REPLY_PROMPT = """\
prompt = tokenizer.apply_chat_template(
    messages, add_generation_prompt=True, return_tensors="pt", return_dict=True{options}
)["input_ids"].to(model.device)
print("The prompt is that of chatui:", checksum(prompt[0].tolist()) == {checksum})
"""
CONTINUED_REPLY_PROMPT = """\
# This reply goes on where it had been cut off. Not every template can do that to the letter, so the ids are here too.
prompt_ids = [
{ids}
]
try:
    ids = tokenizer.apply_chat_template(
        messages, continue_final_message=True, return_tensors="pt", return_dict=True{options}
    )["input_ids"][0].tolist()
except Exception:
    ids = []
print("The template makes the prompt of chatui:", ids == prompt_ids)
prompt = torch.tensor([prompt_ids], device=model.device)
"""
SAMPLER_CLASS = '''\

class Draw(LogitsProcessor):
    """Leaves one token, drawn as chatui draws: by a generator on the CPU, so a seed means the same on every device."""

    def __init__(self, seed, *filters):
        self.generator, self.filters = torch.Generator().manual_seed(seed), filters

    def __call__(self, input_ids, scores):
{candidates}
        cumulated = left.cpu().softmax(-1).double().cumsum(-1)
        drawn = torch.rand((), generator=self.generator, dtype=torch.float64) * cumulated[-1]
        token = ids[torch.searchsorted(cumulated, drawn, right=True)]
        return torch.full_like(scores, -torch.inf).index_fill(1, token, 0.0)
'''
# The drawn token depends on the order of the candidates, which must be that of Sampler.candidates.
ALL_CANDIDATES = """\
        ids, left = torch.arange(scores.shape[-1], device=scores.device), scores[0]"""
FILTERED_CANDIDATES = """\
        first, *others = self.filters
        left = first(input_ids, scores)
        # Few tokens are drawn from in the order of their scores, many in that of the vocabulary.
        count, size = left.isfinite().sum(), scores.shape[-1]
        few = [number for number in (64, 1024) if count {below} number < size]
        ids = scores[0].topk(few[0]).indices if few else torch.arange(size, device=scores.device)
        for each in others:
            left = each(input_ids, left)
        left = left[0, ids]"""
STOPPING_CRITERIA_CLASS = '''\

class StopAt(StoppingCriteria):
    """Ends the reply as soon as a string is in it; transformers' own `stop_strings` would look into the prompt too."""

    def __init__(self, strings):
        self.strings = strings

    def __call__(self, input_ids, scores, **kwargs):
        text = text_of(input_ids[0, prompt.shape[1] :])
        # U+FFFD stands for a character that is not complete yet.
        ends = not text.endswith("\\ufffd") and any(string in text for string in self.strings)
        return torch.tensor([ends], device=input_ids.device)
'''
FORCE_CLASS = '''\

class Force(LogitsProcessor):
    """Leaves one token at some places of the reply: there chatui ended the thought, so that the answer began."""

    def __init__(self, tokens):
        self.tokens = tokens

    def __call__(self, input_ids, scores):
        token = self.tokens.get(input_ids.shape[1] - prompt.shape[1])
        if token is None:
            return scores
        forced = torch.full_like(scores, -torch.inf)
        forced[:, token] = 0.0
        return forced
'''
PROMPT_ARGUMENTS = ("prompt", "attention_mask=torch.ones_like(prompt)")
"""The first arguments of `generate()`."""
PRINT_REPLY = """\
reply = output[0, prompt.shape[1] :].tolist()
print(text_of(reply))
print(reply)
"""


@dataclass(frozen=True)
class ScriptParts:
    """The code of a script by what it does, in the order in which it must run; `template` and `classes` may be "".

    `arguments` are the lines of the call of `generate()` in `generation`, without the prompt and its mask.
    """

    imports: str
    model: str
    messages: str
    template: str
    prompt: str
    classes: str
    generation: str
    decoding: str
    arguments: tuple[str, ...]


def as_python(inspection: Inspection, settings: GenerationSettings, seed: int) -> str:
    """The script that reproduces this reply, which was generated with these settings and this seed.

    A reply that another server wrote is asked of that server again.
    """
    if inspection.model.server is not None:
        return python_client.as_python(inspection)
    parts = script_parts(inspection, settings, seed)
    header = "".join(f"{line}\n" for text in introduction(inspection.model) for line in comment_lines(text))
    code = [header, parts.imports, parts.model, parts.messages, HELPER_FUNCTIONS, parts.template + parts.prompt]
    if parts.classes:
        code.append(parts.classes)
    return "\n".join([*code, parts.generation + parts.decoding])


def script_parts(inspection: Inspection, settings: GenerationSettings, seed: int) -> ScriptParts:
    """The parts of the script that reproduces this reply."""
    arguments = _arguments(inspection, settings, seed)
    classes = [_draw(settings)] if settings.temperature else []
    if _forced_tokens(inspection):
        classes.append(FORCE_CLASS)
    if settings.stop:
        classes.append(STOPPING_CRITERIA_CLASS)
    return ScriptParts(
        imports=_imports(inspection, settings),
        model=loading_code(inspection.model),
        messages=_messages(inspection),
        template=_template(inspection),
        prompt=_prompt(inspection),
        classes="\n".join(classes),
        generation=_generation(inspection, settings, arguments),
        decoding=_decoding(inspection),
        arguments=tuple(arguments),
    )


def _imports(inspection: Inspection, settings: GenerationSettings) -> str:
    info = inspection.model
    names = ["AutoModelForCausalLM", "AutoTokenizer"]
    if is_gguf(info):
        names.append("GgufConfig")
    if settings.temperature or _forced_tokens(inspection):
        names.append("LogitsProcessor")
    if settings.temperature:
        names += [warper.partition("(")[0] for warper in [*_temperature(settings), *_filters(settings)]]
    if settings.stop:
        names.append("StoppingCriteria")
    line = f"from transformers import {', '.join(sorted(names))}"
    if len(line) > MAX_LINE_LENGTH:
        line = "from transformers import (\n" + "".join(f"    {name},\n" for name in sorted(names)) + ")"
    uses_home = any(path.startswith("~") for path in (info.source, info.adapter))
    standard = "import os\nimport zlib" if uses_home else "import zlib"
    peft = "from peft import PeftModel\n" if info.adapter else ""
    return f"{standard}\n\nimport torch\n{peft}{line}\n"


def _messages(inspection: Inspection) -> str:
    messages, template = inspection.prompt.messages, inspection.model.template
    lines = []
    for message in messages:
        content = literal(message.content)
        if template is not None and template.parts:
            content = f'[{{"type": "text", "text": {content}}}]'
        parts = [f'"role": {quoted(message.role)}', f'"content": {content}']
        if message is messages[-1] and message.reasoning:
            parts.append(f'"reasoning_content": {literal(message.reasoning)}')
        lines.append(f"    {{{', '.join(parts)}}},\n")
    return f"messages = [\n{''.join(lines)}]\n"


def _template(inspection: Inspection) -> str:
    """The lines that prepare the tokenizer: its chat template, and what counts as a control token."""
    template = inspection.model.template
    replaced = (
        SET_CHAT_TEMPLATE.format(text=literal(template.text)) if template is not None and template.replaced else ""
    )
    return replaced + (SET_CONTROL_TOKENS if sanitizes(inspection) else "")


def _prompt(inspection: Inspection) -> str:
    """The lines that render the prompt and compare it with the original one."""
    ids = list(inspection.prompt.token_ids)
    options = f", {template_options(inspection)}" if template_options(inspection) else ""
    if sanitizes(inspection):
        options += ", sanitize_control_tokens=True"
    if not continues(inspection):
        return NEW_REPLY_PROMPT.format(options=options, checksum=_checksum(ids))
    ids_text = textwrap.fill(", ".join(map(str, ids)), MAX_LINE_LENGTH, initial_indent="    ", subsequent_indent="    ")
    return CONTINUED_REPLY_PROMPT.format(options=options, ids=ids_text)


def template_options(inspection: Inspection) -> str:
    """The arguments of the chat template besides the messages, as code."""
    arguments = inspection.prompt.arguments.items()
    return ", ".join(f"{name}={value(argument)}" for name, argument in arguments)


def _forced_tokens(inspection: Inspection) -> dict[int, int]:
    """The tokens that ended a thought in the model's place, by their position in the reply."""
    positions = inspection.finish.forced_positions if inspection.finish else ()
    ids = inspection.traces.chosen_ids if positions else []
    return {position: ids[position] for position in positions if position < len(ids)}


def sanitizes(inspection: Inspection) -> bool:
    """Whether the script keeps what was typed from becoming control tokens."""
    messages = inspection.prompt.messages
    return any(bracket in message.content + message.reasoning for message in messages for bracket in "<[")


def continues(inspection: Inspection) -> bool:
    """Whether the reply continues a text that it was given."""
    return inspection.prompt.messages[-1].role == "assistant"


def _draw(settings: GenerationSettings) -> str:
    if not _filters(settings):
        return SAMPLER_CLASS.format(candidates=ALL_CANDIDATES)
    top_p_first = settings.top_p < 1.0 and not settings.top_k
    return SAMPLER_CLASS.format(candidates=FILTERED_CANDIDATES.format(below="<=" if top_p_first else "<"))


def _arguments(inspection: Inspection, settings: GenerationSettings, seed: int) -> list[str]:
    """The arguments of `generate()` after the prompt and its mask, each as code."""
    info = inspection.model
    max_reply_tokens = info.context_length - len(inspection.prompt.token_ids)
    max_tokens = min(settings.max_new_tokens or max_reply_tokens, max_reply_tokens)
    arguments = [f"max_new_tokens={len(inspection.traces) if _was_cancelled(inspection) else max_tokens}"]
    if info.stop_ids:
        arguments.append(f"eos_token_id={list(info.stop_ids)}")
    # generate() takes the model's default for a missing argument.
    arguments += [f"{name}={getattr(settings, name)}" for name in GENERATE_ARGUMENTS]
    arguments.append("do_sample=False")
    processors = []
    if settings.temperature:
        processors += [*_temperature(settings), f"Draw({', '.join([str(seed), *_filters(settings)])})"]
    if forced := _forced_tokens(inspection):
        processors.append(f"Force({forced})")
    if processors:
        arguments.append("logits_processor=[\n" + "".join(f"        {each},\n" for each in processors) + "    ]")
    if settings.stop:
        arguments.append(f"stopping_criteria=[StopAt([{', '.join(map(quoted, settings.stop))}])]")
    return arguments


def _was_cancelled(inspection: Inspection) -> bool:
    finish = inspection.finish
    return finish is not None and finish.reason == "cancelled" and len(inspection.traces) > 0


def _generation(inspection: Inspection, settings: GenerationSettings, arguments: list[str]) -> str:
    """The lines that generate the reply."""
    comments = ""
    if _was_cancelled(inspection):
        comments += f"# The reply ended early, after {len(inspection.traces)} tokens.\n"
    if settings.temperature:
        comments += "# Draw leaves one token only, which then is the likeliest: nothing is left to sample.\n"
    return f"\n{comments}output = {call('model.generate', [*PROMPT_ARGUMENTS, *arguments])}\n"


def _decoding(inspection: Inspection) -> str:
    """The lines that print the reply and compare it with the original one."""
    if inspection.finish is None or inspection.finish.completion_tokens != len(inspection.traces):
        return PRINT_REPLY
    checksum = _checksum(inspection.traces.chosen_ids)
    return f'{PRINT_REPLY}print("The reply is that of chatui:", checksum(reply) == {checksum})\n'


def _temperature(settings: GenerationSettings) -> list[str]:
    return [f"TemperatureLogitsWarper(temperature={settings.temperature})"] if settings.temperature != 1.0 else []


def _filters(settings: GenerationSettings) -> list[str]:
    """The calls of the warpers that remove candidates, in the order in which chatui and transformers apply them."""
    filters = []
    if settings.top_k:
        filters.append(f"TopKLogitsWarper(top_k={settings.top_k})")
    if settings.top_p < 1.0:
        filters.append(f"TopPLogitsWarper(top_p={settings.top_p})")
    if settings.min_p:
        filters.append(f"MinPLogitsWarper(min_p={settings.min_p})")
    return filters


def _checksum(ids: list[int]) -> int:
    """The checksum of token ids that `checksum` in the script returns."""
    return zlib.crc32(str(ids).encode())
