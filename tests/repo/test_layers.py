"""Who may import whom. What the tests read are the files, so nothing hides behind a lazy import."""

from __future__ import annotations

import ast
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
PACKAGES = {
    "autodeploy": ROOT / "autodeploy",
    "autodeploy.passes": ROOT / "passes",
    "autodeploy.patterns": ROOT / "patterns",
}


def imports(file: Path) -> Iterator[str]:
    """Every module that a file names in an import, inside functions too."""
    for node in ast.walk(ast.parse(file.read_text())):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{file}: relative import"
            yield from (f"{node.module}.{alias.name}" for alias in node.names)


def offenders(package: str, forbidden: tuple[str, ...], allowed: tuple[str, ...] = ()) -> list[str]:
    return [
        f"{file.relative_to(ROOT)}: {name}"
        for file in sorted(PACKAGES[package].rglob("*.py"))
        for name in imports(file)
        if f"{name}.".startswith(tuple(f"{one}." for one in forbidden))
        and not f"{name}.".startswith(tuple(f"{one}." for one in allowed))
    ]


def test_core_never_imports_passes_or_patterns() -> None:
    assert not offenders("autodeploy", ("autodeploy.passes", "autodeploy.patterns"))


def test_patterns_import_only_rewrite_and_ops() -> None:
    allowed = ("autodeploy.rewrite", "autodeploy.ops", "autodeploy.patterns", "autodeploy.graph")
    assert not offenders("autodeploy.patterns", ("autodeploy",), allowed)


def test_passes_stay_away_from_what_runs_and_shows_programs() -> None:
    forbidden = ("autodeploy.cli", "autodeploy.runtime.server", "autodeploy.hub", "autodeploy.artifact")
    assert not offenders("autodeploy.passes", forbidden)


def test_only_the_command_line_imports_the_command_line() -> None:
    found = offenders("autodeploy", ("autodeploy.cli",))
    assert all(one.startswith(("autodeploy/cli/", "autodeploy/__main__.py")) for one in found)


def test_nobody_uses_private_inductor_modules() -> None:
    assert not [one for package in PACKAGES for one in offenders(package, ("torch._inductor", "torch._dynamo"))]


def test_modules_that_mapped_packages_own_do_not_exist() -> None:
    for name in ("passes", "patterns", "recipes"):
        assert not (ROOT / "autodeploy" / f"{name}.py").exists()
        assert not (ROOT / "autodeploy" / name).exists()


@pytest.mark.parametrize("name", ["passes", "patterns"])
def test_a_bare_import_is_refused(name: str) -> None:
    done = subprocess.run(
        [sys.executable, "-c", f"import {name}"], cwd=ROOT, capture_output=True, text=True, check=False
    )
    assert f"write `import autodeploy.{name}`" in done.stderr


@pytest.mark.parametrize("name", ["passes", "patterns", "recipes"])
def test_type_checkers_find_the_mapped_packages(name: str) -> None:
    link = ROOT / "typings" / "autodeploy" / name
    assert link.is_symlink()
    assert not link.readlink().is_absolute()
    assert link.resolve() == ROOT / name
