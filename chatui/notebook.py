"""Writes a reply as a Jupyter notebook: the five steps of a pipeline, with the code of the Python script. Pure.

The steps are those of https://huggingface.co/docs/transformers/conversations, "What happens inside the pipeline?".
"""

import json
from collections.abc import Iterator
from typing import Any

from chatui import estimates, notebook_cells, python_client
from chatui.chat import ModelAnatomy, ModelInfo
from chatui.estimates import Figure
from chatui.generation_settings import GenerationSettings
from chatui.inspection import Inspection
from chatui.python_code import call, quoted, value
from chatui.python_model_loading import introduction
from chatui.python_script import (
    HELPER_FUNCTIONS,
    PROMPT_ARGUMENTS,
    ScriptParts,
    continues,
    sanitizes,
    script_parts,
    template_options,
)

Cell = tuple[str, str]
"""(kind, text) of a cell; the kind is "markdown" or "code"."""


def as_notebook(inspection: Inspection, settings: GenerationSettings, seed: int) -> str:
    """The .ipynb file that generates this reply again step by step. `settings` and `seed` are those of the reply.

    It follows version 4.5 of the format, https://nbformat.readthedocs.io/en/latest/format_description.html.
    """
    import nbformat  # takes a tenth of a second

    cells = []
    for number, (kind, text) in enumerate(_cells(inspection, settings, seed)):
        source, id = text.strip("\n"), f"cell-{number}"
        code = nbformat.v4.new_code_cell(source, id=id) if kind == "code" else None
        cells.append(code or nbformat.v4.new_markdown_cell(source, id=id))
    kernel = {"name": "python3", "display_name": "Python 3", "language": "python"}
    metadata: dict[str, Any] = {"kernelspec": kernel, "language_info": {"name": "python"}}
    notebook = nbformat.v4.new_notebook(cells=cells, metadata=metadata)
    nbformat.validate(notebook)
    return json.dumps(notebook, ensure_ascii=True, indent=1) + "\n"


def _cells(inspection: Inspection, settings: GenerationSettings, seed: int) -> Iterator[Cell]:
    if inspection.model.server is not None:
        yield "markdown", f"# A reply, asked again\n\n{_escaped(python_client.introduction(inspection))}"
        for code in python_client.script_parts(inspection):
            yield "code", code
        yield "code", python_client.PRINT_REPLY
        return
    parts = script_parts(inspection, settings, seed)
    yield "markdown", _title(inspection, settings, seed)
    yield "markdown", notebook_cells.LOAD
    yield "code", parts.imports
    yield "code", parts.model
    yield "markdown", notebook_cells.TEMPLATE
    yield "code", parts.messages
    text = notebook_cells.CONTINUED_TEXT if continues(inspection) else notebook_cells.TEXT
    options = f", {template_options(inspection)}" if template_options(inspection) else ""
    yield "code", parts.template + text.format(options=options)
    yield "markdown", notebook_cells.TOKENIZE
    yield "code", HELPER_FUNCTIONS
    yield "code", parts.prompt
    yield "code", notebook_cells.TOKENS
    yield "markdown", notebook_cells.GENERATE
    yield "code", notebook_cells.FORWARD
    if parts.classes:
        yield "code", parts.classes
    yield "code", parts.generation
    yield "markdown", notebook_cells.DECODE
    yield "code", parts.decoding
    yield from _other_ways(inspection, parts)
    yield from _arithmetic(inspection)


def _title(inspection: Inspection, settings: GenerationSettings, seed: int) -> str:
    """The title, what the notebook does, and the settings in a table."""
    info = inspection.model
    sentences = "\n\n".join(_escaped(line) for line in introduction(info) if line)
    shown = {"precision": info.precision, "computed in": info.dtype, "device": info.device, "seed": seed}
    shown |= {name: value for name, value in settings.model_dump().items() if name != "seed"}
    rows = "\n".join(f"| {name} | {_inline_code(str(value))} |" for name, value in shown.items())
    return f"# A reply, step by step\n\n{sentences}\n\n| model | {_inline_code(info.name)} |\n|---|---|\n{rows}"


def _other_ways(inspection: Inspection, parts: ScriptParts) -> Iterator[Cell]:
    """The same reply by `pipeline`, and streamed."""
    if not continues(inspection):
        options = ["messages", "return_full_text=False"]
        encoding = dict(inspection.prompt.arguments)
        if sanitizes(inspection):
            encoding["sanitize_control_tokens"] = True
        if encoding:
            items = ", ".join(f"{quoted(name)}: {value(argument)}" for name, argument in encoding.items())
            options.append(f"tokenizer_encode_kwargs={{{items}}}")
        yield "markdown", notebook_cells.PIPELINE
        yield "code", notebook_cells.PIPELINE_CODE.format(call=call("pipe", [*options, *parts.arguments]))
    streamed = call("model.generate", [*PROMPT_ARGUMENTS, *parts.arguments, "streamer=streamer"])
    yield "markdown", notebook_cells.STREAM
    yield "code", notebook_cells.STREAM_CODE.format(call=streamed)


def _arithmetic(inspection: Inspection) -> Iterator[Cell]:
    """The memory of the model and the limit of its speed: chatui's figures, then the same from this model."""
    model, anatomy = inspection.model, inspection.model.anatomy
    yield "markdown", notebook_cells.MEMORY + (_memory_table(model, anatomy) if anatomy is not None else "")
    yield "code", notebook_cells.MEMORY_CODE
    yield "markdown", notebook_cells.SPEED + (_speed_table(inspection, anatomy) if anatomy is not None else "")
    yield "code", notebook_cells.SPEED_CODE


def _memory_table(model: ModelInfo, anatomy: ModelAnatomy) -> str:
    rows = [(f"Weights in {precision}", estimates.weights(anatomy, precision)) for precision in anatomy.weights]
    rows.append(("KV cache", estimates.kv_cache(anatomy, model.max_cached_tokens, model.windowed_tokens)))
    return _table("Memory in chatui", rows)


def _speed_table(inspection: Inspection, anatomy: ModelAnatomy) -> str:
    if not anatomy.bandwidth:
        return ""
    rows = [(f"Most in {precision}", estimates.max_tokens_per_second(anatomy, precision)) for precision in anatomy.read]
    finish = inspection.finish
    if finish is not None and finish.tokens_per_second:
        formula = f"{finish.completion_tokens - 1:,} tokens ÷ {finish.decode_seconds:.3g} s"
        rows.append(("This reply in chatui", Figure("Speed", finish.tokens_per_second, "tokens/s", formula)))
    return _table("Speed in chatui", rows)


def _table(title: str, rows: list[tuple[str, Figure]]) -> str:
    lines = "\n".join(f"| {_escaped(name)} | {figure.text} | {figure.formula} |" for name, figure in rows)
    return f"\n\n| {title} | | how |\n|---|---|---|\n{lines}"


def _inline_code(text: str) -> str:
    """A text as code in a table of Markdown."""
    shown = text if text.isprintable() else ascii(text)
    return f"`{shown.replace('`', chr(39)).replace('|', '¦')}`"


def _escaped(text: str) -> str:
    """A text without Markdown or HTML in it."""
    return "".join(f"\\{character}" if character in "\\`*_{}[]<>()#|$" else character for character in text)
