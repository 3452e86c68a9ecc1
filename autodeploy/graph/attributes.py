"""Tensors of a GraphModule at dotted names such as `model.layers.0.mlp.up_proj.weight`."""

from __future__ import annotations

from torch import Tensor, nn


def get_attribute(gm: nn.Module, name: str) -> Tensor:
    """The tensor called `name`; AttributeError when there is none."""
    value = getattr(_owner(gm, name), name.rpartition(".")[2])
    if not isinstance(value, Tensor):
        raise AttributeError(f"{name!r} is a {type(value).__name__}, not a tensor")
    return value


def set_attribute(gm: nn.Module, name: str, tensor: Tensor) -> None:
    """Put `tensor` at `name`, making the modules on the way there: a Parameter as one, a plain tensor as a buffer."""
    owner, leaf = _owner(gm, name, make=True), name.rpartition(".")[2]
    if leaf in owner._parameters or leaf in owner._buffers:
        delattr(owner, leaf)  # a parameter may give way to a buffer, and the other way round
    if isinstance(tensor, nn.Parameter):
        owner.register_parameter(leaf, tensor)
    else:
        owner.register_buffer(leaf, tensor)


def _owner(gm: nn.Module, name: str, *, make: bool = False) -> nn.Module:
    module = gm
    for part in name.split(".")[:-1]:
        if make and part not in module._modules:
            module.add_module(part, nn.Module())
        module = module.get_submodule(part)
    return module
