"""Config files as they were published, and the sizes that were published with them.

The config of a model is https://huggingface.co/NAME/blob/main/config.json, its size is on https://huggingface.co/NAME.
"""

from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True)
class Published:
    """`parameters` is the exact count; `active` what the authors say, in billions, the embeddings counted or not."""

    config: dict[str, Any]
    parameters: int
    active: float | None = None
    with_embeddings: bool = True


def dense(
    model_type: str,
    hidden: int,
    intermediate: int,
    layers: int,
    heads: int,
    kv_heads: int,
    vocabulary: int,
    tied: bool,
    **more: Any,
) -> dict[str, Any]:
    """A config by the names that nearly all share."""
    return {
        "model_type": model_type,
        "hidden_size": hidden,
        "intermediate_size": intermediate,
        "num_hidden_layers": layers,
        "num_attention_heads": heads,
        "num_key_value_heads": kv_heads,
        "vocab_size": vocabulary,
        "tie_word_embeddings": tied,
        **more,
    }


PUBLISHED = {
    "meta-llama/Llama-3.1-8B": Published(
        dense("llama", 4096, 14336, 32, 32, 8, 128256, False, max_position_embeddings=131072), 8_030_261_248
    ),
    "meta-llama/Llama-3.1-70B": Published(
        dense("llama", 8192, 28672, 80, 64, 8, 128256, False, max_position_embeddings=131072), 70_553_706_496
    ),
    "meta-llama/Llama-3.2-1B": Published(
        dense("llama", 2048, 8192, 16, 32, 8, 128256, True, head_dim=64, max_position_embeddings=131072),
        1_235_814_400,
    ),
    "meta-llama/Llama-3.2-3B": Published(
        dense("llama", 3072, 8192, 28, 24, 8, 128256, True, head_dim=128, max_position_embeddings=131072),
        3_212_749_824,
    ),
    "HuggingFaceTB/SmolLM2-135M": Published(dense("llama", 576, 1536, 30, 9, 3, 49152, True), 134_515_008),
    "HuggingFaceTB/SmolLM2-360M": Published(dense("llama", 960, 2560, 32, 15, 5, 49152, True), 361_821_120),
    "HuggingFaceTB/SmolLM2-1.7B": Published(dense("llama", 2048, 8192, 24, 32, 32, 49152, True), 1_711_376_384),
    "TinyLlama/TinyLlama-1.1B-Chat-v1.0": Published(dense("llama", 2048, 5632, 22, 32, 4, 32000, False), 1_100_048_384),
    "Qwen/Qwen2.5-0.5B": Published(dense("qwen2", 896, 4864, 24, 14, 2, 151936, True), 494_032_768),
    "Qwen/Qwen2.5-7B": Published(dense("qwen2", 3584, 18944, 28, 28, 4, 152064, False), 7_615_616_512),
    "Qwen/Qwen3-0.6B": Published(dense("qwen3", 1024, 3072, 28, 16, 8, 151936, True, head_dim=128), 596_049_920),
    "Qwen/Qwen3-1.7B": Published(dense("qwen3", 2048, 6144, 28, 16, 8, 151936, True, head_dim=128), 1_720_574_976),
    "Qwen/Qwen3-4B": Published(dense("qwen3", 2560, 9728, 36, 32, 8, 151936, True, head_dim=128), 4_022_468_096),
    "Qwen/Qwen3-8B": Published(dense("qwen3", 4096, 12288, 36, 32, 8, 151936, False, head_dim=128), 8_190_735_360),
    "mistralai/Mistral-7B-v0.3": Published(dense("mistral", 4096, 14336, 32, 32, 8, 32768, False), 7_248_023_552),
    "google/gemma-2-2b": Published(dense("gemma2", 2304, 9216, 26, 8, 4, 256000, True, head_dim=256), 2_614_341_888),
    "google/gemma-2-9b": Published(dense("gemma2", 3584, 14336, 42, 16, 8, 256000, True, head_dim=256), 9_241_705_984),
    "google/gemma-3-1b-it": Published(
        dense("gemma3_text", 1152, 6912, 26, 4, 1, 262144, True, head_dim=256), 999_885_952
    ),
    "microsoft/Phi-3-mini-4k-instruct": Published(
        dense("phi3", 3072, 8192, 32, 32, 32, 32064, False, pad_token_id=32000), 3_821_079_552
    ),
    "openai-community/gpt2": Published(
        {"model_type": "gpt2", "n_embd": 768, "n_layer": 12, "n_head": 12, "n_positions": 1024, "vocab_size": 50257},
        124_439_808,
    ),
    "mistralai/Mixtral-8x7B-v0.1": Published(
        dense("mixtral", 4096, 14336, 32, 32, 8, 32000, False, num_local_experts=8, num_experts_per_tok=2),
        46_702_792_704,
        12.9,
    ),
    "Qwen/Qwen1.5-MoE-A2.7B": Published(
        dense(
            "qwen2_moe",
            *(2048, 5632, 24, 16, 16, 151936, False),
            moe_intermediate_size=1408,
            shared_expert_intermediate_size=5632,
            num_experts=60,
            num_experts_per_tok=4,
        ),
        14_315_784_192,
        2.7,
    ),
    "Qwen/Qwen3-30B-A3B": Published(
        dense(
            "qwen3_moe",
            *(2048, 6144, 48, 32, 4, 151936, False),
            head_dim=128,
            moe_intermediate_size=768,
            num_experts=128,
            num_experts_per_tok=8,
        ),
        30_532_122_624,
        3.3,
    ),
    "allenai/OLMoE-1B-7B-0924": Published(
        dense("olmoe", 2048, 1024, 16, 16, 16, 50304, False, num_experts=64, num_experts_per_tok=8),
        6_919_161_856,
        1.3,
    ),
    "deepseek-ai/DeepSeek-V2-Lite": Published(
        dense(
            "deepseek_v2",
            *(2048, 10944, 27, 16, 16, 102400, False),
            moe_intermediate_size=1408,
            n_routed_experts=64,
            n_shared_experts=2,
            num_experts_per_tok=6,
            first_k_dense_replace=1,
            kv_lora_rank=512,
            q_lora_rank=None,
            qk_nope_head_dim=128,
            qk_rope_head_dim=64,
            v_head_dim=128,
        ),
        15_706_484_224,
        2.4,
        with_embeddings=False,
    ),
    "openai/gpt-oss-20b": Published(
        dense(
            "gpt_oss",
            *(2880, 2880, 24, 64, 8, 201088, False),
            head_dim=64,
            num_local_experts=32,
            num_experts_per_tok=4,
        ),
        20_914_757_184,
        3.61,
        with_embeddings=False,
    ),
    "openai/gpt-oss-120b": Published(
        dense(
            "gpt_oss",
            *(2880, 2880, 36, 64, 8, 201088, False),
            head_dim=64,
            num_local_experts=128,
            num_experts_per_tok=4,
        ),
        116_829_156_672,
        5.13,
        with_embeddings=False,
    ),
    "Qwen/Qwen3-14B": Published(dense("qwen3", 5120, 17408, 40, 40, 8, 151936, False, head_dim=128), 14_768_307_200),
    "Qwen/Qwen3-32B": Published(dense("qwen3", 5120, 25600, 64, 64, 8, 151936, False, head_dim=128), 32_762_123_264),
    "mistralai/Mixtral-8x22B-v0.1": Published(
        dense("mixtral", 6144, 16384, 56, 48, 8, 32000, False, num_local_experts=8, num_experts_per_tok=2),
        140_620_634_112,
        39,
    ),
    "Qwen/Qwen3-235B-A22B": Published(
        dense(
            "qwen3_moe",
            *(4096, 12288, 94, 64, 4, 151936, False),
            head_dim=128,
            moe_intermediate_size=1536,
            num_experts=128,
            num_experts_per_tok=8,
        ),
        235_093_634_560,
        22,
    ),
    "ibm-granite/granite-3.0-1b-a400m-base": Published(
        dense("granitemoe", 1024, 512, 24, 16, 8, 49155, True, num_local_experts=32, num_experts_per_tok=8),
        1_334_628_352,
        0.4,
    ),
    "deepseek-ai/DeepSeek-V3": Published(
        dense(
            "deepseek_v3",
            *(7168, 18432, 61, 128, 128, 129280, False),
            moe_intermediate_size=2048,
            n_routed_experts=256,
            n_shared_experts=1,
            num_experts_per_tok=8,
            first_k_dense_replace=3,
            kv_lora_rank=512,
            q_lora_rank=1536,
            qk_nope_head_dim=128,
            qk_rope_head_dim=64,
            v_head_dim=128,
        ),
        671_026_404_352,
        37,
        with_embeddings=False,
    ),
}
