"""The built-in plugin: what this package itself adds, through the door that every plugin uses."""

from __future__ import annotations

from autodeploy.plugin import Plugin

PLUGIN = Plugin(name="builtin")
