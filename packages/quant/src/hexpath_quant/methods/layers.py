"""Going through a network layer by layer, as the methods do that correct one behind the other."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any

import torch
import torch.fx
from torch import Tensor, nn

from hexpath_quant.prepare import device_of

LAYERS = (nn.Conv1d, nn.Conv2d, nn.ConvTranspose2d, nn.Linear)


@dataclass(frozen=True, kw_only=True)
class Visit:
    """A layer with weights as it has just run: its node's name, what went in and what came out."""

    name: str
    layer: Any
    source: Tensor
    output: Tensor

    @property
    def axis(self) -> int:
        """The axis of the output's channels: 1 of a convolution, the last of a linear layer."""
        return self.output.dim() - 1 if isinstance(self.layer, nn.Linear) else 1

    @property
    def others(self) -> list[int]:
        """Every axis of the output but the channels'."""
        return [axis for axis in range(self.output.dim()) if axis != self.axis]


class Walk(torch.fx.Interpreter):
    """Run a network and call ``visit`` at each layer; one that returns True changed it, and it runs anew."""

    def __init__(self, module: torch.fx.GraphModule, *, visit: Callable[[Visit], bool]) -> None:
        super().__init__(module)
        self.visit = visit

    def run_on(self, images: Tensor) -> None:
        """Run on images of any device."""
        self.run(images.to(device_of(self.module)))

    def run_node(self, n: torch.fx.Node) -> Any:
        value = super().run_node(n)
        layer = self.module.get_submodule(str(n.target)) if n.op == "call_module" else None
        if not isinstance(layer, LAYERS):
            return value
        source = self.env[n.args[0]]  # type: ignore[index]
        visit = Visit(
            name=n.name,
            layer=layer,
            source=source.as_subclass(Tensor),
            output=value.as_subclass(Tensor),
        )
        return super().run_node(n) if self.visit(visit) else value


def first_images(batches: Iterable[Tensor], *, count: int) -> Tensor:
    """Return the first images of an iterator over batches, at most ``count``."""
    found: list[Tensor] = []
    for batch in batches:
        found.append(batch)
        if sum(len(each) for each in found) >= count:
            break
    return torch.cat(found)[:count]
