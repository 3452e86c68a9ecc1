"""llama.cpp in a process of its own, whose threads then leave ours alone: it measures when it is told to.

usage: python benchmarks/llama_cpp_peer.py MODEL.gguf FOLDER THREADS    (by decode_cpu_llama_cpp.py)

FOLDER keeps the model in BF16, Q8_0 and Q4_1, as llama.cpp itself quantizes it. After a line with its version, it reads
names of these from its input and answers each by the seconds of a decode step.
"""

from __future__ import annotations

import ctypes
import sys
import time
from importlib import import_module
from pathlib import Path
from typing import Any

PROMPT_LEN, FEW, STEPS, CONTEXT = 16, 2, 32, 512
FORMATS = {"BF16": "LLAMA_FTYPE_MOSTLY_BF16", "Q8_0": "LLAMA_FTYPE_MOSTLY_Q8_0", "Q4_1": "LLAMA_FTYPE_MOSTLY_Q4_1"}

llama_cpp: Any = import_module("llama_cpp")


def quantized(source: Path, folder: Path, name: str) -> Path:
    """The model in one of FORMATS, made unless the folder has it. The head is Q8_0 where the rest is Q4_1."""
    path = folder / f"{name}.gguf"
    if path.is_file():
        return path
    options = llama_cpp.llama_model_quantize_default_params()
    options.ftype = getattr(llama_cpp, FORMATS[name])
    options.allow_requantize = True
    partial = path.with_suffix(".partial")
    if llama_cpp.llama_model_quantize(str(source).encode(), str(partial).encode(), ctypes.byref(options)):
        raise SystemExit(f"llama.cpp cannot quantize {source} to {name}")
    partial.rename(path)
    return path


def step_seconds(model: Any) -> float:
    """The mean of STEPS decode steps after a prompt, without sampling."""
    model.reset()
    model.eval(list(range(100, 100 + PROMPT_LEN)))
    for _ in range(FEW):
        model.eval([5])
    started = time.perf_counter()
    for _ in range(STEPS):
        model.eval([5])
    return (time.perf_counter() - started) / STEPS


def main() -> None:
    source, folder, threads = Path(sys.argv[1]), Path(sys.argv[2]), int(sys.argv[3])
    folder.mkdir(parents=True, exist_ok=True)
    models = {
        name: llama_cpp.Llama(
            str(quantized(source, folder, name)), n_ctx=CONTEXT, n_threads=threads, n_threads_batch=threads,
            verbose=False,
        )
        for name in FORMATS
    }  # fmt: skip
    print(llama_cpp.__version__, flush=True)
    for line in sys.stdin:
        print(step_seconds(models[line.strip()]), flush=True)


if __name__ == "__main__":
    main()
