from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from importlib.metadata import EntryPoint, distributions, entry_points
from pathlib import Path

import pytest

from autodeploy.discovery import GROUP, Registry, load_plugins

Install = Callable[..., None]


@pytest.fixture
def site(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    monkeypatch.syspath_prepend(str(tmp_path))
    before = set(sys.modules)
    yield tmp_path
    for name in set(sys.modules) - before:
        if (sys.modules[name].__dict__.get("__file__") or "").startswith(str(tmp_path)):
            del sys.modules[name]


@pytest.fixture
def install(site: Path) -> Install:
    """Put a distribution of one module, with a plugin entry point, where Python finds it."""

    def install_one(name: str, source: str, point: str | None = None) -> None:
        (site / f"{name}.py").write_text(source)
        info = site / f"{name}-1.0.dist-info"
        info.mkdir()
        (info / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {name}\nVersion: 1.0\n")
        (info / "entry_points.txt").write_text(f"[autodeploy.plugins]\n{point or name} = {name}:PLUGIN\n")

    return install_one


def points(site: Path) -> list[EntryPoint]:
    return [point for found in distributions(path=[str(site)]) for point in found.entry_points]


def load(site: Path) -> Registry:
    """What the plugins of the folder bring, beside the built-ins."""
    ours = [point for point in entry_points(group=GROUP) if point.name == "builtin"]
    return load_plugins([*points(site), *ours])
