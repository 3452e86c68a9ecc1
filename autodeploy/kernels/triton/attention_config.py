"""How attention cuts its work: what is fast as a rule, and what is worth timing."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache
from importlib import import_module
from types import ModuleType

import torch

from autodeploy.kernels.attention import Attention
from autodeploy.kernels.cuda import decode as in_cuda
from autodeploy.kernels.cuda import why_unavailable
from autodeploy.kernels.cuda.decode import Blocks
from autodeploy.kernels.triton.decode import DecodeConfig
from autodeploy.kernels.triton.launch import current_device, multiprocessors, overlaps, runs_gluon, shared_memory
from autodeploy.kernels.triton.prefill import PrefillConfig

MANY_PAIRS = 256
WIDEST = 256  # elements of a head
MOST_PAIRS = 1024
LARGE = DecodeConfig(256, 0, 256, 8, 1)
SMALL = DecodeConfig(32, 0, 256, 1, 3)
DECODES = (
    LARGE,
    DecodeConfig(128, 0, 128, 4, 1),
    DecodeConfig(64, 0, 64, 2, 3),
    DecodeConfig(64, 0, 256, 2, 3),
    SMALL,
)
PREFILLS = (PrefillConfig(), PrefillConfig(128, 64, 8, 3), PrefillConfig(64, 64, 4, 2))


@dataclass(frozen=True)
class AttentionConfig:
    """How the attention of a step is computed.

    The `way` is "decode" or, in CUDA C++, "blocks", for steps of one row a request; "prefill" or "hopper", for steps
    that have prompts. Fields that a way has no use for are 0.
    """

    way: str
    block_keys: int = 0
    block_rows: int = 0
    least_keys: int = 0
    num_warps: int = 0
    num_stages: int = 0

    @property
    def decode(self) -> DecodeConfig | None:
        """For single rows; None where it is of another way."""
        if self.way != "decode":
            return None
        return DecodeConfig(self.block_keys, 0, self.least_keys, self.num_warps, self.num_stages)

    @property
    def blocks(self) -> Blocks | None:
        """For single rows in CUDA C++; None where it is of another way."""
        return Blocks(self.num_warps, self.least_keys) if self.way == "blocks" else None

    @property
    def prefill(self) -> PrefillConfig | None:
        """For rows of prompts; None where it is of another way."""
        if self.way != "prefill":
            return None
        return PrefillConfig(self.block_rows, self.block_keys, self.num_warps, self.num_stages)


HOPPER = AttentionConfig("hopper")
FEW_PAIRS = 64
BLOCKS_OF_FEW, BLOCKS_OF_MANY = Blocks(12, 352), Blocks(5, 64)


def blocks_config(pairs: int) -> Blocks:
    """What is worth a try in CUDA C++ for a number of pairs of row and key-value head.

    No rule takes it for more than a few pairs: beside the matmuls before and after it, Triton's wide tile may be the
    faster one there, though slower alone.
    """
    return BLOCKS_OF_FEW if pairs < MANY_PAIRS else BLOCKS_OF_MANY


def decode_config(width: int, element_size: int, pairs: int, device: torch.device) -> DecodeConfig:
    """What is fast for heads of a width (the larger of keys' and values'), elements of a size in bytes, and a number of
    pairs of row and key-value head.

    Few pairs wait for each load: large tiles ask for all at once. Of many, small programs hide more of each other's
    waiting.
    """
    narrow = width * element_size <= 256
    if narrow and pairs >= MOST_PAIRS:
        return SMALL
    if narrow and pairs < MANY_PAIRS and shared_memory(device) >= 160 << 10:
        return LARGE
    return beside_prompts(width, element_size, pairs)


def beside_prompts(width: int, element_size: int, pairs: int) -> DecodeConfig:
    """What is fast where few requests may decode, or none: programs without work are quick to come and go.

    Many pairs need no more programs for short contexts.
    """
    if width * element_size > 256:
        return DecodeConfig(block_keys=32)
    return DecodeConfig(num_warps=2, least_keys=256 if pairs >= MANY_PAIRS else 64)


def prefill_config(width: int, element_size: int, query_rows: int, device: torch.device) -> PrefillConfig:
    """What is fast for such heads and a number of pairs of row and query head: large blocks, if there are enough."""
    if width * element_size > 256:
        return PrefillConfig(block_rows=64, block_keys=32, num_warps=4, num_stages=2)
    large = PrefillConfig()
    if shared_memory(device) >= 160 << 10 and query_rows >= large.block_rows * multiprocessors(device):
        return large
    return PrefillConfig(block_rows=64, num_warps=4, num_stages=2)


@cache
def hopper_kernels(device: torch.device) -> ModuleType | None:
    """The module of the kernel that is written for Hopper; None where it cannot run."""
    return import_module("autodeploy.kernels.triton.hopper_prefill") if runs_gluon(device) else None


def candidates(rows: int, attention: Attention) -> tuple[AttentionConfig, ...]:
    """The configurations worth timing, the rule's first; none for heads that are too wide.

    Heads of more than 256 bytes have the rule's alone: larger tiles of them do not fit a program.
    """
    width, size = max(attention.key_width, attention.value_width), attention.torch_dtype.itemsize
    if width > WIDEST:
        return ()
    narrow, device = width * size <= 256, current_device()
    if not attention.prompt:
        rule = decode_config(width, size, rows * attention.kv_heads, device)
        fitting = (one for one in DECODES * narrow if _tile_bytes(attention, one) <= shared_memory(device))
        programs = tuple(_of_decode(one) for one in dict.fromkeys((rule, *fitting)))
        blocks = blocks_config(rows * attention.kv_heads)
        return (_of_blocks(blocks), *programs) if _suits_blocks(attention, device) else programs
    found = (prefill_config(width, size, rows * attention.heads, device), *PREFILLS * narrow)
    fast = (HOPPER,) if _suits_hopper(attention, device) else ()
    return (*(_of_prefill(one) for one in dict.fromkeys(found)), *fast)


def _tile_bytes(attention: Attention, config: DecodeConfig) -> int:
    """What a program keeps in shared memory: its stages of keys and values, and a few kilobytes more."""
    width = attention.key_width + attention.value_width
    return config.num_stages * config.block_keys * width * attention.torch_dtype.itemsize + (4 << 10)


def _of_decode(config: DecodeConfig) -> AttentionConfig:
    cut = {"block_keys": config.block_keys, "least_keys": config.least_keys}
    return AttentionConfig("decode", **cut, num_warps=config.num_warps, num_stages=config.num_stages)


def _of_blocks(config: Blocks) -> AttentionConfig:
    return AttentionConfig("blocks", least_keys=config.least_keys, num_warps=config.num_warps)


def _of_prefill(config: PrefillConfig) -> AttentionConfig:
    cut = {"block_keys": config.block_keys, "block_rows": config.block_rows}
    return AttentionConfig("prefill", **cut, num_warps=config.num_warps, num_stages=config.num_stages)


def _suits_blocks(attention: Attention, device: torch.device) -> bool:
    """Whether the kernel in CUDA C++ serves it in pages of multiples of 16."""
    square = attention.key_width == attention.value_width and attention.key_width in in_cuda.WIDTHS
    whole = attention.rotary in (0, attention.key_width) and not attention.interleaved
    few = attention.heads // attention.kv_heads <= in_cuda.MOST_HEADS and attention.torch_dtype.itemsize == 2
    return overlaps(device) and why_unavailable() is None and square and whole and few and attention.leaves_scores


def _suits_hopper(attention: Attention, device: torch.device) -> bool:
    """Whether the kernel for Hopper serves it, whatever the size of pages."""
    square = attention.key_width == attention.value_width and attention.key_width in (64, 128)
    kernels = hopper_kernels(device)
    return kernels is not None and square and attention.leaves_scores and attention.torch_dtype.itemsize == 2
