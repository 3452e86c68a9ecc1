"""How many pages the cache gets."""

from __future__ import annotations

import os

import torch

from autodeploy.errors import RecipeError
from autodeploy.runtime.model import Model
from autodeploy.runtime.settings import RuntimeSettings

CUDA_SHARE = 0.9  # of what is free once the weights are there; the rest is for activations
CPU_SHARE = 0.25  # of what is free; the machine has other work
CPU_MOST = 8 * 2**30


def resolve_num_pages(model: Model, settings: RuntimeSettings, max_model_len: int) -> int:
    """The number of pages to allocate; raises `RecipeError` if not even one fits."""
    if settings.num_pages is not None:
        return settings.num_pages
    page_bytes = model.page_bytes(settings.page_size)
    if settings.cache_bytes is not None:
        cache_bytes, useful = settings.cache_bytes, None
    else:
        cache_bytes = _spare_bytes(model.device)
        useful = settings.max_batch_size * -(-max_model_len // settings.page_size)
    num_pages = cache_bytes // page_bytes
    if num_pages == 0:
        raise RecipeError(f"a cache of {cache_bytes} bytes holds no page; one page takes {page_bytes} bytes")
    return num_pages if useful is None else min(num_pages, useful)


def _spare_bytes(device: torch.device) -> int:
    if device.type == "cuda":
        free, _ = torch.cuda.mem_get_info(device)
        return int(free * CUDA_SHARE)
    free = os.sysconf("SC_AVPHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    return min(int(free * CPU_SHARE), CPU_MOST)
