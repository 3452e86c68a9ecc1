"""Sources in CUDA C++ and what they include."""

from __future__ import annotations

import re
import sys
from pathlib import Path
from types import ModuleType

import pytest

from autodeploy.kernels.cuda import compile as compiling
from autodeploy.kernels.cuda.compile import SOURCES, Variant

NARROW = Variant("narrow.cu", "narrow")


def test_what_is_included_is_there() -> None:
    for source in SOURCES.glob("*.cu"):
        for name in re.findall(r'#include "(.+)"', source.read_text(encoding="utf-8")):
            assert name in compiling._headers(), source.name


def test_another_header_is_another_binary(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    package = ModuleType("cuda.bindings")
    package.nvrtc = ModuleType("nvrtc")  # type: ignore[attr-defined]
    package.nvrtc.nvrtcVersion = lambda: (0, 13, 0)
    monkeypatch.setitem(sys.modules, "cuda", ModuleType("cuda"))
    monkeypatch.setitem(sys.modules, "cuda.bindings", package)
    monkeypatch.setattr(compiling, "SOURCES", tmp_path)
    (tmp_path / NARROW.source).write_text("kernel")
    (tmp_path / "common.cuh").write_text("what is shared")
    before = compiling._key(NARROW, (9, 0))
    assert compiling._key(NARROW, (9, 0)) == before
    (tmp_path / "common.cuh").write_text("what else is shared")
    assert compiling._key(NARROW, (9, 0)) != before
