"""What autodeploy is told of."""

from pathlib import Path

from autodeploy.kernels import Backend
from autodeploy.plugin import Plugin
from packed_gates.kernels import load
from packed_gates.ops import packed_gate
from packed_gates.passes import PackGates
from packed_gates.patterns import PATTERNS

PLUGIN = Plugin(
    name="packed_gates",
    ops=(packed_gate,),
    passes=(PackGates,),
    patterns=PATTERNS,
    kernels=(Backend("packed", load),),
    recipes=(Path(__file__).with_name("packed.yaml"),),
)
