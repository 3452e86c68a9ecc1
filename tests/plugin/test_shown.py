"""Where a broken plugin shows: lists, doctor, the plan of a build, the kernel table, and an artifact that needs it."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch.fx import Graph

from autodeploy import choosing, discovery
from autodeploy.artifact import operators
from autodeploy.choosing import resolve_settings
from autodeploy.cli import main
from autodeploy.discovery import Registry, kernel_table
from autodeploy.errors import ArtifactError, InvariantError, PluginError
from autodeploy.hardware import choose_gpu
from autodeploy.testing import tiny_config
from tests.plugin.conftest import Install, load

Broken = Callable[[str], Registry]

BACKEND = """
from autodeploy.kernels import Backend, Kernel
from autodeploy.ops import linear
from autodeploy.plugin import Plugin

def load():
    {body}

PLUGIN = Plugin(name="fast", kernels=(Backend("fast", load),))
"""


@pytest.fixture
def registry(site: Path, install: Install, monkeypatch: pytest.MonkeyPatch) -> Broken:
    """Install a plugin called `fast` of this source, for whoever asks for the registry."""

    def installed(source: str) -> Registry:
        install("fast", source)
        found = load(site)
        for module in (choosing, discovery, operators):
            monkeypatch.setattr(module, "discover", lambda: found)
        monkeypatch.setattr(discovery, "discover_serving", discovery.discover_serving.__wrapped__)
        return found

    return installed


def shown(capsys: pytest.CaptureFixture[str], *words: str) -> dict[str, Any]:
    assert main([*words, "--json"]) == 0
    result: dict[str, Any] = json.loads(capsys.readouterr().out)
    return result


def test_lists_doctor_and_plans_tell_of_it(registry: Broken, site: Path, capsys: pytest.CaptureFixture[str]) -> None:
    registry("1 / 0")
    sentence = f"plugin 'fast' of fast 1.0 is disabled: {site / 'fast.py'}:1: ZeroDivisionError: division by zero"
    for what in ("passes", "patterns", "recipes"):
        assert shown(capsys, what)["disabled"] == [sentence]
    assert main(["passes"]) == 0
    assert sentence in capsys.readouterr().err
    findings = shown(capsys, "doctor")["findings"]
    assert {"what": "plugin", "state": "broken", "found": sentence, "cost": ""} in findings
    options: dict[str, Any] = {"recipe": "auto", "workload": "balanced", "values": {}}
    assert sentence in resolve_settings(tiny_config("llama"), choose_gpu("cpu"), **options).notes


def test_doctor_goes_on_when_two_clash(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    def clash() -> Registry:
        raise PluginError("a 1.0 and b 1.0 both have passes named 'x'; uninstall one of them")

    monkeypatch.setattr(discovery, "discover", clash)
    (finding,) = [one for one in shown(capsys, "doctor")["findings"] if one["what"] == "plugins"]
    assert finding["state"] == "broken"
    assert "a 1.0 and b 1.0 both have" in finding["found"]


@pytest.mark.parametrize(
    ("body", "message"),
    [
        ("import no_such_module", "{site}/fast.py:7: ModuleNotFoundError"),
        ("return (Kernel(linear, 'slow', linear.reference),)", "the backend 'fast' holds the kernel 'slow.linear'"),
    ],
)
def test_a_backend_that_fails_is_left_out(registry: Broken, site: Path, body: str, message: str) -> None:
    registry(BACKEND.format(body=body))
    table = kernel_table.__wrapped__(torch.device("cpu"))
    (note,) = table.notes
    assert note.startswith("the backend 'fast' of fast 1.0 is left out: ")
    assert message.format(site=site) in note
    assert {"torch"} <= {kernel.backend for kernel in table} <= {"torch", "native"}


def test_a_backend_that_loads_serves(registry: Broken) -> None:
    registry(BACKEND.format(body="return (Kernel(linear, 'fast', linear.reference, priority=50),)"))
    table = kernel_table.__wrapped__(torch.device("cpu"))
    assert table.notes == ()
    assert next(iter(table)).name == "fast.linear"


def test_serving_takes_all_operators_and_kernels() -> None:
    whole, serving = discovery.discover(), discovery.discover_serving.__wrapped__()
    assert (serving.ops, serving.kernels) == (whole.ops, whole.kernels)
    assert {serving.origins["ops", name] for name in serving.ops} == {whole.origins["ops", name] for name in whole.ops}


def test_an_artifact_that_needs_it_says_that_it_is_disabled(registry: Broken) -> None:
    registry("1 / 0")
    with pytest.raises(ArtifactError, match=r"needs the plugin 'fast' of fast 1\.0, and plugin 'fast' of fast 1\.0 is"):
        operators.find_target("fast.gate.default", {"fast": "fast 1.0"}, "node")


def test_an_artifact_of_another_version(registry: Broken) -> None:
    registry(BACKEND.format(body="return ()"))
    with pytest.raises(ArtifactError, match=r"of fast 2\.0, and fast 1\.0 does not have 'fast\.gate\.default'"):
        operators.find_target("fast.gate.default", {"fast": "fast 2.0"}, "node")


def test_an_operator_that_nobody_declares_is_not_saved() -> None:
    graph = Graph()
    graph.output(graph.call_function(torch.ops.prims.neg.default, (graph.placeholder("x"),)))
    with pytest.raises(InvariantError, match=r"calls prims\.neg\.default, and no plugin has it among its ops"):
        operators.needed_plugins(graph)
