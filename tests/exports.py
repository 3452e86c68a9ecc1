"""Models exported once: most tests are about what comes after, and torch.export takes most of a tiny build's time."""

from __future__ import annotations

import json
import warnings
from collections import OrderedDict
from collections.abc import Callable
from copy import deepcopy

from torch import nn
from torch.export import ExportedProgram
from transformers import PretrainedConfig

Export = Callable[[nn.Module, PretrainedConfig, str], tuple[ExportedProgram, int | None]]
Key = tuple[type[nn.Module], frozenset[Callable[..., object]], str, str]
KEPT = 24
UNRELATED = {"_name_or_path", "architectures", "quantization_config", "transformers_version"}


class Exports:
    """Stands for `export`, and gives a copy where the same class has been exported with the same config."""

    def __init__(self, export: Export) -> None:
        self._export = export
        self._made: OrderedDict[Key, tuple[ExportedProgram, int | None]] = OrderedDict()

    def __call__(self, model: nn.Module, config: PretrainedConfig, device: str) -> tuple[ExportedProgram, int | None]:
        if device != "meta":  # its fake tensors have no copy
            return self._export(model, config, device)
        code = frozenset(type(one).forward for one in model.modules())  # a test may put its own there
        key = (type(model), code, _text(config), str({one.dtype for one in model.parameters()}))
        if key not in self._made:
            self._made[key] = self._export(model, config, device)
        self._made.move_to_end(key)
        while len(self._made) > KEPT:
            self._made.popitem(last=False)
        program, longest = self._made[key]
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", FutureWarning)  # torch's own, about its descriptions of arguments
            return deepcopy(program), longest


def _text(config: PretrainedConfig) -> str:
    """Everything that a config says of the code, which is not where it came from nor how its weights are stored."""
    said = {name: value for name, value in config.to_dict().items() if name not in UNRELATED}
    return json.dumps(said, sort_keys=True, default=str)
