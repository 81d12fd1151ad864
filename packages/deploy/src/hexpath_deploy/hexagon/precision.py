"""Did the compiler keep the precision of the model? Tensor by tensor, from the QNN graph that it dumps."""

from __future__ import annotations

import json
import re
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import onnx

from hexpath_deploy.errors import CompileError
from hexpath_deploy.sanity import Encoded, Graph, users_of

FIXED = {0x03, 0x04}  # signed and unsigned fixed point, the high byte of Qnn_DataType_t
STATIC = 4  # Qnn_TensorType_t of weights
TOKEN = re.compile(r"_token_\d+$")
CONVERTED = "_convert"  # the provider's name for a tensor whose type it changed on its own


def check_precision(path: Path, *, proto: onnx.ModelProto) -> list[str]:
    """Hold the compiled graph (JSON) against the model; returns what the compiler narrowed on its own.

    Raises:
        CompileError: a tensor of the model has fewer bits in the compiled graph.
    """
    tensors = json.loads(path.read_text(encoding="utf-8"))["graph"]["tensors"]
    graph = Graph(proto)
    encoded = {name: each for name, each in graph.encoded.items() if each.node.op_type == "QuantizeLinear"}
    floats = {name for node in graph.nodes for name in node.output} - graph.encoded.keys()
    quantized = {each.node.input[0] for each in encoded.values()}
    for name, tensor in tensors.items():
        plain = TOKEN.sub("", name)
        if tensor["type"] == STATIC:
            continue
        if plain in encoded:
            check_tensor(plain, tensor, each=encoded[plain])
        elif is_fixed(tensor) and plain in floats - quantized and not restored(graph, plain):
            raise CompileError(
                f"'{plain}' is float in the model and has {bits(tensor)} bits in the compiled graph: a "
                "layer was "
                "quantized silently; quantize the model again"
            )
    widest = max((each.bits for each in encoded.values() if not each.weight), default=0)
    return [
        name
        for name in narrowed(tensors, widest=widest)
        if not any(user.op_type == "QuantizeLinear" for user in users_of(graph, name))
    ]


def restored(graph: Graph, name: str) -> bool:
    """Say whether a float tensor is what a Dequantize node writes, so that its stored form bears its name."""
    maker = graph.maker.get(name)
    return maker is None or maker.op_type in ("QuantizeLinear", "DequantizeLinear")


def check_tensor(name: str, tensor: Mapping[str, Any], *, each: Encoded) -> None:
    """Hold one tensor's bits against its encoding in the model."""
    if is_fixed(tensor) and bits(tensor) < each.bits:
        raise CompileError(
            f"'{each.tensor}' has {each.bits} bits in the model and {bits(tensor)} in the compiled graph: "
            "the layer "
            "lost its precision silently; quantize the model again, or try --io float"
        )


def is_fixed(tensor: Mapping[str, Any]) -> bool:
    """Say whether a tensor is quantized."""
    return int(tensor["data_type"]) >> 8 in FIXED


def bits(tensor: Mapping[str, Any]) -> int:
    """Return the bits of a tensor's type, written in it like decimals: 0x408 has 8, 0x416 has 16."""
    return int(f"{int(tensor['data_type']) & 0xFF:x}")


def narrowed(tensors: Mapping[str, Any], *, widest: int) -> list[str]:
    """Return activations that are converted to fewer bits in a graph of 16."""
    found = [
        name
        for name, tensor in tensors.items()
        if name.endswith(CONVERTED)
        and tensor["type"] != STATIC
        and is_fixed(tensor)
        and bits(tensor) < widest
    ]
    return sorted(TOKEN.sub("", name.removesuffix(CONVERTED)) for name in found)


def warn_narrowed(names: list[str], *, path: Path) -> None:
    """Say which activations the compiler made narrower: it does so to a MatMul's second input."""
    if names:
        print(
            f"hexpath-deploy: warning: {path}: the compiler takes {len(names)} activations at 8 bits "
            "although the "
            f"graph has 16 ({', '.join(names[:4])}): give the second input of such a MatMul symmetric int16 "
            "encodings",
            file=sys.stderr,
        )
