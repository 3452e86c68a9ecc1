from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest
import torch

from autodeploy.discovery import Registry, discover, kernel_table, load_plugins
from autodeploy.errors import PluginError
from autodeploy.kernels import Backend, builtin_kernels
from autodeploy.plugin import Plugin
from tests.plugin.conftest import Install, load, points

IMPORT = "from autodeploy.plugin import Plugin\n"
RECIPE = "version: 1\nname: {name}\nreason: it is a test\n"
WITH_RECIPE = """
from pathlib import Path
from autodeploy.plugin import Plugin
PLUGIN = Plugin(name="{name}", recipes=(Path(__file__).with_name("{recipe}.yaml"),))
"""
WITH_PASS = """
from typing import ClassVar
from autodeploy.pipeline import Pass, Stage
from autodeploy.plugin import Plugin

class {cls}(Pass):
    name: ClassVar[str] = "{cls}"
    stage: ClassVar[Stage] = Stage.FUSE
    {member}
    def run(self, gm, ctx):
        return 0

PLUGIN = Plugin(name="{name}", passes=({cls},))
"""
WITH_RULE = """
import torch
from autodeploy.plugin import Plugin
from autodeploy.rewrite import Call, rewrite

@rewrite(torch.ops.autodeploy.activate.default)
def halved(x):
    return Call(torch.ops.aten.mul.Tensor, (x, 0.5))

PLUGIN = Plugin(name="broken", patterns=(halved,))
"""
WITH_OP = """
from autodeploy.ops import CanonicalOp
from autodeploy.plugin import Plugin
OP = CanonicalOp("{schema}", lambda x: x.clone(), lambda x: x.new_empty(x.shape))
PLUGIN = Plugin(name="broken", ops=(OP,))
"""


def theirs(registry: Registry) -> dict[tuple[str, str], str]:
    return {key: str(one) for key, one in registry.origins.items() if not one.is_ours}


def test_the_built_ins_come_through_the_same_door() -> None:
    registry = discover()
    assert [str(one).partition(" ")[0] for one in registry.providers()] == ["fx-autodeploy"]
    assert not registry.problems
    assert set(registry.kernels) == {"native", "triton"}
    assert "default" in registry.recipes
    assert [one.name for one in kernel_table(torch.device("cpu"))] == [one.name for one in builtin_kernels("cpu")]


def test_discovery_loads_no_kernels() -> None:
    code = (
        "import sys; from autodeploy.cli import main; main(['passes', '--json']);"
        "sys.exit(str([name for name in sys.modules if name.startswith('autodeploy.kernels.triton.')] or ''))"
    )
    done = subprocess.run([sys.executable, "-c", code], check=False, capture_output=True, text=True)
    assert done.stderr.strip() == ""


def test_a_plugin_is_found_and_its_origin_known(site: Path, install: Install) -> None:
    (site / "fast.yaml").write_text(RECIPE.format(name="faster"))
    install("alpha", WITH_RECIPE.format(name="alpha", recipe="fast"))
    registry = load_plugins(points(site))
    assert registry.recipes["faster"].data.reason == "it is a test"
    assert theirs(registry) == {("plugins", "alpha"): "alpha 1.0", ("recipes", "faster"): "alpha 1.0"}


@pytest.mark.parametrize(
    ("first", "second", "kind"),
    [
        (
            WITH_RECIPE.format(name="alpha", recipe="fast"),
            WITH_RECIPE.format(name="beta", recipe="fast"),
            "recipes named 'fast'",
        ),
        (
            WITH_PASS.format(name="alpha", cls="Same", member=""),
            WITH_PASS.format(name="beta", cls="Same", member=""),
            "passes named 'Same'",
        ),
    ],
)
def test_a_clash_names_both_distributions(site: Path, install: Install, first: str, second: str, kind: str) -> None:
    (site / "fast.yaml").write_text(RECIPE.format(name="fast"))
    install("alpha", first)
    install("beta", second)
    with pytest.raises(PluginError, match=rf"^beta 1\.0 and alpha 1\.0 both have {kind}; uninstall one"):
        load_plugins(points(site))


def test_a_clash_with_a_built_in(site: Path, install: Install) -> None:
    install("alpha", WITH_PASS.format(name="alpha", cls="fuse_qkv", member=""))
    with pytest.raises(PluginError, match=r"alpha 1\.0 and fx-autodeploy \S+ both have passes named 'fuse_qkv'"):
        load(site)


def test_two_plugins_of_one_name(site: Path, install: Install) -> None:
    install("alpha", IMPORT + 'PLUGIN = Plugin(name="mine")', point="mine")
    install("beta", IMPORT + 'PLUGIN = Plugin(name="mine")', point="mine")
    with pytest.raises(PluginError, match=r"both have plugins named 'mine'"):
        load_plugins(points(site))


@pytest.mark.parametrize(
    ("source", "line", "message"),
    [
        ("x = 1\n1 / 0\n", 2, "ZeroDivisionError"),
        ("x = (\n\n", 1, "SyntaxError"),
        ("import no_such_module_at_all\n", 1, "ModuleNotFoundError"),
        ("def fail():\n    return {}['x']\nfail()\n", 2, "KeyError"),
        # The mistake surfaces in our code or pydantic's; the line is the plugin's.
        (WITH_RULE, 6, "TypeError: autodeploy.activate.default needs 'kind', which is no hole"),
        (WITH_PASS.format(name="broken", cls="P", member="width = 3"), 6, "PydanticUserError"),
        (WITH_PASS.format(name="broken", cls="P", member="").replace("name: ClassVar[str]", "label: ClassVar[str]"),
         13, "the pass P ({site}/broken.py:6) has no `name: ClassVar[str]`"),
        (WITH_PASS.format(name="broken", cls="P", member="").replace("stage: ClassVar[Stage]", "at: ClassVar[Stage]"),
         13, "has no `stage: ClassVar[Stage]`"),
        (WITH_PASS.format(name="broken", cls="P", member="").replace("def run", "def go"), 13, "has no method `run`"),
        (WITH_PASS.format(name="broken", cls="P", member='after: ClassVar[str] = "x"'), 13, "write ('x',)"),
        (IMPORT + '\nPLUGIN = Plugin(name="broken", passes=(7,))', 3, "passes hold 7"),
        (IMPORT + 'PLUGIN = Plugin(name="broken", patterns=(7,))', 2, "a Rule is expected"),
        (IMPORT + 'PLUGIN = Plugin(name="broken", ops=(7,))', 2, "a CanonicalOp is expected"),
        (IMPORT + 'PLUGIN = Plugin(name="broken", kernels=(7,))', 2, "a Backend is expected"),
        (IMPORT + 'PLUGIN = Plugin(name="broken", recipes=("a",))', 2, "a Path is expected"),
        (IMPORT + 'PLUGIN = Plugin(name="broken", recipes=[])', 2, "a tuple is expected"),
        (IMPORT + 'PLUGIN = Plugin(name="A b")', 2, "a plugin cannot be called 'A b'"),
        (IMPORT + 'PLUGIN = Plugin(name="aten")', 2, "a plugin cannot be called 'aten'"),
        (WITH_OP.format(schema="other::copy(Tensor x) -> Tensor"), 5, "'other.copy' is not in its plugin's namespace"),
        (WITH_OP.format(schema="copy(Tensor x) -> Tensor"), 5, "write broken::copy"),
        (WITH_OP.format(schema="broken::copy(Tenser x) -> Tensor"), 5, "cannot be defined"),
    ],
)  # fmt: skip
def test_a_broken_plugin_is_reported_with_its_line_and_left_out(
    site: Path, install: Install, source: str, line: int, message: str
) -> None:
    install("alpha", WITH_PASS.format(name="alpha", cls="fine", member=""))
    install("broken", source)
    registry = load_plugins(points(site))
    assert set(registry.passes) == {"fine"}
    (problem,) = registry.problems
    assert problem.where == f"{site / 'broken.py'}:{line}"
    assert message.format(site=site) in problem.message
    assert str(problem).startswith("plugin 'broken' of broken 1.0 is disabled: ")
    assert "\n" not in str(problem)


@pytest.mark.parametrize(
    ("recipe", "message"),
    [
        ("version: 1\nname: x\npases: []\n", "fast.yaml:3: unknown key 'pases'; did you mean 'passes'?"),
        (None, "fast.yaml does not exist"),
    ],
)
def test_a_broken_recipe_disables_its_plugin(site: Path, install: Install, recipe: str | None, message: str) -> None:
    if recipe is not None:
        (site / "fast.yaml").write_text(recipe)
    install("alpha", WITH_RECIPE.format(name="alpha", recipe="fast"))
    (problem,) = load_plugins(points(site)).problems
    assert message in problem.message


@pytest.mark.parametrize(
    ("source", "point", "message"),
    [
        ("PLUGIN = 7\n", "odd", "a Plugin is expected, not a int"),
        ("from autodeploy.plugin import Plugin\nPLUGIN = Plugin(name='even')\n", "odd", "the plugin's name is 'even'"),
    ],
)
def test_an_entry_point_of_something_else(site: Path, install: Install, source: str, point: str, message: str) -> None:
    install("odd", source, point)
    (problem,) = load_plugins(points(site)).problems
    assert message in problem.message
    assert problem.where == "odd:PLUGIN"


def test_a_pass_whose_anchor_does_not_exist_disables_its_plugin(site: Path, install: Install) -> None:
    install("alpha", WITH_PASS.format(name="alpha", cls="A", member='after: ClassVar[tuple[str, ...]] = ("fuse_qvk",)'))
    install("beta", WITH_PASS.format(name="beta", cls="B", member='after: ClassVar[tuple[str, ...]] = ("A",)'))
    install("gamma", WITH_PASS.format(name="gamma", cls="C", member='after: ClassVar[tuple[str, ...]] = ("fuse_qkv",)'))
    registry = load(site)
    assert {"A", "B", "C"} & set(registry.passes) == {"C"}
    first, second = map(str, registry.problems)
    assert f"{site / 'alpha.py'}:6: pass 'A' runs after 'fuse_qvk', which is no pass; did you mean 'fuse_qkv'?" in first
    assert "pass 'B' runs after 'A', which is no pass" in second


def test_nothing_installed_gives_an_empty_registry() -> None:
    assert load_plugins([]) == Registry()


def test_a_plugin_lists_what_it_adds() -> None:
    backend = Backend("fast", lambda: ())
    assert list(Plugin(name="mine", kernels=(backend,)).items()) == [("kernels", "fast", backend)]
    with pytest.raises(PluginError, match="kernels of the plugin 'mine' hold 'fast' 2 times"):
        Plugin(name="mine", kernels=(backend, backend))
