"""How many pages the cache gets: what weights and steps leave."""

from __future__ import annotations

import os

import torch

from autodeploy.errors import RecipeError
from autodeploy.runtime.batch import BatchItem
from autodeploy.runtime.draft import Draft
from autodeploy.runtime.graphs import Bucket
from autodeploy.runtime.model import Model
from autodeploy.runtime.packing import PackedStep, StepSize
from autodeploy.runtime.request import Request
from autodeploy.runtime.sampling_params import SamplingParams
from autodeploy.runtime.settings import RuntimeSettings
from autodeploy.runtime.tables import Tables

CUDA_HEADROOM = 0.05  # of the device's memory: fragments, libraries' workspaces, the captured graphs themselves
CPU_SHARE = 0.25  # of what is free; the machine has other work
CPU_MOST = 8 * 2**30


def resolve_num_pages(model: Model, settings: RuntimeSettings, max_model_len: int) -> int:
    """The number of pages to allocate; raises `RecipeError`, with what would fit, if not even one does."""
    if settings.num_pages is not None:
        return settings.num_pages
    page_bytes = model.page_bytes(settings.page_size)
    useful = settings.max_batch_size * -(-max_model_len // settings.page_size)
    if settings.cache_bytes is not None:
        num_pages = settings.cache_bytes // page_bytes
        if num_pages == 0:
            raise RecipeError(
                f"a cache of {settings.cache_bytes} bytes holds no page; one page takes {page_bytes} bytes"
            )
        return num_pages
    spare = _spare_bytes(model, settings, max_model_len)
    if spare < page_bytes:
        raise _does_not_fit(settings, f"a page takes {page_bytes} bytes, and {max(spare, 0)} are free")
    return min(spare // page_bytes, useful)


def _spare_bytes(model: Model, settings: RuntimeSettings, max_model_len: int) -> int:
    if model.device.type == "cpu":
        free = os.sysconf("SC_AVPHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
        return min(int(free * CPU_SHARE), CPU_MOST)
    try:
        needed = workspace_bytes(model, settings, max_model_len)
    except torch.OutOfMemoryError as error:
        raise _does_not_fit(settings, "a trial step ran out of memory") from error
    torch.cuda.empty_cache()
    free, total = torch.cuda.mem_get_info(model.device)
    return free - needed - int(total * CUDA_HEADROOM)


def _does_not_fit(settings: RuntimeSettings, reason: str) -> RecipeError:
    return RecipeError(
        f"no memory is left for the cache beside the weights and steps of {settings.max_num_tokens} tokens: {reason};"
        " lower runtime.max_num_tokens or runtime.max_batch_size, or take a GPU with more memory"
    )


@torch.inference_mode()
def workspace_bytes(model: Model, settings: RuntimeSettings, max_model_len: int) -> int:
    """Memory on the GPU that steps take besides the weights and the cache, by trying the largest ones.

    The largest chunk of prompts counts twice, and the largest decode step beside it: captured graphs keep memory of
    their own.
    """
    page_size, num_tokens = settings.page_size, min(settings.max_num_tokens, max_model_len)
    request = Request("trial", [0] * num_tokens, SamplingParams(), max_len=num_tokens, seed=0)
    request.pages = list(range(-(-num_tokens // page_size)))
    scrap_page = len(request.pages)
    cache = model.new_cache(scrap_page + 1, page_size)
    tables = Tables(1, scrap_page, page_size, scrap_page, model.device)
    chunk = Draft.of([BatchItem(request, 0, 0, num_tokens, 0, True, False)], tables)
    decode = Bucket(settings.max_batch_size, settings.max_batch_size).size
    peaks = [_peak_bytes(model, tables, *one, cache) for one in ((chunk, chunk.size), (Draft.of_nobody(), decode))]
    return 2 * peaks[0] + peaks[1]


def _peak_bytes(model: Model, tables: Tables, draft: Draft, size: StepSize, cache: list[torch.Tensor]) -> int:
    torch.cuda.reset_peak_memory_stats(model.device)
    before = torch.cuda.memory_allocated(model.device)
    model.forward(tables.inputs_of(PackedStep.over(draft.words(size, tables).to(model.device), size)), cache)
    return torch.cuda.max_memory_allocated(model.device) - before
