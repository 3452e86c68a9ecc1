"""The folder that keeps what is slow to make again."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from autodeploy.cache import cache_dir, forget_oldest, keep_folder, make_folder, mark_used, replace_file


def test_the_cache_is_where_it_is_asked_to_be(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AUTODEPLOY_CACHE", "/x/y")
    assert cache_dir() == Path("/x/y")
    monkeypatch.delenv("AUTODEPLOY_CACHE")
    monkeypatch.setenv("XDG_CACHE_HOME", "/x")
    assert cache_dir() == Path("/x/autodeploy")
    monkeypatch.delenv("XDG_CACHE_HOME")
    assert cache_dir() == Path.home() / ".cache" / "autodeploy"


def test_a_folder_is_made_once_or_not_at_all(tmp_path: Path) -> None:
    calls = []

    def fill(folder: Path) -> None:
        calls.append(folder)
        (folder / "file").write_text("x")
        if len(calls) == 1:
            raise KeyboardInterrupt

    target = tmp_path / "cache" / "thing"
    with pytest.raises(KeyboardInterrupt):
        make_folder(target, fill)
    assert list((tmp_path / "cache").iterdir()) == []
    make_folder(target, fill)
    make_folder(target, fill)
    assert len(calls) == 2
    assert [entry.name for entry in (tmp_path / "cache").iterdir()] == ["thing"]


def test_the_first_of_two_processes_wins(tmp_path: Path) -> None:
    target = tmp_path / "thing"

    def fill(folder: Path) -> None:
        (folder / "file").write_text("ours")
        target.mkdir()
        (target / "file").write_text("theirs")

    assert (make_folder(target, fill) / "file").read_text() == "theirs"
    assert [entry.name for entry in tmp_path.iterdir() if entry.name.startswith(".")] == []


def test_a_file_is_replaced_whole_or_not_at_all(tmp_path: Path) -> None:
    file = tmp_path / "folder" / "file"
    replace_file(file, "é")
    assert file.read_text(encoding="utf-8") == "é"
    with pytest.raises(UnicodeEncodeError):
        replace_file(file, "half of it \ud800")
    assert [(one, one.read_text(encoding="utf-8")) for one in file.parent.iterdir()] == [(file, "é")]


def filled(folder: Path) -> None:
    (folder / "file").write_text("x")


def old(folder: Path, *names: str) -> list[Path]:
    """Entries used one after the other, long ago: folders, and files where a name has an ending."""
    entries = [folder / name for name in names]
    for second, entry in enumerate(entries):
        if entry.suffix:
            entry.write_text("x")
        else:
            entry.mkdir()
            filled(entry)
        os.utime(entry, (second, second))
    return entries


def names(folder: Path) -> set[str]:
    return {entry.name for entry in folder.iterdir()}


def test_what_was_used_longest_ago_is_forgotten(tmp_path: Path) -> None:
    first, *_ = old(tmp_path, "a", "b.json", "c", "d.json")
    mark_used(first)
    forget_oldest(tmp_path, 2)
    assert names(tmp_path) == {"a", "d.json"}


def test_what_is_made_or_used_is_kept(tmp_path: Path) -> None:
    old(tmp_path, "a", "b", "c")
    keep_folder(tmp_path / "a", filled, 3)
    assert names(tmp_path) == {"a", "b", "c"}, "nothing was added"
    keep_folder(tmp_path / "d", filled, 3)
    assert names(tmp_path) == {"a", "c", "d"}


def test_what_was_used_today_is_kept(tmp_path: Path) -> None:
    for name in "abc":
        keep_folder(tmp_path / name, filled, 1)
    assert names(tmp_path) == {"a", "b", "c"}


def test_what_another_process_has_removed_is_no_error(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    gone, *_ = old(tmp_path, "a", "b", "c.json")
    entries = [*tmp_path.iterdir(), tmp_path / "e.json"]
    gone.rename(tmp_path / "d")
    monkeypatch.setattr(Path, "iterdir", lambda folder: iter(entries))
    forget_oldest(tmp_path, 0)
    monkeypatch.undo()
    assert names(tmp_path) == {"d"}


def test_nothing_is_seen_half_removed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (entry,) = old(tmp_path, "a")
    seen = []
    monkeypatch.setattr("shutil.rmtree", lambda *_, **__: seen.append(entry.exists()))
    forget_oldest(tmp_path, 0)
    assert seen == [False]
