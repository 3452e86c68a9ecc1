"""Launching compiled kernels on torch's current stream, so that they overlap and CUDA graphs can hold them.

Each kernel follows the rule of `autodeploy.kernels.triton.launch`: it awaits its inputs (`griddepcontrol.wait`) before
it reads what another kernel wrote, and before it writes or returns.
"""

from __future__ import annotations

import ctypes
from collections.abc import Sequence
from functools import cache
from typing import Any

import torch
from torch import Tensor

from autodeploy.errors import AutodeployError
from autodeploy.kernels.cuda.compile import Variant, binary
from autodeploy.kernels.cuda.noting import is_noted
from autodeploy.kernels.triton.launch import shared_memory

Argument = Tensor | int | ctypes.Structure | ctypes.Array[Any] | None
"""A tensor or None is passed as where its data begins, an int as 32 bits, a structure by value."""


class LaunchError(AutodeployError):
    """The CUDA driver refused a kernel."""


def launch(
    variant: Variant,
    grid: tuple[int, int, int],
    threads: int,
    shared: int,
    arguments: Sequence[Argument],
    device: torch.device,
    cluster: int = 1,
) -> None:
    """Start a kernel with `shared` bytes of dynamic shared memory a block, and clusters of blocks along the grid's x.

    The first launch of a variant compiles and loads it, which no CUDA graph may hold. Raises CompileError, LaunchError.
    """
    if is_noted(variant):
        return
    from cuda.bindings import driver

    function = _function(variant, device)
    config = driver.CUlaunchConfig()
    config.gridDimX, config.gridDimY, config.gridDimZ = grid
    config.blockDimX, config.blockDimY, config.blockDimZ = threads, 1, 1
    config.sharedMemBytes = shared
    config.hStream = torch.cuda.current_stream(device).cuda_stream
    attributes = [_overlapping(), *([_clustered(cluster)] if cluster > 1 else [])]
    config.attrs, config.numAttrs = attributes, len(attributes)
    values = [_value(argument) for argument in arguments]
    places = (ctypes.c_void_p * len(values))(*(ctypes.addressof(value) for value in values))
    _checked(driver.cuLaunchKernelEx(config, function, ctypes.addressof(places), 0))


def _value(argument: Argument) -> Any:
    if argument is None or isinstance(argument, Tensor):
        return ctypes.c_void_p(None if argument is None else argument.data_ptr())
    return ctypes.c_int32(argument) if isinstance(argument, int) else argument


@cache
def _overlapping() -> Any:
    """May start while the kernel before it drains."""
    from cuda.bindings import driver

    attribute = driver.CUlaunchAttribute()
    attribute.id = driver.CUlaunchAttributeID.CU_LAUNCH_ATTRIBUTE_PROGRAMMATIC_STREAM_SERIALIZATION
    attribute.value.programmaticStreamSerializationAllowed = 1
    return attribute


@cache
def _clustered(blocks: int) -> Any:
    from cuda.bindings import driver

    attribute = driver.CUlaunchAttribute()
    attribute.id = driver.CUlaunchAttributeID.CU_LAUNCH_ATTRIBUTE_CLUSTER_DIMENSION
    attribute.value.clusterDim.x = blocks
    attribute.value.clusterDim.y = attribute.value.clusterDim.z = 1
    return attribute


@cache
def _function(variant: Variant, device: torch.device) -> Any:
    """A kernel, loaded on a device, that may have all the shared memory there is."""
    from cuda.bindings import driver

    torch.cuda.current_stream(device)  # the device's context is there
    capability = torch.cuda.get_device_capability(device)
    with torch.cuda.device(device):
        module = _checked(driver.cuModuleLoadData(binary(variant, capability)))
        function = _checked(driver.cuModuleGetFunction(module, variant.entry.encode()))
    names = driver.CUfunction_attribute
    own = _checked(driver.cuFuncGetAttribute(names.CU_FUNC_ATTRIBUTE_SHARED_SIZE_BYTES, function))
    room = shared_memory(device)
    most = names.CU_FUNC_ATTRIBUTE_MAX_DYNAMIC_SHARED_SIZE_BYTES
    _checked(driver.cuFuncSetAttribute(function, most, room - own))
    return function


def _checked(results: tuple[Any, ...]) -> Any:
    """What a call of the driver gives besides its outcome; LaunchError where that is a failure."""
    outcome, *values = results
    if outcome.value:
        raise LaunchError(f"the CUDA driver failed: {outcome.name}")
    return values[0] if values else None
