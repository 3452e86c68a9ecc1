"""GGUF files, rewritten once into a folder that is read like any other model."""

from __future__ import annotations

import struct
from functools import partial
from hashlib import sha256
from pathlib import Path

from autodeploy.cache import cache_dir, make_folder
from autodeploy.errors import ModelError

MAGIC = b"GGUF"
LAYOUT = 1  # raised when what we write changes, so that older conversions are made again


def convert(file: Path, *, packed: bool = False) -> Path:
    """Give the folder with `file` in safetensors, with its tokenizer, chat template and configuration.

    Weights are in bf16, a plain checkpoint of transformers. With `packed`, those of the kinds that we have operators
    for keep their 4 or 8 bits, and only we can read it. A folder is made once per file (its path, size and time of
    change) and kept in `cache_dir()`.
    Raises ModelError for a file that is not GGUF, is truncated, or holds an architecture transformers cannot read.
    """
    with file.open("rb") as opened:
        if opened.read(len(MAGIC)) != MAGIC:
            raise ModelError(f"{file} is not a GGUF file: it does not begin with {MAGIC.decode()}")
    status = file.stat()
    identity = f"{LAYOUT}{' packed' * packed} {file.resolve()} {status.st_size} {status.st_mtime_ns}"
    name = f"{file.stem}-{sha256(identity.encode()).hexdigest()[:16]}"
    return make_folder(cache_dir() / "gguf" / name, partial(_write, file, packed))


def _write(file: Path, packed: bool, folder: Path) -> None:
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer

    from autodeploy.hub.gguf_blocks import write_packed

    try:
        model = AutoModelForCausalLM.from_pretrained(file.parent, gguf_file=file.name, dtype=torch.bfloat16)
        tokenizer = AutoTokenizer.from_pretrained(file.parent, gguf_file=file.name)
    except (ValueError, KeyError, IndexError, OSError, struct.error) as error:  # what its readers raise for bad files
        first_line = str(error).strip().partition("\n")[0]
        raise ModelError(f"{file} cannot be read: it is damaged, or of an unknown kind ({first_line})") from error
    # The weights are plain numbers now; saving must not try to quantize them again.
    for name, value in (("hf_quantizer", None), ("is_quantized", False)):
        setattr(model, name, value)
    if hasattr(model.config, "quantization_config"):
        del model.config.quantization_config
    if packed:
        write_packed(file, model, folder)
    else:
        model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
