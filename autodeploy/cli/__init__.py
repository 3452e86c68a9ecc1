"""The command line."""

from autodeploy.cli.main import main

__all__ = ["main"]
