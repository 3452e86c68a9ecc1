"""Built-in fusion patterns: declarations only; passes apply them."""

if __name__ == "patterns":
    raise ImportError("this folder installs as autodeploy.patterns: write `import autodeploy.patterns`")

import autodeploy.ops  # noqa: F401  (registers torch.ops.autodeploy)
from autodeploy.patterns.activations import ACTIVATIONS, GATED
from autodeploy.patterns.attention import ATTENTIONS
from autodeploy.patterns.convolutions import CONVOLUTION_ACTIVATIONS
from autodeploy.patterns.embeddings import EMBEDDINGS
from autodeploy.patterns.gathered_weights import GATHERED_WEIGHTS
from autodeploy.patterns.heads import HEADS
from autodeploy.patterns.linears import ACTIVATED, BIASES, LINEARS
from autodeploy.patterns.logits import LOGITS
from autodeploy.patterns.matmuls import MATMULS
from autodeploy.patterns.norms import HEAD_NORMS, NORMS, UNSCALED_NORMS
from autodeploy.patterns.outer_products import OUTER_PRODUCTS
from autodeploy.patterns.rotary import ROTARY
from autodeploy.patterns.rotary_partial import PARTIAL_ROTARY
from autodeploy.patterns.rotary_parts import ROTARY_PARTS
from autodeploy.patterns.rotary_rows import ROTARY_ROWS
from autodeploy.patterns.rotary_tables import ROTARY_TABLES
from autodeploy.patterns.scores import SCORES

PATTERNS = (
    *EMBEDDINGS,
    *LINEARS,
    *BIASES,
    *NORMS,
    *UNSCALED_NORMS,
    *HEAD_NORMS,
    *ROTARY,
    *ROTARY_PARTS,
    *ROTARY_ROWS,
    *PARTIAL_ROTARY,
    *MATMULS,
    *OUTER_PRODUCTS,
    *SCORES,
    *ATTENTIONS,
    *HEADS,
    *ACTIVATIONS,
    *GATED,
    *LOGITS,
    *ROTARY_TABLES,
    *ACTIVATED,
    *CONVOLUTION_ACTIVATIONS,
    *GATHERED_WEIGHTS,
)
"""All of them, in the order in which the passes apply them."""
