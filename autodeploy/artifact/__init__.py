"""An optimized program as a folder: the graph as data, the weights, and how it came to be."""

from autodeploy.artifact.graph_io import graph_from_data, graph_to_data
from autodeploy.artifact.load import Artifact, load
from autodeploy.artifact.manifest import Manifest, read_manifest
from autodeploy.artifact.save import check_target, save, tokenizer_assets

__all__ = [
    "Artifact",
    "Manifest",
    "check_target",
    "graph_from_data",
    "graph_to_data",
    "load",
    "read_manifest",
    "save",
    "tokenizer_assets",
]
