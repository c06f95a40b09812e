"""Folders of models that have a config and headers, but only holes in place of the weights."""

import json
from pathlib import Path

COMMIT = "1" * 40


def write_model(folder: Path, width: int, layers: int = 1, card: str = "") -> None:
    """A Llama of this width. The weights are holes in the file, so that large ones take no space either."""
    folder.mkdir(parents=True)
    config = {"architectures": ["LlamaForCausalLM"], "model_type": "llama", "hidden_size": width}
    config |= {"num_hidden_layers": layers, "num_attention_heads": 8, "num_key_value_heads": 8, "vocab_size": 1000}
    config |= {"intermediate_size": 4 * width, "max_position_embeddings": 2048}
    (folder / "config.json").write_text(json.dumps(config))
    (folder / "chat_template.jinja").write_text("{{ messages }}")
    if card:
        (folder / "README.md").write_text(card)
    shapes = {"model.embed_tokens.weight": [1000, width]}
    for layer in range(layers):
        shapes |= {f"model.layers.{layer}.self_attn.{name}_proj.weight": [width, width] for name in "qkvo"}
        shapes |= {f"model.layers.{layer}.mlp.{name}_proj.weight": [4 * width, width] for name in ("gate", "up")}
    header, end = {}, 0
    for name, shape in shapes.items():
        size = 2 * shape[0] * shape[1]
        header[name] = {"dtype": "BF16", "shape": shape, "data_offsets": [end, end + size]}
        end += size
    encoded = json.dumps(header).encode()
    with (folder / "model.safetensors").open("wb") as file:
        file.write(len(encoded).to_bytes(8, "little") + encoded)
        file.truncate(8 + len(encoded) + end)


def cached_model(cache: Path, name: str, width: int) -> None:
    """The same in the HF cache: https://huggingface.co/docs/huggingface_hub/guides/manage-cache."""
    folder = cache / f"models--{name.replace('/', '--')}"
    snapshot = folder / "snapshots" / COMMIT
    write_model(snapshot, width)
    for parent in (folder / "blobs", folder / "refs"):
        parent.mkdir()
    (folder / "refs" / "main").write_text(COMMIT)
    for number, file in enumerate(sorted(snapshot.iterdir())):
        blob = folder / "blobs" / f"{number:040x}"
        file.rename(blob)
        file.symlink_to(blob)
