"""`autodeploy build --verify`."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from torch.fx import GraphModule

from autodeploy.cli import main
from autodeploy.graph.nodes import calls_of
from autodeploy.passes.fuse_gate_up import FuseGateUp
from autodeploy.pipeline import Context


def test_what_was_found_is_shown_and_kept(
    model_folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    words = ("build", str(model_folder), "--gpu", "cpu", "--dtype", "bf16", "--out", str(tmp_path / "out"))
    assert main([*words, "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["verification"] is None
    assert main([*words, "--verify"]) == 0
    shown = capsys.readouterr().out
    assert "Verified in float32" in shown
    assert "Verified in bfloat16" in shown
    assert main([*words, "--json"]) == 0
    kept = json.loads(capsys.readouterr().out)["verification"]
    assert [trial["dtype"] for trial in kept["trials"]] == ["float32", "bfloat16"]


def test_a_wrong_pass_leaves_no_artifact(
    model_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    right = FuseGateUp.run

    def wrong(self: FuseGateUp, gm: GraphModule, ctx: Context) -> int:
        changed = right(self, gm, ctx)
        if changed == 2:
            norm = calls_of(gm.graph, torch.ops.autodeploy.rms_norm.default)[0]
            norm.args = (*norm.args[:2], 0.5)
        return changed

    monkeypatch.setattr(FuseGateUp, "run", wrong)
    out = tmp_path / "out"
    assert main(["build", str(model_folder), "--gpu", "cpu", "--dtype", "fp32", "--out", str(out), "--verify"]) == 1
    shown = capsys.readouterr().err
    assert "pass 'fuse_gate_up' changes the numbers in float32" in shown
    assert "rewrite 2 of 2" in shown
    assert "Checked in float32" in shown
    assert "0.5)" in shown
    assert not out.exists()
