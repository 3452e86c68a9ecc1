"""Steps that nobody asked for, which show what kernels an engine will launch."""

from __future__ import annotations

from collections.abc import Iterable, Iterator

import torch

from autodeploy.runtime.draft import Draft
from autodeploy.runtime.graphs import Bucket
from autodeploy.runtime.model import Model
from autodeploy.runtime.packing import PackedStep
from autodeploy.runtime.request import Request
from autodeploy.runtime.runner import choose_sampler
from autodeploy.runtime.sampling_params import SamplingParams
from autodeploy.runtime.settings import RuntimeSettings
from autodeploy.runtime.tables import Tables


@torch.inference_mode()
def rehearse(model: Model, settings: RuntimeSettings, buckets: Iterable[Bucket]) -> Iterator[Bucket]:
    """Run a step of each size, as it is asked for, and sample from it, greedily and not.

    What it computes means nothing. The largest come first, whose kernels take longest to compile. The cache has one
    page, which belongs to nobody.
    """
    page_size = settings.page_size
    max_pages = -(-(settings.max_model_len or model.max_model_len) // page_size)
    cache = model.new_cache(1, page_size)
    tables = Tables(1, max_pages, page_size, 0, model.device)
    sampler = choose_sampler(model, 1)
    for bucket in sorted(buckets, reverse=True):
        step = PackedStep.over(Draft.of_nobody().words(bucket.size, tables).to(model.device), bucket.size)
        tables.inputs_of(step)  # where kernels are noted and not launched, this leaves numbers that are no tokens
        logits = model.forward(tables.plain_inputs_of(step), cache)
        for temperature in (0.0, 1.0):
            params = SamplingParams(temperature=temperature)
            sampler.sample(logits[:1], [Request("rehearsal", [0], params, max_len=2, seed=0)])
        yield bucket


def classes(buckets: Iterable[Bucket]) -> Iterator[Bucket]:
    """The smallest and largest of the buckets whose tokens have as many bits: kernels are chosen for powers of two."""
    found: dict[tuple[bool, int], list[Bucket]] = {}
    for bucket in sorted(buckets):
        kind = (bucket.num_tokens == bucket.num_requests, (bucket.num_tokens - 1).bit_length())
        found.setdefault(kind, []).append(bucket)
    for some in found.values():
        yield from dict.fromkeys((some[0], some[-1]))
