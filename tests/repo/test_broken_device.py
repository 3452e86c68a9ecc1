"""A test that breaks CUDA is the one that fails; what comes after it is skipped, or runs in another process."""

from __future__ import annotations

from pathlib import Path

import pytest

pytest_plugins = ["pytester"]

TORCH = """
class AcceleratorError(RuntimeError): pass

class cuda:
    fault = None

    def is_initialized(): return True

    def empty_cache(): pass

    def synchronize():
        if cuda.fault: raise cuda.fault
"""
TESTS = """
import torch

def test_before(): pass

def test_breaks(): torch.cuda.fault = torch.AcceleratorError("an illegal memory access")

def test_after(): assert torch.cuda.fault is None

def test_last(): assert torch.cuda.fault is None
"""


@pytest.fixture
def run(pytester: pytest.Pytester) -> pytest.Pytester:
    plugin = Path(__file__).parents[1] / "broken_device.py"
    pytester.makeconftest(plugin.read_text(encoding="utf-8"))
    pytester.makepyfile(torch=TORCH, test_some=TESTS)
    return pytester


def test_what_follows_a_broken_device_says_who_broke_it(run: pytest.Pytester) -> None:
    found = run.runpytest_subprocess("-rs", "-p", "no:cacheprovider")
    found.assert_outcomes(passed=2, errors=1, skipped=2)
    found.stdout.fnmatch_lines(["*broken in this process by *test_breaks*"])


def test_another_process_runs_what_is_left(run: pytest.Pytester) -> None:
    found = run.runpytest_subprocess("-p", "no:cacheprovider", "-n", "1", "--dist", "load", "--maxschedchunk", "1")
    found.assert_outcomes(passed=4, errors=1, failed=1)
    found.stdout.fnmatch_lines(["*an illegal memory access*", "*gw0* crashed while running *test_breaks*"])
