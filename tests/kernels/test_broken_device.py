"""A test that breaks CUDA is the one that fails, and is named by what comes after it."""

from __future__ import annotations

from pathlib import Path

import pytest

pytest_plugins = ["pytester"]

TESTS = """
import torch

def test_before(): pass

def test_breaks(monkeypatch):
    def fail(): raise torch.AcceleratorError("an illegal memory access")
    torch.cuda.is_initialized, torch.cuda.synchronize = (lambda: True), fail

def test_after(): pass
"""


def test_what_follows_a_broken_device_says_who_broke_it(pytester: pytest.Pytester) -> None:
    pytester.makeconftest(Path(__file__).with_name("conftest.py").read_text(encoding="utf-8"))
    pytester.makepyfile(TESTS)
    found = pytester.runpytest_subprocess("-rs", "-p", "no:cacheprovider")
    found.assert_outcomes(passed=2, errors=1, skipped=1)
    found.stdout.fnmatch_lines(["*broken in this process by *test_breaks*"])
