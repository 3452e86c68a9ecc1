"""What of a model fits on one device, worked out before anything is built."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

from autodeploy.cost.costs import Costs
from autodeploy.cost.step import StepShape
from autodeploy.hardware import Gpu
from autodeploy.runtime.memory import CPU_SHARE, CUDA_HEADROOM

CONTEXT_BYTES = 0.8e9  # a CUDA context, the libraries' workspaces, and the code of kernels
CAPTURE_BYTES = 0.3e9  # what captured graphs keep beside their largest step
SCRATCH = 2.0  # kernels have temporaries of their own, such as both halves of a gate
SAMPLER_BYTES = 12  # for each request and token of the vocabulary: logits in fp32, probabilities, their order


@dataclass(frozen=True)
class Fit:
    """How a device's memory is shared out, in bytes. `workspace` is what the largest steps need beside the rest."""

    capacity: float
    weights: float
    reserve: float
    workspace: float
    cache_per_token: float
    share: float = 1.0
    """Of what is left, the part that the cache gets."""

    @property
    def cache(self) -> float:
        """What the cache gets; negative where not even the rest fits."""
        return self.share * (self.capacity - self.weights - self.reserve - self.workspace)

    @property
    def cache_tokens(self) -> int:
        """Tokens of all requests together that the cache holds."""
        return max(0, int(self.cache // self.cache_per_token)) if self.cache_per_token else 0

    @property
    def fits(self) -> bool:
        """Whether a request can be served at all."""
        return self.cache_tokens > 0

    def max_batch(self, context: int) -> int:
        """Requests of `context` tokens each that run at once."""
        return self.cache_tokens // context

    @property
    def num_devices(self) -> int:
        """Such devices that the weights alone need."""
        return max(1, math.ceil(self.weights / (self.capacity - self.reserve)))

    def as_dict(self) -> dict[str, Any]:
        """The figures as JSON data."""
        own = {name: value for name, value in vars(self).items() if name != "share"}
        return {**own, "cache": self.cache, "cache_tokens": self.cache_tokens, "num_devices": self.num_devices}


def fit_memory(gpu: Gpu, model: Costs, weight_bytes: float, max_batch_size: int, max_num_tokens: int) -> Fit:
    """Share out the memory of `gpu` between weights, the largest steps, and the cache.

    Like the runtime, it adds up the largest prompt chunk, twice, and the largest decode step.
    """
    chunk = StepShape(1, min(max_num_tokens, model.spec.max_model_len), 1)
    steps = 2 * model.peak_bytes(chunk) + model.peak_bytes(StepShape(max_batch_size, 1, 1))
    workspace = SCRATCH * steps + max_batch_size * model.spec.vocab_size * SAMPLER_BYTES
    capacity = gpu.memory_gb * 1e9
    if gpu.is_cpu:
        return Fit(capacity, weight_bytes, 0.0, workspace, model.cache_bytes(), CPU_SHARE)
    reserve = CONTEXT_BYTES + CAPTURE_BYTES + CUDA_HEADROOM * capacity
    return Fit(capacity, weight_bytes, reserve, workspace, model.cache_bytes())
