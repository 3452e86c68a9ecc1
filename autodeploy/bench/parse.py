"""Workloads from their names."""

from __future__ import annotations

import re
from collections.abc import Iterable

from autodeploy.bench.ready import Ready
from autodeploy.bench.serving import Serve
from autodeploy.bench.workloads import Decode, Offline, Prefix, Ttft, Workload
from autodeploy.errors import InputError, nearest

FORMS = {
    "decode": "decode:BATCH",
    "ttft": "ttft:TOKENS",
    "offline": "offline:PROMPTxNEW[xREQUESTS]",
    "prefix": "prefix:SHARED+OWNxREQUESTS",
    "serve": "serve:RATE[@AT_ONCE][xREQUESTS]",
    "ready": "ready[:cold]",
}
_N = "([1-9][0-9]*)"
_SHAPES = {
    "decode": _N,
    "ttft": _N,
    "offline": f"{_N}x{_N}(?:x{_N})?",
    "prefix": rf"{_N}\+{_N}x{_N}",
    "ready": "(:cold)?",
    "serve": rf"(inf|[0-9.]*[1-9][0-9.]*)(?:@{_N})?(?:x{_N})?",
}
TARGETS: tuple[Workload | Ready, ...] = (
    *(Decode(size) for size in (1, 8, 64, 256)),
    *(Ttft(length) for length in (128, 4096)),
    *(Offline(length, 128) for length in (1024, 128)),
    Prefix(4096, 128, 64),
    Ready(),
)
"""What a deployment of a model of 8 billion parameters is measured by here."""


def parse_workloads(names: Iterable[str]) -> list[Workload | Ready]:
    """The workloads that are named, each once; InputError for a name that is none."""
    found: dict[str, Workload | Ready] = {}
    for name in names:
        found.update((one.name, one) for one in (TARGETS if name == "targets" else (parse_workload(name),)))
    return list(found.values())


def parse_workload(name: str) -> Workload | Ready:
    """The workload called `name`."""
    kind, colon, shape = name.partition(":")
    if kind not in FORMS:
        raise InputError(f"--run {name}: no such workload; {nearest(kind, [*FORMS, 'targets'])}")
    match = re.fullmatch(_SHAPES[kind], colon + shape if kind == "ready" else shape)
    if match is None:
        raise InputError(f"--run {name}: expected {FORMS[kind]}")
    if kind == "ready":
        return Ready(cold=shape == "cold")
    if kind == "serve":
        return _serve(name, *match.groups())
    numbers = [int(group) for group in match.groups() if group is not None]
    kinds = {"decode": Decode, "ttft": Ttft, "offline": Offline, "prefix": Prefix}
    workload: Workload = kinds[kind](*numbers)
    return workload


def _serve(name: str, rate: str, at_once: str | None, num_requests: str | None) -> Serve:
    try:
        number = float(rate)
    except ValueError:
        raise InputError(f"--run {name}: {rate} is no rate; expected {FORMS['serve']}") from None
    limit = None if at_once is None else int(at_once)
    return Serve(number, limit) if num_requests is None else Serve(number, limit, int(num_requests))
