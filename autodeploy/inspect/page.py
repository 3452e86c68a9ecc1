"""Pages: HTML with its styles and script inside, for a notebook's output or a file of its own."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache
from importlib.resources import files
from pathlib import Path
from typing import Any
from uuid import uuid4

from jinja2 import Environment, FunctionLoader, StrictUndefined
from markupsafe import Markup

from autodeploy.inspect import figures


@dataclass(frozen=True)
class Page:
    """A view that draws itself in a notebook; `save` writes it as a file that needs nothing else."""

    title: str
    body: Markup

    def _repr_html_(self) -> str:
        """The view for a cell's output: a block whose styles and names touch nothing around it."""
        return str(render("output.html", body=self.body, title=self.title, id=new_id()))

    def document(self) -> str:
        """The view as a whole HTML document."""
        return str(render("document.html", title=self.title, content=Markup(self._repr_html_())))

    def save(self, path: str | Path) -> Path:
        """Write the document to `path`."""
        path = Path(path)
        path.write_text(self.document(), encoding="utf-8")
        return path


def render(template: str, **values: Any) -> Markup:
    """Fill a template of `assets`; texts are escaped, what is Markup is not."""
    return Markup(_environment().get_template(template).render(**values))


def new_id() -> str:
    """A name that no other output of a notebook has."""
    return f"adv-{uuid4().hex[:12]}"


def tabs(panels: dict[str, Markup]) -> Markup:
    """Views to choose from; without scripts they stand below each other."""
    return render("tabs.html", panels=panels, id=new_id())


@cache
def _environment() -> Environment:
    environment = Environment(
        loader=FunctionLoader(_asset), autoescape=True, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True
    )
    texts = ("bytes_text", "flops_text", "seconds_text", "count_text", "tick_text")
    environment.filters.update({name: getattr(figures, name) for name in texts})
    environment.globals["asset"] = lambda name: Markup(_asset(name))
    return environment


def _asset(name: str) -> str:
    return (files("autodeploy.inspect") / "assets" / name).read_text(encoding="utf-8")
