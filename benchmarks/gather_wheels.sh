#!/usr/bin/env bash
# Download the wheels that a bare CUDA machine (Python 3.12, with torch and transformers) still needs into a folder.
# usage: benchmarks/gather_wheels.sh FOLDER; there: pip install --no-index --no-deps FOLDER/*.whl
set -euo pipefail
folder=${1:?the folder to put the wheels in}
here=$(cd "$(dirname "$0")" && pwd)
python3 -m pip download --quiet --no-deps --only-binary=:all: --python-version 3.12 --implementation cp \
    --platform manylinux_2_28_x86_64 --platform manylinux_2_26_x86_64 --platform manylinux_2_17_x86_64 --platform manylinux2014_x86_64 \
    --platform manylinux1_x86_64 -c "$here/../constraints.txt" -d "$folder" \
    annotated-types execnet gguf msgspec pydantic pydantic-core pytest-xdist pyzmq typing-inspection
