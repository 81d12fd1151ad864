"""A network as the rules see it: operators by kind, the tensors between them with their measured ranges.

Torch models (traced, batch norms folded) and ONNX files both become this.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

from torch import Tensor

from hexpath_quant.audit.stats import Stats

MOVES = frozenset({"move", "identity"})


@dataclass(frozen=True, kw_only=True)
class Op:
    """One operator.

    Attributes:
        name: as a person finds it: module path or ONNX node name.
        kind: convolution, linear, matmul, add, subtract, multiply, divide, softmax, layer_norm, batch_norm,
            silu, gelu, hardswish, sigmoid, relu, concat, resize, move, ... or ``unknown:<operator>``.
        inputs: names of float tensors, in order.
        output: name of the tensor that it makes.
        weight: of convolutions and linear layers, output channels first.
        numbers: constants among its arguments.
        settings: mode and align_corners of a resize, and the like.
    """

    name: str
    kind: str
    inputs: tuple[str, ...]
    output: str
    weight: Tensor | None = None
    numbers: tuple[float, ...] = ()
    settings: dict[str, Any] = field(default_factory=dict)


@dataclass(kw_only=True)
class Network:
    """Operators in the order of execution.

    Attributes:
        stats: measured, by tensor.
        constants: tensors that do not depend on the image.
        outputs: tensor of each output, by output name.
    """

    ops: list[Op]
    stats: dict[str, Stats]
    constants: dict[str, Tensor]
    outputs: dict[str, str]

    def __post_init__(self) -> None:
        self.made_by = {op.output: op for op in self.ops}
        self.used_by: dict[str, list[Op]] = {}
        for op in self.ops:
            for name in op.inputs:
                self.used_by.setdefault(name, []).append(op)

    def of_kind(self, *kinds: str) -> Iterator[Op]:
        """Yield operators of these kinds that were seen with values."""
        return (op for op in self.ops if op.kind in kinds and op.output in self.stats)

    def origin(self, tensor: str, *, through: frozenset[str] = MOVES) -> str:
        """Follow a tensor back through operators that only move values, to where it was computed."""
        op = self.made_by.get(tensor)
        while op is not None and op.kind in through and op.inputs:
            tensor = op.inputs[0]
            op = self.made_by.get(tensor)
        return tensor

    def readers(self, tensor: str) -> Iterator[Op]:
        """Yield the operators that compute with a tensor, behind those that only move it."""
        for op in self.used_by.get(tensor, []):
            if op.kind in MOVES:
                yield from self.readers(op.output)
            else:
                yield op

    def reaches_output_without(self, tensor: str, *, kinds: frozenset[str]) -> str | None:
        """Return the name of an output that is reached without passing ``kinds``, or None."""
        for name, found in self.outputs.items():
            if found == tensor:
                return name
        for op in self.used_by.get(tensor, []):
            if op.kind not in kinds:
                name_found = self.reaches_output_without(op.output, kinds=kinds)
                if name_found is not None:
                    return name_found
        return None

    def activations(self, op: Op) -> list[str]:
        """Return those inputs of an operator that depend on the image."""
        return [name for name in op.inputs if name in self.stats]
