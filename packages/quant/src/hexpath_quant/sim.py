"""Build AIMET's simulation of a prepared model under a plan, and calibrate its ranges."""

from __future__ import annotations

import json
import logging
import tempfile
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import aimet_torch.common
import torch
from aimet_torch.common.defs import QuantScheme
from aimet_torch.nn import QuantizationMixin, UnknownModuleError
from aimet_torch.nn.modules import custom
from aimet_torch.quantization.affine import AffineQuantizerBase, QuantizeDequantize
from aimet_torch.quantsim import QuantizationSimModel
from torch import Tensor, nn

from hexpath_quant.biases import quantizer_before
from hexpath_quant.errors import CalibrationError, TraceError, WeightsError
from hexpath_quant.mixed import is_mixed, make_second_operands_symmetric, set_precisions
from hexpath_quant.ops import MOVES_DATA
from hexpath_quant.plans import Plan
from hexpath_quant.prepare import device_of
from hexpath_quant.qdq import ACTIVATIONS

MOVERS = (custom.Interpolate, custom.Pad, custom.MaxPool2d)
HEXAGON_CONFIG = "htp_quantsim_config_v73.json"  # v73 to v85 differ only in name


def build_sim(
    prepared: nn.Module,
    *,
    example: Tensor,
    plan: Plan,
    scheme: QuantScheme = QuantScheme.min_max,
    input_range: tuple[float, float] | None = (0.0, 1.0),
) -> QuantizationSimModel:
    """Return the simulation of ``prepared`` (which it owns from now on) with Hexagon's rules.

    Args:
        prepared: from ``prepare``.
        example: float32 input that fixes the shapes.
        plan: bits and granularity; bits are the graph's own where a mixed plan was applied to it.
        scheme: how AIMET observes ranges.
        input_range: pinned range of the graph's input; at 8 bit [0, 1] gives scale 1/255
            and zero point 0, so that a uint8 camera image is the quantized input. None: observe it.

    Raises:
        TraceError: a module has no quantized form; the message names it.
    """
    logging.getLogger().setLevel(max(logging.getLogger().level, logging.WARNING))
    mixed = is_mixed(prepared)
    bits = 8 if mixed else plan.activation_bits
    with tempfile.TemporaryDirectory() as folder:
        config = Path(folder) / "htp.json"
        config.write_text(json.dumps(hexagon_config(plan)))
        try:
            sim = QuantizationSimModel(
                prepared,
                dummy_input=example,
                quant_scheme=scheme,
                default_output_bw=bits,
                default_param_bw=8 if mixed else plan.weight_bits,
                config_file=str(config),
                in_place=True,
            )
        except UnknownModuleError as error:
            raise TraceError(
                f"module {error.module_cls.__name__} has no quantized form;"
                " remedy: write it with supported modules, or register one by"
                " aimet_torch.nn.QuantizationMixin.implements"
            ) from error
    _tie_movers(sim)
    _quantize_constants(sim, plan=plan)
    if mixed:
        set_precisions(sim)
    make_second_operands_symmetric(sim.model, bits=bits)
    _widen_symmetric_ranges(sim)
    if input_range is not None:
        _pin_input(sim, low=input_range[0], high=input_range[1])
    return sim


def hexagon_config(plan: Plan) -> dict[str, Any]:
    """Return AIMET's Hexagon v73 rules with the plan's weight granularity and symmetry."""
    path = Path(aimet_torch.common.__path__[0]) / "quantsim_config" / HEXAGON_CONFIG
    config: dict[str, Any] = json.loads(path.read_text())
    config["defaults"]["params"]["is_symmetric"] = str(plan.symmetric_weights)
    for rule in config["op_type"].values():
        if "per_channel_quantization" in rule:
            rule["per_channel_quantization"] = str(plan.per_channel)
    # AIMET holds a softmax to [0, 1]; the NPU takes any range, and over many positions none comes near 1.
    config["op_type"].get("Softmax", {}).pop("encoding_constraints", None)
    # One scale for all slopes: the NPU takes no other, nor would the export move them into place.
    config["op_type"].setdefault("PRelu", {})["per_channel_quantization"] = "False"
    # AIMET's other groups (LeakyRelu, PRelu, ...) leave a float tensor that the compiler refuses.
    groups = config["supergroups"]
    config["supergroups"] = [group for group in groups if group["op_list"][-1] in ACTIVATIONS]
    return config


def calibrate(sim: QuantizationSimModel, *, batches: Iterable[Tensor]) -> int:
    """Observe float32 (B, 3, H, W) batches and set every range; return the number of images.

    Raises:
        CalibrationError: no images.
        WeightsError: an image holds NaN or infinity.
    """
    count = 0

    def observe(model: nn.Module) -> None:
        nonlocal count
        for images in batches:
            if not bool(torch.isfinite(images).all()):
                raise WeightsError(
                    f"calibration images {count} to {count + len(images)} hold NaN or infinity"
                )
            model(images.to(device_of(model)))
            count += len(images)
        if not count:
            raise CalibrationError("the calibration set is empty; give at least one image")

    sim.compute_encodings(observe)
    return count


def forward_of(model: nn.Module) -> Any:
    """Return a function images -> tuple of outputs without gradients, in eval mode."""

    def forward(images: Tensor) -> tuple[Tensor, ...]:
        with torch.no_grad():
            outputs = model(images)
        outputs = (outputs,) if isinstance(outputs, Tensor) else outputs
        return tuple(output.as_subclass(Tensor).float() for output in outputs)

    return forward


def quantizers(model: nn.Module) -> Iterator[tuple[str, AffineQuantizerBase]]:
    """Yield name and quantizer, each quantizer once though tied ones have several names."""
    for name, module in model.named_modules():
        if isinstance(module, AffineQuantizerBase):
            yield name, module


def input_quantizers(sim: QuantizationSimModel) -> list[AffineQuantizerBase]:
    """Return the quantizers of the graph's input."""
    users = [user for node in sim.model.graph.nodes if node.op == "placeholder" for user in node.users]
    found = []
    for user in users:
        if user.op == "call_module":
            module = sim.model.get_submodule(user.target)
            position = [str(a) for a in user.args].index(str(user.args[0]))
            found += [q for q in module.input_quantizers[position : position + 1] if q is not None]
    return found


def _tie_movers(sim: QuantizationSimModel) -> None:
    """Let a functional resize, padding or pooling share its input's encoding, as these do on the NPU.

    With two encodings the compiler makes a float operator of a resize, between a Dequantize and a Quantize,
    and computes garbage for a padding. AIMET ties nn.Upsample but not its own modules for functions.
    """
    for node in sim.model.graph.nodes:
        module: Any = sim.model.get_submodule(node.target) if node.op == "call_module" else None
        if isinstance(module, MOVERS) and isinstance(module, QuantizationMixin):
            before, after = quantizer_before(sim.model, node), module.output_quantizers[0]
            if before is not None and after is not None and before is not after:
                _replace_quantizer(sim.model, old=after, new=before)


def _replace_quantizer(model: nn.Module, *, old: AffineQuantizerBase, new: AffineQuantizerBase) -> None:
    for module in model.modules():
        if isinstance(module, QuantizationMixin):
            for own in (module.input_quantizers, module.output_quantizers):
                for place, quantizer in enumerate(own):
                    if quantizer is old:
                        own[place] = new


def _quantize_constants(sim: QuantizationSimModel, *, plan: Plan) -> None:
    """Give each parameter that an operator reads as an operand (a token, a layer's scale) a quantizer.

    AIMET gives one to buffers only.
    """
    for node in sim.model.graph.nodes:
        module: Any = sim.model.get_submodule(node.target) if node.op == "call_module" else None
        if not isinstance(module, QuantizationMixin):
            continue
        for place, argument in enumerate(node.args[: len(module.input_quantizers)]):
            if _is_parameter(sim.model, argument) and module.input_quantizers[place] is None:
                bits = plan.activation_bits
                module.input_quantizers[place] = QuantizeDequantize((), 0, 2**bits - 1, symmetric=False)


def _is_parameter(model: torch.fx.GraphModule, argument: Any) -> bool:
    while isinstance(argument, torch.fx.Node):
        if argument.op == "get_attr":
            path, _, name = str(argument.target).rpartition(".")
            return isinstance(getattr(model.get_submodule(path), name), nn.Parameter)
        if argument.op == "call_module" or argument.target not in MOVES_DATA:
            return False
        argument = argument.args[0]
    return False


def _widen_symmetric_ranges(sim: QuantizationSimModel) -> None:
    """Give symmetric quantizers with the fixed range [0, 1] the range [-1, 1].

    At 16 bit AIMET makes a sigmoid in front of a product symmetric but keeps [0, 1] for it,
    whose grid then ends at 0.5.
    """
    for _, quantizer in quantizers(sim.model):
        if quantizer.symmetric and quantizer.is_initialized() and float(quantizer.min.min()) == 0.0:
            quantizer.set_range(-quantizer.max, quantizer.max)


def _pin_input(sim: QuantizationSimModel, *, low: float, high: float) -> None:
    for quantizer in input_quantizers(sim):
        quantizer.set_range(low, high)
        quantizer.requires_grad_(False)
        quantizer.allow_overwrite(False)
