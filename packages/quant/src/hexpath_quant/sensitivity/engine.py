"""A quantized network in which single layers are switched on or off, and only what changes is computed again.

One run caches every tensor of the float network (or of the wholly quantized one) for a batch; a variation
then recomputes the switched layers and what depends on them. A layer late in the net costs next to nothing,
one in a head branch leaves the other branches alone.

An engine is plain data (modules, tensors, numbers), so that it can be sent to other processes and machines.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Any

import torch
import torch.fx
from aimet_torch.nn.modules import custom
from torch import Tensor, nn
from torch.fx.node import map_aggregate, map_arg

from hexpath_quant.fakequant import Grid, saturated


class Part(StrEnum):
    """Of a layer: its weights, its activations (inputs and outputs), or both."""

    BOTH = "both"
    WEIGHTS = "weights"
    ACTIVATIONS = "activations"


class Base(StrEnum):
    """What a variation starts from: the float net (``alone``) or the wholly quantized one (``without``)."""

    ALONE = "alone"
    WITHOUT = "without"


@dataclass(frozen=True)
class Ref:
    """The value of an earlier step."""

    name: str


@dataclass(kw_only=True)
class Step:
    """One node of the graph.

    Attributes:
        layer: path of the module that is quantized here; '' where nothing is.
        quantized: the module with quantized weights, where it has any (two modules: threads share an engine).
        inputs, outputs: grids by position; None where no quantizer is.
    """

    name: str
    kind: str
    target: Any
    args: Any = ()
    kwargs: Any = field(default_factory=dict)
    module: nn.Module | None = None
    layer: str = ""
    quantized: nn.Module | None = None
    inputs: list[Grid | None] = field(default_factory=list)
    outputs: list[Grid | None] = field(default_factory=list)


Values = dict[str, Any]
Switched = Mapping[str, Part]


class Engine:
    """Runs a graph with any set of layers quantized. All tensors float32.

    Args:
        steps: in order of execution; the last is the output.
    """

    def __init__(self, steps: Sequence[Step]) -> None:
        self.steps = list(steps)
        self.position = {step.name: index for index, step in enumerate(self.steps)}
        self.sources = [_refs(step) for step in self.steps]
        self.at_layer = {step.layer: index for index, step in enumerate(self.steps) if step.layer}
        self.below = self._descendants()

    @property
    def layers(self) -> list[str]:
        """Paths of the quantized layers, in order of execution."""
        return list(self.at_layer)

    def has_weights(self, layer: str) -> bool:
        """Return whether a layer has quantized weights."""
        return self.steps[self.at_layer[layer]].quantized is not None

    def run(self, images: Tensor, *, base: Base) -> Values:
        """Return every step's value for float32 (B, 3, H, W): all layers float, or all quantized."""
        on = None if base is Base.ALONE else Part.BOTH
        values: Values = {"": images.contiguous(memory_format=torch.channels_last)}
        for step in self.steps:
            values[step.name] = compute(step, values=values, on=on if step.layer else None)
        return values

    def outputs(self, values: Values) -> tuple[Tensor, ...]:
        """Return the network's outputs out of ``run``'s values."""
        found = values[self.steps[-1].name]
        return (found,) if isinstance(found, Tensor) else tuple(found)

    def vary(self, values: Values, *, base: Base, switched: Switched) -> tuple[Tensor, ...]:
        """Return the outputs with some layers' parts quantized (base float) or float (base quantized).

        Args:
            values: from ``run`` with the same base; not changed.
            switched: layer -> part.
        """
        dirty = 0
        for layer in switched:
            dirty |= self.below[self.at_layer[layer]]
        order = [index for index in range(len(self.steps)) if dirty >> index & 1]
        last = {source: index for index in order for source in self.sources[index]}
        fresh: Values = {}
        view = _Layered(fresh, values)
        for index in order:
            step = self.steps[index]
            fresh[step.name] = compute(step, values=view, on=_on(step, base=base, switched=switched))
            for source in self.sources[index]:
                if last[source] == index:
                    fresh.pop(source, None)
        return self.outputs({**values, **fresh})

    def _descendants(self) -> list[int]:
        """Return for each step the set of steps (as bits, itself included) that depend on it."""
        below = [1 << index for index in range(len(self.steps))]
        for index in reversed(range(len(self.steps))):
            for source in self.sources[index]:
                if source in self.position:
                    below[self.position[source]] |= below[index]
        return below


class _Layered(dict[str, Any]):
    """Look up in the first mapping, then in the second."""

    def __init__(self, first: Values, second: Values) -> None:
        super().__init__()
        self.first, self.second = first, second

    def __getitem__(self, name: str) -> Any:
        return self.first[name] if name in self.first else self.second[name]


def _on(step: Step, *, base: Base, switched: Switched) -> Part | None:
    """Return which part of a step is quantized."""
    part = switched.get(step.layer) if step.layer else None
    if base is Base.ALONE or not step.layer:
        return part
    if part is None:
        return Part.BOTH
    rest = {Part.BOTH: None, Part.WEIGHTS: Part.ACTIVATIONS, Part.ACTIVATIONS: Part.WEIGHTS}
    return rest[part]


def _refs(step: Step) -> list[str]:
    found: list[str] = []
    map_aggregate((step.args, step.kwargs), lambda a: found.append(a.name) if isinstance(a, Ref) else None)
    return list(dict.fromkeys(found))


def compute(step: Step, *, values: Mapping[str, Any], on: Part | None) -> Any:
    """Return a step's value with its ``on`` part quantized."""
    if step.kind == "placeholder":
        return values[""]
    if step.kind == "get_attr":
        return step.target
    args = map_aggregate(step.args, lambda a: values[a.name] if isinstance(a, Ref) else a)
    kwargs = map_aggregate(step.kwargs, lambda a: values[a.name] if isinstance(a, Ref) else a)
    if step.kind == "output":
        return args[0]
    if step.kind == "call_function":
        return step.target(*args, **kwargs)
    if step.kind == "call_method":
        return getattr(args[0], step.target)(*args[1:], **kwargs)
    assert step.module is not None
    if on is None:
        return step.module(*args, **kwargs)
    return _quantized(step, args=args, kwargs=kwargs, on=on)


def _quantized(step: Step, *, args: Any, kwargs: Any, on: Part) -> Any:
    assert step.module is not None
    activations = on is not Part.WEIGHTS
    if activations:
        args = tuple(
            to_grid(a, step.inputs[i]) if i < len(step.inputs) and isinstance(a, Tensor) else a
            for i, a in enumerate(args)
        )
    rounded = step.quantized is not None and on is not Part.ACTIVATIONS
    value = (step.quantized if rounded else step.module)(*args, **kwargs)  # type: ignore[misc]
    grid = step.outputs[0] if step.outputs and activations else None
    if grid is not None and isinstance(step.module, custom.Divide):
        value = saturated(value)
    return to_grid(value, grid) if isinstance(value, Tensor) else value


def to_grid(x: Tensor, grid: Grid | None) -> Tensor:
    """Return float ``x`` on the grid; ``x`` is not changed."""
    if grid is None or not x.is_floating_point():
        return x
    return torch.mul(x, 1.0 / grid.scale).round_().clamp_(grid.low, grid.high).mul_(grid.scale)


def steps_of(graph: torch.fx.Graph, *, steps: Mapping[str, Step]) -> list[Step]:
    """Return the graph's nodes as steps; ``steps`` holds those of modules and attributes by node name."""
    found = []
    for node in graph.nodes:
        step = steps.get(node.name) or Step(name=node.name, kind=node.op, target=node.target)
        step.args = map_arg(node.args, lambda n: Ref(n.name))
        step.kwargs = map_arg(node.kwargs, lambda n: Ref(n.name))
        found.append(step)
    return found
