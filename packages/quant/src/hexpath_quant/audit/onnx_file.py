"""From a float ONNX file to the network that the rules see: for exports of other tools."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime
import torch
from google.protobuf.message import DecodeError
from numpy.typing import NDArray
from onnx import numpy_helper

from hexpath_quant.audit.network import Network, Op
from hexpath_quant.audit.stats import Stats
from hexpath_quant.errors import CalibrationError, OutputError, QuantError

KINDS: dict[str, str] = {
    "Conv": "convolution",
    "ConvTranspose": "convolution",
    "Gemm": "linear",
    "MatMul": "matmul",
    "Add": "add",
    "Sub": "subtract",
    "Mul": "multiply",
    "Div": "divide",
    "Reciprocal": "reciprocal",
    "Softmax": "softmax",
    "LayerNormalization": "layer_norm",
    "GroupNormalization": "layer_norm",
    "InstanceNormalization": "layer_norm",
    "BatchNormalization": "batch_norm",
    "Gelu": "gelu",
    "HardSwish": "hardswish",
    "Sigmoid": "sigmoid",
    "Relu": "relu",
    "Clip": "clamp",
    "Concat": "concat",
    "Resize": "resize",
    "Sqrt": "sqrt",
    "Log": "log",
    "Pow": "pow",
}
MOVING = ("Reshape", "Transpose", "Slice", "Split", "Squeeze", "Unsqueeze", "Flatten", "Identity", "Expand",
          "Gather", "Cast")  # fmt: skip
MODES = {"cubic": "bicubic", "linear": "bilinear"}


def recorded_images(model: Path, *, images: Path | None) -> NDArray[np.float32]:
    """Return float32 (N, 3, H, W): array ``images`` of the given .npz, else of recorded.npz beside the model.

    Raises:
        CalibrationError: neither is there.
    """
    path = images or model.with_name("recorded.npz")
    if not path.exists():
        raise CalibrationError(
            f"ranges are measured on images: {path} does not exist; give --images F.npz"
            " (array 'images', float32, as the model takes them)"
        )
    with np.load(path) as arrays:
        if "images" not in arrays:
            raise CalibrationError(f"{path} has no array 'images' (it has {', '.join(arrays)})")
        found: NDArray[np.float32] = arrays["images"].astype(np.float32)
        return found


def network_of(path: Path, *, images: NDArray[np.float32]) -> Network:
    """Run images through a float ONNX file one by one and note what every tensor held.

    Raises:
        OutputError: no ONNX file.
        QuantError: the file is quantized already.
    """
    try:
        model = onnx.load(path)
    except (OSError, ValueError) as error:
        raise OutputError(f"{path} cannot be read as ONNX ({error})") from error
    except DecodeError as error:
        raise OutputError(f"{path} is no ONNX file") from error
    if any(node.op_type == "QuantizeLinear" for node in model.graph.node):
        raise QuantError(f"{path} is quantized already; audit the float model that it was made from")
    constants = _constants(model)
    ops = [_op(node, constants=constants) for node in model.graph.node if node.op_type != "Constant"]
    stats = _measure(model, images=images)
    outputs = {output.name: output.name for output in model.graph.output}
    return Network(ops=ops, stats=stats, constants=constants, outputs=outputs)


def _constants(model: onnx.ModelProto) -> dict[str, torch.Tensor]:
    found = {i.name: numpy_helper.to_array(i) for i in model.graph.initializer}
    for node in model.graph.node:
        if node.op_type == "Constant":
            values = [numpy_helper.to_array(a.t) for a in node.attribute if a.name == "value"]
            found.update((node.output[0], value) for value in values)
    return {name: torch.from_numpy(np.array(array)) for name, array in found.items()}


def _op(node: onnx.NodeProto, *, constants: dict[str, torch.Tensor]) -> Op:
    kind = "move" if node.op_type in MOVING else KINDS.get(node.op_type, node.op_type.lower())
    given = [name for name in node.input if name]
    fixed = [constants[name] for name in given if name in constants and constants[name].is_floating_point()]
    settings: dict[str, Any] = {a.name: onnx.helper.get_attribute_value(a) for a in node.attribute}
    weight = (
        fixed[0] if kind in ("convolution", "linear", "matmul") and fixed and fixed[0].dim() > 1 else None
    )
    if weight is not None and (kind == "matmul" or (kind == "linear" and not settings.get("transB"))):
        weight = weight.transpose(-2, -1)
    return Op(
        name=node.name or node.output[0],
        kind="linear" if kind == "matmul" and weight is not None else kind,
        inputs=tuple(given),
        output=node.output[0],
        weight=weight,
        numbers=tuple(float(tensor) for tensor in fixed if tensor.numel() == 1),
        settings=_resize_settings(settings) if kind == "resize" else {},
    )


def _resize_settings(settings: dict[str, Any]) -> dict[str, Any]:
    mode = settings.get("mode", b"nearest").decode()
    aligned = settings.get("coordinate_transformation_mode", b"").decode() == "align_corners"
    return {
        "mode": MODES.get(mode, mode),
        "align_corners": aligned,
        "antialias": bool(settings.get("antialias", 0)),
    }


def _measure(model: onnx.ModelProto, *, images: NDArray[np.float32]) -> dict[str, Stats]:
    """Run with every float tensor as an output."""
    typed = onnx.shape_inference.infer_shapes(model)
    floats = [
        value
        for value in typed.graph.value_info
        if value.type.tensor_type.elem_type == onnx.TensorProto.FLOAT
    ]
    there = {output.name for output in typed.graph.output}
    made = {name for node in typed.graph.node if node.op_type != "Constant" for name in node.output}
    typed.graph.output.extend(v for v in floats if v.name not in there and v.name in made)
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 3
    session = onnxruntime.InferenceSession(
        typed.SerializeToString(), options, providers=["CPUExecutionProvider"]
    )
    source = session.get_inputs()[0].name
    names = [output.name for output in session.get_outputs()]
    stats: dict[str, Stats] = {}
    for image in images:
        stats.setdefault(source, Stats()).add(torch.from_numpy(image[None]))
        for name, array in zip(names, session.run(names, {source: image[None]}), strict=True):
            if array.dtype == np.float32 and array.size:
                stats.setdefault(name, Stats()).add(torch.from_numpy(array))
    return stats
