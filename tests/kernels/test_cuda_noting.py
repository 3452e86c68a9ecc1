"""Kernels in CUDA C++ are compiled ahead beside Triton's."""

from __future__ import annotations

import json
from collections.abc import Iterator

import pytest
import torch

compilers = pytest.importorskip("triton.backends.compiler")

from autodeploy.kernels.cuda.compile import Variant  # noqa: E402
from autodeploy.kernels.cuda.launch import launch  # noqa: E402
from autodeploy.runtime import compile_server, compiler  # noqa: E402
from autodeploy.runtime.foreseen import CUDA  # noqa: E402

ONE = Variant("some.cu", "entry", (("ROWS", 8),))


def steps() -> Iterator[int]:
    for number in range(2):
        launch(ONE, (1, 1, 1), 32, 0, (), torch.device("cuda"))
        yield number


def test_a_launch_is_noted_and_not_made(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(compiler, "_target", lambda: ("cuda", 90, 32))
    target, kernels = compiler.noted(steps())
    assert kernels == ((CUDA, "some.cu", '["some.cu", "entry", [["ROWS", 8]]]'),)
    compiled: list[tuple[Variant, tuple[int, int]]] = []
    monkeypatch.setattr(compile_server, "binary", lambda *given: compiled.append(given))
    assert compile_server._compile(compilers.GPUTarget(*target), *json.loads(json.dumps(kernels[0])))
    assert compiled == [(ONE, (9, 0))]


def test_a_launch_is_made_where_nobody_notes() -> None:
    with pytest.raises((ImportError, AssertionError, RuntimeError)):
        list(steps())
