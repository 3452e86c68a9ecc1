"""The shapes of Llama-3.1-8B at which the CUDA kernels are measured, and the ways to do each."""

from __future__ import annotations

from collections.abc import Iterator
from functools import partial

import torch
from cuda_timing import Call, Case, Variant, buffers
from torch import Tensor
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.nn.functional import scaled_dot_product_attention

from autodeploy.kernels.triton import decode as decode_module
from autodeploy.kernels.triton import prefill as prefill_module
from autodeploy.kernels.triton.attention_config import decode_config, hopper_kernels, prefill_config
from autodeploy.kernels.triton.cache import write_cache
from autodeploy.kernels.triton.decode import DecodeConfig
from autodeploy.kernels.triton.paged import Fresh, Paged, Scoring
from autodeploy.kernels.triton.prefill import PrefillConfig

BF16 = torch.bfloat16
HEADS, KV_HEADS, WIDTH = 32, 8, 128


def draw(*size: int, deviation: float = 1.0) -> Tensor:
    return torch.randn(size, device="cuda", dtype=BF16) * deviation


def _brief(config: object) -> str:
    return str(config).replace("num_", "").replace("block_", "").replace("_k=", "=")


class Cache:
    """The cache of requests with contexts of given lengths on shuffled pages, and a step's tables for it."""

    def __init__(self, contexts: list[int], new: int, page_size: int) -> None:
        self.new = new
        self.page_size = page_size
        needed = [-(-length // page_size) for length in contexts]
        order = torch.split(torch.randperm(sum(needed)).int(), needed)
        table = torch.zeros((len(contexts), max(needed)), dtype=torch.int32)
        for row, pages in zip(table, order, strict=True):
            row[: len(pages)] = pages
        positions = torch.cat([torch.arange(length - new, length) for length in contexts])
        owners = torch.arange(len(contexts)).repeat_interleave(new)
        slots = table[owners, positions // page_size].long() * page_size + positions % page_size
        self.key_pages, self.value_pages = (draw(sum(needed), KV_HEADS, page_size, WIDTH) for _ in range(2))
        self.query_start = (torch.arange(len(contexts) + 1, dtype=torch.int32) * new).cuda()
        self.context_len = torch.tensor(contexts, dtype=torch.int32).cuda()
        self.table, self.slots = table.cuda(), slots.cuda()
        self.q = draw(len(slots), HEADS, WIDTH)
        self.k, self.v = (draw(len(slots), KV_HEADS, WIDTH) for _ in range(2))
        self.out = torch.empty_like(self.q)

    @property
    def paged(self) -> Paged:
        return Paged(self.key_pages, self.value_pages, self.query_start, self.context_len, self.table)

    @property
    def fresh(self) -> Fresh:
        return Fresh(self.k, self.v, self.slots)

    def write(self) -> None:
        write_cache(self.fresh, self.paged, self.out)

    def decode(self, config: DecodeConfig) -> Tensor:
        decode_module.decode(self.q, self.paged, Scoring(WIDTH**-0.5), self.out, config, self.fresh)
        return self.out

    def prefill(self, config: PrefillConfig) -> Tensor:
        self.write()
        prefill_module.prefill(self.q, self.paged, Scoring(WIDTH**-0.5), self.out, config)
        return self.out

    def hopper_prefill(self) -> Tensor:
        self.write()
        kernels = hopper_kernels(self.q.device)
        assert kernels is not None
        kernels.hopper_prefill(self.q, self.paged, Scoring(WIDTH**-0.5), self.out)
        return self.out

    def rows_of(self, request: int) -> tuple[Tensor, Tensor]:
        """A request's keys and values `[Hk, context, D]`."""
        length = int(self.context_len[request])
        pages = self.table[request, : -(-length // self.page_size)].long()
        keys, values = (
            pages_of[pages].transpose(0, 1).reshape(KV_HEADS, -1, WIDTH)[:, :length]
            for pages_of in (self.key_pages, self.value_pages)
        )
        return keys, values

    def expected(self) -> Tensor:
        """What attention gives, in float32."""
        self.write()
        outs = []
        for request, q in enumerate(torch.split(self.q, self.new)):
            keys, values = (x.float().repeat_interleave(HEADS // KV_HEADS, dim=0) for x in self.rows_of(request))
            scores = q.float().transpose(0, 1) @ keys.transpose(1, 2) * WIDTH**-0.5
            seen = torch.ones(scores.shape[1:], dtype=torch.bool, device="cuda").tril(scores.shape[2] - self.new)
            outs.append((scores.masked_fill_(~seen, float("-inf")).softmax(-1) @ values).transpose(0, 1))
        return torch.cat(outs)


DECODES = {
    "64 @ 8192": [8192] * 64,
    "64 @ 100-8192": torch.linspace(100, 8192, 64).int().tolist(),
    "256 @ 192": [192] * 256,
    "8 @ 1024": [1024] * 8,
    "8 @ 192": [192] * 8,
    "1 @ 192": [192],
    "1 @ 2048": [2048],
    "1 @ 32768": [32768],
}


def decode_cases(page_sizes: tuple[int, ...], sweep: bool) -> Iterator[Case]:
    for page_size in page_sizes:
        for name, contexts in DECODES.items():
            if page_size != page_sizes[0] and name not in ("64 @ 8192", "1 @ 2048"):
                continue
            size = sum(contexts) * KV_HEADS * WIDTH * 4
            caches = [Cache(contexts, 1, page_size) for _ in range(buffers(size))]
            configs = (
                decode_sweep(len(contexts))
                if sweep
                else [decode_config(WIDTH, 2, len(contexts) * KV_HEADS, caches[0].q.device)]
            )
            variants = [
                Variant(_brief(config), [partial(cache.decode, config) for cache in caches]) for config in configs
            ]
            yield Case("decode", f"{name} pages of {page_size}", variants, size, 0, caches[0].expected)


def decode_sweep(batch: int) -> list[DecodeConfig]:
    return [
        DecodeConfig(keys, 0, least, warps, stages)
        for keys, warps, stages in (
            (256, 8, 1), (128, 8, 1), (128, 4, 1), (128, 4, 2), (64, 4, 2), (64, 4, 3), (64, 2, 2), (64, 2, 3),
            (32, 2, 4), (32, 1, 3), (32, 1, 4), (16, 1, 4),
        )
        for least in ((256,) if batch >= 64 else (max(64, keys),))
    ]  # fmt: skip


PREFILLS = {"1x4096": (1, 4096, 4096), "1x128": (1, 128, 128), "4x1024": (4, 1024, 1024), "1x2048": (1, 2048, 8192)}


def prefill_cases(page_sizes: tuple[int, ...], sweep: bool) -> Iterator[Case]:
    for page_size in page_sizes:
        for name, (requests, new, context) in PREFILLS.items():
            cache = Cache([context] * requests, new, page_size)
            configs = prefill_sweep() if sweep else [prefill_config(WIDTH, 2, cache.q[..., 0].numel(), cache.q.device)]
            variants = [Variant(_brief(config), [partial(cache.prefill, config)]) for config in configs]
            if hopper_kernels(cache.q.device) is not None and page_size % 16 == 0:
                variants.append(Variant("hopper_prefill", [cache.hopper_prefill]))
            if new == context and page_size == page_sizes[0]:
                variants += [
                    Variant(backend.name, [partial(_sdpa, cache, requests, backend)])
                    for backend in (SDPBackend.FLASH_ATTENTION, SDPBackend.CUDNN_ATTENTION)
                ]
            flops = requests * new * (2 * context - new + 1) // 2 * HEADS * WIDTH * 4
            yield Case("prefill", f"{name} @ {context} pages of {page_size}", variants, 0, flops, cache.expected)


def prefill_sweep() -> list[PrefillConfig]:
    return [
        PrefillConfig(*one)
        for one in (
            (128, 64, 8, 2), (128, 64, 8, 3), (128, 64, 8, 4), (128, 128, 8, 2), (128, 128, 8, 3), (128, 32, 8, 4),
            (64, 64, 4, 2), (64, 64, 4, 3), (64, 128, 4, 2), (64, 32, 4, 3), (256, 64, 8, 3), (128, 64, 4, 2),
        )
    ]  # fmt: skip


def _sdpa(cache: Cache, requests: int, backend: SDPBackend) -> Tensor:
    q, k, v = (x.reshape(requests, -1, *x.shape[1:]).transpose(1, 2) for x in (cache.q, cache.k, cache.v))
    with sdpa_kernel(backend):
        out = scaled_dot_product_attention(q, k, v, is_causal=True, enable_gqa=True)
    return out.transpose(1, 2).flatten(0, 1)


def call_once(case: Case, chosen: list[str]) -> None:
    """Run some variants on their first buffers, which compiles their kernels."""
    for variant in case.variants:
        if variant.name in chosen:
            call: Call = variant.calls[0]
            call()
