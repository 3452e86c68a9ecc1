"""The folder that keeps what is slow to make again."""

from __future__ import annotations

import os
import shutil
import tempfile
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

DAY = 24 * 3600.0


def cache_dir() -> Path:
    """`$AUTODEPLOY_CACHE`, or `autodeploy` in the user's cache folder. It need not exist yet."""
    chosen = os.environ.get("AUTODEPLOY_CACHE")
    if chosen:
        return Path(chosen).expanduser()
    base = os.environ.get("XDG_CACHE_HOME") or "~/.cache"
    return Path(base).expanduser() / "autodeploy"


def make_folder(target: Path, fill: Callable[[Path], None]) -> Path:
    """Give `target`, a folder that `fill` wrote; made once, and never seen half-made.

    `fill` writes into a temporary folder beside `target`, which is then renamed. Whatever stops it, Ctrl-C included,
    removes that folder. When two processes make one target, the first to finish wins.
    """
    if target.is_dir():
        return target
    target.parent.mkdir(parents=True, exist_ok=True)
    partial = Path(tempfile.mkdtemp(prefix=f".{target.name}-", dir=target.parent))
    try:
        fill(partial)
        try:
            partial.rename(target)
        except OSError:  # another process was first
            if not target.is_dir():
                raise
    finally:
        shutil.rmtree(partial, ignore_errors=True)
    return target


def keep_folder(target: Path, fill: Callable[[Path], None], most: int) -> Path:
    """`make_folder` where `most` are kept: making one more removes those that were used longest ago."""
    if not target.is_dir():
        make_folder(target, fill)
        forget_oldest(target.parent, most)
    mark_used(target)
    return target


def mark_used(entry: Path) -> None:
    """Say that a file or folder was used now. In a cache that cannot be written, nothing is forgotten either."""
    with suppress(OSError):
        os.utime(entry)


def forget_oldest(folder: Path, most: int) -> None:
    """Leave, of the files and folders in `folder`, the `most` that were made or used last, and those of the last day.

    Several processes may do so at once: what one of them has just found, another leaves. An entry goes whole: none is
    ever seen half-removed.
    """
    used = sorted(((_last_used(entry), entry) for entry in folder.iterdir()), reverse=True)
    for when, entry in used[most:]:
        if time.time() - when > DAY:
            with suppress(OSError):  # another process was first, or it is another user's
                _remove(entry)


def _last_used(entry: Path) -> float:
    with suppress(OSError):  # another process has removed it
        return entry.stat().st_mtime
    return 0.0


def _remove(entry: Path) -> None:
    if not entry.is_dir():
        entry.unlink()
        return
    with tempfile.TemporaryDirectory(prefix=".gone-", dir=entry.parent, ignore_cleanup_errors=True) as gone:
        entry.rename(Path(gone) / entry.name)


def replace_file(path: Path, text: str) -> None:
    """Write a file whole or not at all, in a folder that is made where it is missing.

    Whatever stops it, a full disk or Ctrl-C included, leaves nothing beside `path`.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    handle, partial = tempfile.mkstemp(prefix=f".{path.name}-", dir=path.parent)
    try:
        with open(handle, "w", encoding="utf-8") as file:
            file.write(text)
        os.replace(partial, path)
    except BaseException:
        Path(partial).unlink(missing_ok=True)
        raise
