"""`autodeploy plugin new`: what it writes works, and what it refuses."""

from __future__ import annotations

import json
import py_compile
from collections.abc import Callable
from pathlib import Path

import pytest

from autodeploy.cli import main
from autodeploy.errors import InputError
from autodeploy.scaffold import check_plugin_name, new_plugin
from tests.plugin.conftest import load
from tests.plugin.packages import install_into, run_with

Command = Callable[..., tuple[int, str, str]]


@pytest.fixture
def run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Command:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("COLUMNS", "200")

    def run_one(*words: str) -> tuple[int, str, str]:
        code = main(words)
        captured = capsys.readouterr()
        return code, captured.out, captured.err

    return run_one


def test_a_new_plugin_installs_and_passes_its_own_tests(tmp_path: Path) -> None:
    folder = tmp_path / "my-fusions"
    new_plugin("my-fusions", folder)
    install_into(tmp_path / "site", folder)
    done = run_with(tmp_path / "site", "-m", "pytest", "-q", "-p", "no:cacheprovider", "tests", cwd=folder)
    assert done.returncode == 0, done.stdout
    assert "5 passed" in done.stdout


def test_its_files(run: Command, tmp_path: Path) -> None:
    code, out, _ = run("plugin", "new", "fast-gates", "--out", "there/gates", "--json")
    assert code == 0
    files = [Path(file) for file in json.loads(out)["files"]]
    assert all(file.is_file() for file in files)
    assert {file.name for file in files} >= {"pyproject.toml", "README.md", "plugin.py", "test_fast_gates.py"}
    for file in files:
        assert "$" not in file.read_text()
        if file.suffix == ".py":
            py_compile.compile(str(file), doraise=True)
    assert [path.name for path in (tmp_path / "there").iterdir()] == ["gates"]


def test_what_to_type_next(run: Command) -> None:
    code, out, _ = run("plugin", "new", "gates")
    assert code == 0
    assert "Next: cd gates && pip install" in out


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("My Fusions", "as in 'my-fusions'"),
        ("2fast", "as in 'fast'"),
        ("-", "as in 'my-fusions'"),
        ("torch", "'torch' is taken, by Python or an installed package; try torch-fusions"),
        ("json", "'json' is taken"),
        ("lambda", "'lambda' is taken"),
        ("autodeploy-more", "'autodeploy_more' is a name of ours"),
        ("aten", "'aten' is a name of ours or of torch's operators"),
    ],
)
def test_a_bad_name_writes_nothing(run: Command, tmp_path: Path, name: str, message: str) -> None:
    with pytest.raises(InputError) as refused:
        check_plugin_name(name)
    assert message in str(refused.value)
    code, out, err = run("plugin", "new", "--", name)
    assert (code, out) == (2, "")
    assert err.startswith(f"autodeploy: plugin new {name}: ")
    assert err.count("\n") == 1
    assert list(tmp_path.iterdir()) == []


def test_an_existing_folder_stays_as_it_is(run: Command, tmp_path: Path) -> None:
    (tmp_path / "mine").mkdir()
    code, _, err = run("plugin", "new", "mine")
    assert code == 2
    assert "mine exists, and stays as it is" in err
    assert list((tmp_path / "mine").iterdir()) == []


def test_a_place_that_cannot_be_written(run: Command, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    code, _, err = run("plugin", "new", "mine", "--out", "file/mine")
    assert code == 2
    assert "file/mine cannot be written" in err


def test_two_new_plugins_live_together(site: Path) -> None:
    for name in ("first-one", "second-one"):
        new_plugin(name, site / name)
        install_into(site, site / name)
    registry = load(site)
    assert registry.problems == ()
    assert {"apply_first_one", "apply_second_one"} <= set(registry.passes)


def test_help_lists_the_command(run: Command) -> None:
    assert "plugin" in run("--help")[1]
    assert "new" in run("plugin", "--help")[1]
    assert "--json" in run("plugin", "new", "--help")[1]
