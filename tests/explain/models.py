"""More than forty models as their configs have them, from 0.1 to 671 billion parameters."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from transformers import AutoConfig, PretrainedConfig

LLAMA_3 = {"num_key_value_heads": 8, "vocab_size": 128256, "max_position_embeddings": 131072}
SMALL_LLAMA = {**LLAMA_3, "tie_word_embeddings": True}


@dataclass(frozen=True)
class Known:
    """A model: transformers' type, its parameters in billions, and what of its config is not the default."""

    model_type: str
    billions: float
    options: Mapping[str, Any] = field(default_factory=dict)

    def config(self) -> PretrainedConfig:
        config: PretrainedConfig = AutoConfig.for_model(self.model_type, **self.options)
        return config

    def save(self, folder: Path) -> str:
        """Write a folder that has a config and nothing else."""
        self.config().save_pretrained(folder)
        return str(folder)


def sized(hidden: int, intermediate: int, layers: int, heads: int, **others: Any) -> dict[str, Any]:
    """The sizes that most configs call so."""
    return {
        "hidden_size": hidden,
        "intermediate_size": intermediate,
        "num_hidden_layers": layers,
        "num_attention_heads": heads,
        **others,
    }


MODELS: Mapping[str, Known] = {
    "llama-3.1-405b": Known("llama", 405.9, sized(16384, 53248, 126, 128, **LLAMA_3)),
    "llama-3.1-70b": Known("llama", 70.6, sized(8192, 28672, 80, 64, **LLAMA_3)),
    "llama-3.1-8b": Known("llama", 8.03, sized(4096, 14336, 32, 32, **LLAMA_3)),
    "llama-3.2-1b": Known("llama", 1.24, sized(2048, 8192, 16, 32, head_dim=64, **SMALL_LLAMA)),
    "llama-2-13b": Known("llama", 13.0, sized(5120, 13824, 40, 40, vocab_size=32000, max_position_embeddings=4096)),
    "smollm2-135m": Known(
        "llama", 0.135, sized(576, 1536, 30, 9, num_key_value_heads=3, vocab_size=49152, tie_word_embeddings=True)
    ),
    "mistral-7b": Known("mistral", 7.25, sized(4096, 14336, 32, 32, num_key_value_heads=8, vocab_size=32768)),
    "mistral-large": Known(
        "mistral", 122.6, sized(12288, 28672, 88, 96, num_key_value_heads=8, head_dim=128, vocab_size=32768)
    ),
    "mixtral-8x7b": Known("mixtral", 46.7, sized(4096, 14336, 32, 32, num_key_value_heads=8)),
    "mixtral-8x22b": Known("mixtral", 140.6, sized(6144, 16384, 56, 48, num_key_value_heads=8, vocab_size=32768)),
    "qwen2.5-0.5b": Known(
        "qwen2", 0.494, sized(896, 4864, 24, 14, num_key_value_heads=2, vocab_size=151936, tie_word_embeddings=True)
    ),
    "qwen2.5-7b": Known("qwen2", 7.62, sized(3584, 18944, 28, 28, num_key_value_heads=4, vocab_size=152064)),
    "qwen2.5-72b": Known("qwen2", 72.7, sized(8192, 29568, 80, 64, num_key_value_heads=8, vocab_size=152064)),
    "qwen3-8b": Known("qwen3", 8.19, sized(4096, 12288, 36, 32, num_key_value_heads=8, head_dim=128)),
    "qwen3-32b": Known("qwen3", 32.8, sized(5120, 25600, 64, 64, num_key_value_heads=8, head_dim=128)),
    "qwen3-30b-a3b": Known(
        "qwen3_moe",
        30.5,
        sized(2048, 6144, 48, 32, num_key_value_heads=4, head_dim=128, num_experts=128, moe_intermediate_size=768),
    ),
    "qwen3-235b-a22b": Known(
        "qwen3_moe",
        235.1,
        sized(4096, 12288, 94, 64, num_key_value_heads=4, head_dim=128, num_experts=128, moe_intermediate_size=1536),
    ),
    "qwen2-57b-a14b": Known(
        "qwen2_moe",
        57.4,
        sized(
            3584,
            18944,
            28,
            28,
            num_key_value_heads=4,
            num_experts=64,
            num_experts_per_tok=8,
            moe_intermediate_size=2560,
            shared_expert_intermediate_size=20480,
        ),
    ),
    "gemma-2b": Known("gemma", 2.51, sized(2048, 16384, 18, 8, num_key_value_heads=1, head_dim=256)),
    "gemma-2-9b": Known("gemma2", 9.24, sized(3584, 14336, 42, 16, num_key_value_heads=8, head_dim=256)),
    "gemma-2-27b": Known("gemma2", 27.2, sized(4608, 36864, 46, 32, num_key_value_heads=16, head_dim=128)),
    "gemma-3-1b": Known(
        "gemma3_text", 1.0, sized(1152, 6912, 26, 4, num_key_value_heads=1, head_dim=256, sliding_window=512)
    ),
    "gemma-3-27b": Known(
        "gemma3_text", 27.0, sized(5376, 21504, 62, 32, num_key_value_heads=16, head_dim=128, sliding_window=1024)
    ),
    "phi-2": Known("phi", 2.78, sized(2560, 10240, 32, 32)),
    "phi-3-mini": Known("phi3", 3.82, sized(3072, 8192, 32, 32, sliding_window=2047)),
    "phi-4": Known("phi3", 14.7, sized(5120, 17920, 40, 40, num_key_value_heads=10, vocab_size=100352)),
    "gpt2": Known("gpt2", 0.124),
    "gpt2-xl": Known("gpt2", 1.56, {"n_embd": 1600, "n_layer": 48, "n_head": 25}),
    "gpt-neox-20b": Known("gpt_neox", 20.6),
    "gpt-oss-20b": Known("gpt_oss", 20.9, {"num_hidden_layers": 24, "num_local_experts": 32}),
    "gpt-oss-120b": Known("gpt_oss", 116.8, {"num_hidden_layers": 36, "num_local_experts": 128}),
    "gpt-j-6b": Known("gptj", 6.05),
    "falcon-7b": Known("falcon", 6.92),
    "falcon-40b": Known(
        "falcon",
        41.8,
        {
            "hidden_size": 8192,
            "num_hidden_layers": 60,
            "num_attention_heads": 128,
            "num_kv_heads": 8,
            "new_decoder_architecture": True,
        },
    ),
    "bloom-176b": Known("bloom", 176.2, {"hidden_size": 14336, "n_layer": 70, "n_head": 112, "vocab_size": 250880}),
    "mpt-7b": Known("mpt", 6.65, {"d_model": 4096, "n_heads": 32, "n_layers": 32, "vocab_size": 50432}),
    "opt-30b": Known(
        "opt", 30.0, {"hidden_size": 7168, "ffn_dim": 28672, "num_hidden_layers": 48, "num_attention_heads": 56,
                      "word_embed_proj_dim": 7168}
    ),
    "stablelm-3b": Known("stablelm", 2.8),
    "starcoder2-15b": Known("starcoder2", 16.0, sized(6144, 24576, 40, 48, num_key_value_heads=4)),
    "command-r-35b": Known("cohere", 35.0),
    "olmo-2-7b": Known("olmo2", 7.3, sized(4096, 11008, 32, 32, vocab_size=100352)),
    "granite-8b": Known("granite", 8.1, sized(4096, 14336, 36, 32, num_key_value_heads=8, vocab_size=49152)),
    "smollm3-3b": Known("smollm3", 3.08),
    "glm-4-9b": Known("glm4", 9.4),
    "deepseek-v3": Known("deepseek_v3", 671.0),
}  # fmt: skip
