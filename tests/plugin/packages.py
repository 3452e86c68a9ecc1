"""Installing a package for a subprocess, without touching the environment of the tests."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path


def install_into(site: Path, package: Path) -> None:
    """Install the package in the folder `package`, and nothing it depends on, into `site`."""
    copy = site.with_name(f"{site.name}-source") / package.name  # setuptools writes into the folder that it builds
    shutil.copytree(package, copy, ignore=shutil.ignore_patterns("__pycache__", "*.egg-info"))
    options = ["--no-deps", "--no-build-isolation", "--no-index", "--disable-pip-version-check", "--quiet"]
    command = [sys.executable, "-m", "pip", "install", *options, "--target", str(site), str(copy)]
    subprocess.run(command, check=True, capture_output=True, text=True)


def run_with(site: Path, *words: str, cwd: Path) -> subprocess.CompletedProcess[str]:
    """Run a Python command with the packages of `site` beside those installed."""
    environment = {**os.environ, "COLUMNS": "200", "PYTHONPATH": str(site)}
    return subprocess.run(
        [sys.executable, *words], cwd=cwd, env=environment, capture_output=True, text=True, check=False
    )
