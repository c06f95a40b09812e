"""ModelSpec -> LoadedModel: finds the files, checks them and loads what they hold."""

import copy
import threading
import weakref
from contextlib import nullcontext
from dataclasses import replace
from pathlib import Path
from typing import Any

from transformers import (
    AutoConfig,
    AutoModelForCausalLM,
    AutoTokenizer,
    PreTrainedConfig,
    PreTrainedModel,
    PreTrainedTokenizerBase,
)
from transformers.models.auto.modeling_auto import MODEL_FOR_CAUSAL_LM_MAPPING, MODEL_FOR_MASKED_LM_MAPPING

from chatui.chat import ModelInfo
from chatui.engine.kernels import dense, ops
from chatui.engine.kernels.quantized import pack
from chatui.engine.loading import adapters, anatomy, conversions, gguf_headers, gguf_metadata, model_info, wrong_files
from chatui.engine.loading.cpu_quota import follow_cpu_quota
from chatui.engine.loading.embedded import ReportPhase
from chatui.engine.loading.failures import incomplete, no_tokenizer, not_a_chat_model, to_model_error
from chatui.engine.loading.load_arguments import (
    chosen_context,
    context_length,
    device_map_of,
    dtype_of,
    notes_of_auto,
    quantization_config,
    quiet_quantization,
    resolve_auto,
    resolve_dtype,
)
from chatui.engine.loading.loaded_model import LoadedModel
from chatui.engine.loading.model_files import Files, from_home, locate
from chatui.engine.loading.template_files import replaced_template
from chatui.engine.loading.weights import check_weights, total_memory
from chatui.engine.text import response_template
from chatui.engine.text.chat_template import Template, probe
from chatui.engine.text.prompt import set_control_tokens
from chatui.errors import ChatError
from chatui.model_spec import (
    ModelSpec,
    display_name,
    is_adapter,
)
from chatui.reply_text import thinking_tags


def load(spec: ModelSpec, cache_dir: Path, report: ReportPhase) -> LoadedModel:
    """Find, check and load the model; `report` is told each phase in a few words.

    Raises ModelError, whatever goes wrong.
    """
    follow_cpu_quota()
    try:
        if spec.compile == "auto" and device_map_of(spec.device_map) == "cpu":
            ops.build_ahead(cache_dir)
        loaded = _load_once(spec, cache_dir, report)
    except ChatError:
        raise
    except Exception as error:
        raise to_model_error(spec, error) from error
    if spec.compile == "auto" and loaded.model.device.type == "cpu":
        dense.use_kernel(loaded.model)
    return loaded


_loaded: "weakref.WeakValueDictionary[str, LoadedModel]" = weakref.WeakValueDictionary()
"""What is in memory now, by its spec: a LoRA adapter and its base share their weights."""
_loading = threading.RLock()


def is_loaded(spec: ModelSpec) -> bool:
    """Whether the weights of this model are in memory."""
    return repr(spec) in _loaded


def _load_once(spec: ModelSpec, cache_dir: Path, report: ReportPhase) -> LoadedModel:
    """The model if it is in memory, else load it. An adapter is put on its base, which is loaded if it is not."""
    with _loading:
        if (found := _loaded.get(repr(spec))) is not None:
            return found
        source = locate(spec, cache_dir, report)
        if source.gguf_file is None and is_adapter(source.folder):
            base = _load_once(adapters.base_spec(spec, source.folder), cache_dir, report)
            loaded = adapters.adapted(spec, source, base, report)
        else:
            with gguf_headers.read_once() if source.gguf_file else nullcontext():
                loaded = _load(spec, source, cache_dir, report)
        _loaded[repr(spec)] = loaded
        return loaded


def _load(spec: ModelSpec, source: Files, cache_dir: Path, report: ReportPhase) -> LoadedModel:
    if source.gguf_file:
        wrong_files.check_file(source.path)
    else:
        wrong_files.check_folder(spec.name, source.folder)
    report("reading the tokenizer")
    trusted, device_map = {"trust_remote_code": spec.trust_remote_code}, device_map_of(spec.device_map)
    asked, spec = spec, resolve_auto(spec, source, device_map)
    if conversions.serves(spec, source):
        source = conversions.find_conversion(source, cache_dir) or source
    config = None if source.gguf_file else config_of(spec, source, trusted)
    spec = resolve_dtype(spec, config, device_map)
    check_weights(spec, source.folder, source.gguf_file, source.levels, getattr(config, "dtype", None), device_map)
    tokenizer = _tokenizer(spec, source, trusted)
    metadata = gguf_metadata.read(source.path) if source.gguf_file else {}
    unknown = gguf_metadata.split_text(tokenizer, metadata)
    own_tokenizer = copy.deepcopy(tokenizer) if conversions.serves(spec, source) and not unknown else None
    replaced = replaced_template(spec, source, tokenizer.chat_template)
    if replaced is not None:
        tokenizer.chat_template = replaced
    template = probe(tokenizer)
    set_control_tokens(tokenizer)
    _prepare_for_weights(spec, device_map, cache_dir, report)
    before = model_info.memory_in_use(device_map)
    model = _model(spec, source, device_map, trusted, gguf_metadata.sampling(metadata))
    parameters, made = model.num_parameters(), anatomy.from_config(model.config, model.dtype, spec.trust_remote_code)
    if own_tokenizer is not None:
        source = conversions.keep_conversion(source, cache_dir, model, own_tokenizer, report)
    precision, notes = pack(model, spec.quantization, source.gguf, source.levels, report)
    model_info.copy_mapped_tensors(model)
    model_info.touch_pages(model)
    described = model_info.describe(model, tokenizer, template, precision, parameters, made)
    info = replace(
        _info(spec, source, described, replaced is not None),
        context_length=chosen_context(spec, context_length(model.config.get_text_config(decoder=True), tokenizer)),
        notes=(*template.notes, *unknown, *notes_of_auto(asked, spec), *notes),
        measured_bytes=model_info.memory_in_use(device_map) - before,
        memory_bytes=total_memory(model.device),
    )
    return LoadedModel(model, tokenizer, template, info, frozenset(info.stop_ids), _hidden_ids(tokenizer, template))


def _prepare_for_weights(spec: ModelSpec, device_map: str, cache_dir: Path, report: ReportPhase) -> None:
    """Build the kernels, for which weights are packed."""
    if spec.compile == "auto" and device_map == "cpu":
        report("building the kernels")
        ops.load(cache_dir)
    report("loading the weights")


def _model(
    spec: ModelSpec, source: Files, device_map: str, trusted: dict[str, bool], sampling: dict[str, Any]
) -> PreTrainedModel:
    """The model with its weights, and these sampling defaults. Raises ModelError where some are missing."""
    quiet_quantization()
    loaded: Any = AutoModelForCausalLM.from_pretrained(
        source.folder,
        dtype=dtype_of(spec, source),
        device_map=device_map,
        quantization_config=quantization_config(spec, source),
        use_safetensors=True,
        output_loading_info=True,
        **source.arguments,
        **trusted,
    )
    model: PreTrainedModel = loaded[0]
    missing = loaded[1]["missing_keys"]
    if missing:
        wrong_files.check_output_layer(spec.name, missing)
        raise incomplete(spec, f"{len(missing)} tensors are missing")
    model.eval()
    if model.generation_config is not None:
        model.generation_config.update(**sampling)
    return model


def _info(spec: ModelSpec, source: Files, described: ModelInfo, replaced: bool) -> ModelInfo:
    """What is described, with what the spec and the files tell; `replaced` where the chat template is not its own."""
    path = Path(spec.name).expanduser()
    template = described.template and replace(described.template, replaced=replaced or described.template.replaced)
    return replace(
        described,
        name=display_name(path) if path.exists() else spec.name,
        template=template,
        defaults=described.defaults.model_copy(update=spec.generation.model_dump(exclude_unset=True)),
        revision=source.revision,
        source=from_home(path.absolute() if path.exists() else source.path)
        if path.exists() or source.levels
        else spec.name,
    )


def _hidden_ids(tokenizer: PreTrainedTokenizerBase, template: Template) -> frozenset[int]:
    """The control tokens that are no part of a reply's text."""
    special = {token_id for token_id, token in tokenizer.added_tokens_decoder.items() if token.special}
    kept = {tokenizer.convert_tokens_to_ids(tag) for tag in _marks(tokenizer, template)}
    return frozenset(special.union(tokenizer.all_special_ids) - kept)


def _marks(tokenizer: PreTrainedTokenizerBase, template: Template) -> set[str]:
    """The control tokens that part what a model thinks from what it says."""
    tokens = tokenizer.get_added_vocab()
    if template.response is not None:
        return response_template.tokens_of(template.response, tokens)
    own = template.tags not in (None, thinking_tags.HARMONY)  # those of harmony are read by their ids
    tags = [*thinking_tags.TAGS, *([template.tags] if template.tags and own else [])]
    parts = [part.strip() for one in tags for part in (one.open, one.close)]
    return {token for token in tokens if len(token) > 1 and any(part.startswith(token) for part in parts)}


def config_of(spec: ModelSpec, source: Files, trusted: dict[str, bool]) -> PreTrainedConfig:
    """The model's config. Raises ModelError where the model does not write text after text."""
    config: PreTrainedConfig = AutoConfig.from_pretrained(source.folder, **trusted)
    own_code = getattr(config, "auto_map", None) and spec.trust_remote_code
    known = type(config) in MODEL_FOR_CAUSAL_LM_MAPPING
    encodes = type(config) in MODEL_FOR_MASKED_LM_MAPPING and not getattr(config, "is_decoder", False)
    if config.is_encoder_decoder or (not own_code and (encodes or not known)):
        raise not_a_chat_model(spec, config.model_type)
    return config


def _tokenizer(spec: ModelSpec, source: Files, trusted: dict[str, bool]) -> PreTrainedTokenizerBase:
    """The tokenizer. Raises ModelError where its files are missing or damaged, whatever the libraries call it."""
    try:
        tokenizer: PreTrainedTokenizerBase = AutoTokenizer.from_pretrained(source.folder, **source.arguments, **trusted)
    except Exception as error:
        if source.gguf_file or isinstance(error, ImportError | MemoryError) or "trust_remote_code" in str(error):
            raise
        raise no_tokenizer(spec, source.folder) from error
    return tokenizer
