"""What quantization costs: predictions on real text, next to those of the unquantized program."""

from autodeploy.quality.compare import Quality, compare, log_probs
from autodeploy.quality.text import Text, read_text

__all__ = ["Quality", "Text", "compare", "log_probs", "read_text"]
