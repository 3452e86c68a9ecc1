"""Reading YAML so that an error can name the file and the line."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from autodeploy.errors import RecipeError, nearest

Key = tuple[str | int, ...]


@dataclass(frozen=True)
class YamlFile:
    """The content of a YAML mapping, and the line at which each of its keys stands."""

    path: Path
    data: dict[str, Any]
    lines: Mapping[Key, int]

    def where(self, key: Key = ()) -> str:
        """The place of `key`, or of the nearest parent that has one, as `file:line`."""
        while key and key not in self.lines:
            key = key[:-1]
        return f"{self.path}:{self.lines.get(key, 1)}"


def read_yaml(path: Path) -> YamlFile:
    """Read a file whose top level is a mapping. Duplicate keys, tags and anything but plain data are refused."""
    if not path.exists():
        beside = [one.name for one in path.parent.glob("*.y*ml")]
        raise RecipeError(f"{path} does not exist" + (f"; {nearest(path.name, beside)}" if beside else ""))
    try:
        text = path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise RecipeError(f"{path}: cannot be read as a YAML file ({_first_line(error)})") from error
    try:
        node = yaml.compose(text, Loader=yaml.SafeLoader)
    except yaml.MarkedYAMLError as error:
        line = error.problem_mark.line + 1 if error.problem_mark else 1
        raise RecipeError(f"{path}:{line}: not valid YAML: {error.problem}") from error
    if not isinstance(node, yaml.MappingNode):
        raise RecipeError(f"{path}:1: a mapping such as `version: 1` is expected here")
    lines: dict[Key, int] = {}
    data = _Reader(path, yaml.SafeLoader(""), lines).value(node, ())
    return YamlFile(path, data, lines)


@dataclass(frozen=True)
class _Reader:
    """Turns YAML nodes into plain values and notes their lines."""

    path: Path
    loader: yaml.SafeLoader
    lines: dict[Key, int]

    def value(self, node: yaml.Node, key: Key) -> Any:
        self.lines.setdefault(key, node.start_mark.line + 1)
        if isinstance(node, yaml.MappingNode):
            return self._mapping(node, key)
        if isinstance(node, yaml.SequenceNode):
            return [self.value(child, (*key, index)) for index, child in enumerate(node.value)]
        try:
            return self.loader.construct_object(node)
        except yaml.YAMLError as error:
            raise RecipeError(f"{self.path}:{node.start_mark.line + 1}: {node.tag} is not plain data") from error

    def _mapping(self, node: yaml.MappingNode, key: Key) -> dict[str, Any]:
        result: dict[str, Any] = {}
        for name_node, child in node.value:
            line = name_node.start_mark.line + 1
            name = name_node.value
            if not isinstance(name, str) or name in result:
                problem = f"{name!r} appears twice" if isinstance(name, str) else "a key must be a word"
                raise RecipeError(f"{self.path}:{line}: {problem}")
            self.lines[(*key, name)] = line
            result[name] = self.value(child, (*key, name))
        return result


def _first_line(error: Exception) -> str:
    return str(error).splitlines()[0]
