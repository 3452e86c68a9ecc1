"""`python -m autodeploy.worker ADDRESS`: a process that runs an artifact for another one."""

from __future__ import annotations

import sys
from pathlib import Path

from autodeploy.runtime.messages import Start
from autodeploy.runtime.protocol import Core
from autodeploy.runtime.worker import Worker


def load(start: Start) -> Core:
    """The core that `start` describes."""
    import torch

    from autodeploy import artifact
    from autodeploy.loading import load_core

    found = artifact.load(Path(start.artifact))
    if found.manifest.devices[0] != "cpu":
        torch.set_num_threads(1)  # the host's part is small: threads that wait for each other would only hold it up
    return load_core(found, start.gpu, start.capture, start.settings)


if __name__ == "__main__":
    sys.exit(Worker(sys.argv[1], load).run())
