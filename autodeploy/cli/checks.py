"""Checks of options that need no model."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

from autodeploy.errors import InputError, UnsupportedError, nearest

DTYPES = ("auto", "bf16", "fp16", "fp32")
CACHES = ("auto", "fp8", "int8")
CAPTURES = ("none", "compile", "cudagraph")
LATER_CAPTURES = ("tensorrt",)


def check_dtype(dtype: str) -> None:
    """Raise InputError for a dtype that does not exist."""
    _check_choice("--dtype", dtype, DTYPES)


def check_scheme(quantize: str | None) -> None:
    """Raise RecipeError, with the nearest name, for a scheme that does not exist."""
    if quantize is None:
        return
    from autodeploy.quantization import option  # it needs torch, which `--help` does without

    if quantize not in (option.AUTO, option.FASTEST):
        option.quantize_values(quantize)


def check_head(scheme: str | None) -> None:
    """Raise RecipeError, with the nearest name, for a scheme that the head cannot have."""
    if scheme is None:
        return
    from autodeploy.quantization import find_scheme  # as above

    find_scheme(scheme, "--quantize-head")


def check_cache(kv_cache: str | None) -> None:
    """Raise InputError for a format that keys and values cannot have."""
    if kv_cache is not None:
        _check_choice("--kv-cache", kv_cache, CACHES)


def check_capture(capture: str | None) -> None:
    """Raise InputError for a way of capturing that does not exist, UnsupportedError for one that does not yet."""
    if capture in LATER_CAPTURES:
        raise UnsupportedError(
            f"--capture {capture}: this version does not support it yet; use none, compile or cudagraph"
        )
    if capture is not None:
        _check_choice("--capture", capture, CAPTURES)


def check_load_format(load_format: str) -> None:
    """Raise InputError for a source of weights that does not exist."""
    _check_choice("--load-format", load_format, ("auto", "random"))


def refuse_later_options(tp: int, pp: int, ep: int) -> None:
    """Raise UnsupportedError for what a later version will do."""
    for option, value in (("--tp", tp), ("--pp", pp), ("--ep", ep)):
        if value > 1:
            raise UnsupportedError(f"{option} {value}: this version runs on one device; use 1")


def check_out(out: Path | None) -> None:
    """Raise InputError when `out` is something that a build must not write over."""
    if out is not None and out.exists() and not out.is_dir():
        raise InputError(f"--out {out}: this is a file, and a folder is expected")


def _check_choice(option: str, value: str, choices: Iterable[str]) -> None:
    known = tuple(choices)
    if value not in known:
        raise InputError(f"{option} {value}: not a choice; {nearest(value, known)}")
