"""How views write quantities."""

from __future__ import annotations

from collections.abc import Sequence


def bytes_text(number: float) -> str:
    """`16.8 MB`, in powers of a thousand."""
    return _scaled(number, ("B", "kB", "MB", "GB", "TB"))


def flops_text(number: float) -> str:
    """`2.1 GFLOP`."""
    return _scaled(number, ("FLOP", "kFLOP", "MFLOP", "GFLOP", "TFLOP", "PFLOP"))


def seconds_text(number: float) -> str:
    """`3.42 ms`."""
    return _scaled(number * 1e9, ("ns", "µs", "ms", "s"))


def count_text(number: float) -> str:
    """`70.6 B` for numbers of parameters."""
    return _scaled(number, ("", "K", "M", "B", "T", "P")).strip()


def tick_text(number: float) -> str:
    """`50 k` beside an axis."""
    value, _, prefix = count_text(number).replace("K", "k").replace("B", "G").partition(" ")
    return f"{float(value):g} {prefix}".strip()


def share_text(part: float, whole: float) -> str:
    """`12 %`, with a digit more where it is little."""
    percent = 100 * part / whole if whole else 0.0
    return f"{percent:.1f} %" if 0 < percent < 10 else f"{percent:.0f} %"


def _scaled(number: float, names: Sequence[str]) -> str:
    scale = 0
    while abs(number) >= 999.5 and scale < len(names) - 1:
        number, scale = number / 1000, scale + 1
    digits = 0 if scale == 0 and number == int(number) else max(0, 2 - len(str(int(abs(number)))) + 1)
    return f"{number:.{digits}f} {names[scale]}"
