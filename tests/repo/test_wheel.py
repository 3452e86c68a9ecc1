from __future__ import annotations

import shutil
import subprocess
import sys
import tomllib
import zipfile
from importlib.metadata import version
from pathlib import Path

import autodeploy

ROOT = Path(__file__).parents[2]
MAPPED = ("passes", "patterns", "recipes")
DATA = (".yaml", ".cpp", ".cu", ".cuh", ".h", ".typed", ".tmpl", ".css", ".js", ".html", "britannica.txt")


def shipped() -> set[str]:
    """What the wheel should hold, read from the tree."""
    files = {path for path in (ROOT / "autodeploy").rglob("*") if path.suffix == ".py" or path.name.endswith(DATA)}
    names = {path.relative_to(ROOT).as_posix() for path in files}
    for folder in MAPPED:
        for path in (ROOT / folder).rglob("*"):
            if path.suffix in (".py", ".yaml"):
                names.add(f"autodeploy/{path.relative_to(ROOT).as_posix()}")
    return names


def test_the_wheel_holds_what_the_tree_has(tmp_path: Path) -> None:
    # A clean copy: setuptools would leave its build folder in the tree, and find old files there.
    tree = tmp_path / "tree"
    tree.mkdir()
    for name in ("autodeploy", *MAPPED):
        shutil.copytree(ROOT / name, tree / name, ignore=shutil.ignore_patterns("__pycache__"))
    for name in ("pyproject.toml", "README.md", "LICENSE"):
        shutil.copy(ROOT / name, tree)
    command = [sys.executable, "-m", "build", "--wheel", "--no-isolation", "--outdir", str(tmp_path), str(tree)]
    subprocess.run(command, check=True, capture_output=True)
    (wheel,) = tmp_path.glob("*.whl")
    with zipfile.ZipFile(wheel) as opened:
        held = {name for name in opened.namelist() if ".dist-info/" not in name}
    assert held == shipped()


def test_the_public_names() -> None:
    assert autodeploy.__all__ == ["LLM", "SamplingParams", "__version__", "build", "optimize", "quantize", "trace"]
    assert autodeploy.__version__ == version("fx-autodeploy")
    for name in autodeploy.__all__:
        assert getattr(autodeploy, name) is not None


def test_every_package_is_listed() -> None:
    listed = set(tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["setuptools"]["packages"])
    found = {".".join(path.parent.relative_to(ROOT).parts) for path in (ROOT / "autodeploy").rglob("__init__.py")} | {
        f"autodeploy.{name}" for name in MAPPED
    }
    assert listed == found
