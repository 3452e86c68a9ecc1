"""Reading HTML as strictly as a test should: every element is closed, and nothing is fetched."""

from __future__ import annotations

import re
from html.parser import HTMLParser

_VOID = {"meta", "input", "br", "wbr", "hr", "img", "link"}
_DRAWN = {"path", "line", "rect", "circle", "polyline"}
_FETCHING = {"src", "href", "xlink:href", "srcset", "action", "data", "poster"}


class Strict(HTMLParser):
    """Raises AssertionError for what a browser would mend silently; keeps elements, names and texts."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.open: list[str] = []
        self.ids: list[str] = []
        self.attributes: list[tuple[str, str, str]] = []
        self.texts: list[str] = []
        self.feed(text)
        self.close()
        assert self.open == [], f"never closed: {self.open}"
        assert len(self.ids) == len(set(self.ids)), "an id stands twice"

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        if tag not in _VOID:
            self.open.append(tag)
        self._keep(tag, attrs)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        assert tag in _DRAWN, f"<{tag}/> is no element without content"
        self._keep(tag, attrs)

    def handle_endtag(self, tag: str) -> None:
        assert self.open, f"</{tag}> closes nothing"
        assert self.open.pop() == tag, f"</{tag}> at {self.getpos()}"

    def handle_data(self, data: str) -> None:
        self.texts.append(data)

    def _keep(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.attributes += [(tag, name, value or "") for name, value in attrs]
        self.ids += [value or "" for name, value in attrs if name == "id"]


def assert_self_contained(text: str) -> Strict:
    """Hold that `text` is well formed and needs nothing from anywhere else."""
    read = Strict(text)
    fetching = [one for one in read.attributes if one[1] in _FETCHING]
    assert fetching == []
    assert not re.search(r"https?://|@import|url\(|\bfetch\(|XMLHttpRequest|import\(", text)
    return read
