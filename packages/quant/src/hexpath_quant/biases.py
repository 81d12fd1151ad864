"""The scale of a bias is input scale times weight scale: the NPU adds it to the products of both.

AIMET derives it where a layer's input still carries its encoding, and guesses it from the bias' own values
where it does not, behind a pooling for one. Here the graph says which quantizer an input comes from.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch.fx
from aimet_torch.nn import QuantizationMixin
from aimet_torch.nn.modules import custom
from aimet_torch.quantization.affine import AffineQuantizerBase, QuantizeDequantize
from torch import nn

from hexpath_quant.ops import MOVES_DATA

KEEPS_VALUES = (
    *(nn.MaxPool2d, custom.MaxPool2d, custom.Pad),
    *(nn.Flatten, nn.Unflatten, nn.Identity, nn.PixelShuffle),
)
RESCALES = (custom.Multiply, custom.Divide)
LOW, HIGH = -(2**31), 2**31 - 1


@contextmanager
def derived_biases(model: torch.fx.GraphModule) -> Iterator[None]:
    """For the time of the block, every bias whose input has a known quantizer has one of its own."""
    changed = []
    for node in model.graph.nodes:
        module: Any = model.get_submodule(node.target) if node.op == "call_module" else None
        if not _lacks_bias_quantizer(module):
            continue
        source, factor = _source(model, node)
        weight = module.param_quantizers["weight"]
        if source is None or not isinstance(weight, AffineQuantizerBase):
            continue
        scale = module._derive_bias_scale(factor * source.get_scale(), weight.get_scale())
        if scale is None:
            continue
        quantizer = QuantizeDequantize(shape=scale.shape, qmin=LOW, qmax=HIGH, symmetric=True)
        quantizer.to(module.bias.device).set_range(scale * LOW, scale * HIGH)
        module.param_quantizers["bias"] = quantizer
        changed.append(module)
    try:
        yield
    finally:
        for module in changed:
            module.param_quantizers["bias"] = None


def quantizer_before(model: torch.fx.GraphModule, node: torch.fx.Node) -> AffineQuantizerBase | None:
    """Return the quantizer on whose grid the values lie that ``node`` reads first."""
    found, factor = _source(model, node)
    return found if factor == 1.0 else None


def _source(model: torch.fx.GraphModule, node: torch.fx.Node) -> tuple[AffineQuantizerBase | None, float]:
    """Return the quantizer behind what ``node`` reads first, and by what its grid was multiplied since.

    Multiplying by a positive number has no quantizer of its own: the same integers count in other steps.
    """
    own = model.get_submodule(str(node.target)).input_quantizers[0]  # type: ignore[index]
    if own is not None:
        return own, 1.0
    before, factor = node.args[0], 1.0
    while isinstance(before, torch.fx.Node):
        place = 0
        if before.op == "call_module":
            module: Any = model.get_submodule(str(before.target))
            found = module.output_quantizers[0] if isinstance(module, QuantizationMixin) else None
            if found is not None:
                return (found if isinstance(found, AffineQuantizerBase) else None), factor
            if isinstance(module, RESCALES):
                place, number = _rescaled(model, before)
                if number is None:
                    return None, factor
                factor *= number if isinstance(module, custom.Multiply) else 1 / number
                own = module.input_quantizers[place]
                if isinstance(own, AffineQuantizerBase):
                    return own, factor
            elif not isinstance(module, KEEPS_VALUES):
                return None, factor
        elif before.target not in MOVES_DATA:
            return None, factor
        before = before.args[place]
    return None, factor


def _rescaled(model: torch.fx.GraphModule, node: torch.fx.Node) -> tuple[int, float | None]:
    """Return which operand a product or quotient with a constant number rescales, and the number."""
    divides = isinstance(model.get_submodule(str(node.target)), custom.Divide)
    for place, argument in enumerate(node.args[:2]):
        if divides and place == 0:
            continue
        if isinstance(argument, torch.fx.Node) and argument.op == "get_attr":
            path, _, name = str(argument.target).rpartition(".")
            value = getattr(model.get_submodule(path), name)
            if value.numel() == 1 and not isinstance(value, nn.Parameter) and float(value) > 0:
                return 1 - place, float(value)
    return 0, None


def _lacks_bias_quantizer(module: Any) -> bool:
    return (
        isinstance(module, QuantizationMixin)
        and isinstance(module, (nn.Conv1d, nn.Conv2d, nn.ConvTranspose2d, nn.Linear))
        and module.bias is not None
        and module.param_quantizers["bias"] is None
    )
