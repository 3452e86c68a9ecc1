"""An HTTP server that speaks OpenAI's API."""

from autodeploy.runtime.server.app import create_app
from autodeploy.runtime.server.async_engine import AsyncEngine
from autodeploy.runtime.server.run import listen, run

__all__ = ["AsyncEngine", "create_app", "listen", "run"]
