"""Checkpoints that are quantized already: each form's tensors as the weights they stand for, without reading them.

One module reads one form; `registry` lists them by the `quant_method` of a config.
"""

from autodeploy.checkpoints.form import Form
from autodeploy.checkpoints.registry import fields_of, form_of, known, outline, read_form, unpack

__all__ = ["Form", "fields_of", "form_of", "known", "outline", "read_form", "unpack"]
