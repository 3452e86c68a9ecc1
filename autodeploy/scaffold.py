"""Writing a new plugin package that works as it is."""

from __future__ import annotations

import re
import sys
from collections.abc import Mapping
from importlib.util import find_spec
from keyword import iskeyword
from pathlib import Path
from string import Template
from types import MappingProxyType

from autodeploy.cache import make_folder
from autodeploy.errors import InputError

TEMPLATES = Path(__file__).with_name("templates")
FILES: Mapping[str, str] = MappingProxyType(
    {
        "pyproject.toml": "pyproject.toml.tmpl",
        "README.md": "README.md.tmpl",
        "$module/__init__.py": "__init__.py.tmpl",
        "$module/patterns.py": "patterns.py.tmpl",
        "$module/passes.py": "passes.py.tmpl",
        "$module/plugin.py": "plugin.py.tmpl",
        "tests/test_$module.py": "test_plugin.py.tmpl",
    }
)
"""The files of a package, and the template of each."""


def new_plugin(name: str, folder: Path) -> tuple[Path, ...]:
    """Write a package called `name`, with a pass, a pattern and tests of both, and return its files.

    Everything is written beside `folder` and renamed, so that nothing stops half-made. Raises InputError, before
    anything is written, for a name that a package or its module cannot have, and when `folder` exists.
    """
    if folder.exists():
        raise InputError(f"{folder} exists, and stays as it is: give another place with --out")
    check_plugin_name(name)
    module = name.replace("-", "_")
    words = {"name": name, "module": module, "title": "".join(part.capitalize() for part in module.split("_"))}
    texts = {
        Template(path).substitute(words): Template((TEMPLATES / template).read_text()).substitute(words)
        for path, template in FILES.items()
    }
    try:
        _write(folder, texts)
    except OSError as error:
        raise InputError(f"{folder} cannot be written: {error.strerror or error}") from error
    return tuple(folder / path for path in texts)


def check_plugin_name(name: str) -> None:
    """Raise InputError unless `name` can be a distribution's, and its module's with `_` for `-`."""
    if not re.fullmatch(r"[a-z][a-z0-9]*([-_][a-z0-9]+)*", name):
        valid = re.sub(r"[^a-z0-9]+", "-", name.lower()).strip("-0123456789") or "my-fusions"
        raise InputError(f"plugin new {name}: small letters, digits and single - are expected, as in {valid!r}")
    module = name.replace("-", "_")
    if iskeyword(module) or module in sys.stdlib_module_names or find_spec(module) is not None:
        raise InputError(
            f"plugin new {name}: {module!r} is taken, by Python or an installed package; try {name}-fusions"
        )
    if module.startswith("autodeploy") or module in ("aten", "prim"):
        raise InputError(f"plugin new {name}: {module!r} is a name of ours or of torch's operators; try my-fusions")


def _write(folder: Path, texts: Mapping[str, str]) -> None:
    def fill(partial: Path) -> None:
        for path, text in texts.items():
            (partial / path).parent.mkdir(exist_ok=True)
            (partial / path).write_text(text)
        partial.chmod(0o755)  # a temporary folder is private

    make_folder(folder, fill)
