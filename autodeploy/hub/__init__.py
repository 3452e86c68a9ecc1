"""Where a model's files are: on the Hugging Face Hub, in a folder, in a GGUF file, or in a Python package."""

from autodeploy.hub.reference import ModelFiles, resolve

__all__ = ["ModelFiles", "resolve"]
