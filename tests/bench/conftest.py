"""The tiny model and the cache of the builds' tests."""

from __future__ import annotations

from tests.build.conftest import _own_cache, model_folder, native_cache  # noqa: F401 (fixtures)
