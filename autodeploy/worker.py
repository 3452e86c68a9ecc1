"""`python -m autodeploy.worker ADDRESS`: a process that runs an artifact for another one."""

from __future__ import annotations

import sys
from pathlib import Path

from autodeploy import artifact
from autodeploy.llm import load_core
from autodeploy.runtime.messages import Start
from autodeploy.runtime.protocol import Core
from autodeploy.runtime.worker import Worker


def load(start: Start) -> Core:
    """The core that `start` describes."""
    return load_core(artifact.load(Path(start.artifact)), start.gpu, start.capture, start.settings)


if __name__ == "__main__":
    sys.exit(Worker(sys.argv[1], load).run())
