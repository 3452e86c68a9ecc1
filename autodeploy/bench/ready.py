"""How long it takes from the start of a process to its first answer."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from autodeploy.artifact import Artifact
from autodeploy.bench.figure import Figure
from autodeploy.errors import EngineError

CACHES = ("AUTODEPLOY_CACHE", "TRITON_CACHE_DIR", "CUDA_CACHE_PATH", "TORCHINDUCTOR_CACHE_DIR", "XDG_CACHE_HOME")
PROMPT_LEN = 128
SCRIPT = """
import json, sys, time
import autodeploy as ad
folder, options, started, length = sys.argv[1], json.loads(sys.argv[2]), float(sys.argv[3]), int(sys.argv[4])
llm = ad.LLM(folder, **options)
loaded = time.time() - started
prompt = [one % llm.engine.core.vocab_size for one in range(min(length, llm.engine.max_len - 1))]
llm.generate([prompt], ad.SamplingParams(max_tokens=1, temperature=0, ignore_eos=True, detokenize=False))
print(json.dumps({"loaded": loaded, "answered": time.time() - started, "phases": dict(llm.engine.core.phases)}))
"""
"""What a user would write."""


@dataclass(frozen=True)
class Ready:
    """The seconds until a fresh process, all caches but the artifact's own being empty, has answered one request.

    With `cold`, the artifact's files must be read from the disk; else they are where the system keeps them since they
    were last read.
    """

    cold: bool = False
    batch_size: int = 1
    reuses_prefixes: bool = False

    @property
    def name(self) -> str:
        """ready, or ready:cold"""
        return "ready:cold" if self.cold else "ready"

    def measure(self, artifact: Artifact, options: Mapping[str, Any]) -> Started:
        """Start it once. `options` are those of `autodeploy.LLM`; raises EngineError when it does not answer."""
        for file in artifact.path.iterdir():
            (_forget if self.cold else _remember)(file)
        with TemporaryDirectory(prefix="autodeploy-") as empty:
            caches = {name: str(Path(empty) / name) for name in CACHES}
            given = (str(artifact.path), json.dumps(dict(options)), str(time.time()), str(PROMPT_LEN))
            done = subprocess.run(
                [sys.executable, "-c", SCRIPT, *given],
                env={**os.environ, **caches},
                stdout=subprocess.PIPE,
                check=False,
            )
        if done.returncode:
            raise EngineError(f"--run {self.name}: the process ended with exit code {done.returncode}")
        return Started(self.name, **json.loads(done.stdout.splitlines()[-1]))


@dataclass(frozen=True)
class Started:
    """Seconds from the start of a process until its model was loaded and until it had answered.

    `phases` are those of the load, in the process that has the model.
    """

    run: str
    loaded: float
    answered: float
    phases: Mapping[str, float]

    @property
    def figures(self) -> list[Figure]:
        """What a later run is compared with."""
        return [Figure(self.run, "first answer", self.answered, "s")]

    def sentence(self) -> str:
        """Where the time went."""
        phases = ", ".join(f"{phase} {seconds:.1f}" for phase, seconds in self.phases.items())
        return f"{self.run}: loaded after {self.loaded:.1f} s, of which {phases}; answered after {self.answered:.1f} s"


def _forget(file: Path) -> None:
    """Let the system drop what it keeps of a file in memory, where it can be told to."""
    with file.open("rb") as opened:
        os.fsync(opened.fileno())
        if hasattr(os, "posix_fadvise"):
            os.posix_fadvise(opened.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)


def _remember(file: Path) -> None:
    """Read a file, so that the system keeps it in memory where there is room."""
    with file.open("rb", buffering=0) as opened:
        block = bytearray(1 << 24)
        while opened.readinto(block):
            pass
