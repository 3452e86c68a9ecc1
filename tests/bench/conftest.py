"""The tiny model and the cache of the builds' tests."""

from __future__ import annotations

from tests.build.conftest import _own_cache, model_folder, native_cache, saved_model  # noqa: F401 (fixtures)
