"""Compile kernels ahead for a GPU that need not be here, then as whoever launches them would; run by a test."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator
from pathlib import Path

import torch
from triton.backends.compiler import GPUTarget
from triton.runtime import driver
from triton.runtime.jit import MockTensor

from autodeploy.kernels.triton.activation import _gated_activation_kernel
from autodeploy.kernels.triton.cache_keys import settle_keys
from autodeploy.runtime.compile_server import Described
from autodeploy.runtime.compiler import Compiler, noted
from autodeploy.runtime.foreseen import FILE, Foreseen, read_foreseen
from tests.kernels.scaled_add import broken, scaled_add


class Streamless(Described):
    """Triton asks for a stream before it looks whether it is to launch at all."""

    def get_current_stream(self, device: int) -> int:
        return 0


def launches(*, warmup: bool) -> Iterator[int]:
    """Two kernels, one of them twice, and one that does not compile."""
    x = MockTensor(torch.float32, [256])
    for scale in (2, 3, 3):
        scaled_add.run(x, x, x, 200, scale, grid=(1,), warmup=warmup, BLOCK=256, num_warps=2)
        yield scale
    if not warmup:
        broken.run(x, grid=(1,), warmup=False, BLOCK=16)
        yield 0


def gates(*, warmup: bool = False) -> Iterator[int]:
    """A kernel of ours, which an artifact may name."""
    x = MockTensor(torch.float32, [4, 64])
    _gated_activation_kernel.run(*[x] * 3, 64, 64, 64, "silu", False, grid=(1,), warmup=warmup, BLOCK=64)
    yield 0


def num_compiled(what: str = "*.cubin") -> int:
    return len(list(Path(os.environ["TRITON_CACHE_DIR"]).rglob(what)))


settle_keys()
driver.set_active(Streamless(GPUTarget("cuda", 90, 32)))
compiler = Compiler()
assert compiler.compile(launches(warmup=False)) == 3
assert compiler.compile(()) == 0
compiler.close()
assert num_compiled() == 2
assert num_compiled("*launcher*.so") == 1, "both kernels take the same arguments"
assert num_compiled("cuda_utils*.so") == 1
list(launches(warmup=True))  # now as whoever launches them
assert num_compiled() == 2, "it was compiled again"
x = MockTensor(torch.float32, [256])
scaled_add.run(*[x] * 3, 200, 4, grid=(1,), warmup=True, BLOCK=256)
assert num_compiled() == 3, "the count counts nothing"
dead = Compiler()
dead._process.kill()
dead._process.wait()
assert dead.compile(scaled_add.run(*[x] * 3, 200, 5, grid=(1,), warmup=False, BLOCK=256) for _ in range(2)) == 1
dead.close()
target, kernels = noted(gates())
foreign = (("tests.kernels.scaled_add", "scaled_add", kernels[0][2]),)
written = Foreseen({"page_size": 16}, target, (*kernels, *foreign))
folder = Path(os.environ["TRITON_CACHE_DIR"]).parent
(folder / FILE).write_text(json.dumps(written.as_dict()))
assert read_foreseen(folder) == Foreseen(written.conditions, target, kernels), "a foreign module would be imported"
ahead = Compiler(folder)
assert ahead.conditions == written.conditions
assert ahead.compile(gates()) == 0, "it was foreseen"
ahead.close()
assert num_compiled() == 4
list(gates(warmup=True))
assert num_compiled() == 4, "it was compiled again"
assert noted(gates()) == (target, kernels), "what this process has compiled another one has not"
print("ok")
