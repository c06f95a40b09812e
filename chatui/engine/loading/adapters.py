"""A LoRA adapter on its base: the spec of the base, and the two as one loaded model."""

import copy
from dataclasses import replace
from pathlib import Path

from chatui.engine.loading import lora
from chatui.engine.loading.embedded import ReportPhase
from chatui.engine.loading.loaded_model import LoadedModel
from chatui.engine.loading.model_files import Files, from_home, on_disk
from chatui.engine.loading.template_files import adapter_template
from chatui.engine.text.chat_template import probe
from chatui.errors import ModelError
from chatui.i18n import N_
from chatui.model_spec import ModelSpec, adapter_base, display_name, parse_model_name


def base_spec(spec: ModelSpec, folder: Path) -> ModelSpec:
    """The spec of the model that the adapter in `folder` changes. Raises ModelError."""
    if spec.base is not None:
        return spec.base
    base = adapter_base(folder)
    if not base:
        raise ModelError(
            f"{spec.name} is a LoRA adapter that does not say which model it changes.",
            "Put the model's name into base_model_name_or_path of its adapter_config.json.",
        )
    name, revision = parse_model_name(base)
    try:
        on_disk(replace(spec, name=name))
    except ModelError:
        raise ModelError(
            f"{spec.name} is a LoRA adapter of {base}, which is not here.",
            "Serve that model too: give it to a --model of its own.",
        ) from None
    return replace(spec, name=name, revision=revision, chat_template=None)


def adapted(spec: ModelSpec, source: Files, base: LoadedModel, report: ReportPhase) -> LoadedModel:
    """The base with the adapter's changes, and with its chat template where it has one."""
    report("reading the adapter")
    adapter = lora.read_adapter(spec.name, source.folder)
    model = lora.apply_adapter(spec.name, base.model, adapter)
    tokenizer, template, info = base.tokenizer, base.template, base.info
    text = adapter_template(spec, source.folder)
    if text is not None and text != tokenizer.chat_template:
        tokenizer = copy.deepcopy(tokenizer)
        tokenizer.chat_template = text
        template = probe(tokenizer)
        info = replace(info, template=replace(template.facts(tokenizer.get_chat_template()), replaced=True))
    weight_bytes = adapter.elements * model.dtype.itemsize
    path, base_name = Path(spec.name).expanduser(), base.info.name
    info = replace(
        info,
        name=display_name(path) if path.exists() else spec.name,
        adapter=from_home(source.folder) if path.exists() else spec.name,
        parameters=info.parameters + adapter.elements,
        weight_bytes=info.weight_bytes + weight_bytes,
        read_bytes=info.read_bytes + weight_bytes,
        measured_bytes=0,
        notes=(*info.notes, N_(f"A LoRA adapter of {base_name}, whose weights it shares.")),
    )
    return replace(base, model=model, tokenizer=tokenizer, template=template, info=info, spelling={}, shares=base)
