"""Takes the name of a model apart (family, size, experts, tuning, quantization) and explains its parts in sentences."""

import re
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from chatui.i18n import N_
from chatui.units import human_bytes, human_count

NUMBER = r"(\d{1,6}(?:\.\d{1,4})?)"
START, END = r"(?<![A-Za-z0-9.])", r"(?![A-Za-z0-9])"
UNITS = {"K": 1e3, "M": 1e6, "B": 1e9, "T": 1e12}
FLAGS = re.IGNORECASE | re.ASCII
EXPERTS = re.compile(rf"{START}(\d{{1,4}})x{NUMBER}([MB]){END}", FLAGS)
EXPERT_COUNT = re.compile(rf"{START}(\d{{1,4}})E{END}", re.ASCII)
ACTIVE = re.compile(rf"{START}A{NUMBER}([MB]){END}", FLAGS)
EFFECTIVE = re.compile(rf"{START}E{NUMBER}([MB]){END}", FLAGS)
SIZE = re.compile(rf"{START}{NUMBER}([MBT]){END}", FLAGS)
CONTEXT = re.compile(rf"{START}(\d{{1,4}})(K){END}", FLAGS)
VERSION = re.compile(r"v?\d{1,4}(?:\.\d{1,4})*", FLAGS)
GGUF_TYPE = (
    rf"(?<![A-Za-z0-9])((?:I?Q\d(?:_\d|_K(?:_(?:XS|XL|S|M|L))?|_(?:XXS|XS|S|M|NL|XL))?|TQ\d_0|BF16|F16|F32)){END}"
)
QUANTIZATION = re.compile(
    rf"{GGUF_TYPE}|{START}(GPTQ(?:-Int\d)?|AWQ|bnb-\dbit|FP8|NVFP4|MXFP4|FP4|FP16|NF4|EXL2|HQQ|AQLM|"
    rf"w\da\d{{1,2}}|int\d|\d-?bit){END}",
    FLAGS,
)
TUNINGS = {
    "instruct": N_("tuned to follow instructions, so it is meant for chats"),
    "chat": N_("tuned for chats"),
    "it": N_("instruction-tuned, so it is meant for chats"),
    "sft": N_("tuned on examples of good replies"),
    "dpo": N_("tuned on pairs of better and worse replies"),
    "thinking": N_("tuned to think before it answers"),
    "reasoning": N_("tuned to think before it answers"),
    "base": N_("continues text; it was not tuned for chats"),
    "pt": N_("pretrained only: it continues text and was not tuned for chats"),
    "distill": N_("trained on the replies of a larger model"),
    "distilled": N_("trained on the replies of a larger model"),
    "coder": N_("tuned for program code"),
    "code": N_("tuned for program code"),
    "math": N_("tuned for mathematics"),
    "vl": N_("reads pictures as well as text"),
    "vision": N_("reads pictures as well as text"),
    "abliterated": N_("changed so that it refuses less"),
}
"""What the words in names say about training."""
NOT_FOR_CHATS = frozenset({"base", "pt"})
METHODS = {
    "AWQ": N_("weights of 4 bits, the most important channels scaled first (https://arxiv.org/abs/2306.00978)"),
    "GPTQ": N_(
        "weights of few bits, rounded one after another so that errors cancel (https://arxiv.org/abs/2210.17323)"
    ),
    "BNB": N_("weights quantized by bitsandbytes (https://arxiv.org/abs/2305.14314)"),
    "NF4": N_("weights of 4 bits, by bitsandbytes (https://arxiv.org/abs/2305.14314)"),
    "FP8": N_("weights as floating-point numbers of 8 bits (https://arxiv.org/abs/2209.05433)"),
    "FP4": N_("weights as floating-point numbers of 4 bits"),
    "NVFP4": N_("weights as floating-point numbers of 4 bits, with a scale for each 16 of them"),
    "MXFP4": N_(
        "weights as floating-point numbers of 4 bits, with a scale for each 32 of them "
        "(https://arxiv.org/abs/2310.10537)"
    ),
    "FP16": N_("weights in float16, 2 bytes each"),
    "BF16": N_("weights in bfloat16, 2 bytes each"),
    "F16": N_("weights in float16, 2 bytes each"),
    "F32": N_("weights in float32, 4 bytes each"),
}
BITS = {"AWQ": 4.0, "FP8": 8.0, "NF4": 4.0, "FP4": 4.0, "NVFP4": 4.0, "MXFP4": 4.0, "FP16": 16.0, "BF16": 16.0}
WORDS = {
    2: N_("two"), 3: N_("three"), 4: N_("four"), 5: N_("five"), 6: N_("six"), 7: N_("seven"), 8: N_("eight"),
    9: N_("nine"), 10: N_("ten"),
}  # fmt: skip
MAX_LENGTH = 500
"""Characters of a name that are looked at. Names on the Hub have at most 96."""


@dataclass(frozen=True)
class ParsedName:
    """The parts of a model's name; None or "" where the name does not have one.

    `size`, `expert_size`, `active` and `effective` are numbers of parameters as the name rounds them. `size` is the
    total, for "8x7B" by the rule of thumb 8 x 7. `bits` is the nominal number of bits of a quantized weight. `context`
    is in tokens.
    """

    name: str
    owner: str = ""
    family: str = ""
    version: str = ""
    size_text: str = ""
    size: int | None = None
    experts: int | None = None
    expert_size: int | None = None
    active: int | None = None
    effective: int | None = None
    context: int | None = None
    tunings: tuple[str, ...] = ()
    quantization: str = ""
    bits: float | None = None
    is_gguf: bool = False


def parse(name: str) -> ParsedName:
    """Take apart a name on the Hub, a path or the name of a file. Any text gives a result."""
    path = name.strip().rstrip("/")[:MAX_LENGTH].replace("\\", "/")
    owner, _, last = path.rpartition("/")
    text = re.sub(r"\.(gguf|safetensors)$", "", last, flags=FLAGS)
    is_gguf = last.lower().endswith(".gguf") or re.search(rf"{START}GGUF{END}", last, FLAGS) is not None
    # Underscores separate the parts of a name, except in the types of GGUF.
    spaced = text.replace("_", "-")
    quantization = QUANTIZATION.search(text) or QUANTIZATION.search(spaced)
    rest = spaced.replace(quantization[0].replace("_", "-"), "", 1) if quantization else spaced
    sizes = _sizes(rest)
    words = [word.lower() for word in re.split(r"[-. ]", rest)]
    family, version = _family(rest)
    quant = (quantization[0] if quantization else "").strip()
    return ParsedName(
        name=name,
        owner=owner.rpartition("/")[2],
        family=family,
        version=version,
        **sizes,
        tunings=tuple(word for word in dict.fromkeys(words) if word in TUNINGS),
        quantization=quant,
        bits=_bits(quant),
        is_gguf=is_gguf,
    )


def explain(parsed: ParsedName, parameters: int | None = None, active: int | None = None) -> tuple[str, ...]:
    """Sentences about the parts of a name. `parameters` and `active` are the exact counts of the headers if known."""
    return tuple(_sentences(parsed, parameters, active))


def _sentences(parsed: ParsedName, parameters: int | None, active: int | None) -> Iterator[str]:
    family, version = parsed.family, parsed.version
    if family:
        yield (
            N_(f"{family}: the family of models, version {version}.")
            if version
            else N_(f"{family}: the family of models.")
        )
    yield from filter(None, (_size_sentence(parsed), _exact_sentence(parameters, active)))
    if parsed.active:
        count = human_count(parsed.active)
        yield N_(
            f"{count} active: one token uses that many of the parameters. All of them take memory, and speed is that "
            "of the active ones."
        )
    if parsed.effective:
        count = human_count(parsed.effective)
        yield N_(
            f"E{count}: as much memory as a model of that size takes, if the embeddings of each layer stay outside of "
            "the accelerator. It has more parameters in all."
        )
    if parsed.context:
        yield N_(f"A context of about {parsed.context:,} tokens.")
    for word in parsed.tunings:
        yield f"{word}: {TUNINGS[word]}."
    if parsed.quantization:
        yield f"{parsed.quantization}: {_method(parsed)}."
    if parsed.is_gguf:
        yield N_("GGUF: the file format of llama.cpp, with weights, tokenizer and chat template in one file.")


def _exact_sentence(parameters: int | None, active: int | None) -> str:
    if parameters is None:
        return ""
    exact = human_count(parameters)
    if active is None or active == parameters:
        return N_(f"{exact} parameters by its headers.")
    used = human_count(active)
    return N_(f"{exact} by its headers, {used} active for each token.")


def _size_sentence(parsed: ParsedName) -> str:
    experts, text = parsed.experts, parsed.size_text
    if experts and parsed.expert_size and parsed.size:
        count, total, each = WORDS.get(experts, str(experts)), human_count(parsed.size), parsed.expert_size / 1e9
        return N_(
            f"{text}: {count} experts; {total} by the tutorial's rule of thumb ({experts} × {each:g}), which counts "
            "too many, because experts share the rest."
        )
    if not parsed.size:
        return N_(f"{experts} experts.") if experts else ""
    count, memory = human_count(parsed.size), human_bytes(2 * parsed.size)
    if experts:
        return N_(f"{text}: about {count} parameters, {memory} in bfloat16 (2 bytes each), {experts} experts.")
    return N_(f"{text}: about {count} parameters, {memory} in bfloat16 (2 bytes each).")


def _method(parsed: ParsedName) -> str:
    name, bits = parsed.quantization.upper(), parsed.bits
    known = next((METHODS[key] for key in (name, name.partition("-")[0]) if key in METHODS), "")
    if known:
        return known
    if re.fullmatch(r"I?Q\d.*|TQ\d_0", name):
        mix = {
            "S": N_(
                f"a type of GGUF with about {bits:g} bits for each weight and scales beside them, the small mix of "
                "types"
            ),
            "M": N_(
                f"a type of GGUF with about {bits:g} bits for each weight and scales beside them, the medium mix of "
                "types"
            ),
            "L": N_(
                f"a type of GGUF with about {bits:g} bits for each weight and scales beside them, the large mix of "
                "types"
            ),
        }
        plain = N_(f"a type of GGUF with about {bits:g} bits for each weight and scales beside them")
        return mix.get(name.rpartition("_")[2], plain) if "_K_" in name else plain
    return N_(f"weights of {bits:g} bits") if bits else N_("a way to quantize weights")


def _bits(quantization: str) -> float | None:
    name = quantization.upper()
    if name in BITS or name in ("F16", "F32"):
        return BITS.get(name) or (16.0 if name == "F16" else 32.0)
    digits = re.search(r"\d{1,2}", name.removeprefix("EXL2"), re.ASCII)
    return float(digits[0]) if digits and int(digits[0]) else None


def _sizes(text: str) -> dict[str, Any]:
    """The fields of ParsedName that are numbers of parameters, experts or tokens."""
    found: dict[str, Any] = {}
    active, effective, context = ACTIVE.search(text), EFFECTIVE.search(text), CONTEXT.search(text)
    if active:
        found["active"] = _count(active)
    if effective:
        found["effective"] = _count(effective)
    if context:
        found["context"] = int(_count(context))
    experts, count = EXPERTS.search(text), EXPERT_COUNT.search(text)
    if experts:
        each = int(float(experts[2]) * UNITS[experts[3].upper()])
        found |= {"experts": int(experts[1]), "expert_size": each, "size": int(experts[1]) * each}
        return found | {"size_text": experts[0]}
    sizes = list(SIZE.finditer(text))
    if count:
        # "17B-16E": https://huggingface.co/meta-llama/Llama-4-Scout-17B-16E counts the active parameters.
        found |= {"experts": int(count[1]), **({"active": _count(sizes[0])} if sizes else {})}
        return found
    in_billions = [size for size in sizes if size[2].upper() in "BT"]
    if len(in_billions) == 2 and "active" not in found and in_billions[0].end() + 1 == in_billions[1].start():
        # "1B-7B": https://huggingface.co/allenai/OLMoE-1B-7B-0924 has 1B of 7B active.
        small, large = sorted(in_billions, key=_count)
        return found | {"size": _count(large), "size_text": large[0], "active": _count(small)}
    if sizes:
        size = (in_billions or sizes)[0]
        found |= {"size": _count(size), "size_text": size[0]}
        more = [other for other in sizes if other[2].upper() == "M" and in_billions]
        if more and "context" not in found:
            # "7B-Instruct-1M": https://huggingface.co/Qwen/Qwen2.5-7B-Instruct-1M has a context of 1M tokens.
            found["context"] = _count(more[0])
    return found


def _count(match: re.Match[str]) -> int:
    return int(float(match[1]) * UNITS[match[2].upper()])


def _family(text: str) -> tuple[str, str]:
    """(family, version): the words before the first part that says a size or a way of training."""
    head: list[str] = []
    version = ""
    for part in re.split(r"[- ]", text):
        if any(pattern.fullmatch(part) for pattern in (EXPERTS, ACTIVE, EFFECTIVE, SIZE, CONTEXT, EXPERT_COUNT)):
            break
        if not part or part.lower() in TUNINGS or part.upper() == "GGUF":
            break
        if VERSION.fullmatch(part) and head:
            version = part
            break
        head.append(part)
    joined = "-".join(head)
    attached = re.fullmatch(r"(.*[A-Za-z])(\d{1,3}(?:\.\d{1,3})*)", joined)
    if attached and not version and not re.search(r"(?i)[rv]$", attached[1]):
        return attached[1], attached[2]
    if not version:
        late = re.search(rf"{START}v\d{{1,3}}(?:\.\d{{1,3}})*{END}", text, FLAGS)
        version = late[0] if late else ""
    return joined, version
