"""The package in `tests/plugin_example`, written from the documents alone: installed, and run by the command."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import pytest

from autodeploy.cli import main
from autodeploy.testing import tiny_config, tiny_model
from tests.plugin.packages import install_into, run_with

EXAMPLE = Path(__file__).parents[1] / "plugin_example"

# Each argument is a command line; each prints one object, and an exit code on stderr.
COMMANDS = """
import sys
from autodeploy.cli import main
for line in sys.argv[1:]:
    print(main([*line.split(), "--json"]), file=sys.stderr)
"""
ANSWERS = """
import sys, json
import autodeploy as ad
params = ad.SamplingParams(max_tokens=8, temperature=0, ignore_eos=True)
for folder in sys.argv[1:]:
    (out,) = ad.LLM(folder).generate([[5, 17, 3, 88]], params)
    print(json.dumps(list(out.outputs[0].token_ids)))
"""
BUILD = "model --gpu cpu --dtype fp32 --out"
LAYERS = tiny_config("llama").num_hidden_layers


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with the package installed in `site`, and a model in `model`."""
    folder = tmp_path_factory.mktemp("example")
    install_into(folder / "site", EXAMPLE)
    tiny_model("llama").save_pretrained(folder / "model")
    return folder


@pytest.fixture(scope="module")
def results(place: Path) -> list[dict[str, Any]]:
    """What the commands print where the package is installed."""
    lines = [
        "passes",
        "recipes",
        f"{BUILD} packed",
        f"{BUILD} plain --set passes.pack_gates=off --set passes.fuse_gated_linear=off",
        "inspect packed",
        "inspect plain",
        f"{BUILD} unused --recipe packed --dry-run",
        "model --gpu cpu --dry-run",
    ]
    done = run_with(place / "site", "-c", COMMANDS, *lines, cwd=place)
    objects = [json.loads(line) for line in done.stdout.splitlines()]
    assert [object_.get("error") for object_ in objects] == [None] * len(lines), done.stderr
    return objects


def test_the_lists_say_where_it_comes_from(results: list[dict[str, Any]]) -> None:
    (row,) = [row for row in results[0]["passes"] if row["name"] == "pack_gates"]
    assert (row["origin"], row["joins"], row["stage"]) == ("packed-gates 0.3.0", "after fuse_gate_up", "FUSE")
    (recipe,) = [row for row in results[1]["recipes"] if row["name"] == "packed"]
    assert recipe["origin"] == "packed-gates 0.3.0"


def test_it_does_what_it_says(results: list[dict[str, Any]]) -> None:
    packed, plain = results[2], results[3]
    names = [report["name"] for report in packed["history"]]
    assert names[names.index("fuse_gate_up") + 1] == "pack_gates"
    assert [report["matches"] for report in packed["history"] if report["name"] == "pack_gates"] == [LAYERS]
    assert "pack_gates" not in [report["name"] for report in plain["history"]]
    assert plain["history"][-1]["nodes_after"] - packed["history"][-1]["nodes_after"] == 3 * LAYERS
    assert results[4]["operators"]["main"]["packed_gates.packed_gate.default"] == LAYERS
    assert "packed_gates.packed_gate.default" not in results[5]["operators"]["main"]


def test_the_plan_says_why(results: list[dict[str, Any]]) -> None:
    reasons = {one["what"]: one["reason"] for one in results[7]["decisions"]}
    assert reasons["passes.pack_gates"].endswith(
        "inserted by plugin packed_gates (packed-gates 0.3.0) after fuse_gate_up"
    )
    values = {one["what"]: (one["value"], one["reason"]) for one in results[6]["decisions"]}
    assert values["runtime.max_num_tokens"][0] == "256"
    assert values["runtime.max_num_tokens"][1].startswith("recipe packed: packed gates")


def test_the_program_answers_as_without_it(place: Path, results: list[dict[str, Any]]) -> None:
    done = run_with(place / "site", "-c", ANSWERS, "packed", "plain", cwd=place)
    packed, plain = map(json.loads, done.stdout.splitlines())
    assert packed == plain
    assert len(packed) == 8


def test_without_it_an_artifact_names_what_is_missing(
    place: Path, results: list[dict[str, Any]], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    assert "packed_gates" not in sys.modules
    monkeypatch.chdir(place)
    for folder in ("packed", "plain"):
        main(["inspect", folder, "--json"])
    refused, plain = map(json.loads, capsys.readouterr().out.splitlines())
    assert refused["error"] == (
        "this artifact needs the plugin 'packed_gates' of packed-gates 0.3.0, and it is not installed"
    )
    assert refused["exit_code"] == 2
    assert plain["operators"]["main"]["autodeploy.gated_activation.default"] == LAYERS


@pytest.mark.slow
def test_its_own_tests_pass(place: Path) -> None:
    done = run_with(
        place / "site", "-m", "pytest", "-q", "-p", "no:cacheprovider", "site-source/plugin_example/tests", cwd=place
    )
    assert done.returncode == 0, done.stdout
