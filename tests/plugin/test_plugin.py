from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from importlib.metadata import EntryPoint, distributions
from pathlib import Path

import pytest

from autodeploy.errors import PluginError
from autodeploy.plugin import OURS, Plugin, Registry, discover, load_plugins

Install = Callable[[str, str], None]


@pytest.fixture
def site(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    monkeypatch.syspath_prepend(str(tmp_path))
    before = set(sys.modules)
    yield tmp_path
    for name in set(sys.modules) - before:
        del sys.modules[name]


@pytest.fixture
def install(site: Path) -> Install:
    """Put a distribution of one module, with a plugin entry point, where Python finds it."""

    def install_one(name: str, source: str) -> None:
        (site / f"{name}.py").write_text(source)
        info = site / f"{name}-1.0.dist-info"
        info.mkdir()
        (info / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {name}\nVersion: 1.0\n")
        (info / "entry_points.txt").write_text(f"[autodeploy.plugins]\n{name} = {name}:PLUGIN\n")

    return install_one


def points(site: Path) -> list[EntryPoint]:
    return [point for found in distributions(path=[str(site)]) for point in found.entry_points]


WITH_RECIPE = """
from pathlib import Path
from autodeploy.plugin import Plugin
PLUGIN = Plugin(name="{name}", recipes=(Path("fast.yaml"),))
"""


def test_the_built_ins_come_through_the_same_door() -> None:
    registry = discover()
    assert set(registry.origins.values()) <= {OURS}
    assert not registry.problems


def test_a_plugin_is_found_and_its_origin_known(site: Path, install: Install) -> None:
    install("alpha", WITH_RECIPE.format(name="alpha"))
    registry = load_plugins(points(site))
    assert registry.recipes == {"fast": Path("fast.yaml")}
    assert registry.origins == {("recipes", "fast"): "alpha"}


def test_a_clash_names_both_distributions(site: Path, install: Install) -> None:
    install("alpha", WITH_RECIPE.format(name="alpha"))
    install("beta", WITH_RECIPE.format(name="beta"))
    with pytest.raises(PluginError, match="beta and alpha both have recipes named 'fast'"):
        load_plugins(points(site))


@pytest.mark.parametrize(
    ("source", "line", "message"),
    [
        ("x = 1\n1 / 0\n", 2, "ZeroDivisionError"),
        ("x = (\n\n", 1, "SyntaxError"),
        ("import no_such_module_at_all\n", 1, "ModuleNotFoundError"),
    ],
)
def test_a_broken_plugin_is_reported_and_left_out(
    site: Path, install: Install, source: str, line: int, message: str
) -> None:
    install("alpha", WITH_RECIPE.format(name="alpha"))
    install("broken", source)
    registry = load_plugins(points(site))
    assert set(registry.recipes) == {"fast"}
    (problem,) = registry.problems
    assert problem.where == f"{site / 'broken.py'}:{line}"
    assert message in str(problem)
    assert "plugin 'broken' of broken is disabled" in str(problem)


def test_an_entry_point_that_names_something_else_is_reported(site: Path, install: Install) -> None:
    install("odd", "PLUGIN = 7\n")
    (problem,) = load_plugins(points(site)).problems
    assert "a Plugin is expected, not a int" in problem.message


def test_nothing_installed_gives_an_empty_registry() -> None:
    assert load_plugins([]) == Registry()


def test_a_plugin_lists_what_it_adds() -> None:
    assert list(Plugin(name="empty").items()) == []
