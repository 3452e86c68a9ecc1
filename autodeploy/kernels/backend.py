"""Families of kernels, loaded when a program for their device is made."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from autodeploy.errors import PluginError
from autodeploy.kernels.table import ANY_DEVICE, Kernel


@dataclass(frozen=True)
class Backend:
    """Kernels that come together: those of a library, of a compiler, or of a plugin.

    `load` imports or compiles what they need, and returns none where this machine cannot have them. It is called when
    a program for one of `devices` is made, never before: naming a backend costs nothing. `variants` are the names that
    its kernels go by where an operator has more than one, among which measurements choose.
    """

    name: str
    load: Callable[[], tuple[Kernel, ...]]
    devices: tuple[str, ...] = ANY_DEVICE
    variants: tuple[str, ...] = ()

    def kernels(self, device: str) -> tuple[Kernel, ...]:
        """The kernels for a device ("cpu" or "cuda"); PluginError for one that says it is another backend's."""
        own = (self.name, *self.variants)
        kernels = self.load() if device in self.devices else ()
        stranger = next((kernel for kernel in kernels if kernel.backend not in own), None)
        if stranger is not None:
            raise PluginError(
                f"the backend {self.name!r} holds the kernel {stranger.name!r}; {self.name!r} is expected"
            )
        return kernels
