"""How a model is compiled, and the file that the compiler gets."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import onnx

from hexpath_deploy.errors import OptionError, nearest
from hexpath_deploy.hexagon.workarounds import pools_to_convolutions
from hexpath_deploy.io import Boundary, quantize_io
from hexpath_deploy.model import Model, load_onnx
from hexpath_deploy.targets import Target

FLOAT, QUANTIZED = "float", "quantized"
IO = (QUANTIZED, FLOAT)
OPTIMIZATIONS = (1, 2, 3)
PROTOBUF_LIMIT = 1 << 30


@dataclass(frozen=True, kw_only=True)
class Options:
    """`io`: float tensors at the graph's border, or quantized ones; `optimization` 1 to 3.

    `fp16` for float models.
    """

    io: str
    optimization: int = 3
    fp16: bool = False

    def as_dict(self) -> dict[str, Any]:
        """Return the options for a record."""
        return asdict(self)


def choose(
    model: Model, target: Target, *, io: str | None = None, optimization: int = 3, fp16: bool = False
) -> Options:
    """Check the options against the model and target; without `io` a QDQ model gets quantized I/O.

    Raises:
        OptionError: a value is unknown, or the model's kind contradicts it.

    A mixed plan that leaves regions in float (`hexpath.plan_regions`) gets FP16 for them without asking.
    """
    if io is not None and io not in IO:
        raise OptionError(f"unknown I/O '{io}'{nearest(io, IO)}")
    if optimization not in OPTIMIZATIONS:
        raise OptionError(f"optimization {optimization} is not one of 1, 2, 3")
    if not model.quantized and not fp16:
        raise OptionError(
            f"{model.path} holds no QuantizeLinear node, it is a float model: compile it with --fp16, "
            "or quantize it first"
        )
    fp16 = fp16 or model.has_float_regions
    if model.quantized and fp16 and not model.has_float_regions:
        raise OptionError(
            f"{model.path} is a quantized (QDQ) model: leave --fp16 away, or give the float model"
        )
    if fp16 and target.fp16 is False:
        raise OptionError(f"the NPU of {target.name} has no FP16: quantize the model")
    if fp16 and io == QUANTIZED and not model.quantized:
        raise OptionError("--io quantized needs a quantized model: a float model has no scales")
    return Options(io=io or (QUANTIZED if model.quantized else FLOAT), optimization=optimization, fp16=fp16)


def provider_options(options: Options, *, soc_model: int) -> dict[str, str]:
    """Return the provider's options; a float model needs FP16 switched on,
    a quantized one must not get it silently.
    """
    return {
        "soc_model": str(soc_model),
        "htp_graph_finalization_optimization_mode": str(options.optimization),
        "enable_htp_fp16_precision": "1" if options.fp16 else "0",
    }


def prepare(model: Model, *, options: Options, path: Path) -> Boundary:
    """Write what the compiler gets to `path`; returns the quantized tensors at its border."""
    proto = load_onnx(model.path)
    boundary = quantize_io(proto) if options.io == QUANTIZED else Boundary(inputs={}, outputs={})
    if options.fp16:
        pools_to_convolutions(proto)
    path.parent.mkdir(parents=True, exist_ok=True)
    large = proto.ByteSize() > PROTOBUF_LIMIT
    onnx.save(proto, path, save_as_external_data=large, location="weights.bin" if large else None)
    return boundary
