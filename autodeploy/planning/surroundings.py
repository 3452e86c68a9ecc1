"""What a plan rests on besides the model: the code that made it."""

from __future__ import annotations

import hashlib
import json
import sys
from collections.abc import Iterator
from functools import cache
from importlib.machinery import ModuleSpec
from importlib.metadata import entry_points
from importlib.util import find_spec
from pathlib import Path

from autodeploy.discovery import GROUP


@cache
def surroundings() -> str:
    """A hash of what code here rests on: all that is installed, and the files of every plugin.

    A package is known by its version and by when it was installed: one of the same version may hold other code.
    """
    distributions = {one for path in sys.path for one in Path(path or ".").glob("*.dist-info")}
    installed = sorted((one.name, one.stat().st_mtime_ns) for one in distributions)
    packages = {"autodeploy", "autodeploy.passes", "autodeploy.patterns"}
    packages |= {point.module.partition(".")[0] for point in entry_points(group=GROUP)}
    specs = [spec for name in sorted(packages) if (spec := find_spec(name)) is not None]
    files = sorted(file for spec in specs for file in _files(spec))
    stamps = [(str(file), file.stat().st_size, file.stat().st_mtime_ns) for file in files]
    return hashlib.sha256(json.dumps([sys.version, installed, stamps]).encode()).hexdigest()


def _files(spec: ModuleSpec) -> Iterator[Path]:
    """The source files of a package, or the one of a module."""
    homes = spec.submodule_search_locations
    if homes is None:
        yield from [Path(spec.origin)] if spec.has_location and spec.origin else []
    for home in homes or ():
        yield from Path(home).rglob("*.py")
