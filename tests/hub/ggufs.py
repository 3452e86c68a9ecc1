"""A tiny GGUF file with a tensor of every kind that is kept, written by the gguf library."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from gguf import GGMLQuantizationType, GGUFWriter
from gguf.quants import quantize

HIDDEN, HEADS, KV_HEADS, VOCAB_SIZE = 256, 4, 2, 96
Kind = GGMLQuantizationType
KINDS = {
    "token_embd": (Kind.Q8_0, VOCAB_SIZE, HIDDEN),
    "output": (Kind.Q6_K, VOCAB_SIZE, HIDDEN),
    "blk.0.attn_q": (Kind.Q4_1, HIDDEN, HIDDEN),
    "blk.0.attn_k": (Kind.Q4_1, HIDDEN // 2, HIDDEN),
    "blk.0.attn_v": (Kind.Q6_K, HIDDEN // 2, HIDDEN),
    "blk.0.attn_output": (Kind.Q4_0, HIDDEN, HIDDEN),
    "blk.0.ffn_gate": (Kind.Q4_K, 2 * HIDDEN, HIDDEN),
    "blk.0.ffn_up": (Kind.Q4_K, 2 * HIDDEN, HIDDEN),
    "blk.0.ffn_down": (Kind.Q5_1, HIDDEN, 2 * HIDDEN),
}
NORMS = ("output_norm", "blk.0.attn_norm", "blk.0.ffn_norm")
SCALES = {Kind.Q4_K: (0, 2), Kind.Q6_K: (208,)}
BYTES = {Kind.Q4_K: 144, Kind.Q6_K: 210}


def write_gguf(file: Path) -> Path:
    """A llama of one layer and random weights."""
    writer = GGUFWriter(file, "llama")
    writer.add_block_count(1)
    writer.add_context_length(64)
    writer.add_embedding_length(HIDDEN)
    writer.add_feed_forward_length(2 * HIDDEN)
    writer.add_head_count(HEADS)
    writer.add_head_count_kv(KV_HEADS)
    writer.add_layer_norm_rms_eps(1e-5)
    writer.add_rope_freq_base(1e4)
    writer.add_vocab_size(VOCAB_SIZE)
    writer.add_tokenizer_model("gpt2")
    writer.add_token_list([chr(33 + index) for index in range(VOCAB_SIZE - 2)] + ["Ġ", "ab"])
    writer.add_token_types([1] * VOCAB_SIZE)
    writer.add_token_merges(["a b"])
    writer.add_bos_token_id(0)
    writer.add_eos_token_id(1)
    random = np.random.default_rng(0)
    for name, (kind, rows, columns) in KINDS.items():
        writer.add_tensor(f"{name}.weight", _blocks(random, kind, rows, columns), raw_dtype=kind)
    for name in NORMS:
        writer.add_tensor(f"{name}.weight", random.normal(1, 0.1, HIDDEN).astype(np.float32))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return file


def _blocks(random: np.random.Generator, kind: GGMLQuantizationType, rows: int, columns: int) -> np.ndarray:
    """Weights of about N(0, 0.05); the library quantizes to all kinds but those of long blocks, which are drawn."""
    if kind not in BYTES:
        return quantize(random.normal(0, 0.05, (rows, columns)).astype(np.float32), kind)
    data = random.integers(0, 256, (rows, columns // 256, BYTES[kind]), dtype=np.uint8)
    for at, size in zip(SCALES[kind], (2e-4, 1e-3), strict=False):
        scale = np.full((rows, columns // 256, 1), size if kind is Kind.Q4_K else 2e-5, dtype=np.float16)
        data[..., at : at + 2] = scale.view(np.uint8)
    return data.reshape(rows, -1)
