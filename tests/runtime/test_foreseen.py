"""Kernels that an artifact foresees are compiled before it is loaded, and then nothing is rehearsed."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch

from autodeploy import foresight
from autodeploy.foresight import _stand_ins, conditions_of, rehearsed
from autodeploy.runtime.foreseen import FILE, OURS, Foreseen, read_foreseen
from autodeploy.runtime.graphs import Bucket
from autodeploy.runtime.settings import RuntimeSettings
from autodeploy.testing.families import tiny_config, tiny_model
from autodeploy.weights import MemorySource
from tests.families import build
from tests.runtime.fakes import FakeModel

FORESEEN = Foreseen({"page_size": 16}, ("cuda", 90, 32), ((f"{OURS}norm", "_rms_norm_kernel", "{}"),))


def test_what_is_written_is_read(tmp_path: Path) -> None:
    (tmp_path / FILE).write_text(json.dumps(FORESEEN.as_dict()))
    assert read_foreseen(tmp_path) == FORESEEN


def test_no_module_of_others_is_imported_because_a_file_says_so(tmp_path: Path) -> None:
    named = [*FORESEEN.kernels, ("antigravity", "kernel", "{}"), ("autodeploy.kernels.triton", "kernel", "{}")]
    (tmp_path / FILE).write_text(json.dumps({**FORESEEN.as_dict(), "kernels": named}))
    assert read_foreseen(tmp_path) == FORESEEN


@pytest.mark.parametrize("text", ["", "[]", '{"target": 1}', '{"target": ["cuda", 90, 32], "kernels": [[1, 2, 3]]}'])
def test_a_damaged_file_foresees_nothing(tmp_path: Path, text: str) -> None:
    (tmp_path / FILE).write_text(text)
    assert read_foreseen(tmp_path) is None


def test_other_steps_pages_or_devices_are_other_conditions(monkeypatch: pytest.MonkeyPatch) -> None:
    here = {"gpu": "H200"}
    monkeypatch.setattr(foresight, "conditions", lambda device: here)
    device, settings, steps = torch.device("cuda"), RuntimeSettings(), (Bucket(1, 1), Bucket(4, 4))
    found = conditions_of(device, settings, steps)
    assert json.loads(json.dumps(found)) == found == conditions_of(device, RuntimeSettings(prefix_reuse=False), steps)
    assert found != conditions_of(device, settings, steps[:1])
    assert found != conditions_of(device, RuntimeSettings(page_size=32), steps)
    here = {"gpu": "L4"}
    assert found != conditions_of(device, settings, steps)


def test_weights_have_stand_ins_of_their_shapes() -> None:
    config = tiny_config("llama")
    built = build(config, MemorySource(dict(tiny_model(config).state_dict())))
    found = _stand_ins(built.graph_module.graph, torch.device("cpu"))
    assert found
    assert {name: (built.tensors[name].shape, built.tensors[name].dtype) for name in found} == {
        name: (one.shape, one.dtype) for name, one in found.items()
    }
    assert len({one.untyped_storage().data_ptr() for one in found.values()}) == 1


def test_nothing_is_rehearsed_where_nothing_is_captured() -> None:
    assert rehearsed(FakeModel(), RuntimeSettings()) == ()
