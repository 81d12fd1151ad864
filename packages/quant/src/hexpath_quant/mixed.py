"""Mixed plans in a simulation: a precision for each region, a conversion wherever two precisions meet.

A tensor that regions of unlike activation bits read needs an encoding for each. A ``Border`` stands for such
a conversion: an operator of no effect whose output has the reading region's quantizer; in the file it is a
Q/DQ pair behind a Q/DQ pair, which the NPU's compiler takes as a conversion. Borders stand in the graph
before AIMET sees it, so that encodings that it ties (concatenations, resizes) never reach across one.

Bits are set per quantizer, in place, before calibration. AIMET's own ways did not do: its mixed-precision
configurator left residual additions unquantized, and setting bits without borders gave operators whose inputs
and outputs differ in width, which the compiler refuses.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import torch.fx
from aimet_torch.nn import QuantizationMixin
from aimet_torch.nn.modules import custom
from aimet_torch.quantization.affine import QuantizeDequantize
from aimet_torch.quantsim import QuantizationSimModel
from torch import Tensor, nn

from hexpath_quant.biases import KEEPS_VALUES
from hexpath_quant.plans import FP16, MixedPlan, parse_precision
from hexpath_quant.prepare import SHAPE
from hexpath_quant.regions import regions_of_nodes

PRECISION, ANCHOR = "precision", "anchor"  # in a node's meta


class Border(nn.Module):
    """Hands on its input; its output quantizer is the conversion to another precision."""

    def forward(self, x: Tensor) -> Tensor:
        """Return a copy of ``x``: AIMET overlooks a module that returns its own input; ONNX has no copies."""
        return x.clone()


@QuantizationMixin.implements(Border)  # type: ignore[untyped-decorator]
class QuantizedBorder(QuantizationMixin, Border):  # type: ignore[misc]
    """What AIMET puts in a Border's place."""

    def forward(self, x: Tensor) -> Tensor:
        """Return ``x`` in the output quantizer's precision."""
        quantizer, y = self.output_quantizers[0], super().forward(x)
        return quantizer(y) if quantizer is not None else y  # type: ignore[no-any-return]


def apply_plan(
    prepared: torch.fx.GraphModule, *, plan: MixedPlan, regions: Mapping[str, Sequence[str]]
) -> None:
    """Write each operator's precision into the graph, and put borders where activations change their bits.

    Raises:
        UnknownNameError: the plan names a region that the network does not have.
    """
    precisions = plan.precisions(regions)
    owner = regions_of_nodes(prepared.graph, regions=regions)
    for node in prepared.graph.nodes:
        if node.name in owner:
            node.meta[PRECISION] = precisions[owner[node.name]]
    for node in list(prepared.graph.nodes):
        if node.name in owner and (node.op == "call_module" or SHAPE in node.meta):
            _add_borders(prepared, node)
    prepared.graph.lint()  # type: ignore[no-untyped-call]
    prepared.recompile()


def is_mixed(model: nn.Module) -> bool:
    """Return whether a plan was applied to the model's graph."""
    nodes = model.graph.nodes if isinstance(model, torch.fx.GraphModule) else []
    return any(PRECISION in node.meta for node in nodes)


def set_precisions(sim: QuantizationSimModel) -> None:
    """Give each quantizer the bits of its operator's precision; remove those of fp16 operators.

    ``sim`` was built at 8-bit activations from a graph to which a plan was applied.
    """
    nodes = [node for node in sim.model.graph.nodes if node.op == "call_module" and PRECISION in node.meta]
    for node in nodes:
        module = sim.model.get_submodule(str(node.target))
        if not isinstance(module, QuantizationMixin):
            continue
        if node.meta[PRECISION] == FP16:
            _unquantize(module)
        else:
            _set_bits(module, precision=node.meta[PRECISION])
    for node in nodes:
        if node.meta[PRECISION] != FP16:
            _quantize_rescaling(sim.model, node)
    for node in nodes:
        if ANCHOR in node.meta:
            anchor: Any = sim.model.get_submodule(str(node.target))
            anchor.output_quantizers[0] = _quantizer_of(sim.model, node.args[0])


def float_nodes(graph: torch.fx.Graph) -> set[str]:
    """Return the names of the graph nodes that a plan leaves in float."""
    return {node.name for node in graph.nodes if node.meta.get(PRECISION) == FP16}


def _activations(precision: str) -> int:
    """Return the bits of a precision's activations; 0 means float."""
    return 0 if precision == FP16 else parse_precision(precision).activation_bits


def _add_borders(prepared: torch.fx.GraphModule, node: torch.fx.Node) -> None:
    """Put a border between ``node`` and its readers of other bits, one for each width."""
    own = _activations(node.meta[PRECISION])
    readers: dict[int, list[torch.fx.Node]] = {}
    for user in node.users:
        if user.op == "call_module" and PRECISION in user.meta:
            readers.setdefault(_activations(user.meta[PRECISION]), []).append(user)
    for bits, users in readers.items():
        if bits == own:
            continue
        source = _anchored(prepared, node) if own and _moves(prepared, node) else node
        target = f"border_{node.name}_" + (f"a{bits}" if bits else FP16)
        prepared.add_submodule(target, Border())
        border = _insert(prepared, target, after=source)
        border.meta[PRECISION] = users[0].meta[PRECISION]
        for user in users:
            user.replace_input_with(node, border)


def _moves(prepared: torch.fx.GraphModule, node: torch.fx.Node) -> bool:
    """Return whether an operator hands on values of its input, and so has no encoding of its own."""
    return node.op != "call_module" or isinstance(prepared.get_submodule(str(node.target)), KEEPS_VALUES)


def _anchored(prepared: torch.fx.GraphModule, node: torch.fx.Node) -> torch.fx.Node:
    """Return a border of the same precision behind an operator that moves data.

    Without it the exporter would give such an operator's output the next precision's encoding.
    """
    target = f"anchor_{node.name}"
    if target in prepared._modules:
        return next(user for user in node.users if user.target == target)
    anchor = _insert(prepared, target, after=node)
    anchor.meta |= {PRECISION: node.meta[PRECISION], ANCHOR: True}
    return anchor


def _insert(prepared: torch.fx.GraphModule, target: str, *, after: torch.fx.Node) -> torch.fx.Node:
    prepared.add_submodule(target, Border())
    with prepared.graph.inserting_after(after):
        node = prepared.graph.call_module(target, args=(after,))
    node.meta = {SHAPE: after.meta.get(SHAPE, ())}
    return node


def _quantizers(module: Any) -> Iterator[Any]:
    yield from (q for q in [*module.input_quantizers, *module.output_quantizers] if q is not None)


def _set_bits(module: Any, *, precision: str) -> None:
    plan = parse_precision(precision)
    for quantizer in _quantizers(module):
        quantizer.bitwidth = plan.activation_bits
    for quantizer in module.param_quantizers.values():
        if quantizer is not None:
            quantizer.bitwidth = plan.weight_bits


def _unquantize(module: Any) -> None:
    for quantizers in (module.input_quantizers, module.output_quantizers):
        for index in range(len(quantizers)):
            quantizers[index] = None
    for name in module.param_quantizers:
        module.param_quantizers[name] = None


def _next_to_border(model: torch.fx.GraphModule, node: torch.fx.Node) -> bool:
    """Return whether a border stands right before or behind ``node``, or but for operators that move data."""

    def reaches(here: torch.fx.Node, *, back: bool) -> bool:
        for other in here.all_input_nodes if back else here.users:
            if other.op == "call_module" and isinstance(model.get_submodule(str(other.target)), Border):
                return True
            if _moves(model, other) and reaches(other, back=back):
                return True
        return False

    return reaches(node, back=True) or reaches(node, back=False)


def _quantize_rescaling(model: torch.fx.GraphModule, node: torch.fx.Node) -> None:
    """Give a product with (or division by) a constant number quantizers of its own next to a border.

    AIMET leaves it without any: its export scales the encoding of the operand, which behind a border is not
    the one that the tensor has in the file.
    """
    module: Any = model.get_submodule(str(node.target))
    if not isinstance(module, custom.Divide | custom.Multiply) or module.output_quantizers[0] is not None:
        return
    if not _next_to_border(model, node):
        return
    steps = 2 ** parse_precision(node.meta[PRECISION]).activation_bits - 1
    module.output_quantizers[0] = QuantizeDequantize((), 0, steps, symmetric=False)
    for place, argument in enumerate(node.args):
        if isinstance(argument, torch.fx.Node) and argument.op == "get_attr":
            module.input_quantizers[place] = QuantizeDequantize((), 0, steps, symmetric=False)


def make_second_operands_symmetric(model: torch.fx.GraphModule, *, bits: int) -> None:
    """Make the second operand of every 16-bit product symmetric; else the compiler takes it at 8 bits.

    The export then hands it over as int16 (workarounds.signed_second_operands). AIMET sees to those that come
    right out of a layer. ``bits``: of activations where no plan says otherwise.
    """
    for node in model.graph.nodes:
        own = _activations(node.meta[PRECISION]) if PRECISION in node.meta else bits
        module: Any = model.get_submodule(str(node.target)) if node.op == "call_module" else None
        if own != 16 or not isinstance(module, custom.MatMul):
            continue
        quantizer = module.input_quantizers[1] if len(module.input_quantizers) > 1 else None
        quantizer = quantizer if quantizer is not None else _quantizer_of(model, node.args[1])
        if quantizer is not None:
            quantizer.signed = True
            quantizer.symmetric = True


def _quantizer_of(model: torch.fx.GraphModule, source: Any) -> Any:
    """Return the quantizer on whose grid a node's values lie: its own, or that of what it moves."""
    while isinstance(source, torch.fx.Node) and source.all_input_nodes:
        if source.op == "call_module":
            made: Any = model.get_submodule(str(source.target))
            for quantizer in made.output_quantizers:
                if quantizer is not None:
                    return quantizer
        source = source.all_input_nodes[0]
    return None
