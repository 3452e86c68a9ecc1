"""transformers' own renames and conversions of checkpoints, applied to expressions rather than tensors."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

from torch import Tensor
from transformers import PreTrainedModel
from transformers.conversion_mapping import get_model_conversion_mapping
from transformers.core_model_loading import WeightConverter, WeightRenaming, rename_source_key

from autodeploy.errors import CheckpointError, UnsupportedError
from autodeploy.weights.expression import Expression
from autodeploy.weights.layout import Concat, Permute, Reshape, Slice, Stack, chunk, transpose

Values = dict[str, list[Expression]]
"""What a converter holds between its operations: expressions by the pattern they came from or go to."""


@dataclass
class Job:
    """The checkpoint keys that become one parameter (or, by one converter, the first of several)."""

    name: str
    keys: dict[str | None, list[str]] = field(default_factory=dict)

    def add(self, pattern: str | None, key: str) -> None:
        """Take `key`, matched by a converter's `pattern`, or by none."""
        self.keys.setdefault(pattern, []).append(key)


@dataclass(frozen=True)
class Target:
    """What an operation may ask about the model it converts for."""

    name: str
    patterns: list[str]
    sources: list[str]
    config: Any
    state: Mapping[str, Tensor]


@dataclass(frozen=True)
class ConversionRules:
    """The renames and converters that transformers keeps for one model."""

    renamings: list[WeightRenaming]
    converters: dict[str, WeightConverter]
    base_prefix: str
    config: Any

    @classmethod
    def of(cls, model: PreTrainedModel) -> ConversionRules:
        """Ask the installed transformers."""
        mapping = get_model_conversion_mapping(model)
        converters = [rule for rule in mapping if isinstance(rule, WeightConverter)]
        return cls(
            [rule for rule in mapping if isinstance(rule, WeightRenaming)],
            {pattern: rule for rule in converters for pattern in rule.source_patterns},
            model.base_model_prefix,
            model.config,
        )

    def rename(self, key: str, state: dict[str, Tensor]) -> tuple[str, str | None]:
        """The parameter that `key` belongs to, and the converter's pattern that matched, if one did."""
        converters = list(dict.fromkeys(self.converters.values()))  # a rule with two patterns comes once
        name, pattern = rename_source_key(key, self.renamings, converters, self.base_prefix, state)
        if name not in state and key in state:  # already under the model's names; at most the prefix differs
            name, pattern = rename_source_key(key, [], [], self.base_prefix, state)
        return name, pattern

    def convert(self, job: Job, held: Mapping[str, Expression], state: Mapping[str, Tensor]) -> dict[str, Expression]:
        """The parameters that the job's keys give, in the dtype of what the checkpoint holds under them."""
        if None in job.keys:
            return {job.name: held[job.keys[None][-1]]}
        values: Values = {str(pattern): [held[key] for key in keys] for pattern, keys in job.keys.items()}
        converter = self.converters[next(iter(values))]
        target = Target(job.name, converter.target_patterns, converter.source_patterns, self.config, state)
        for operation in converter.operations:
            values = _apply(operation, values, target)
        left = next((parts for parts in values.values() if len(parts) != 1), None)
        if left is not None:
            raise CheckpointError(f"{job.name}: {len(left)} tensors of the checkpoint are left to join")
        return _expand(values, target)


def _apply(operation: Any, values: Values, target: Target) -> Values:
    kind = type(operation).__name__
    if kind not in OPERATIONS:
        raise UnsupportedError(
            f"{target.name}: transformers converts it with {kind}, which we do not know; "
            f"known: {', '.join(sorted(OPERATIONS))}; saving the model once with save_pretrained() may avoid it"
        )
    try:
        return OPERATIONS[kind](operation, values, target)
    except (ValueError, IndexError) as error:
        raise CheckpointError(f"{target.name}: the checkpoint's tensors do not join ({kind}): {error}") from error


def _expand(values: Values, target: Target) -> dict[str, Expression]:
    """Put the layer's prefix and suffix around the patterns that the last operation gave."""
    name = target.name.replace("*.", "0.")
    inside = next((pattern for pattern in values if pattern in name), None)
    prefix, _, suffix = name.partition(inside) if inside is not None else ("", "", "")
    return {prefix + pattern + suffix: parts[0] for pattern, parts in values.items()}


def _only(parts: list[Expression]) -> Expression:
    if len(parts) != 1:
        raise ValueError(f"expected one tensor and got {len(parts)}")
    return parts[0]


def _single(values: Values) -> Expression:
    if len(values) != 1:
        raise ValueError(f"expected one group of tensors and got {len(values)}")
    return next(iter(values.values()))[0]


def _goal(values: Values, target: Target, pattern: str) -> str:
    """An operation on several groups keeps their names; one that leaves a single group gives it the target's."""
    return target.patterns[0] if len(values) == 1 and len(target.patterns) == 1 else pattern


def _merge_module_list(operation: Any, values: Values, target: Target) -> Values:
    return {_goal(values, target, pattern): [Stack(tuple(parts), operation.dim)] for pattern, parts in values.items()}


def _concatenate(operation: Any, values: Values, target: Target) -> Values:
    parts = [part for pattern in target.sources for part in values.get(pattern, [])]
    return {target.patterns[0]: [Concat(tuple(parts), operation.dim)]}


def _chunk(operation: Any, values: Values, target: Target) -> Values:
    patterns = target.patterns
    if getattr(operation, "num_shards_attribute", None) is not None:
        count = getattr(target.config.get_text_config(), operation.num_shards_attribute)
        patterns = [patterns[0].replace("*", str(i)) for i in range(count)]
    pieces = chunk(_single(values), len(patterns), operation.dim)
    return {pattern: [piece] for pattern, piece in zip(patterns, pieces, strict=True)}


def _split(operation: Any, values: Values, target: Target) -> Values:
    x, offset, pieces = _single(values), 0, Values()
    for pattern in target.patterns:
        size = target.state[target.name.replace(target.patterns[0], pattern)].shape[operation.dim]
        pieces[pattern] = [Slice(x, operation.dim, offset, offset + size)]
        offset += size
    return pieces


def _transpose(operation: Any, values: Values, target: Target) -> Values:
    x = _single(values)
    kept = operation.check_dims and x.shape == tuple(target.state[target.name].shape)
    goal = _goal(values, target, next(iter(values)))
    return {goal: [x if kept else transpose(x, operation.dim0, operation.dim1)]}


def _interleave(operation: Any, values: Values, target: Target) -> Values:
    x, dim = _single(values), operation.dim
    half = x.shape[dim] // 2
    pair = (2, half) if operation.inverse else (half, 2)
    split = Reshape(x, (*x.shape[:dim], *pair, *x.shape[dim + 1 :]))
    return {target.patterns[0]: [Reshape(transpose(split, dim, dim + 1), x.shape)]}


def _permute_for_rope(operation: Any, values: Values, target: Target) -> Values:
    config = getattr(target.config, operation.subconfig_key or "", target.config)
    names = operation.permute_layer_names
    alone = len(target.patterns) == len(target.sources) == 1
    result = Values()
    for pattern, parts in values.items():
        chosen = names is None or any(name in pattern for name in names)
        goal = target.patterns[0] if alone else pattern
        result[goal] = [_rope_rows(_only(parts), config, operation) if chosen else _only(parts)]
    return result


def _rope_rows(x: Expression, config: Any, operation: Any) -> Expression:
    num_heads = getattr(config, "num_attention_heads", 1)
    half = x.shape[0] // num_heads // 2
    pair = (2, half) if getattr(operation, "inverse", False) else (half, 2)
    split = Reshape(x, (num_heads, *pair, *x.shape[1:]))
    order = (0, 2, 1, *range(3, len(split.shape)))
    return Reshape(Permute(split, order), x.shape)


Operation = Callable[[Any, Values, Target], Values]
OPERATIONS: Mapping[str, Operation] = {
    "Chunk": _chunk,
    "Concatenate": _concatenate,
    "Interleave": _interleave,
    "MergeModulelist": _merge_module_list,
    "PermuteForRope": _permute_for_rope,
    "Split": _split,
    "Transpose": _transpose,
}
"""transformers' conversion operations by class name: a name that one version lacks does no harm."""
