"""Golden files: texts that are kept beside the tests, and compared with what the code makes now."""

from __future__ import annotations

from difflib import unified_diff
from pathlib import Path


def assert_golden(text: str, path: Path, *, update: bool = False) -> None:
    """Hold that `text` is what the file at `path` holds; with `update`, write it there instead.

    Raises AssertionError with the difference, or when there is no file.
    """
    if update:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
        return
    assert path.is_file(), f"there is no golden file {path}; run pytest with --update-golden, and read what it wrote"
    kept = path.read_text()
    if kept != text:
        lines = unified_diff(kept.splitlines(), text.splitlines(), str(path), "now", lineterm="")
        raise AssertionError("\n".join([*lines, "where the change is meant, run pytest with --update-golden"]))
