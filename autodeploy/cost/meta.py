"""Running graphs on tensors without data."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch.fx import Interpreter
from torch.fx.node import map_aggregate

META = torch.device("meta")


class MetaInterpreter(Interpreter):
    """Runs a graph whose inputs and weights are on the meta device, and so is whatever its calls make."""

    def call_function(self, target: Callable[..., Any] | str, args: Any, kwargs: Any) -> Any:
        """Call with the devices that tracing baked in replaced."""
        args, kwargs = (
            map_aggregate(one, lambda a: META if isinstance(a, torch.device) else a) for one in (args, kwargs)
        )
        return super().call_function(target, args, kwargs)
