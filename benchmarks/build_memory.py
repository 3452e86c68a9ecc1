"""Host memory of a build and of an engine, beyond what the process holds after its imports.

usage: python benchmarks/build_memory.py [--gigabytes 4] [--out FILE.json]

Writes a random Llama checkpoint of that size in a temporary folder, then builds it and loads the program, each in a
process of its own that samples its anonymous memory (file-backed pages, such as mapped weights, are the kernel's to
drop). Compilation of the CPU kernels happens before.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

HIDDEN, INTERMEDIATE, VOCAB = 2048, 8192, 32_000


def anonymous_mb() -> float:
    """The anonymous memory of this process in MB."""
    status = Path("/proc/self/status").read_text()
    return int(status.partition("RssAnon:")[2].split()[0]) / 1024


def peak_mb(run: Callable[[], object]) -> float:
    """The most anonymous memory during `run`, beyond what there was before it."""
    before, peak, done = anonymous_mb(), 0.0, threading.Event()

    def sample() -> None:
        nonlocal peak
        while not done.is_set():
            peak = max(peak, anonymous_mb())
            time.sleep(0.005)

    sampler = threading.Thread(target=sample)
    sampler.start()
    run()
    done.set()
    sampler.join()
    return peak - before


def write_checkpoint(folder: Path, gigabytes: float) -> None:
    """A random bf16 Llama of about that size, written layer by layer."""
    import torch
    from safetensors.torch import save_file
    from transformers import LlamaConfig

    layer = 4 * HIDDEN * HIDDEN + 3 * HIDDEN * INTERMEDIATE
    num_layers = round((gigabytes * 1e9 / 2 - 2 * VOCAB * HIDDEN) / layer) + 1
    sizes: dict[str, Any] = {"hidden_size": HIDDEN, "intermediate_size": INTERMEDIATE, "vocab_size": VOCAB}
    LlamaConfig(**sizes, num_hidden_layers=num_layers, num_attention_heads=16, dtype="bfloat16").save_pretrained(folder)
    shapes: dict[str, tuple[int, ...]] = {
        **dict.fromkeys((f"self_attn.{name}_proj" for name in "qkvo"), (HIDDEN, HIDDEN)),
        **dict.fromkeys(("mlp.gate_proj", "mlp.up_proj"), (INTERMEDIATE, HIDDEN)),
        "mlp.down_proj": (HIDDEN, INTERMEDIATE),
        **dict.fromkeys(("input_layernorm", "post_attention_layernorm"), (HIDDEN,)),
    }
    rest: dict[str, tuple[int, ...]] = {
        "model.embed_tokens": (VOCAB, HIDDEN),
        "lm_head": (VOCAB, HIDDEN),
        "model.norm": (HIDDEN,),
    }
    parts = [rest, *({f"model.layers.{i}.{name}": shape for name, shape in shapes.items()} for i in range(num_layers))]
    index = {}
    for number, part in enumerate(parts):
        file = f"model-{number:05}.safetensors"
        tensors = {f"{name}.weight": torch.randn(shape).mul_(0.02).bfloat16() for name, shape in part.items()}
        save_file(tensors, folder / file)
        index.update(dict.fromkeys(tensors, file))
    (folder / "model.safetensors.index.json").write_text(json.dumps({"metadata": {}, "weight_map": index}))


def measure(what: str, folder: str) -> None:
    """Print the peak of one of the two, in MB."""
    from transformers import LlamaConfig

    import autodeploy.loading
    from autodeploy import artifact, builder
    from autodeploy.kernels import native

    native.why_unavailable()
    sizes: dict[str, Any] = {"hidden_size": 32, "intermediate_size": 32, "vocab_size": 32, "num_hidden_layers": 2}
    autodeploy.trace(LlamaConfig(**sizes, num_attention_heads=2))  # torch.export imports most of itself when it runs
    target = Path(folder).parent / "artifact"
    if what == "build":
        print(peak_mb(lambda: builder.build(folder, out=target, gpu="cpu", dtype="bf16")))
    else:
        print(peak_mb(lambda: autodeploy.loading.load_program(artifact.load(target))))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--gigabytes", type=float, default=4.2)
    parser.add_argument("--out", type=Path)
    parser.add_argument("--measure", nargs=2, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.measure:
        measure(*options.measure)
        return
    from machine import context

    result: dict[str, Any] = {**context(), "gigabytes": options.gigabytes}
    result["largest_fused_tensor_mb"] = 2 * INTERMEDIATE * HIDDEN * 2 / 2**20
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary) / "model"
        folder.mkdir()
        write_checkpoint(folder, options.gigabytes)
        for what in ("build", "engine"):
            command = [sys.executable, __file__, "--measure", what, str(folder)]
            output = subprocess.run(command, check=True, capture_output=True, text=True).stdout
            result[f"{what}_peak_mb"] = round(float(output.split()[-1]), 1)
    print(result)
    if options.out:
        options.out.write_text(json.dumps(result, indent=1) + "\n")


if __name__ == "__main__":
    main()
