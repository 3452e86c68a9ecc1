"""The pages in a browser, where there is one: no error, not too wide, quick, and within reach of the keyboard."""

from __future__ import annotations

import re
import subprocess
from html import unescape
from pathlib import Path
from shutil import which

import pytest

from autodeploy.inspect import Page, view, view_diff, view_graph, view_memory, view_pipeline, view_roofline
from tests.inspect.graphs import optimized

BROWSER = next(filter(None, map(which, ("chromium-headless-shell", "chromium", "google-chrome"))), None)
MOST_SECONDS = 3
pytestmark = [pytest.mark.slow, pytest.mark.skipif(BROWSER is None, reason="there is no Chromium")]

# What the page itself is asked, once everything is drawn. Errors that its scripts raised are kept from the start.
_KEEP = "<script>window.said = []; addEventListener('error', (event) => said.push(event.message));</script>"
_TELL = """<script>addEventListener('load', () => {{
  const found = (() => {{ {question} }})();
  document.body.dataset.found = JSON.stringify(found ?? null);
  document.body.dataset.said = said.join('; ');
  document.body.dataset.seconds = performance.now() / 1000;
  document.body.dataset.wider = document.documentElement.scrollWidth - innerWidth;
}});</script>"""


def ask(page: Page, folder: Path, question: str = "", dark: bool = False) -> dict[str, str]:
    """Open a page and return what it says of itself; `question` is the body of a function, its answer is `found`."""
    assert BROWSER is not None
    text = page.document().replace("<head>", f"<head>{_KEEP}", 1)
    file = folder / "page.html"
    file.write_text(text.replace("</body>", f"{_TELL.format(question=question)}</body>"), encoding="utf-8")
    options = ["--headless", "--no-sandbox", "--disable-gpu", "--window-size=1280,900", "--timeout=30000"]
    scheme = ["--blink-settings=preferredColorScheme=0"] if dark else []
    command = [BROWSER, *options, *scheme, "--dump-dom", file.as_uri()]
    dumped = subprocess.run(command, capture_output=True, text=True, check=True, timeout=60).stdout
    (body,) = re.findall(r"<body[^>]*>", dumped)
    return {name: unescape(value) for name, value in re.findall(r'data-(\w+)="([^"]*)"', body)}


def pages(num_layers: int) -> dict[str, Page]:
    result = optimized(num_layers)
    index = next(at for at, report in enumerate(result.history) if report.name == "fuse_qkv")
    return {
        "all": view(result),
        "graph": view_graph(result),
        "traced": view_graph(result.traced),
        "diff": view_diff(result.diff(index)),
        "timeline": view_pipeline(result),
        "roofline": view_roofline(result),
        "memory": view_memory(result),
    }


@pytest.mark.parametrize("num_layers", [2, 80])
def test_pages_are_quick_and_raise_nothing(num_layers: int, tmp_path: Path) -> None:
    for name, page in pages(num_layers).items():
        for dark in (False, True):
            told = ask(page, tmp_path, dark=dark)
            assert told["said"] == "", name
            assert float(told["seconds"]) < MOST_SECONDS, name
            assert float(told["wider"]) <= 0, name


def test_boxes_stand_clear_of_each_other_and_hold_their_texts(tmp_path: Path) -> None:
    question = """
      document.querySelector('[data-do=open]').click();
      const boxes = [...document.querySelectorAll('.adv-op')].map((one) => [one, one.getBoundingClientRect()]);
      const cut = boxes.filter(([one]) => one.scrollWidth > one.clientWidth || one.scrollHeight > one.clientHeight);
      const over = boxes.filter(([, a], at) => boxes.slice(at + 1).some(([, b]) =>
        a.left < b.right - 1 && b.left < a.right - 1 && a.top < b.bottom - 1 && b.top < a.bottom - 1));
      return [boxes.length > 30, cut.length, over.length];
    """
    assert ask(view_graph(optimized(3)), tmp_path, question)["found"] == "[true,0,0]"


def test_the_keyboard_opens_and_closes_groups(tmp_path: Path) -> None:
    question = """
      const press = (key) => document.activeElement.dispatchEvent(new KeyboardEvent('keydown', {key, bubbles: true}));
      const here = () => document.activeElement.getAttribute('aria-expanded');
      document.querySelector('[role=treeitem][tabindex="0"]').focus();
      press('Home');
      const told = [here()];
      press('ArrowRight');
      told.push(here());
      press('ArrowDown');
      told.push(document.activeElement.classList.contains('adv-op'));
      press('ArrowLeft');
      press('ArrowLeft');
      told.push(here());
      return told;
    """
    assert ask(view_graph(optimized(3)), tmp_path, question)["found"] == '["false","true",true,"false"]'


def test_the_keyboard_changes_tabs(tmp_path: Path) -> None:
    question = """
      const tabs = [...document.querySelectorAll('[role=tab]')];
      tabs[0].focus();
      tabs[0].dispatchEvent(new KeyboardEvent('keydown', {key: 'ArrowRight', bubbles: true}));
      return [tabs.length, tabs.findIndex((one) => one.getAttribute('aria-selected') === 'true'),
        [...document.querySelectorAll('[role=tabpanel]')].findIndex((one) => !one.hidden)];
    """
    assert ask(view(optimized(3)), tmp_path, question)["found"] == "[4,1,1]"
