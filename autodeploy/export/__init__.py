"""From an unmodified transformers model to a `torch.fx` graph of canonical attention and plain aten operators."""

from autodeploy.export.module import trace_module
from autodeploy.export.trace import Traced, trace_model
from autodeploy.export.transformers_model import build_meta_model, load_config

__all__ = ["Traced", "build_meta_model", "load_config", "trace_model", "trace_module"]
